"""The stream of events; a connection that breaks is opened again after the last event."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Self

import httpx2

from mailactors.client.retry import Patience
from mailactors.client.values import Event, NotAGatewayError, UnavailableError
from mailactors.client.wire import EventReader, check, failure


class Events:
    """An async iterator over all events: each once, in order, without end.

    Not a generator: one that is left in the middle of a stream would be cleaned up by the garbage
    collector, outside of any task. This is closed by its client, or by `contextlib.aclosing`.
    """

    def __init__(
        self, http: httpx2.AsyncClient, url: str, after: int | None, patience: Patience
    ) -> None:
        self._http = http
        self._url = url
        self._reader = EventReader(after)
        self._patience = patience
        self._ready: deque[Event] = deque()
        self._response: httpx2.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self.is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self.is_closed:
                raise StopAsyncIteration
            try:
                await self._read_on()
                continue
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                lost = failure(error)
            except UnavailableError as error:
                lost = error
            await self._disconnect()
            await self._patience.rest(lost)
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Close the stream, so that the iteration ends."""
        self.is_closed = True
        await self._disconnect()

    async def _read_on(self) -> None:
        if self._chunks is None:
            self._chunks = await self._connect()
        chunk = await anext(self._chunks, None)
        if chunk is None:
            raise UnavailableError("the gateway ended the stream of events")
        self._ready.extend(self._reader.feed(chunk))

    async def _connect(self) -> AsyncGenerator[bytes, None]:
        reader = self._reader
        request = self._http.build_request(
            "GET", self._url, headers=reader.headers(), params=reader.query()
        )
        self._response = await self._http.send(request, stream=True)
        if not self._response.is_success:
            await self._response.aread()
        check(self._response)
        kind = self._response.headers.get("Content-Type", "")
        if kind.partition(";")[0] != "text/event-stream":
            raise NotAGatewayError("what answers sends no events")
        self._patience.renew()
        return self._response.aiter_bytes()

    async def _disconnect(self) -> None:
        """Close the connection, and end httpx's nested generators rather than abandon them.

        `httpx2` 2.16 leaves one of them to the garbage collector when the outermost is closed
        half-way, and Trio warns of that. Once the response is closed, reading on fails in the
        innermost, and so ends them all.
        """
        response, chunks = self._response, self._chunks
        self._response = self._chunks = None
        self._reader.restart()
        if response is not None:
            await response.aclose()
        if chunks is not None:
            with suppress(httpx2.HTTPError, httpx2.StreamError):
                async for _ in chunks:
                    pass
