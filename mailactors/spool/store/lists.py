"""Which messages a filter lets through, newest first, at a bounded cost.

Rows are read along the most selective index, and the other conditions are checked for each of
them. Where those let little through, an answer ends early, with the place to continue from.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import Filters
from mailactors.spool.store.retry import UNSENT
from mailactors.spool.store.rows import Dialect, Row, Rows

EXAMINED_MAX: Final = 10_000
"""Rows, or blocks of the index by recipient, that one answer reads."""
BLOCK_BITS: Final = 10
"""The index by recipient is divided into blocks of 2 ** 10 messages (`0002_retention`)."""
CLOCK_STEP_S: Final = 60.0
"""Messages are in the order of their acceptance, give or take this much."""

_SEQ_MAX: Final = 2**63 - 1
_PARTIAL: Final = (
    ((State.LEASED, State.SENDING), "state IN ('leased', 'sending')", ""),
    ((State.READY, State.DEFERRED), "state IN ('ready', 'deferred')", "deliveries_due"),
    ((State.UNCERTAIN,), "state = 'uncertain'", "deliveries_uncertain"),
    (
        (State.HELD, *UNSENT),
        "state IN ('held', 'bounced', 'failed', 'expired', 'suppressed', 'cancelled')",
        "",
    ),
)
"""The states of each partial index, and its condition: a query must repeat it, for a bound value is
not enough. An index with a name must be asked for, since it is not in the order of a list; the
rows are sorted, but they are only the backlog."""


class ListQuery(msgspec.Struct):
    """A query of (seq, whether it fits): `sql`, with values before and after the place."""

    sql: str
    checked: tuple[Any, ...]
    found: tuple[Any, ...]

    def values(self, low: int, high: int, *block: int) -> tuple[Any, ...]:
        """Return all values; by recipient, the number of the block is one of them."""
        return (*self.checked, low, high, *block, *self.found)


def find_seqs(
    db: Rows, filters: Filters, limit: int, before_seq: int | None
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


def _rows(db: Rows, filters: Filters, low: int, high: int) -> Generator[Row, None, None]:
    # (seq, whether it fits), newest first; the end of a block is a row that does not fit.
    query = build_query(db.dialect, filters)
    if not filters.recipient:
        yield from db.each(query.sql, query.values(low, high))
        return
    low, high = max(low, _edge(db, "min")), min(high, _edge(db, "max") + 1)
    for block in range((high - 1) >> BLOCK_BITS, (low >> BLOCK_BITS) - 1, -1):
        yield from db.query(query.sql, query.values(low, high, block))
        yield max(block << BLOCK_BITS, low), False


def _edge(db: Rows, which: str) -> int:
    return int(db.value(f"SELECT coalesce({which}(seq), 0) FROM messages"))


def build_query(dialect: Dialect, filters: Filters) -> ListQuery:
    """Return the query for the messages that the filters let through."""
    table, where, found = _source(dialect, filters)
    conditions: list[str] = []
    checked: list[Any] = []
    if filters.state is not None:
        conditions.append("state = ?")
        checked.append(filters.state.value)
    if filters.stream and (filters.recipient or filters.state is not None):
        conditions.append("stream = ?")
        checked.append(filters.stream)
    if filters.since is not None or filters.until is not None:
        conditions.append(
            "(SELECT accepted_at >= ? AND accepted_at < ?"
            " FROM messages AS one WHERE one.seq = listed.seq)"
        )
        checked.append(-math.inf if filters.since is None else filters.since)
        checked.append(math.inf if filters.until is None else filters.until)
    sql = (
        f"SELECT seq, {' AND '.join(conditions) or 'TRUE'} FROM {table}"
        f" WHERE seq >= ? AND seq < ?{where} ORDER BY seq DESC"
    )
    return ListQuery(sql, tuple(checked), found)


def _source(dialect: Dialect, filters: Filters) -> tuple[str, str, tuple[str, ...]]:
    # The table, and what its index decides, with the values.
    if filters.recipient:
        where = f" AND seq >> {BLOCK_BITS} = ? AND recipient = ?"
        return "deliveries AS listed", where, (filters.recipient,)
    if filters.state is None:
        if filters.stream:
            return "messages AS listed", " AND stream = ?", (filters.stream,)
        return "messages AS listed", "", ()
    for states, condition, index in _PARTIAL:
        if filters.state in states:
            hint = dialect.along(index) if index else ""
            where, found = f" AND {condition} AND state = ?", (filters.state.value,)
            if index == "deliveries_due" and filters.stream:
                return (
                    f"deliveries AS listed{hint}",
                    f"{where} AND stream = ?",
                    (*found, filters.stream),
                )
            return f"deliveries AS listed{hint}", where, found
    return "deliveries AS listed", "", ()


def _seq_range(db: Rows, filters: Filters) -> tuple[int, int]:
    low, high = 0, _SEQ_MAX
    if filters.since is not None:
        low = _first_seq(db, filters.since - CLOCK_STEP_S)
    if filters.until is not None:
        high = _first_seq(db, filters.until + CLOCK_STEP_S)
    return low, high


def _first_seq(db: Rows, at: float) -> int:
    # By bisection: `accepted_at` needs no index.
    low, high = 0, _edge(db, "max") + 1
    while low < high:
        middle = (low + high) // 2
        row = db.query(
            "SELECT seq, accepted_at FROM messages WHERE seq >= ? ORDER BY seq LIMIT 1",
            (middle,),
        )
        if row and row[0][1] < at:
            low = row[0][0] + 1
        else:
            high = middle
    return low
