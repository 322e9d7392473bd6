"""From a batch's bytes to its messages, each decoded apart, and from outcomes to results.

Plain functions. The body is split first and decoded message by message, so that a fault of one
message refuses only that one, and other requests run in between.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from mailactors.api.bodies import full_submission, refusal_of
from mailactors.api.decoding import decode_body
from mailactors.api.exchange import url_of
from mailactors.api.problems import FaultView, Problem, ProblemError, problem_of
from mailactors.api.schemas import BATCH_MAX, BatchItem, BatchResult
from mailactors.intake.submission import IntakeError, Submission
from mailactors.spool.port import Receipt

NDJSON_MEDIA_TYPE: Final = "application/x-ndjson"

_PLACES: Final = [(f"message_{index}", msgspec.Raw, None) for index in range(BATCH_MAX)]
_ARRAY: Final = msgspec.json.Decoder(
    msgspec.defstruct("Array", _PLACES, array_like=True, forbid_unknown_fields=True)
)
"""Splits an array without decoding it, and stops at the first element too many. A list of Raw is
built to its end before its length is checked: 1.2 GiB and 5 s for 32 MiB of small numbers."""
_ITEM: Final = msgspec.json.Decoder(BatchItem)


ADDRESSES_MAX: Final = 10_000
"""Addresses in one batch: to check one takes up to half a millisecond."""


class Read(msgspec.Struct, frozen=True):
    """A message as the client sent it, and as the door takes it."""

    item: BatchItem
    submission: Submission


Entry: TypeAlias = Read | ProblemError


class Room:
    """How many addresses a batch may still have."""

    def __init__(self) -> None:
        self.left = ADDRESSES_MAX

    def take(self, item: BatchItem) -> None:
        """Count a message's addresses. Raises: ProblemError, for the whole batch."""
        lists = (item.to, item.cc, item.bcc, item.reply_to)
        self.left -= sum(len(each) if isinstance(each, list) else 1 for each in lists)
        if self.left < 0:
            raise _whole(f"there are more than {ADDRESSES_MAX} addresses; send several batches")


def cut_array(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the elements of a JSON array, as they stand in the body.

    Raises: ProblemError when it is not an array, or has too many.
    """
    try:
        return [item for item in msgspec.structs.astuple(_ARRAY.decode(body)) if item is not None]
    except msgspec.ValidationError as error:
        is_long = "length" in str(error)
        raise _too_many() if is_long else _whole("expected an array of messages") from None
    except RecursionError:
        raise ProblemError("malformed-json", "nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ProblemError("malformed-json", str(error)) from None


def cut_lines(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the lines that are not empty, not decoded.

    >>> cut_lines(b'{"to": 1}\\r\\n\\nno JSON')
    [b'{"to": 1}', b'no JSON']

    Raises: ProblemError when there are too many.
    """
    lines = []
    for count, line in enumerate(io.BytesIO(body), start=1):
        if count > 2 * BATCH_MAX:
            raise _too_many()
        if stripped := line.strip(b" \t\r\n"):
            lines.append(stripped)
    if len(lines) > BATCH_MAX:
        raise _too_many()
    return lines


def read_entry(data: bytes | msgspec.Raw, room: Room) -> Entry:
    """Return a message, or what is wrong with it. Raises: ProblemError when there is no room."""
    try:
        item = decode_body(bytes(data), _ITEM)
    except ProblemError as error:
        return error
    room.take(item)
    try:
        return Read(item, full_submission(item, item.idempotency_key))
    except ProblemError as error:
        return error


def result_of(index: int, entry: Entry, outcome: Receipt | IntakeError | None) -> BatchResult:
    """Return a message's result; `outcome` is the door's, for a message that could be decoded."""
    if isinstance(entry, ProblemError):
        return _refused(index, entry)
    if isinstance(outcome, IntakeError):
        return _refused(index, refusal_of(outcome, entry.item))
    assert outcome is not None
    status = 200 if outcome.is_replay else 202
    return BatchResult(
        status,
        outcome.id,
        outcome.client_id,
        outcome.message_id,
        url_of(outcome.id),
        outcome.is_replay,
    )


def _refused(index: int, error: ProblemError) -> BatchResult:
    problem = problem_of(error)
    errors = tuple(FaultView(e.detail, f"/{index}{e.pointer or ''}") for e in problem.errors)
    moved: Problem = msgspec.structs.replace(problem, errors=errors)
    return BatchResult(problem.status, problem=moved)


def _too_many() -> ProblemError:
    return _whole(f"there are more than {BATCH_MAX} messages; send several batches")


def _whole(detail: str) -> ProblemError:
    return ProblemError("validation", detail, errors=(FaultView(detail, ""),))
