"""How every handler reads a request and writes an answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import trio
from quart import Response, request
from quart_trio.wrappers import TrioRequest

from mailactors.api.decoding import check_content_type, decode_body, decode_query
from mailactors.api.limited import LimitedBody
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError
from mailactors.runtime.ports import Executor

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A message of admission's 10 MiB, its attachments in base64, and JSON around them."""
BATCH_BYTES_MAX: Final = 32 * 1024 * 1024
"""A thousand messages of 32 KiB; larger ones go in smaller batches."""
LARGE_BYTES: Final = 64 * 1024
"""Of this size a body is large: to decode it takes about a millisecond."""
VERY_LARGE_BYTES: Final = 1024 * 1024
TURN_WITHIN_S: Final = 10.0
BATCH_PATH: Final = "/v1/messages/batch"


class LimitedRequest(TrioRequest):
    """A request with its route's limit on the body, which holds from the first byte."""

    body_class = LimitedBody  # type: ignore[assignment]  # of a Body it is all that we use

    def __init__(self, method: str, scheme: str, path: str, *others: Any, **named: Any) -> None:
        limit = bytes_max_of(path)
        super().__init__(method, scheme, path, *others, **{**named, "max_content_length": limit})
        self.max_content_length = limit


def bytes_max_of(path: str) -> int:
    """Return how long a body may be that is sent to a path."""
    return BATCH_BYTES_MAX if path.rstrip("/") == BATCH_PATH else BODY_BYTES_MAX


async def read_bytes() -> bytes:
    """Return the whole body, once; Quart raises when it is too large or too slow."""
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


@contextlib.asynccontextmanager
async def decoded_body(decoder: msgspec.json.Decoder[T], parts: ApiParts) -> AsyncIterator[T]:
    """Read the body and give its value, with its turn if it is very large. Raises: ProblemError."""
    check_content_type(request.headers.get("Content-Type"))
    body = await read_bytes()
    async with turn(len(body), parts):
        value = await run_by_size(partial(decode_body, body, decoder), len(body), parts.decoding)
        del body  # its value is another of that size
        yield value


async def read_body(decoder: msgspec.json.Decoder[T], parts: ApiParts) -> T:
    """Return the body as a value. Raises: ProblemError."""
    async with decoded_body(decoder, parts) as value:
        return value


@contextlib.asynccontextmanager
async def turn(size: int, parts: ApiParts) -> AsyncIterator[None]:
    """Wait until no other very large body is being decoded or made durable.

    It takes up to ten times its length meanwhile.

    Raises: ProblemError when that takes too long.
    """
    if size < VERY_LARGE_BYTES:
        yield
        return
    try:
        with trio.fail_after(TURN_WITHIN_S):
            await parts.turn.acquire()
    except trio.TooSlowError:
        detail = "other very large bodies are still being accepted"
        raise ProblemError("overloaded", detail, retry_after_s=1.0) from None
    try:
        yield
    finally:
        parts.turn.release()


async def run_by_size(work: Callable[[], V], size: int, executor: Executor) -> V:
    """Do work on a body: what is large would keep every other request waiting."""
    return work() if size < LARGE_BYTES else await executor.run(work)


def read_query(shape: type[T]) -> T:
    """Return the query's parameters as a value. Raises: ProblemError."""
    return decode_query(request.args.items(multi=True), shape)


def answer(view: msgspec.Struct, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(msgspec.json.encode(view), status, content_type="application/json")


def url_of(message_id: str) -> str:
    """Return where a message is shown, by our id."""
    return f"/v1/messages/{message_id}"
