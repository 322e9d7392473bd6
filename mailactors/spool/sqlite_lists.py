"""Which messages of an SQLite spool a filter lets through, newest first, at a bounded cost.

The rows are read along the index that says most, and the other conditions are looked up for each
of them. Where those let little through, an answer ends early, with the place to go on from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any, Final

import apsw

from mailactors.model.lifecycle import State
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
        "state": filters.state.value if filters.state else "",
        "stream": filters.stream,
        "since": float("-inf") if filters.since is None else filters.since,
        "until": float("inf") if filters.until is None else filters.until,
    }
    table, where, fits = _plan(filters)
    if filters.since is not None or filters.until is not None:
        fits.append(
            "(SELECT accepted_at >= :since AND accepted_at < :until"
            " FROM messages AS one WHERE one.seq = listed.seq)"
        )
    sql = (  # of words of ours
        f"SELECT seq, {' AND '.join(fits) or 'TRUE'} FROM {table}"  # noqa: S608
        f" WHERE seq >= :low AND seq < :high{where} ORDER BY seq DESC"
    )
    return sql, bindings


def _plan(filters: Filters) -> tuple[str, str, list[str]]:
    # The table with its index, what that index decides, and what each row is asked.
    fits = []
    if filters.state is not None:
        fits.append("state = :state")
    if filters.recipient:
        if filters.stream:
            fits.append("stream = :stream")
        table = "deliveries AS listed INDEXED BY deliveries_recipient"
        return table, f" AND seq >> {BLOCK_BITS} = :block AND recipient = :recipient", fits
    if filters.state is None:
        if filters.stream:
            table = "messages AS listed INDEXED BY messages_stream"
            return table, " AND stream = :stream", fits
        return "messages AS listed", "", fits
    if filters.stream:
        fits.append("stream = :stream")
    index = _INDEX.get(filters.state)
    if index is None:
        return "deliveries AS listed", "", fits
    where = f"{_PARTIAL[index]} AND state = :state"
    if index == "deliveries_due" and filters.stream:
        where += " AND stream = :stream"
    return f"deliveries AS listed INDEXED BY {index}", where, fits


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
