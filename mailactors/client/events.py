"""The stream of events; a connection that breaks is opened again after the last event."""

from __future__ import annotations

from collections import deque

from mailactors.client.calls import Call, Calls, Close, Open, Pause, Read, why_unusable
from mailactors.client.values import Event, NotAGatewayError, UnavailableError
from mailactors.client.wire import EventReader


class EventCalls:
    """Where a reader of events is, and the steps to the next one."""

    def __init__(self, calls: Calls, after: int | None) -> None:
        self._calls = calls
        self._reader = EventReader(after)
        self._patience = calls.patience()
        self._ready: deque[Event] = deque()
        self._is_open = False
        self.is_closed = False

    def next_event(self) -> Call[Event | None]:
        """Return the next event, each once and in order; None once it was closed."""
        while not self._ready:
            if self.is_closed:
                return None
            lost = yield from self._read_on()
            if lost is not None:
                yield from self._disconnect()
                yield Pause(self._patience.pause_s(lost, self._calls.now_s()))
        return self._ready.popleft()

    def close(self) -> Call[None]:
        """Close the stream, so that the iteration ends."""
        self.is_closed = True
        yield from self._disconnect()

    def _read_on(self) -> Call[UnavailableError | None]:
        """Take over what comes next; return why nothing does, if so."""
        if not self._is_open:
            lost = yield from self._connect()
            if lost is not None:
                return lost
        chunk = yield Read()
        if isinstance(chunk, UnavailableError):
            return chunk
        if not chunk:
            return UnavailableError("the gateway ended the stream of events")
        self._ready.extend(self._reader.feed(chunk))
        return None

    def _connect(self) -> Call[UnavailableError | None]:
        reader = self._reader
        answer = yield Open(self._calls.url + "/v1/events", reader.headers(), reader.query())
        lost = why_unusable(answer)
        if lost is not None:
            return lost
        kind = answer.headers.get("Content-Type", "")
        if kind.partition(";")[0] != "text/event-stream":
            raise NotAGatewayError("what answers sends no events")
        self._patience.renew(self._calls.now_s())
        self._is_open = True
        return None

    def _disconnect(self) -> Call[None]:
        self._is_open = False
        self._reader.restart()
        yield Close()
