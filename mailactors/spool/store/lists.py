"""Which messages a filter lets through, newest first, at a bounded cost.

Rows are read along the most selective index, and the other conditions are checked for each of
them. Where those let little through, an answer ends early, with the place to continue from.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import STATES_OF, State, Status
from mailactors.spool.port import Filters
from mailactors.spool.store.retry import UNSENT
from mailactors.spool.store.rows import Dialect, Row, Rows
from mailactors.spool.store.sums import by_stream

EXAMINED_MAX: Final = 5_000
"""Rows, or blocks of the index by recipient, that one answer reads."""
BACKLOG_MAX: Final = 5_000
"""Deliveries of a partial index that are sorted for a list; of more the newest rows are read."""
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
not enough. An index with a name must be asked for, since it is not in the order of a list: the
rows are sorted, and where they are many the list goes along the messages instead."""


_OF_MESSAGE: Final = "EXISTS (SELECT 1 FROM messages WHERE messages.seq = listed.seq AND"
_SCHEDULED: Final = f"{_OF_MESSAGE} not_before > ?)"
_TAGGED: Final = "EXISTS (SELECT 1 FROM message_tags WHERE tag = ? AND seq = listed.seq)"
_SOME_DELIVERY: Final = "EXISTS (SELECT 1 FROM deliveries AS one WHERE one.seq = listed.seq AND {})"


class Condition(msgspec.Struct):
    """A test in SQL, with the values of its parameters."""

    sql: str
    values: tuple[Any, ...] = ()


class Part(msgspec.Struct):
    """Rows along one index: the table, what the index decides, and what each row must fit."""

    table: str
    found: Condition
    fits: list[Condition]

    def sql(self) -> str:
        """Return the query of (seq, whether it fits) from one place to another."""
        fits = " AND ".join(each.sql for each in self.fits) or "TRUE"
        return f"SELECT seq, {fits} FROM {self.table} WHERE seq >= ? AND seq < ?{self.found.sql}"

    def values(self, *place: int) -> Iterator[Any]:
        """Yield the values of the query; the place is low, high and perhaps a block."""
        for each in self.fits:
            yield from each.values
        yield from place
        yield from self.found.values


class ListQuery(msgspec.Struct):
    """A query of (seq, whether it fits), newest first, of one part or more."""

    parts: list[Part]

    @property
    def sql(self) -> str:
        return f"{' UNION ALL '.join(part.sql() for part in self.parts)} ORDER BY seq DESC"

    def values(self, *place: int) -> tuple[Any, ...]:
        """Return the values for a place: low, high and, by recipient, the block's number."""
        return tuple(value for part in self.parts for value in part.values(*place))


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
    query = build_query(db.dialect, filters, _crowded(db, filters))
    if not filters.recipient:
        yield from db.each(query.sql, query.values(low, high))
        return
    low, high = max(low, _edge(db, "min")), min(high, _edge(db, "max") + 1)
    for block in range((high - 1) >> BLOCK_BITS, (low >> BLOCK_BITS) - 1, -1):
        yield from db.query(query.sql, query.values(low, high, block))
        yield max(block << BLOCK_BITS, low), False


def _edge(db: Rows, which: str) -> int:
    return int(db.value(f"SELECT coalesce({which}(seq), 0) FROM messages"))


def _crowded(db: Rows, filters: Filters) -> frozenset[State]:
    # The states of the partial indices that have too many rows to be sorted.
    if filters.status is None or filters.recipient or filters.tag:
        return frozenset()
    counts: Counter[str] = Counter()
    for stream, states in by_stream(db).items():
        if filters.stream in {"", stream}:
            counts.update(states)
    long = (states for states, _, _ in _PARTIAL if sum(counts[s] for s in states) > BACKLOG_MAX)
    return frozenset(state for states in long for state in states)


def build_query(
    dialect: Dialect, filters: Filters, crowded: frozenset[State] = frozenset()
) -> ListQuery:
    """Return the query for the messages that the filters let through.

    Args:
        crowded: states whose partial index has too many rows to be sorted.
    """
    return ListQuery(list(_parts(dialect, filters, crowded)))


def _parts(dialect: Dialect, filters: Filters, crowded: frozenset[State]) -> Iterator[Part]:
    fits = []
    if filters.since is not None or filters.until is not None:
        since = -math.inf if filters.since is None else filters.since
        until = math.inf if filters.until is None else filters.until
        sql = f"{_OF_MESSAGE} accepted_at >= ? AND accepted_at < ?)"
        fits.append(Condition(sql, (since, until)))
    delivery = _delivery_conditions(filters)
    if filters.recipient:
        block = f" AND seq >> {BLOCK_BITS} = ? AND recipient = ?"
        tagged = [Condition(_TAGGED, (filters.tag,))] if filters.tag else []
        found = Condition(block, (filters.recipient,))
        yield Part("deliveries AS listed", found, [*delivery, *fits, *tagged])
    elif filters.tag:
        if delivery:
            sql = " AND ".join(each.sql for each in delivery)
            values = tuple(value for each in delivery for value in each.values)
            fits.append(Condition(_SOME_DELIVERY.format(sql), values))
        yield Part("message_tags AS listed", Condition(" AND tag = ?", (filters.tag,)), fits)
    elif filters.status is not None:
        for state in sorted(STATES_OF[filters.status]):
            yield _by_state(dialect, state, filters.stream, [*delivery, *fits], crowded)
    elif filters.stream:
        yield Part("messages AS listed", Condition(" AND stream = ?", (filters.stream,)), fits)
    else:
        yield Part("messages AS listed", Condition(""), fits)


def _by_state(
    dialect: Dialect, state: State, stream: str, fits: list[Condition], crowded: frozenset[State]
) -> Part:
    for states, condition, index in _PARTIAL:
        if state in states and not (index and state in crowded):
            table = f"deliveries AS listed{dialect.along(index) if index else ''}"
            found = Condition(f" AND {condition} AND state = ?", (state.value,))
            if index == "deliveries_due" and stream:
                found = Condition(f"{found.sql} AND stream = ?", (*found.values, stream))
            return Part(table, found, fits)
    return Part("deliveries AS listed", Condition(""), fits)


def _delivery_conditions(filters: Filters) -> list[Condition]:
    # What one delivery must fit: its status and its stream.
    conditions = []
    if filters.status is not None:
        states = ", ".join(f"'{state}'" for state in sorted(STATES_OF[filters.status]))
        conditions.append(Condition(f"state IN ({states})"))
    if filters.status is Status.SCHEDULED:
        conditions.append(Condition(_SCHEDULED, (filters.now,)))
    elif filters.status is Status.QUEUED:
        conditions.append(Condition(f"NOT (state = 'ready' AND {_SCHEDULED})", (filters.now,)))
    if filters.stream:
        conditions.append(Condition("stream = ?", (filters.stream,)))
    return conditions


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
