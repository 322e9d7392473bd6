"""From mails to requests, and from answers to values or errors. Plain functions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from mailactors.client.values import (
    ClientError,
    Event,
    Key,
    KeyConflictError,
    Mail,
    NotAGatewayError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    Status,
    UnavailableError,
)

T = TypeVar("T")

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which another try may succeed. 409 is none of them: it is too late then."""
BATCH_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""A quarter of what the gateway reads as one batch; a larger message goes alone."""
EVENT_BYTES_MAX: Final = 1024 * 1024
_ASCII: Final = re.compile(r"[ -~]+")


class StatusPage(msgspec.Struct, frozen=True):
    """What `GET /statuses` answers."""

    statuses: tuple[Status, ...]


class BatchAnswer(msgspec.Struct, frozen=True):
    """What `POST /v1/messages/batch` answers: one entry for each message, in order."""

    results: list[dict[str, Any]]


class _Receipt(msgspec.Struct, frozen=True):
    id: str


class Item:
    """A mail as it is submitted: its fields under the gateway's names, and its key."""

    def __init__(self, mail: Mail, key: Key | str) -> None:
        given = {name: value for name, value in mail.items() if value is not None}
        self._own_key = given.pop("idempotency_key", None)
        if "sender" in given:
            given["from"] = given.pop("sender")
        self._fields = given
        name = given.get("id")
        self.is_by_content = Key(key) is Key.CONTENT
        if self.is_by_content:
            given["key"], name = "content", None
        elif self._own_key is None and name is None:
            self._own_key = f"fresh-{secrets.token_hex(16)}"
        self.key = str((name if self._own_key is None else self._own_key) or "")

    def body(self) -> bytes:
        """Return the body of `POST /v1/messages`."""
        return msgspec.json.encode(self._fields)

    def headers(self) -> dict[str, str]:
        """Return the header that names the key, unless the body's id does. Raises: ValueError."""
        if self._own_key is None:
            return {}
        if not _ASCII.fullmatch(self.key):
            raise ValueError("an idempotency_key is printable ASCII; an id may be more")
        escaped = self.key.replace("\\", "\\\\").replace('"', '\\"')
        return {"Idempotency-Key": f'"{escaped}"'}  # RFC 8941 §3.3.3

    def body_in_batch(self) -> bytes:
        """Return the message as an entry of a batch, where each names its own key."""
        if self._own_key is None:
            return self.body()
        return msgspec.json.encode(self._fields | {"idempotency_key": self._own_key})


def chunked(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut a list into batches that the gateway takes: so many messages, so many bytes."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        length = len(item.body())
        if chunk and (len(chunk) == BATCH_MAX or size + length > BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += length
    if chunk:
        yield chunk


def check(answer: httpx2.Response) -> None:
    """Return if an answer is good.

    Raises: UnavailableError where another try may succeed; else RejectedError.
    """
    if not answer.is_success:
        error = refusal(read_problem(answer.status_code, answer.content))
        if isinstance(error, UnavailableError):
            after = answer.headers.get("Retry-After", "")
            error.retry_after_s = float(after) if after.isdecimal() else 0.0
        raise error


def refusal(problem: Problem) -> RejectedError | UnavailableError:
    """Return the error of a problem."""
    if problem.status in RETRIED:
        return UnavailableError(str(problem), problem)
    if problem.type.endswith(":idempotency-key-reused"):
        return KeyConflictError(problem)
    return NotFoundError(problem) if problem.status == 404 else RejectedError(problem)


def failure(error: Exception) -> UnavailableError:
    """Return why there was no answer, without the original error: that holds the request."""
    never = (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
    return UnavailableError(_words(error), may_pass=not isinstance(error, never))


def no_answer(within_s: float) -> UnavailableError:
    """Return that a try took too long."""
    return UnavailableError(f"there was no answer within {within_s:g} s")


def _words(error: Exception) -> str:
    """Return the first words in a chain of causes; on Trio the outermost often have none."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__ if cause is None else str(cause)


def read_problem(status: int, content: bytes | str) -> Problem:
    """Return an answer's problem document, or one with no more than its HTTP status."""
    try:
        document = msgspec.json.decode(content, type=dict[str, Any])
        return msgspec.convert(document | {"status": status}, Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem(status)


def read_json(answer: httpx2.Response) -> Any:
    """Return an answer's JSON. Raises: NotAGatewayError."""
    try:
        return msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotAGatewayError("what answers is no gateway: it does not speak JSON") from None


def read_as(value: object, kind: type[T]) -> T:
    """Return JSON as a value of a type. Raises: NotAGatewayError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise NotAGatewayError("what answers is no gateway, or one of another version") from None


def read_receipt(receipt: dict[str, Any], status: int, key: str) -> Sent:
    """Return a receipt; with status 200 the message was accepted before.

    Raises: NotAGatewayError.
    """
    return Sent(read_as(receipt, _Receipt).id, status == 200, key, receipt)


def read_result(entry: dict[str, Any], item: Item, index: int) -> Sent | ClientError:
    """Return one message's result; pointers to its faults lose the message's index in the batch.

    The index means nothing to the caller: a batch may be a part of a list, or a retry of one.
    """
    status = entry.get("status")
    try:
        if status in {200, 202}:
            return read_receipt(entry, status, item.key)
        document = msgspec.json.encode(entry.get("problem", entry))
        problem = read_problem(read_as(status, int), document)
    except NotAGatewayError as error:
        return error
    place = f"/{index}"
    faults = tuple(
        msgspec.structs.replace(fault, pointer=fault.pointer.removeprefix(place))
        for fault in problem.faults
    )
    return refusal(msgspec.structs.replace(problem, faults=faults))


class EventReader:
    """Reads a stream of server-sent events, and remembers the last event.

    Source: HTML, section 9.2.6; lines end with LF or CRLF, which is what gateways send.
    """

    def __init__(self, after: int | None) -> None:
        self._last = after
        self.restart()

    def restart(self) -> None:
        """Drop what a broken connection left incomplete."""
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}

    def query(self) -> dict[str, int]:
        """Return the position as the first request sends it: in the query."""
        return {} if self._last is None else {"after": self._last}

    def headers(self) -> dict[str, str]:
        """Return the position as a browser sends it on a reconnect: in a header."""
        place = {} if self._last is None else {"Last-Event-ID": str(self._last)}
        return {"Accept": "text/event-stream", **place}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Return the events that a chunk completes, without those that were seen before.

        Raises: NotAGatewayError.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line := line.removesuffix(b"\r"):
                self._note(line)
            elif event := self._complete():
                yield event
        if len(self._rest) + sum(map(len, self._fields.values())) > EVENT_BYTES_MAX:
            raise NotAGatewayError(f"an event is larger than {EVENT_BYTES_MAX} bytes")

    def _note(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data" and name in self._fields:
            value = self._fields[name] + b"\n" + value
        self._fields[name] = value  # a comment has no name, and is not looked at

    def _complete(self) -> Event | None:
        fields, self._fields = self._fields, {}
        if b"id" not in fields:
            return None  # a comment, or what cannot be asked for again
        try:
            seq = int(fields[b"id"])
            data = msgspec.json.decode(fields[b"data"]) if b"data" in fields else None
            kind = fields.get(b"event", b"message").decode()
        except (ValueError, RecursionError):
            raise NotAGatewayError("what answers sends no events that can be read") from None
        if kind == "ahead":  # our place is not of this spool: it goes on from its end
            self._last = None
        is_known = self._last is not None and seq <= self._last
        if not is_known:
            self._last = seq
        return None if is_known or b"data" not in fields else Event(seq, kind, data)
