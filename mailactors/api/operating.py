"""The routes that people work the gateway with: cancel, retry, pause, suppress, reload.

A command is done by whom it concerns, and is not undone by a client that hangs up meanwhile.
"""

from __future__ import annotations

import difflib
from typing import Final

import email_validator
import msgspec
import trio
from quart import Response

from mailactors.api import schemas, schemas_control, views
from mailactors.api.asking import find_message
from mailactors.api.exchange import answer, read_body, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import FaultView, ProblemError
from mailactors.api.submissions import validation_problem
from mailactors.dispatch.lane import CONTROL_ROOM, Lane
from mailactors.errors import MailactorsError
from mailactors.intake.admission import normal_address
from mailactors.spool.port import (
    Cancel,
    Cancelled,
    NotRetried,
    Receipt,
    Retry,
    Suppress,
    Suppression,
    Unsuppress,
    Unsuppressed,
)
from mailactors.spool.writer import SpoolWriter

SOURCE: Final = "api"
"""Who says so, on the suppression list."""

_SUPPRESSION_DECODER: Final = msgspec.json.Decoder(schemas_control.SuppressionIn)


class Operating:
    """The handlers."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._reloading = trio.Lock()

    # Messages

    async def cancel_message(self, name: str) -> Response:
        """Cancel what is not yet on its way; asked again, the same answer."""
        read_query(schemas.NoQuery)
        writer = self._writer()
        status = await find_message(self._parts.reader, name)
        result = await writer.ask(Cancel(status.id))
        assert isinstance(result, Cancelled)
        done, late = result.cancelled_count, result.too_late_count
        if not done:
            detail = f"nothing was cancelled: all {late} deliveries are under way or done"
            counts = {"cancelled": done, "too_late": late}
            raise ProblemError("too-late", detail, counts=counts)
        return answer(schemas_control.CancelReceipt(status.id, done, late))

    async def retry_message(self, name: str) -> Response:
        """Send what a final message did not get sent once more, as a new message."""
        read_query(schemas.NoQuery)
        writer = self._writer()
        old = await find_message(self._parts.reader, name)
        result = await writer.ask(Retry(old.id, self._parts.ids.new_id()))
        if isinstance(result, NotRetried):
            raise ProblemError("not-retried", result.why)
        assert isinstance(result, Receipt)
        url = f"/v1/messages/{result.id}"
        view = schemas_control.RetryReceipt(result.id, result.message_id, "accepted", url, old.id)
        response = answer(view, 202)
        response.headers["Location"] = url
        return response

    # Providers

    async def pause_provider(self, name: str) -> Response:
        """Give a provider nothing new; what is in flight goes on."""
        lane = self._lane(name)
        lane.pause()
        return self._lane_as_it_is(lane)

    async def resume_provider(self, name: str) -> Response:
        """Give a paused provider messages again."""
        lane = self._lane(name)
        lane.resume()
        return self._lane_as_it_is(lane)

    async def reset_provider(self, name: str) -> Response:
        """Forget what was learnt of a provider: close its breaker, lift a learnt pause."""
        lane = self._lane(name)
        lane.reset()
        return self._lane_as_it_is(lane)

    def _lane(self, name: str) -> Lane:
        """Return a lane that has room for a word of ours.

        Raises: ProblemError when there is no such provider, or its actors are behind.
        """
        read_query(schemas.NoQuery)
        lane = self._parts.lanes.get(name)
        if lane is None:
            near = difflib.get_close_matches(name[:100], self._parts.lanes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {_names(self._parts)}"
            raise ProblemError("not-found", f"there is no such provider; {hint}")
        # Each word of ours takes room in mailboxes that count on room for every attempt.
        if max(lane.limiter.waiting, lane.breaker.waiting) >= CONTROL_ROOM:
            raise ProblemError("overloaded", "the provider's actors are behind", retry_after_s=1.0)
        return lane

    def _lane_as_it_is(self, lane: Lane) -> Response:
        return answer(views.provider_view(lane, self._parts.clock.now_s()))

    # Suppressions

    async def suppress(self) -> Response:
        """Put an address on the suppression list; who put it there first stands."""
        writer = self._writer()
        body = await read_body(_SUPPRESSION_DECODER)
        reason = " ".join(body.reason.split())
        faults = [] if reason.isprintable() else [FaultView("is not printable", "/reason")]
        try:
            address = normal_address(body.address, special_use=True)
        except email_validator.EmailNotValidError as error:
            raise validation_problem([FaultView(str(error), "/address"), *faults]) from None
        if faults:
            raise validation_problem(faults)
        result = await writer.ask(Suppress(address, reason, SOURCE))
        assert isinstance(result, Suppression)
        return answer(views.suppression_view(result))

    async def unsuppress(self) -> Response:
        """Take an address off the suppression list, if it is there."""
        writer = self._writer()
        address = read_query(schemas_control.AddressQuery).address
        try:
            address = normal_address(address, special_use=True)
        except email_validator.EmailNotValidError as error:
            fault = FaultView(str(error), parameter="address")
            detail = f"address: {fault.detail}"
            raise ProblemError("invalid-parameter", detail, errors=(fault,)) from None
        result = await writer.ask(Unsuppress(address))
        assert isinstance(result, Unsuppressed)
        return answer(schemas_control.Unsuppression(result.address, result.was_suppressed))

    # The configuration

    async def reload_configuration(self) -> Response:
        """Take over the configuration as it is now, or change nothing."""
        read_query(schemas.NoQuery)
        reload = self._parts.reload
        if reload is None:
            raise ProblemError("not-found", "this gateway has no configuration to reload")
        async with self._reloading:
            try:
                with trio.CancelScope(shield=True):  # a client that hangs up must not halve it
                    notes = await reload()
            except MailactorsError as error:
                raise ProblemError("configuration", str(error)) from None
        return answer(schemas_control.Reloaded("reloaded", tuple(notes)))

    def _writer(self) -> SpoolWriter:
        if self._parts.writer is None:
            raise ProblemError("not-found", "this gateway takes no commands here")
        return self._parts.writer


def _names(parts: ApiParts) -> str:
    return ", ".join(parts.lanes) or "none"
