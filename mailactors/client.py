"""A client for programs: `send`, `send_many`, `status`, `wait`, `events`; on asyncio and on Trio.

    async with Client() as client:
        sent = await client.send(to="bob@example.com", subject="Hello", text="A test.")
        print(await client.wait(sent.id))

**One call is one message.** Every submission has an idempotency key, chosen once a call and the
same on each retry; so whatever is lost on the way, asking again makes no second message.

**One content is one message too**, by default: the key is the SHA-256 of what is sent, so a job
that is run again after a crash does not mail again. The price: the same words to the same people
within the gateway's window (24 h) are merged, which `Sent.is_replay` tells, even if the first has
bounced since. A program that means to repeat itself says `key=Key.FRESH`, or gives each message an
`id` of its own. We prefer this default because a merge can be seen and undone, and a second
letter cannot.

It retries what may pass: no connection, no answer in time, and the statuses in RETRIED, for as
long as `retry_for_s`. It owns no task and imports nothing of the gateway.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import os
import random
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Required, Self, TypeAlias, TypedDict, TypeVar, Unpack

import anyio
import httpx2
import msgspec

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8025"
RETRIED: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Answers that may be others later; 409 is a submission that is just being accepted."""
BATCH_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Half of what the gateway reads as one body."""
POLL_CAP_S: Final = 2.0
QUIET_S: Final = 60.0
"""After so long without a byte, a stream of events is taken for dead and opened anew."""
EVENT_BYTES_MAX: Final = 1024 * 1024
WORDS_MAX: Final = 500
"""Characters of a problem that are repeated."""
FINAL: Final = frozenset({"sent", "bounced", "failed", "expired", "suppressed", "cancelled"})


class Address(TypedDict, total=False):
    """A mailbox; a string such as `Ann <ann@example.org>` does as well."""

    address: Required[str]
    name: str


class Attachment(TypedDict, total=False):
    """A file; with a `content_id` it is inline."""

    filename: Required[str]
    content: Required[bytes]
    content_type: str
    content_id: str


Mailboxes: TypeAlias = str | Address | Sequence[str | Address]


class Mail(TypedDict, total=False):
    """What may be said of a message: the fields of `POST /v1/messages`, None being absent.

    `raw` is a whole MIME message. `id` is your name for the message, and its key.
    `idempotency_key` is a key that is no name.
    """

    to: Required[Mailboxes]
    sender: str | Address | None
    cc: Mailboxes
    bcc: Mailboxes
    reply_to: Mailboxes
    subject: str
    text: str | None
    html: str | None
    headers: Mapping[str, str]
    attachments: Sequence[Attachment]
    raw: bytes | None
    stream: str | None
    expires_in_s: float | None
    send_at: datetime | None
    tags: Sequence[str]
    metadata: Mapping[str, str]
    id: str | None
    idempotency_key: str | None


class Key(enum.Enum):
    """How a key is made for a message that brings none."""

    CONTENT = "content"
    """From the content: the same message again, by whichever call, is sent once."""
    FRESH = "fresh"
    """By chance, once a call: each call is a message, however often it is tried."""


class Sent(msgspec.Struct, frozen=True):
    """The message is durable. `id` is the gateway's, `receipt` its whole answer.

    `is_replay`: it was accepted before under this key, be it by a try of this very call whose
    answer was lost.
    """

    id: str
    is_replay: bool
    key: str
    receipt: dict[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """One recipient's fate."""

    recipient: str
    status: str
    provider: str | None = None
    attempts: int = 0
    error: str | None = None


class Status(msgspec.Struct, frozen=True):
    """Where a message stands. `id` is the gateway's, `name` yours, or the gateway's if none."""

    id: str = msgspec.field(name="message_id")
    name: str = msgspec.field(name="id")
    status: str
    attempts: int
    deliveries: tuple[Delivery, ...]
    updated_at: str = ""

    @property
    def is_final(self) -> bool:
        """Every delivery has come to its end."""
        return all(delivery.status in FINAL for delivery in self.deliveries)

    @property
    def is_settled(self) -> bool:
        """Nothing more happens by itself: every delivery is final, or held for a person."""
        return all(delivery.status in FINAL | {"held"} for delivery in self.deliveries)


class Event(msgspec.Struct, frozen=True):
    """Something that happened; `seq` is what `events(after=…)` takes."""

    seq: int
    kind: str
    data: Any


class Fault(msgspec.Struct, frozen=True):
    """One fault: what it is, and where in the body (a JSON pointer) or in the query."""

    detail: str
    pointer: str = ""
    parameter: str = ""


