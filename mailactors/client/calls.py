"""What each call does, step by step: a generator that the clients carry out, with or without await.

It yields what to do (`Step`) and is sent what came of it: an answer, or why there is none. So what
is retried, for how long and under which key is decided once, for the async and the sync client.
"""

from __future__ import annotations

import itertools
import math
import os
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast

import httpx2
import msgspec

from mailactors.client.retry import Backoff, Patience
from mailactors.client.values import (
    ClientError,
    NotAGatewayError,
    NotDoneError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    Status,
    UnavailableError,
)
from mailactors.client.wire import (
    BatchAnswer,
    Item,
    StatusPage,
    check,
    chunked,
    read_as,
    read_json,
    read_receipt,
    read_result,
)

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8625"
POLL_CAP_S: Final = 2.0
CONTENT_WINDOW_S: Final = 60.0
"""For so long a gateway takes the same content for the same message."""
QUIET_S: Final = 60.0
"""After so long without a byte, the client closes an event stream and opens it again."""


@dataclass(frozen=True)
class Request:
    """Send a request; sent back are its answer, or an UnavailableError."""

    method: str
    url: str
    within_s: float
    """From its first byte to the last of its answer."""
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] | None = None


@dataclass(frozen=True)
class Open:
    """Open the stream of events; sent back as for a request, with the body only of a refusal."""

    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str | int]


@dataclass(frozen=True)
class Read:
    """Read on; sent back are bytes, none at the end, or an UnavailableError."""


@dataclass(frozen=True)
class Close:
    """Close the stream, if it is open."""


@dataclass(frozen=True)
class Pause:
    """Wait."""

    for_s: float


Step: TypeAlias = Request | Open | Read | Close | Pause
Call: TypeAlias = Generator[Step, Any, T]


