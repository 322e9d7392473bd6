"""Server-sent events: each event of the spool, soon after its commit, to every client that follows.

A stream reads from the spool after the last event that its client has, a page at a time, and the
next page only when the one before was sent; so a slow client costs no memory but its position. It
checks every `POLL_S` whether there was a commit, and asks the spool only then.

Source: HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Self

import msgspec
import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from mailactors.api import schemas, schemas_control, views
from mailactors.api.exchange import read_query
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError, bad_parameter
from mailactors.model.facts import public_facts
from mailactors.spool.port import FeedEvent, SpoolError

MEDIA_TYPE: Final = "text/event-stream"
STREAMS_MAX: Final = 32
"""Streams that are open at once; each asks the spool twice a second at most."""
STREAMS_RETRY_S: Final = 5.0
PAGE: Final = 100
"""Events read at once."""
POLL_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
"""Silence after which a comment is sent, so that proxies keep the connection."""
DIGITS_MAX: Final = 16
RECONNECT_MS: Final = 1000
"""How long the stream asks a client to wait before it connects again."""


async def events(parts: ApiParts) -> Response:
    """Every event as it is committed: server-sent events."""
    after = wanted_after()
    latest = await parts.spool.read(lambda spool: spool.latest_event_seq())
    if len(parts.streams) >= STREAMS_MAX:
        detail = f"{STREAMS_MAX} streams are open already"
        raise ProblemError("overloaded", detail, retry_after_s=STREAMS_RETRY_S)
    if request.method == "HEAD":
        return Response(b"", content_type=MEDIA_TYPE)
    body = EventBody(parts, latest, after)
    response = Response(body, content_type=MEDIA_TYPE)
    response.timeout = None
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep it back
    return response


def wanted_after() -> int | None:
    """Return the last event that the client has: a browser that reconnects sends it in the header.

    Raises: ProblemError.
    """
    query = read_query(schemas_control.EventsQuery)
    last = request.headers.get("Last-Event-ID", "")
    if not last:
        return query.after if isinstance(query.after, int) else None
    is_number = last.isascii() and last.isdecimal() and len(last) <= DIGITS_MAX
    if not is_number or int(last) > schemas.SEQ_MAX:
        raise bad_parameter("after", "Last-Event-ID is not the id of an event")
    return int(last)


class EventBody(ResponseBody):
    """The endless body of one stream; it counts as open until it is closed or dropped."""

    def __init__(self, parts: ApiParts, latest: int, asked: int | None) -> None:
        self._parts = parts
        self._asked = asked
        self._after = latest if asked is None else min(asked, latest)
        self._lines = self._run()
        parts.streams.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._parts.streams.discard(self)
        await self._lines.aclose()  # type: ignore[attr-defined]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._lines

    async def _run(self) -> AsyncIterator[bytes]:
        """Yield the position to resume from, then events and heartbeats, until the end."""
        yield f"retry: {RECONNECT_MS}\nid: {self._after}\n{self._ahead()}\n".encode()
        clock, stopping = self._parts.clock, self._parts.stopping
        seen, quiet_since_s = -1.0, clock.now_s()
        while not stopping.is_set():
            commits = self._parts.spool.signals.commits.total
            chunk, is_all = b"", True
            if commits != seen and (page := await self._next_page()) is not None:
                chunk, is_all = b"".join(map(encode_event, page)), len(page) < PAGE
                seen = commits if is_all else seen
            if not chunk and clock.now_s() - quiet_since_s >= HEARTBEAT_S:
                chunk = b":\n\n"
            if chunk:
                yield chunk
                quiet_since_s = clock.now_s()
            if is_all:
                with trio.move_on_after(POLL_S):
                    await stopping.wait()
        yield b"event: stopping\ndata: {}\n\n"

    def _ahead(self) -> str:
        """Say that the client's last event is not of this spool, which may be a younger copy."""
        if self._asked is None or self._asked <= self._after:
            return ""
        facts = {"asked": self._asked, "latest": self._after}
        return f"event: ahead\ndata: {msgspec.json.encode(facts).decode()}\n"

    async def _next_page(self) -> tuple[FeedEvent, ...] | None:
        """Return the next events, or None when the spool does not answer."""
        try:
            page = await self._parts.spool.read(lambda spool: spool.events_after(self._after, PAGE))
        except SpoolError:
            return None
        self._after = page[-1].seq if page else self._after
        return page


def encode_event(event: FeedEvent) -> bytes:
    """Return an event as it is sent; JSON has no line breaks of its own."""
    view = schemas_control.EventView(
        id=event.id,
        client_id=event.client_id or None,
        rfc_message_id=event.message_id,
        stream=event.stream,
        at=views.rfc3339(event.at),
        facts=public_facts(event.facts),
    )
    head = f"id: {event.seq}\nevent: {event.kind}\ndata: ".encode()
    return head + msgspec.json.encode(view) + b"\n\n"
