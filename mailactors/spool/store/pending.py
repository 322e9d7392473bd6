"""What is not final, by stream and status: how many, by the kept sums, and how old, by the heads.

A backlog is never read as a whole: of each queue the head is, along its index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from mailactors.model.lifecycle import PENDING, State, Status, status_of
from mailactors.spool import port
from mailactors.spool.store.rows import Row, Rows
from mailactors.spool.store.sums import by_stream

HEAD: Final = 500
"""Deliveries of each queue, or messages, that are read for their age."""

_AGES: Final = """
    SELECT deliveries.stream, state,
      min(CASE WHEN not_before > accepted_at THEN not_before ELSE accepted_at END),
      min(CASE WHEN not_before > deliveries.updated_at THEN not_before
        ELSE deliveries.updated_at END)
"""
_OF_QUEUE: Final = (
    _AGES
    + """
    FROM (SELECT seq, stream, state, updated_at FROM deliveries{along}
      WHERE {where} ORDER BY {order} LIMIT ?) AS deliveries
    JOIN messages USING (seq) WHERE NOT (state = 'ready' AND not_before > ?)
    GROUP BY deliveries.stream, state
"""
)
_OF_OLDEST: Final = (
    _AGES
    + """
    FROM (SELECT seq, not_before, accepted_at FROM messages{along}
      WHERE open_count > 0 ORDER BY expires_at LIMIT ?) AS messages
    JOIN deliveries USING (seq)
    WHERE state IN ('ready', 'deferred', 'leased', 'sending', 'uncertain', 'held')
      AND NOT (state = 'ready' AND not_before > ?)
    GROUP BY deliveries.stream, state
"""
)
_DUE: Final = ("deliveries_due", "stream = ? AND state IN ('ready', 'deferred')", "due_at, seq, n")
_QUEUES: Final = (
    ("deliveries_taken", "state IN ('leased', 'sending')", "seq, n"),
    ("deliveries_uncertain", "state = 'uncertain'", "due_at, seq, n"),
    # The condition of the index, and one of its states.
    (
        "deliveries_unsent",
        "state IN ('held', 'bounced', 'failed', 'expired', 'suppressed', 'cancelled')"
        " AND state = 'held'",
        "seq",
    ),
)
_SCHEDULED: Final = """
    SELECT sum(open_count), min(not_before) FROM messages{along}
    WHERE stream = ? AND not_before > ? AND not_before > accepted_at AND open_count > 0
"""


class _Ages(msgspec.Struct):
    """When the oldest of a stream's status began to wait, and the least recently moved moved."""

    waits_since: float
    unmoved_since: float


def count_pending(db: Rows) -> dict[str, dict[str, int]]:
    """Return the number of pending deliveries by stream, then by state."""
    found = {}
    for stream, counts in by_stream(db).items():
        pending = {state.value: counts[state.value] for state in PENDING if counts[state.value]}
        if pending:
            found[stream] = dict(sorted(pending.items()))
    return found


def count_backlog(db: Rows, now: float) -> int:
    """Return the number of deliveries that are on their way: not final, and not for later."""
    return sum(
        sum(states.values()) - min(_scheduled(db, stream, now)[0], states.get(State.READY, 0))
        for stream, states in count_pending(db).items()
    )


def find_pending(db: Rows, now: float) -> tuple[port.Pending, ...]:
    """Return what is not final by stream and status."""
    counts = count_pending(db)
    found: dict[tuple[str, Status], port.Pending] = {}
    ages = _ages(db, counts, now)
    for stream, states in counts.items():
        scheduled, first_at = _scheduled(db, stream, now)
        if scheduled := min(scheduled, states.get(State.READY, 0)):
            status = Status.SCHEDULED
            found[stream, status] = port.Pending(stream, status, scheduled, first_at, first_at)
        by_status: dict[Status, int] = {}
        for state, count in states.items():
            status = status_of(State(state), is_scheduled=False)
            is_ready = state == State.READY
            by_status[status] = by_status.get(status, 0) + count - (scheduled if is_ready else 0)
        for status, count in by_status.items():
            if count:
                age = ages.get((stream, status))
                since = (None, None) if age is None else (age.waits_since, age.unmoved_since)
                found[stream, status] = port.Pending(stream, status, count, *since)
    return tuple(found[key] for key in sorted(found))


def _scheduled(db: Rows, stream: str, now: float) -> Row:
    sql = _SCHEDULED.format(along=db.dialect.along("messages_scheduled"))
    ((count, first_at),) = db.query(sql, (stream, now))
    return count or 0, first_at


def _ages(
    db: Rows, counts: dict[str, dict[str, int]], now: float
) -> dict[tuple[str, Status], _Ages]:
    found: dict[tuple[str, Status], _Ages] = {}
    for stream, state, waits_since, unmoved_since in _heads(db, counts, now):
        status = status_of(State(state), is_scheduled=False)
        age = found.setdefault((stream, status), _Ages(waits_since, unmoved_since))
        age.waits_since = min(age.waits_since, waits_since)
        age.unmoved_since = min(age.unmoved_since, unmoved_since)
    return found


def _heads(db: Rows, counts: dict[str, dict[str, int]], now: float) -> Iterator[Row]:
    along = db.dialect.along
    index, where, order = _DUE
    sql = _OF_QUEUE.format(along=along(index), where=where, order=order)
    for stream, states in counts.items():
        if states.keys() & {State.READY, State.DEFERRED}:
            yield from db.query(sql, (stream, HEAD, now))
    for index, where, order in _QUEUES:
        sql = _OF_QUEUE.format(along=along(index), where=where, order=order)
        yield from db.query(sql, (HEAD, now))
    yield from db.query(_OF_OLDEST.format(along=along("messages_open")), (HEAD, now))
