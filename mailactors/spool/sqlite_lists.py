"""Which messages of an SQLite spool a filter lets through, newest first, at a bounded cost.

The rows are read along the index that says most, and the other conditions are looked up for each
of them. Where those let little through, an answer ends early, with the place to go on from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Final

import apsw

from mailactors.model.lifecycle import STATES_OF, State, Status
from mailactors.spool.port import Filters
from mailactors.spool.sqlite_accept import UNSENT
from mailactors.spool.sqlite_rows import fetch

EXAMINED_MAX: Final = 10_000
"""Rows, or blocks of the index by recipient, that one answer looks at."""
BLOCK_BITS: Final = 10
"""The index by recipient has a part of its own for each 2 ** 10 messages (`0002_retention`)."""
CLOCK_STEP_S: Final = 60.0
"""Messages are in the order of their acceptance but for this much."""

_SEQ_MAX: Final = 2**63 - 1
_INDEX: Final = {
    State.LEASED: "deliveries_taken",
    State.SENDING: "deliveries_taken",
    State.READY: "deliveries_due",
    State.DEFERRED: "deliveries_due",
    State.UNCERTAIN: "deliveries_uncertain",
    State.HELD: "deliveries_unsent",
    **dict.fromkeys(UNSENT, "deliveries_unsent"),
}
"""Where each state is found; what waits for a time is sorted anew, and is only the backlog."""
_PARTIAL: Final = {
    "deliveries_taken": " AND state IN ('leased', 'sending')",
    "deliveries_due": " AND state IN ('ready', 'deferred')",
    "deliveries_uncertain": " AND state = 'uncertain'",
    "deliveries_unsent": " AND state IN"
    " ('held', 'bounced', 'failed', 'expired', 'suppressed', 'cancelled')",
}
"""What a partial index needs to hear; a bound state is not enough."""
_OF_MESSAGE: Final = "EXISTS (SELECT 1 FROM messages WHERE messages.seq = listed.seq AND"
_SCHEDULED: Final = f"{_OF_MESSAGE} not_before > :now)"
_TAGGED: Final = "EXISTS (SELECT 1 FROM message_tags WHERE tag = :tag AND seq = listed.seq)"


def find_seqs(
    db: apsw.Connection, filters: Filters, limit: int, before_seq: int | None
) -> tuple[list[int], int | None]:
    """Return the seqs of a page, and where the next one begins, or None."""
    low, high = _seq_range(db, filters)
    high = min(high, _SEQ_MAX if before_seq is None else before_seq)
    found: list[int] = []
    current = high
    examined = 0
    with contextlib.closing(_rows(db, filters, low, high)) as rows:
        for seq, fits in rows:
            if seq != current and (len(found) >= limit or examined >= EXAMINED_MAX):
                return found, current
            current = seq
            examined += 1
            if fits and (not found or found[-1] != seq):
                found.append(seq)
    return found, None


def _rows(
    db: apsw.Connection, filters: Filters, low: int, high: int
) -> Generator[tuple[Any, ...], None, None]:
    # (seq, whether it fits), newest first; the end of a block is one that does not.
    sql, bindings = build_query(filters)
    if not filters.recipient:
        with contextlib.closing(db.execute(sql, {**bindings, "low": low, "high": high})) as cursor:
            yield from cursor
        return
    low, high = max(low, _edge(db, "min")), min(high, _edge(db, "max") + 1)
    for block in range((high - 1) >> BLOCK_BITS, (low >> BLOCK_BITS) - 1, -1):
        place = {"block": block, "low": low, "high": high}
        yield from db.execute(sql, {**bindings, **place}).fetchall()
        yield max(block << BLOCK_BITS, low), False


def _edge(db: apsw.Connection, which: str) -> int:
    return int(fetch(db, f"SELECT ifnull({which}(seq), 0) FROM messages")[0][0])  # noqa: S608


def build_query(filters: Filters) -> tuple[str, dict[str, Any]]:
    """Return the SQL of (seq, fits) and its bindings, but for `low`, `high` and `block`."""
    bindings: dict[str, Any] = {
        "recipient": filters.recipient,
        "tag": filters.tag,
        "stream": filters.stream,
        "since": float("-inf") if filters.since is None else filters.since,
        "until": float("inf") if filters.until is None else filters.until,
        "now": filters.now,
    }
    parts = [
        f"SELECT seq, {' AND '.join(fits) or 'TRUE'} FROM {table}"  # noqa: S608  # words of ours
        f" WHERE seq >= :low AND seq < :high{where}"
        for table, where, fits in _plans(filters)
    ]
    return f"{' UNION ALL '.join(parts)} ORDER BY seq DESC", bindings


def _plans(filters: Filters) -> Iterator[tuple[str, str, list[str]]]:
    # Of each part: the table with its index, what that index decides, and what each row is asked.
    fits = []
    if filters.since is not None or filters.until is not None:
        fits.append(f"{_OF_MESSAGE} accepted_at >= :since AND accepted_at < :until)")
    if filters.recipient:
        fits += [*_asked(filters), *([_TAGGED] if filters.tag else [])]
        table = "deliveries AS listed INDEXED BY deliveries_recipient"
        yield table, f" AND seq >> {BLOCK_BITS} = :block AND recipient = :recipient", fits
    elif filters.tag:
        if asked := " AND ".join(_asked(filters)):
            fits.append(
                "EXISTS (SELECT 1 FROM deliveries AS one"  # noqa: S608  # words of ours
                f" WHERE one.seq = listed.seq AND {asked})"
            )
        yield "message_tags AS listed", " AND tag = :tag", fits
    elif filters.status is not None:
        for state in sorted(STATES_OF[filters.status]):
            yield _by_state(state, filters, fits)
    elif filters.stream:
        yield "messages AS listed INDEXED BY messages_stream", " AND stream = :stream", fits
    else:
        yield "messages AS listed", "", fits


def _by_state(state: State, filters: Filters, fits: list[str]) -> tuple[str, str, list[str]]:
    fits = [*_asked(filters), *fits]
    index = _INDEX.get(state)
    if index is None:
        return "deliveries AS listed", "", fits
    where = f"{_PARTIAL[index]} AND state = '{state}'"
    if index == "deliveries_due" and filters.stream:
        where += " AND stream = :stream"
    return f"deliveries AS listed INDEXED BY {index}", where, fits


def _asked(filters: Filters) -> list[str]:
    # What one delivery is asked: its status and its stream.
    asked = []
    if filters.status is not None:
        states = ", ".join(f"'{state}'" for state in sorted(STATES_OF[filters.status]))
        asked.append(f"state IN ({states})")
    if filters.status is Status.SCHEDULED:
        asked.append(_SCHEDULED)
    elif filters.status is Status.QUEUED:
        asked.append(f"NOT (state = 'ready' AND {_SCHEDULED})")
    if filters.stream:
        asked.append("stream = :stream")
    return asked


def _seq_range(db: apsw.Connection, filters: Filters) -> tuple[int, int]:
    low, high = 0, _SEQ_MAX
    if filters.since is not None:
        low = _first_seq(db, filters.since - CLOCK_STEP_S)
    if filters.until is not None:
        high = _first_seq(db, filters.until + CLOCK_STEP_S)
    return low, high


def _first_seq(db: apsw.Connection, at: float) -> int:
    # By halving: acceptance needs no index of its own.
    low, high = 0, _edge(db, "max") + 1
    while low < high:
        middle = (low + high) // 2
        row = fetch(
            db,
            "SELECT seq, accepted_at FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1",
            (middle,),
        )
        if row and row[0][1] < at:
            low = row[0][0] + 1
        else:
            high = middle
    return low
