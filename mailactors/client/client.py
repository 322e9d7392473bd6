"""The async client: carries out the steps of each call, on asyncio or Trio."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, Self, TypeVar, Unpack

import anyio
import httpx2

from mailactors.client.calls import (
    Call,
    Calls,
    Close,
    Open,
    Pause,
    Read,
    Request,
    Step,
    make_timeout,
)
from mailactors.client.calls import trust as trusted
from mailactors.client.events import EventCalls
from mailactors.client.retry import Backoff
from mailactors.client.values import ClientError, Event, Key, Mail, Sent, Status, UnavailableError
from mailactors.client.wire import Item, failure, no_answer

T = TypeVar("T")

CLOSE_WITHIN_S: Final = 5.0


class Client:
    """A connection pool to one gateway. Many tasks may share one."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry_for_s: float = 30.0,
        ca_file: str | os.PathLike[str] | None = None,
        backoff: Backoff | None = None,
        agent: str = "mailactors-client",
    ) -> None:
        """Remember where the gateway is; nothing is opened yet.

        Args:
            url: where it listens; without one, MAILACTORS_URL, or loopback.
            timeout_s: for one try, from its first byte to the last of its answer.
            retry_for_s: no try begins later than this after the first; 0 means one try.
            ca_file: certificates (PEM) to trust, instead of the usual ones.
            backoff: the pauses between tries.
            agent: the User-Agent, by which the gateway's log of acts tells ways apart.
        """
        self._calls = Calls(url, timeout_s, retry_for_s, backoff, anyio.current_time)
        trust = trusted(self._calls.url, ca_file)
        self._http = httpx2.AsyncClient(
            verify=trust,
            trust_env=False,
            timeout=make_timeout(timeout_s),
            headers={"User-Agent": agent},
        )
        self._open: list[Events] = []

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the streams of events and the connections."""
        with anyio.move_on_after(CLOSE_WITHIN_S, shield=True):
            for events in self._open:
                await events.aclose()
            await self._http.aclose()

    async def send(
        self, *, key: Key | Literal["content", "fresh"] = Key.FRESH, **mail: Unpack[Mail]
    ) -> Sent:
        """Submit one message; returns once it is durable.

        Raises: RejectedError, KeyConflictError; UnavailableError, NotAGatewayError: it may have
            been accepted.
        """
        return await self._carry_out(self._calls.send(Item(mail, key)))

    async def send_many(
        self, mails: Iterable[Mail], *, key: Key | Literal["content", "fresh"] = Key.FRESH
    ) -> list[Sent | ClientError]:
        """Submit many messages, up to a thousand a request; a failure of one stops no other.

        Equal messages in one call are one message where their key is the content.

        Returns: one entry for each message, in order: the receipt, or why there is none.
        """
        return await self._carry_out(self._calls.send_many([Item(mail, key) for mail in mails]))

    async def status(self, name: str) -> Status:
        """Return a message's status, by the gateway's id or yours (then the newest with that id).

        Raises: NotFoundError, and as `request`.
        """
        return await self._carry_out(self._calls.status(name))

    async def wait(self, name: str, *, timeout_s: float = 60.0) -> Status:
        """Return a message's status once nothing more happens to it by itself.

        Then it is final, or held for a person; `Status.is_final` tells which.

        Raises: NotDoneError after `timeout_s`; and as `status`.
        """
        return await self._carry_out(self._calls.wait(name, timeout_s))

    def events(self, after: int | None = None) -> Events:
        """Return an async iterator over what happens, without end; each event once, in order.

        A lost connection is opened again after the last event. It is closed with the client, or
        sooner by `contextlib.aclosing`.

        Args: after: the `seq` of the last event known; without one, from where the gateway begins.
        Raises: while iterating, as `request`.
        """
        events = Events(self._http, EventCalls(self._calls, after))
        self._open = [events, *(each for each in self._open if not each.is_closed)]
        return events

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:
        """Return the JSON that a route answers. The request may be repeated: see RETRIED.

        Raises: RejectedError, UnavailableError, NotAGatewayError.
        """
        return await self._carry_out(self._calls.request(method, path, body, query))

    async def _carry_out(self, call: Call[T]) -> T:
        result: object = None
        while True:
            try:
                step = call.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            result = await self._do(step)

    async def _do(self, step: Step) -> httpx2.Response | UnavailableError | None:
        if isinstance(step, Pause):
            await anyio.sleep(step.for_s)
            return None
        assert isinstance(step, Request)
        try:
            with anyio.fail_after(step.within_s):
                return await self._http.request(
                    *(step.method, step.url),
                    content=step.content,
                    headers=step.headers,
                    params=step.query,
                    timeout=None,
                )
        except TimeoutError:
            return no_answer(step.within_s)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return failure(error)


class Events:
    """An async iterator over all events: each once, in order, without end.

    Not a generator: one that is left in the middle of a stream would be cleaned up by the garbage
    collector, outside of any task. This is closed by its client, or by `contextlib.aclosing`.
    """

    def __init__(self, http: httpx2.AsyncClient, calls: EventCalls) -> None:
        self._http = http
        self._calls = calls
        self._response: httpx2.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the iteration has ended, or is about to."""
        return self._calls.is_closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._carry_out(self._calls.next_event())
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Close the stream, so that the iteration ends."""
        await self._carry_out(self._calls.close())

    async def _carry_out(self, call: Call[T]) -> T:
        result: object = None
        while True:
            try:
                step = call.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                result = await self._do(step)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                result = failure(error)

    async def _do(self, step: Step) -> object:
        match step:
            case Open():
                return await self._connect(step)
            case Read() if self._chunks is not None:
                return await anext(self._chunks, None)
            case Close():
                await self._disconnect()
            case Pause():
                await anyio.sleep(step.for_s)
        return None

    async def _connect(self, step: Open) -> httpx2.Response:
        request = self._http.build_request("GET", step.url, headers=step.headers, params=step.query)
        self._response = await self._http.send(request, stream=True)
        if not self._response.is_success:
            await self._response.aread()
        self._chunks = self._response.aiter_bytes()
        return self._response

    async def _disconnect(self) -> None:
        """Close the connection, and end httpx's nested generators rather than abandon them.

        `httpx2` 2.16 leaves one of them to the garbage collector when the outermost is closed
        half-way, and Trio warns of that. Once the response is closed, reading on fails in the
        innermost, and so ends them all.
        """
        response, chunks = self._response, self._chunks
        self._response = self._chunks = None
        if response is not None:
            await response.aclose()
        if chunks is not None:
            with suppress(httpx2.HTTPError, httpx2.StreamError):
                async for _ in chunks:
                    pass