class Problem(msgspec.Struct, frozen=True):
    """A problem document (RFC 9457), or no more than the status of an answer that had none."""

    status: int
    title: str = ""
    detail: str = ""
    type: str = "about:blank"
    faults: tuple[Fault, ...] = msgspec.field(name="errors", default=())

    def __str__(self) -> str:
        """Say it in the gateway's words, a line for each fault."""
        if not self.title:
            return f"the gateway answered {self.status}"
        lines = [f"{self.title}: {self.detail}".rstrip(": ")]
        lines += [f"  {fault.pointer or fault.parameter}: {fault.detail}" for fault in self.faults]
        return "\n".join(line[:WORDS_MAX] for line in lines)


class ClientError(Exception):
    """Whatever `Client` raises. None of these holds what was sent, nor a password of the URL."""


class RejectedError(ClientError):
    """The gateway refuses; the same request again would be refused again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class KeyConflictError(RejectedError):
    """The key, or `id`, was used with other content before."""


class NotFoundError(RejectedError):
    """There is no such message."""


class UnavailableError(ClientError):
    """No answer that counts, for as long as was allowed. A submission may have been accepted.

    To submit again under the same key is safe. `problem` is there if the gateway had words for it.
    """

    def __init__(
        self, reason: str, problem: Problem | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.problem = problem
        self.retry_after_s = retry_after_s


class NotAGatewayError(ClientError):
    """What answers speaks another language."""


class NotSettledError(ClientError):
    """`wait` waited long enough; `status` is the last one seen, if any."""

    def __init__(self, name: str, status: Status | None) -> None:
        super().__init__(f"{name!r} is {status.status if status else 'unknown'} still")
        self.status = status


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait between tries: exponential, with equal jitter.

    >>> Backoff(base_s=0.5, cap_s=10.0, draw=lambda: 1.0).pause_s(3)
    4.0
    >>> Backoff(base_s=0.5, cap_s=10.0, draw=lambda: 0.0).pause_s(10_000)
    5.0
    """

    base_s: float = 0.2
    cap_s: float = 10.0
    draw: Callable[[], float] = random.Random().random  # noqa: S311  # jitter is no secret

    def pause_s(self, attempt: int, retry_after_s: float = 0.0) -> float:
        """Return seconds to wait after an attempt (0 is the first), at least what was asked for."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30))
        if retry_after_s:
            return retry_after_s + self.draw() * self.base_s
        return bound_s / 2 + self.draw() * bound_s / 2


class Client:
    """A gateway, as a program sees it. Many tasks may share one."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 10.0,
        retry_for_s: float = 30.0,
        ca_file: str | os.PathLike[str] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """Remember where the gateway is; nothing is opened yet.

        Args:
            url: where it listens; without one, MAILACTORS_URL, or loopback.
            timeout_s: for one try, from its first byte to the last of its answer.
            retry_for_s: no try begins later than this after the first; 0 means one try.
            ca_file: certificates (PEM) to trust, instead of the usual ones.
            backoff: the pauses between tries.
        """
        self._url = (url or os.environ.get("MAILACTORS_URL") or DEFAULT_URL).rstrip("/")
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._backoff = backoff or Backoff()
        context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
        self._http = httpx2.AsyncClient(
            verify=context or True, trust_env=False, timeout=httpx2.Timeout(timeout_s, read=QUIET_S)
        )
        self._streams: list[AsyncGenerator[Event, None]] = []

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        try:
            for stream in self._streams:
                await stream.aclose()
        finally:
            await self._http.__aexit__(kind, error, trace)

    async def send(self, *, key: Key = Key.CONTENT, **mail: Unpack[Mail]) -> Sent:
        """Submit one message; returns once it is durable.

        Raises: RejectedError, KeyConflictError; UnavailableError, NotAGatewayError: it may have
            been accepted.
        """
        return await self._send(_Item(mail, key))

    async def send_many(
        self, mails: Iterable[Mail], *, key: Key = Key.CONTENT
    ) -> list[Sent | ClientError]:
        """Submit many messages, up to a thousand a request; what one meets stops no other.

        Equal messages in one call are one message, unless their keys are fresh.

        Returns: one entry for each message, in order: the receipt, or why there is none.
        """
        results: list[Sent | ClientError] = []
        for chunk in _chunked([_Item(mail, key) for mail in mails]):
            if results and isinstance(results[-1], UnavailableError):
                results += [results[-1]] * len(chunk)
            else:
                results += await self._send_chunk(chunk)
        return results

    async def status(self, name: str) -> Status:
        """Return where a message stands, by the gateway's id or yours (then the newest of it).

        Raises: NotFoundError, and as `request`.
        """
        page = await self.request("GET", "/statuses", query={"id": name})
        found = _read(page, _Page).statuses
        if not found:
            problem = Problem(404, "There is no such message", repr(name))
            raise NotFoundError(problem)
        return next((status for status in found if status.id == name), found[0])

    async def wait(self, name: str, *, timeout_s: float = 60.0) -> Status:
        """Return a message's status once nothing more happens to it by itself.

        That is final, or held for a person; `Status.is_final` tells which.

        Raises: NotSettledError after `timeout_s`; and as `status`.
        """
        status = None
        with anyio.move_on_after(timeout_s):
            for attempt in itertools.count():
                status = await self.status(name)
                if status.is_settled:
                    return status
                await anyio.sleep(min(POLL_CAP_S, self._backoff.pause_s(attempt)))
        raise NotSettledError(name, status)

    def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Iterate over what happens, without end; each event once, in order.

        A lost connection is opened again after the last event. What is left open is closed with
        the client, or sooner by `contextlib.aclosing`.

        Args: after: the `seq` of the last event known; without one, from where the gateway begins.
        Raises: while iterating, as `request`.
        """
        self._streams = [stream for stream in self._streams if stream.ag_frame is not None]
        stream = self._events(after)
        self._streams.append(stream)
        return stream

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:
        """Return the JSON that a route answers. It may be asked several times: see RETRIED.

        Raises: RejectedError, UnavailableError, NotAGatewayError.
        """
        content = None if body is None else msgspec.json.encode(body)
        return self._json(await self._ask(method, path, content, query=query))

    async def _send(self, item: _Item) -> Sent:
        answer = await self._ask("POST", "/v1/messages", item.body(), item.headers())
        return _sent(self._json(answer), answer.status_code, item)

    async def _send_chunk(self, chunk: Sequence[_Item]) -> list[Sent | ClientError]:
        """Submit up to a thousand; those that there was no room for are submitted again."""
        patience = _Patience(self._retry_for_s, self._backoff)
        results = await self._post_batch(chunk)
        with suppress(UnavailableError):
            while refused := {i: r for i, r in enumerate(results) if _may_pass(r)}:
                await patience.rest(next(iter(refused.values())))
                again = await self._post_batch([chunk[index] for index in refused])
                for index, result in zip(refused, again, strict=True):
                    results[index] = result
        return results

    async def _post_batch(self, items: Sequence[_Item]) -> list[Sent | ClientError]:
        content = msgspec.json.encode([item.fields_in_batch() for item in items])
        try:
            answer = await self._ask("POST", "/v1/messages/batch", content)
            answers = _read(self._json(answer), _Batch).results
            if len(answers) != len(items):
                raise NotAGatewayError(f"{len(items)} messages got {len(answers)} results")
            return list(map(_result, answers, items))
        except RejectedError as error:
            if error.problem.status in {404, 405}:  # an older gateway, without this route
                return await self._post_each(items)
            return [error] * len(items)
        except ClientError as error:
            return [error] * len(items)

    async def _post_each(self, items: Sequence[_Item]) -> list[Sent | ClientError]:
        results: list[Sent | ClientError] = []
        for item in items:
            try:
                results.append(await self._send(item))
            except UnavailableError as error:
                return results + [error] * (len(items) - len(results))
            except ClientError as error:
                results.append(error)
        return results

    async def _events(self, after: int | None) -> AsyncGenerator[Event, None]:
        """Open the stream again and again."""
        reader = _EventReader(after)
        patience = _Patience(self._retry_for_s, self._backoff)
        while True:
            failure = UnavailableError("the gateway ended the stream")
            try:
                async with self._http.stream(
                    "GET", self._url + "/v1/events", headers=reader.headers(), params=reader.query()
                ) as response:
                    await _check_stream(response)
                    patience.renew()
                    async with aclosing(_chunks(response)) as chunks:
                        async for chunk in chunks:
                            for event in reader.feed(chunk):
                                yield event
            except httpx2.HTTPError as error:
                failure = UnavailableError(_words(error))
            except UnavailableError as error:
                failure = error
            reader.forget_half()
            await patience.rest(failure)

    async def _ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> httpx2.Response:
        """Ask until there is an answer that asking again would not change; return a good one."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        patience = _Patience(self._retry_for_s, self._backoff)
        while True:
            try:
                with anyio.fail_after(self._timeout_s):
                    answer = await self._http.request(
                        method, self._url + path, content=content, headers=headers, params=query
                    )
                _check(answer)
            except (TimeoutError, httpx2.HTTPError) as error:
                await patience.rest(_failure(error))
            except UnavailableError as error:
                await patience.rest(error)
            else:
                return answer


class _Patience:
    """How much longer one call goes on trying."""

    def __init__(self, retry_for_s: float, backoff: Backoff) -> None:
        self._retry_for_s = retry_for_s
        self._backoff = backoff
        self.renew()

    def renew(self) -> None:
        self._attempt = 0
        self._until_s = anyio.current_time() + self._retry_for_s

    async def rest(self, failure: UnavailableError) -> None:
        """Sleep before the next try, or raise the failure if there is no time for one."""
        left_s = self._until_s - anyio.current_time()
        if left_s <= failure.retry_after_s or not failure.may_pass:
            raise failure
        pause_s = self._backoff.pause_s(self._attempt, failure.retry_after_s)
        self._attempt += 1
        await anyio.sleep(min(pause_s, left_s))
