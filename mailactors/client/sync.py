"""The client for programs without an event loop: the same names and arguments, without await.

    from mailactors.client.sync import Client

    with Client() as client:
        sent = client.send(to="bob@example.com", subject="Hello", text="A test.")
        print(client.wait(sent.id))

It carries out the same steps as the async client (`calls`), on blocking sockets and without a
thread of its own. What is said there of keys and retries holds here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self, TypeVar, Unpack

import httpx2

from mailactors.client.calls import (
    DEFAULT_URL,
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
from mailactors.client.deadline import Deadline, DeadlineTransport
from mailactors.client.events import EventCalls
from mailactors.client.retry import Backoff
from mailactors.client.values import (
    Address,
    Alternative,
    Attachment,
    ClientError,
    Delivery,
    Event,
    Fault,
    Key,
    KeyConflictError,
    Mail,
    NotAGatewayError,
    NotDoneError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    Status,
    UnavailableError,
)
from mailactors.client.wire import Item, failure, no_answer

__all__ = [
    "DEFAULT_URL",
    "Address",
    "Alternative",
    "Attachment",
    "Backoff",
    "Client",
    "ClientError",
    "Delivery",
    "Event",
    "Fault",
    "Key",
    "KeyConflictError",
    "Mail",
    "NotAGatewayError",
    "NotDoneError",
    "NotFoundError",
    "Problem",
    "RejectedError",
    "Sent",
    "Status",
    "UnavailableError",
]

T = TypeVar("T")


class Client:
    """A connection pool to one gateway. Many threads may share one."""

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
        """Remember where the gateway is; nothing is opened yet. Args: as the async client's."""
        self._calls = Calls(url, timeout_s, retry_for_s, backoff, time.monotonic)
        self._deadline = Deadline(time.monotonic)
        transport = DeadlineTransport(trusted(self._calls.url, ca_file), self._deadline)
        self._http = httpx2.Client(
            transport=transport,
            trust_env=False,
            timeout=make_timeout(timeout_s),
            headers={"User-Agent": agent},
        )
        self._open: list[Events] = []

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the streams of events and the connections."""
        for events in self._open:
            events.close()
        self._http.close()

    def send(
        self, *, key: Key | Literal["content", "fresh"] = Key.FRESH, **mail: Unpack[Mail]
    ) -> Sent:
        """Submit one message; returns once it is durable.

        Raises: RejectedError, KeyConflictError; UnavailableError, NotAGatewayError: it may have
            been accepted.
        """
        return self._carry_out(self._calls.send(Item(mail, key)))

    def send_many(
        self, mails: Iterable[Mail], *, key: Key | Literal["content", "fresh"] = Key.FRESH
    ) -> list[Sent | ClientError]:
        """Submit many messages, up to a thousand a request; a failure of one stops no other.

        Returns: one entry for each message, in order: the receipt, or why there is none.
        """
        return self._carry_out(self._calls.send_many([Item(mail, key) for mail in mails]))

    def status(self, name: str) -> Status:
        """Return a message's status, by the gateway's id or yours (then the newest with that id).

        Raises: NotFoundError, and as `request`.
        """
        return self._carry_out(self._calls.status(name))

    def wait(self, name: str, *, timeout_s: float = 60.0) -> Status:
        """Return a message's status once nothing more happens to it by itself.

        Raises: NotDoneError after `timeout_s`; and as `status`.
        """
        return self._carry_out(self._calls.wait(name, timeout_s))

    def events(self, after: int | None = None) -> Events:
        """Return an iterator over what happens, without end; each event once, in order.

        A lost connection is opened again after the last event. It is closed with the client, or
        sooner by `contextlib.closing`.

        Args: after: the `seq` of the last event known; without one, from where the gateway begins.
        Raises: while iterating, as `request`.
        """
        events = Events(self._http, EventCalls(self._calls, after))
        self._open = [events, *(each for each in self._open if not each.is_closed)]
        return events

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:
        """Return the JSON that a route answers. The request may be repeated: see RETRIED.

        Raises: RejectedError, UnavailableError, NotAGatewayError.
        """
        return self._carry_out(self._calls.request(method, path, body, query))

    def _carry_out(self, call: Call[T]) -> T:
        result: object = None
        while True:
            try:
                step = call.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            result = self._do(step)

    def _do(self, step: Step) -> httpx2.Response | UnavailableError | None:
        if isinstance(step, Pause):
            time.sleep(step.for_s)
            return None
        assert isinstance(step, Request)
        self._deadline.until_s = time.monotonic() + step.within_s
        try:
            return self._http.request(
                *(step.method, step.url),
                content=step.content,
                headers=step.headers,
                params=step.query,
                timeout=step.within_s,
            )
        except httpx2.TimeoutException:
            return no_answer(step.within_s)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return failure(error)
        finally:
            del self._deadline.until_s


class Events:
    """An iterator over all events: each once, in order, without end. For one thread at a time."""

    def __init__(self, http: httpx2.Client, calls: EventCalls) -> None:
        self._http = http
        self._calls = calls
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    @property
    def is_closed(self) -> bool:
        """Whether the iteration has ended, or is about to."""
        return self._calls.is_closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._carry_out(self._calls.next_event())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Close the stream, so that the iteration ends."""
        self._carry_out(self._calls.close())

    def _carry_out(self, call: Call[T]) -> T:
        result: object = None
        while True:
            try:
                step = call.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                result = self._do(step)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                result = failure(error)

    def _do(self, step: Step) -> object:
        match step:
            case Open():
                return self._connect(step)
            case Read():
                return next(self._chunks, None)
            case Close():
                self._disconnect()
            case Pause():
                time.sleep(step.for_s)
        return None

    def _connect(self, step: Open) -> httpx2.Response:
        request = self._http.build_request("GET", step.url, headers=step.headers, params=step.query)
        self._response = self._http.send(request, stream=True)
        if not self._response.is_success:
            self._response.read()
        self._chunks = self._response.iter_bytes()
        return self._response

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response, self._chunks = None, iter(())
