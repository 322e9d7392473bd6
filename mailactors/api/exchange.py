"""How every handler reads a request and writes an answer."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from quart import Response, request
from quart_trio.wrappers import TrioRequest

from mailactors.api.decoding import check_content_type, decode_body, decode_query
from mailactors.api.limited import LimitedBody

T = TypeVar("T", bound=msgspec.Struct)

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A message of admission's 10 MiB, its attachments in base64, and JSON around them."""
BATCH_BYTES_MAX: Final = 32 * 1024 * 1024
"""A thousand messages of 32 KiB; larger ones go in smaller batches."""
BATCH_PATH: Final = "/v1/messages/batch"


class LimitedRequest(TrioRequest):
    """A request with its route's limit on the body, which holds from the first byte."""

    body_class = LimitedBody  # type: ignore[assignment]  # of a Body it is all that we use

    def __init__(self, method: str, scheme: str, path: str, *others: Any, **named: Any) -> None:
        is_batch = path.rstrip("/") == BATCH_PATH
        limit = BATCH_BYTES_MAX if is_batch else named["max_content_length"]
        super().__init__(method, scheme, path, *others, **{**named, "max_content_length": limit})
        self.max_content_length = limit


async def read_bytes() -> bytes:
    """Return the whole body, once; Quart raises when it is too large or too slow."""
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


async def read_body(decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body as a value. Raises: ProblemError."""
    check_content_type(request.headers.get("Content-Type"))
    return decode_body(await read_bytes(), decoder)


def read_query(shape: type[T]) -> T:
    """Return the query's parameters as a value. Raises: ProblemError."""
    return decode_query(request.args.items(multi=True), shape)


def answer(view: msgspec.Struct, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(msgspec.json.encode(view), status, content_type="application/json")


def url_of(message_id: str) -> str:
    """Return where a message is shown, by our id."""
    return f"/v1/messages/{message_id}"
