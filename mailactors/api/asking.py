"""The routes that only look: at messages, the ledger, providers, and the gateway itself."""

from __future__ import annotations

from typing import Any

import email_validator
from msgspec import UNSET
from quart import Response

import mailactors
from mailactors.api import openapi, schemas, schemas_control, views
from mailactors.api.exchange import answer, read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import FaultView, ProblemError
from mailactors.api.routes import ROUTES
from mailactors.intake.admission import normal_address
from mailactors.intake.submission import OverloadedError
from mailactors.spool.port import Filters, MessageStatus, Questions
from mailactors.spool.reader import SpoolReader

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Asking:
    """The handlers."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._reader = parts.reader

    async def statuses(self) -> Response:
        """Return every message's status, newest first, by pages; or those that one name means."""
        query = read_query(schemas.StatusesQuery)
        if isinstance(name := query.id, str):
            found = await self._reader.ask(lambda spool: spool.status(name))
            return answer(schemas.StatusPage(tuple(map(views.status_view, found)), None))
        limit, before = query.limit, query.cursor if isinstance(query.cursor, int) else None
        found = await self._reader.ask(lambda spool: spool.statuses(limit + 1, before))
        shown = found[:limit]
        following = str(shown[-1].seq) if len(found) > limit else None
        return answer(schemas.StatusPage(tuple(map(views.status_view, shown)), following))

    async def messages(self) -> Response:
        """Return the messages that the filters let through, newest first, by pages."""
        query = read_query(schemas_control.MessagesQuery)
        filters = filters_of(query)
        before = query.cursor if isinstance(query.cursor, int) else None
        page = await self._reader.ask(lambda spool: spool.messages(filters, query.limit, before))
        briefs = tuple(map(views.message_brief, page.messages))
        following = None if page.next_before_seq is None else str(page.next_before_seq)
        return answer(schemas_control.MessagePage(briefs, following))

    async def message(self, name: str) -> Response:
        """Return a message's deliveries and its timeline; `name` is our id or the client's."""
        read_query(schemas.NoQuery)

        def ask(spool: Questions) -> tuple[MessageStatus, Any] | None:
            status = choose_message(spool, name)
            return None if status is None else (status, spool.timeline(status.seq))

        found = await self._reader.ask(ask)
        if found is None:
            raise no_message()
        return answer(views.message_view(*found))

    async def ledger(self) -> Response:
        """Return the accounting identity, and whether it holds."""
        ledger, pending = await self._reader.ask(views.ask_ledger)
        watch, now = self._parts.watch, self._parts.clock.wall_time()
        alarms = None if watch is None else watch.alarms()
        return answer(views.ledger_view(ledger, pending, alarms, now))

    async def suppressions(self) -> Response:
        """Return suppressed addresses by pages."""
        query = read_query(schemas_control.SuppressionsQuery)
        found = await self._reader.ask(
            lambda spool: spool.suppressions(query.limit + 1, query.cursor)
        )
        shown = found[: query.limit]
        following = shown[-1].address if len(found) > query.limit else None
        listed = tuple(map(views.suppression_view, shown))
        return answer(schemas_control.SuppressionPage(listed, following))

    async def providers(self) -> Response:
        """Return the lanes as they are now."""
        now_s = self._parts.clock.now_s()
        lanes = tuple(views.provider_view(lane, now_s) for lane in self._parts.lanes.values())
        return answer(schemas_control.Providers(lanes))

    async def metrics(self) -> Response:
        """Return what Prometheus scrapes."""
        if self._parts.metrics is None:
            raise ProblemError("not-found", "this gateway has no metrics")
        return Response(await self._parts.metrics(), content_type=METRICS_TYPE)

    async def healthz(self) -> Response:
        """Say that the process is alive: it answered."""
        return answer(schemas_control.HealthView("ok"))

    async def readyz(self) -> Response:
        """Say whether a message would be accepted now."""
        if self._parts.stopping.is_set():
            raise ProblemError("stopping", "the service is shutting down", retry_after_s=5.0)
        try:
            self._parts.door.check_room()
        except OverloadedError as error:
            raise ProblemError("not-ready", str(error), retry_after_s=error.retry_after_s) from None
        await self._reader.ask(lambda spool: spool.status(""))
        return answer(schemas_control.HealthView("ready"))

    async def openapi(self) -> Response:
        """Return the description of all this."""
        return Response(openapi.document_json(), content_type="application/json")

    async def index(self) -> Response:
        """Say what is served here."""
        routes = {f"{route.method} {route.path}": route.summary for route in ROUTES}
        return answer(schemas_control.Index("mailactors", mailactors.__version__, routes))


def filters_of(query: schemas_control.MessagesQuery) -> Filters:
    """Return what a query asks for; addresses are compared as they were accepted.

    Raises: ProblemError for a recipient that nobody can be.
    """
    recipient = query.recipient
    if recipient:
        try:
            recipient = normal_address(recipient, special_use=True)
        except email_validator.EmailNotValidError as error:
            fault = FaultView(str(error), parameter="recipient")
            detail = f"recipient: {fault.detail}"
            raise ProblemError("invalid-parameter", detail, errors=(fault,)) from None
    return Filters(
        stream=query.stream,
        state=None if query.state is UNSET else query.state,
        recipient=recipient,
        since=None if query.since is UNSET else query.since.timestamp(),
        until=None if query.until is UNSET else query.until.timestamp(),
    )


def choose_message(spool: Questions, name: str) -> MessageStatus | None:
    """Return the message that a name means: ours before the client's, and of those the newest."""
    named = spool.status(name)
    return next((s for s in named if s.id == name), next(iter(named), None))


async def find_message(reader: SpoolReader, name: str) -> MessageStatus:
    """Return the message that a name means.

    Raises: ProblemError when there is none.
    """
    found = await reader.ask(lambda spool: choose_message(spool, name))
    if found is None:
        raise no_message()
    return found


def no_message() -> ProblemError:
    """Return the refusal of a name that means nothing."""
    return ProblemError("not-found", "no message has this id, ours or the client's")
