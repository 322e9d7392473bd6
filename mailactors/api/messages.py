"""The routes that show messages, and those that change one: cancel, retry, settle.

A command is applied by the spool's writer and is not undone by a client that hangs up meanwhile.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET
from quart import Response

from mailactors.api import schemas, schemas_control, views
from mailactors.api.acts import note_act
from mailactors.api.bodies import refusal_of
from mailactors.api.exchange import answer, read_body, read_query, url_of
from mailactors.api.parts import ApiParts
from mailactors.api.problems import FaultView, ProblemError, validation_problem
from mailactors.api.suppressions import address_of
from mailactors.intake.submission import IntakeError
from mailactors.observe.explain import look
from mailactors.spool.port import (
    Cancel,
    Cancelled,
    Event,
    Filters,
    MessageStatus,
    NotRetried,
    Questions,
    Receipt,
    Retry,
    SettleByHand,
    SettledByHand,
)

_SETTLE_DECODER: Final = msgspec.json.Decoder(schemas_control.SettleIn)


async def statuses(parts: ApiParts) -> Response:
    """Every message's status, newest first, by pages; ?id= for one."""
    query, now = read_query(schemas.StatusesQuery), parts.clock.wall_time()
    following = None
    if isinstance(name := query.id, str):
        shown = await parts.spool.read(lambda spool: spool.status(name))
    else:
        limit, before = query.limit, query.cursor if isinstance(query.cursor, int) else None
        found = await parts.spool.read(lambda spool: spool.statuses(limit + 1, before))
        shown = found[:limit]
        following = str(shown[-1].seq) if len(found) > limit else None
    return answer(
        schemas.StatusPage(tuple(views.status_view(each, now) for each in shown), following)
    )


async def messages(parts: ApiParts) -> Response:
    """Messages, newest first, by pages, by stream, state, recipient, tag and time."""
    query, now = read_query(schemas_control.MessagesQuery), parts.clock.wall_time()
    filters = filters_of(query, now)
    before = query.cursor if isinstance(query.cursor, int) else None
    page = await parts.spool.read(lambda spool: spool.messages(filters, query.limit, before))
    briefs = tuple(views.message_brief(each, now) for each in page.messages)
    following = None if page.next_before_seq is None else str(page.next_before_seq)
    return answer(schemas_control.MessagePage(briefs, following))


async def message(parts: ApiParts, name: str) -> Response:
    """A message's deliveries and its timeline, by our id or the client's."""
    read_query(schemas.NoQuery)

    def ask(spool: Questions) -> tuple[MessageStatus, tuple[Event, ...]] | None:
        status = choose_message(spool, name)
        return None if status is None else (status, spool.timeline(status.seq))

    found = await parts.spool.read(ask)
    if found is None:
        raise _no_message()
    status, events = found
    now_s, now = parts.clock.now_s(), parts.clock.wall_time()
    here = look(status, parts.plan(status.stream), parts.lanes, now_s, now, _halted(parts, now_s))
    return answer(views.message_view(status, events, here, now))


def _halted(parts: ApiParts, now_s: float) -> str:
    """Return why nothing at all is sent now, or empty."""
    if parts.stopping.is_set():
        return "the service is stopping"
    return "the spool's disk is full" if now_s < parts.spool.signals.full_until_s.value else ""


async def cancel_message(parts: ApiParts, name: str) -> Response:
    """Cancel the deliveries that are not being sent yet."""
    read_query(schemas.NoQuery)
    status = await _find_message(parts, name)
    await note_act(parts, "cancel", status.id)
    result = await parts.spool.ask(Cancel(status.id))
    assert isinstance(result, Cancelled)
    done, late = result.cancelled_count, result.too_late_count
    if not done:
        detail = f"nothing was cancelled: all {late} deliveries are under way or done"
        counts = {"cancelled": done, "too_late": late}
        raise ProblemError("too-late", detail, counts=counts)
    return answer(schemas_control.CancelReceipt(status.id, done, late))


async def retry_message(parts: ApiParts, name: str) -> Response:
    """Send once more what a final message did not get sent, as a new message."""
    read_query(schemas.NoQuery)
    old = await _find_message(parts, name)
    try:
        taken_s = parts.door.take_one()
    except IntakeError as error:
        raise refusal_of(error, schemas.NoQuery()) from None
    await note_act(parts, "retry", old.id)
    result = await parts.spool.ask(Retry(old.id, parts.ids.new_id()))
    if isinstance(result, NotRetried):
        parts.door.give_back(taken_s)
        raise ProblemError("not-retried", result.why)
    assert isinstance(result, Receipt)
    url = url_of(result.id)
    view = schemas_control.RetryReceipt(
        id=result.id,
        client_id=result.client_id or None,
        rfc_message_id=result.message_id,
        status="accepted",
        status_url=url,
        retry_of=old.id,
    )
    response = answer(view, 202)
    response.headers["Location"] = url
    return response


async def settle_message(parts: ApiParts, name: str) -> Response:
    """Settle by hand what of a message is uncertain or held."""
    read_query(schemas.NoQuery)
    body = await read_body(_SETTLE_DECODER, parts)
    note = " ".join(body.note.split())
    if not note.isprintable():
        raise validation_problem([FaultView("is not printable", "/note")])
    status = await _find_message(parts, name)
    await note_act(parts, "settle", status.id, into=body.into, note=note)
    result = await parts.spool.ask(SettleByHand(status.id, body.into, note))
    assert isinstance(result, SettledByHand)
    if not result.is_known:
        raise ProblemError("not-found", "there is no such message any more")
    if not result.settled:
        raise ProblemError("not-settled", result.why)
    view = schemas_control.SettleReceipt(status.id, body.into, result.settled, result.left)
    return answer(view)


def filters_of(query: schemas_control.MessagesQuery, now: float) -> Filters:
    """Return what a query asks for; addresses are compared as they were accepted.

    Raises: ProblemError for a recipient that is no address.
    """
    return Filters(
        stream=query.stream,
        status=None if query.state is UNSET else query.state,
        recipient=address_of("recipient", query.recipient) if query.recipient else "",
        tag=query.tag,
        since=None if query.since is UNSET else query.since.timestamp(),
        until=None if query.until is UNSET else query.until.timestamp(),
        now=now,
    )


def choose_message(spool: Questions, name: str) -> MessageStatus | None:
    """Return the message with this id: ours before the client's, and of those the newest."""
    named = spool.status(name)
    return next((s for s in named if s.id == name), next(iter(named), None))


async def _find_message(parts: ApiParts, name: str) -> MessageStatus:
    found = await parts.spool.read(lambda spool: choose_message(spool, name))
    if found is None:
        raise _no_message()
    return found


def _no_message() -> ProblemError:
    return ProblemError("not-found", "no message has this id, ours or the client's")
