"""The routes that take messages in, one or many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec
import trio
from quart import Response, request

from mailactors.api import schemas
from mailactors.api.batch import (
    NDJSON_MEDIA_TYPE,
    Entry,
    Read,
    cut_array,
    cut_lines,
    read_entry,
    result_of,
)
from mailactors.api.decoding import JSON_MEDIA_TYPE, check_content_type
from mailactors.api.exchange import answer, read_body, read_bytes
from mailactors.api.parts import ApiParts
from mailactors.api.problems import ProblemError
from mailactors.api.submissions import full_submission, parse_key, refusal_of, short_submission
from mailactors.intake.submission import IntakeError, Submission
from mailactors.spool.port import Receipt

SHORT_MESSAGE: Final = "Email process initiated."
BATCHES_MAX: Final = 8
"""Batches that are being read or accepted; each may hold 32 MiB, and as much decoded."""
BATCHES_RETRY_S: Final = 1.0

_SHORT_DECODER: Final = msgspec.json.Decoder(schemas.ShortMessage)
_MESSAGE_DECODER: Final = msgspec.json.Decoder(schemas.MessageIn)


class Accepting:
    """The handlers."""

    def __init__(self, parts: ApiParts) -> None:
        self._door = parts.door
        self._batches = 0

    async def send_email(self) -> Response:
        """Accept a message in the short form."""
        body = await read_body(_SHORT_DECODER)
        submission = short_submission(body, parse_key(request.headers.getlist("Idempotency-Key")))
        receipt = await self._submit(submission, body)
        status_url = f"/v1/messages/{receipt.id}"
        view = schemas.ShortReceipt(SHORT_MESSAGE, body.id, receipt.id, status_url)
        return _accepted(view, receipt)

    async def post_message(self) -> Response:
        """Accept a message."""
        body = await read_body(_MESSAGE_DECODER)
        submission = full_submission(body, parse_key(request.headers.getlist("Idempotency-Key")))
        receipt = await self._submit(submission, body)
        rules = self._door.rules
        if submission.key is None:
            idempotency = schemas.Idempotency("fingerprint", rules.fingerprint_window_s)
        else:
            idempotency = schemas.Idempotency("key", rules.key_window_s)
        view = schemas.MessageReceipt(
            id=receipt.id,
            message_id=receipt.message_id,
            status="accepted",
            status_url=f"/v1/messages/{receipt.id}",
            idempotency=idempotency,
        )
        return _accepted(view, receipt)

    async def post_batch(self) -> Response:
        """Accept many messages in one commit, with a result for each."""
        if request.headers.getlist("Idempotency-Key"):
            detail = "each message of a batch has its own key: its idempotency_key or its id"
            raise ProblemError("idempotency-key-invalid", detail)
        content_type = request.headers.get("Content-Type")
        media_type = check_content_type(content_type, JSON_MEDIA_TYPE, NDJSON_MEDIA_TYPE)
        with self._one_batch_more():
            body = await read_bytes()
            cut = cut_array if media_type == JSON_MEDIA_TYPE else cut_lines
            entries: list[Entry] = []
            for data in cut(body):
                await trio.lowlevel.checkpoint()  # a thousand take their time
                entries.append(read_entry(data))
            return answer(schemas.BatchResults(await self._submit_all(entries)))

    async def _submit(self, submission: Submission, body: msgspec.Struct) -> Receipt:
        try:
            return await self._door.submit(submission)
        except IntakeError as error:
            raise refusal_of(error, body) from None

    async def _submit_all(self, entries: list[Entry]) -> tuple[schemas.BatchResult, ...]:
        read = [entry.submission for entry in entries if isinstance(entry, Read)]
        try:
            outcomes = iter(await self._door.submit_many(read))
        except IntakeError as error:
            raise refusal_of(error, schemas.MessageIn()) from None
        return tuple(
            result_of(index, entry, next(outcomes) if isinstance(entry, Read) else None)
            for index, entry in enumerate(entries)
        )

    @contextlib.contextmanager
    def _one_batch_more(self) -> Iterator[None]:
        """Count a batch while it takes memory.

        Raises: ProblemError when there are too many, before its body has arrived.
        """
        if self._batches >= BATCHES_MAX:
            detail = f"{BATCHES_MAX} batches are being accepted already"
            raise ProblemError("overloaded", detail, retry_after_s=BATCHES_RETRY_S)
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1


def _accepted(view: msgspec.Struct, receipt: Receipt) -> Response:
    """Answer 202, or 200 with the same body when it was accepted before under this key."""
    response = answer(view, 200 if receipt.is_replay else 202)
    response.headers["Location"] = f"/v1/messages/{receipt.id}"
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response