class Calls:
    """The calls to one gateway. It holds no connection."""

    def __init__(
        self,
        url: str | None,
        timeout_s: float,
        retry_for_s: float,
        backoff: Backoff | None,
        now_s: Callable[[], float],
    ) -> None:
        self.url = (url or os.environ.get("MAILACTORS_URL") or DEFAULT_URL).rstrip("/")
        self.now_s = now_s
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._backoff = backoff or Backoff()

    def patience(self, until_s: float = math.inf) -> Patience:
        """Return what counts the tries of one call, from now on."""
        now_s = self.now_s()
        return Patience(min(self._retry_for_s, until_s - now_s), self._backoff, now_s)

    def retry_until_s(self, items: Sequence[Item]) -> float:
        """Return until when a submission may be repeated, so that it stays one message.

        A key outlives any call. What goes by content is to arrive within the gateway's window.
        """
        by_content = any(item.is_by_content for item in items)
        return self.now_s() + CONTENT_WINDOW_S - self._timeout_s if by_content else math.inf

    def send(self, item: Item) -> Call[Sent]:
        """Submit one message."""
        retry_until_s = self.retry_until_s([item])
        answer = yield from self._ask(
            *("POST", "/v1/messages", item.body(), item.headers()), retry_until_s=retry_until_s
        )
        receipt = read_as(read_json(answer), dict[str, Any])
        return read_receipt(receipt, answer.status_code, item.key)

    def send_many(self, items: Sequence[Item]) -> Call[list[Sent | ClientError]]:
        """Submit many messages; once the gateway is gone, the other ones are not tried."""
        results: list[Sent | ClientError] = []
        for chunk in chunked(items):
            if results and isinstance(results[-1], UnavailableError):
                results += [results[-1]] * len(chunk)
            else:
                results += yield from self._send_chunk(chunk)
        return results

    def status(self, name: str, until_s: float = math.inf) -> Call[Status]:
        """Return a message's status."""
        page = yield from self.request("GET", "/statuses", query={"id": name}, until_s=until_s)
        found = read_as(page, StatusPage).statuses
        if not found:
            raise NotFoundError(Problem(404, "There is no such message", repr(name)))
        return next((status for status in found if status.id == name), found[0])

    def wait(self, name: str, timeout_s: float) -> Call[Status]:
        """Ask for a message's status until nothing more happens to it by itself."""
        until_s = self.now_s() + timeout_s
        status = None
        try:
            for attempt in itertools.count():
                status = yield from self.status(name, until_s)
                if status.is_done:
                    return status
                yield from self._rest(min(POLL_CAP_S, self._backoff.pause_s(attempt)), until_s)
        except _TimeUpError:
            pass
        raise NotDoneError(name, status)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str | int] | None = None,
        until_s: float = math.inf,
    ) -> Call[Any]:
        """Return the JSON that a route answers."""
        content = None if body is None else msgspec.json.encode(body)
        answer = yield from self._ask(method, path, content, query=query, until_s=until_s)
        return read_json(answer)

    def _send_chunk(self, chunk: Sequence[Item]) -> Call[list[Sent | ClientError]]:
        """Submit up to a thousand; submit those again that the gateway had no room for."""
        until_s = self.retry_until_s(chunk)
        patience = self.patience(until_s)
        results = yield from self._post_batch(chunk, until_s)
        while refused := {i: r for i, r in enumerate(results) if isinstance(r, UnavailableError)}:
            try:
                pause_s = patience.pause_s(next(iter(refused.values())), self.now_s())
            except UnavailableError:
                break
            yield Pause(pause_s)
            again = yield from self._post_batch([chunk[index] for index in refused], until_s)
            for index, result in zip(refused, again, strict=True):
                results[index] = result
        return results

    def _post_batch(
        self, items: Sequence[Item], retry_until_s: float
    ) -> Call[list[Sent | ClientError]]:
        content = b"[" + b",".join(item.body_in_batch() for item in items) + b"]"
        try:
            answer = yield from self._ask(
                *("POST", "/v1/messages/batch", content), retry_until_s=retry_until_s
            )
            answers = read_as(read_json(answer), BatchAnswer).results
            if len(answers) != len(items):
                raise NotAGatewayError(f"{len(items)} messages got {len(answers)} results")
            return list(map(read_result, answers, items, itertools.count()))
        except RejectedError as error:
            if error.problem.status not in {404, 405}:
                return [error] * len(items)
        except ClientError as error:
            return [error] * len(items)
        return (yield from self._post_each(items))  # an older gateway, without this route

    def _post_each(self, items: Sequence[Item]) -> Call[list[Sent | ClientError]]:
        results: list[Sent | ClientError] = []
        for item in items:
            try:
                results.append((yield from self.send(item)))
            except UnavailableError as error:
                return results + [error] * (len(items) - len(results))
            except ClientError as error:
                results.append(error)
        return results

    def _ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
        until_s: float = math.inf,
        retry_until_s: float = math.inf,
    ) -> Call[httpx2.Response]:
        """Send a request until its answer is final; return a good one, or raise."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        patience = self.patience(retry_until_s)
        while True:
            within_s = max(0.0, min(self._timeout_s, until_s - self.now_s()))
            answer = yield Request(method, self.url + path, within_s, content, headers, query)
            lost = why_unusable(answer)
            if lost is None:
                return cast("httpx2.Response", answer)
            if self.now_s() >= until_s:
                raise _TimeUpError
            yield from self._rest(patience.pause_s(lost, self.now_s()), until_s)

    def _rest(self, pause_s: float, until_s: float) -> Call[None]:
        left_s = until_s - self.now_s()
        yield Pause(max(0.0, min(pause_s, left_s)))
        if pause_s >= left_s:
            raise _TimeUpError


class _TimeUpError(Exception):
    """The deadline of `wait` has passed."""


def why_unusable(answer: httpx2.Response | UnavailableError) -> UnavailableError | None:
    """Return why there should be another try, or None for a good answer. Raises: RejectedError."""
    if isinstance(answer, UnavailableError):
        return answer
    try:
        check(answer)
    except UnavailableError as error:
        return error
    return None


def make_timeout(timeout_s: float) -> httpx2.Timeout:
    """Return the timeouts of single operations; only a stream of events depends on them."""
    return httpx2.Timeout(timeout_s, read=max(QUIET_S, timeout_s))


def trust(url: str, ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext | bool:
    """Return the certificates to trust; the usual ones take 0.1 s to read, so only for HTTPS."""
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    return url.lower().startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
