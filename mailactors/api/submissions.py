"""The routes that accept messages, one or many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec
import trio
from quart import Response, request

from mailactors.api import schemas
from mailactors.api.batch import (
    NDJSON_MEDIA_TYPE,
    Entry,
    Read,
    Room,
    cut_array,
    cut_lines,
    read_entry,
    result_of,
)
from mailactors.api.bodies import full_submission, parse_key, refusal_of, short_submission
from mailactors.api.decoding import JSON_MEDIA_TYPE, check_content_type
from mailactors.api.exchange import answer, decoded_body, read_bytes, run_by_size, turn, url_of
from mailactors.api.parts import BATCHES_MAX, ApiParts
from mailactors.api.problems import ProblemError
from mailactors.intake.submission import IntakeError, Submission
from mailactors.runtime.ports import Executor
from mailactors.spool.port import Receipt

BATCHES_RETRY_S: Final = 1.0

_SHORT_DECODER: Final = msgspec.json.Decoder(schemas.ShortMessage)
_MESSAGE_DECODER: Final = msgspec.json.Decoder(schemas.MessageIn)


async def send_email(parts: ApiParts) -> Response:
    """Accept a message in the short form; its id is the idempotency key, or else its content."""
    async with decoded_body(_SHORT_DECODER, parts) as body:
        submission = short_submission(body, _key_of_header())
        receipt = await _submit(parts, submission, body)
    ids = (body.id, receipt.id, receipt.message_id)
    view = schemas.ShortReceipt(
        "Email process initiated.", *ids, url_of(receipt.id), receipt.is_replay
    )
    return _accepted(view, receipt)


async def post_message(parts: ApiParts) -> Response:
    """Accept a message."""
    async with decoded_body(_MESSAGE_DECODER, parts) as body:
        submission = full_submission(body, _key_of_header())
        receipt = await _submit(parts, submission, body)
    rules = parts.door.rules
    if submission.key is not None:
        known_by = ("key", rules.key_window_s)
    else:
        by_content = ("fingerprint", rules.fingerprint_window_s)
        known_by = by_content if submission.by_content else ("none", 0.0)
    view = schemas.MessageReceipt(
        id=receipt.id,
        client_id=receipt.client_id or None,
        rfc_message_id=receipt.message_id,
        status="accepted",
        status_url=url_of(receipt.id),
        idempotency=schemas.Idempotency(*known_by),
        replayed=receipt.is_replay,
    )
    return _accepted(view, receipt)


async def post_batch(parts: ApiParts) -> Response:
    """Accept up to 1,000 messages in one commit, with a result for each."""
    if request.headers.getlist("Idempotency-Key"):
        detail = "each message of a batch has its own key: its idempotency_key or its id"
        raise ProblemError("idempotency-key-invalid", detail)
    content_type = request.headers.get("Content-Type")
    media_type = check_content_type(content_type, JSON_MEDIA_TYPE, NDJSON_MEDIA_TYPE)
    with _room_for_a_batch(parts.batches):
        body = await read_bytes()
        async with turn(len(body), parts):
            entries = await _decode(body, media_type, parts.decoding)
            return answer(schemas.BatchResults(await _submit_all(parts, entries)))


async def _decode(body: bytes, media_type: str, executor: Executor) -> list[Entry]:
    cut = cut_array if media_type == JSON_MEDIA_TYPE else cut_lines
    entries: list[Entry] = []
    room = Room()
    for data in await run_by_size(partial(cut, body), len(body), executor):
        await trio.lowlevel.checkpoint()  # a thousand messages take a while to decode
        size = len(memoryview(data))
        entries.append(await run_by_size(partial(read_entry, data, room), size, executor))
    return entries


def _key_of_header() -> str | None:
    return parse_key(request.headers.getlist("Idempotency-Key"))


async def _submit(parts: ApiParts, submission: Submission, body: msgspec.Struct) -> Receipt:
    try:
        return await parts.door.submit(submission)
    except IntakeError as error:
        raise refusal_of(error, body) from None


async def _submit_all(parts: ApiParts, entries: list[Entry]) -> tuple[schemas.BatchResult, ...]:
    read = [entry.submission for entry in entries if isinstance(entry, Read)]
    try:
        outcomes = iter(await parts.door.submit_many(read))
    except IntakeError as error:
        raise refusal_of(error, schemas.MessageIn()) from None
    return tuple(
        result_of(index, entry, next(outcomes) if isinstance(entry, Read) else None)
        for index, entry in enumerate(entries)
    )


@contextlib.contextmanager
def _room_for_a_batch(batches: trio.CapacityLimiter) -> Iterator[None]:
    """Count a batch for as long as it takes memory.

    Raises: ProblemError when there are too many, before the body is read.
    """
    try:
        batches.acquire_nowait()
    except trio.WouldBlock:
        detail = f"{BATCHES_MAX} batches are being accepted already"
        raise ProblemError("overloaded", detail, retry_after_s=BATCHES_RETRY_S) from None
    try:
        yield
    finally:
        batches.release()


def _accepted(view: msgspec.Struct, receipt: Receipt) -> Response:
    """Answer 202, or 200 with its first answer when it was accepted before under this key."""
    response = answer(view, 200 if receipt.is_replay else 202)
    response.headers["Location"] = url_of(receipt.id)
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response
