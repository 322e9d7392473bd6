"""The rows that a watchdog judges: every statement reads along an index, a bounded part of it.

`leased` and `sending` are bounded by the dispatcher's capacity and read whole; of every other
queue the head is read; of all messages one block an inspection, in turn.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from mailactors.model.lifecycle import PENDING, State
from mailactors.spool import port
from mailactors.spool.store.doubts import PROVIDERS
from mailactors.spool.store.events import WRITTEN_FOR, unpack_progress
from mailactors.spool.store.rows import Row, Rows, distinct

HEADS: Final = 20
"""Messages at the head of each queue that are returned."""
SCANNED: Final = 1_000
"""Messages past their deadline that one inspection passes over: most of them are held."""
AUDITED: Final = 250
"""Messages whose counts one inspection checks."""
FOUND_MAX: Final = 100
"""Messages that are returned for one reason."""
LAST_SEQ: Final = 2**63 - 1

_STATES: Final = ", ".join(f"'{state.value}'" for state in State)
_OPEN: Final = ", ".join(f"'{state.value}'" for state in State if state in PENDING)

TAKEN: Final = """
    SELECT seq, stream, state, epoch, node, attempt_id, min(due_at)
    FROM deliveries WHERE state IN ('leased', 'sending')
    GROUP BY seq, stream, state, epoch, node, attempt_id ORDER BY seq
"""
STREAMS: Final = distinct("stream", "deliveries", "state IN ('ready', 'deferred')")
DUE: Final = """
    SELECT seq FROM deliveries WHERE stream = ? AND state IN ('ready', 'deferred')
    AND due_at <= ? ORDER BY due_at, seq, n LIMIT ?
"""
DOUBTED: Final = """
    SELECT seq FROM doubts WHERE provider = ? AND next_at <= ? ORDER BY next_at, seq LIMIT ?
"""
PAST_DEADLINE: Final = """
    SELECT expires_at, EXISTS (SELECT 1 FROM deliveries WHERE deliveries.seq = messages.seq
      AND state IN ('ready', 'deferred', 'leased')), seq
    FROM messages WHERE open_count > 0 AND expires_at >= ? AND expires_at <= ?
    ORDER BY expires_at LIMIT ?
"""
BLOCK: Final = """
    SELECT count(*), max(seq) FROM
    (SELECT seq FROM messages WHERE seq > ? ORDER BY seq LIMIT ?)
"""
ODD: Final = f"""
    SELECT seq FROM messages WHERE seq > ? AND seq <= ?
    AND ((open_count = 0) = (final_at IS NULL) OR (recipients_total, open_count, 0) <>
      (SELECT count(*), count(*) FILTER (WHERE state IN ({_OPEN})),
         count(*) FILTER (WHERE state = 'uncertain' AND NOT EXISTS (SELECT 1 FROM doubts
           WHERE doubts.seq = deliveries.seq AND doubts.attempt_id = deliveries.attempt_id
           AND next_at < ?))
       FROM deliveries WHERE deliveries.seq = messages.seq AND state IN ({_STATES})))
    ORDER BY seq LIMIT ?
"""
STRAY: Final = """
    SELECT DISTINCT seq FROM deliveries WHERE seq > ? AND seq <= ?
    AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.seq = deliveries.seq)
    ORDER BY seq LIMIT ?
"""
PURGED: Final = """
    SELECT purged_accepted - coalesce((SELECT sum(deliveries) FROM purged), 0) FROM spool
"""
MESSAGES: Final = f"""
    SELECT seq, id, stream, accepted_at, expires_at, final_at, recipients_total, open_count,
      {WRITTEN_FOR}, crash_count, progress
    FROM messages WHERE seq {{among}} ORDER BY seq
"""
DELIVERIES: Final = """
    SELECT seq, n, state, due_at, updated_at, epoch, node, attempt_id, deliveries.provider, next_at
    FROM deliveries LEFT JOIN doubts USING (seq, attempt_id)
    WHERE seq {among} ORDER BY seq, n
"""


def inspect(db: Rows, look: port.InspectionQuery) -> port.Inspection:
    """Return the messages that a watchdog should judge. The caller holds a snapshot."""
    taken = db.query(TAKEN)
    expired, expiry_mark = _expired(db, look)
    odd, strays, audit_mark = _audit(db, look.audit_mark)
    ((purged_imbalance,),) = db.query(PURGED)
    seqs = {*look.seqs, *_leased(taken, look.owner), *_due(db, look.now), *expired, *odd}
    return port.Inspection(
        _read(db, sorted(seqs)),
        _count_taken(taken),
        strays,
        purged_imbalance,
        expiry_mark,
        audit_mark,
    )


def _leased(taken: Sequence[Row], owner: port.LeaseOwner) -> Iterator[int]:
    # Messages that the owner does not know, and the head of each stream's leases that wait.
    unknown: list[int] = []
    waiting: dict[str, list[tuple[float, int]]] = {}
    for seq, stream, state, epoch, node, attempt_id, due_at in taken:
        if state == State.SENDING:
            is_known = attempt_id in owner.attempts
        else:
            is_known = owner.knows_lease(seq, epoch, node)
            if (seq, epoch) not in owner.flying:
                waiting.setdefault(stream, []).append((due_at, seq))
        if not is_known:
            unknown.append(seq)
    yield from unknown[:FOUND_MAX]
    for queue in waiting.values():
        yield from (seq for _, seq in heapq.nsmallest(HEADS, queue))


def _count_taken(taken: Sequence[Row]) -> dict[str, int]:
    streams: dict[int, str] = dict(row[:2] for row in taken)  # each message once
    return dict(sorted(Counter(streams.values()).items()))


def _due(db: Rows, now: float) -> Iterator[int]:
    for (stream,) in db.query(STREAMS):
        yield from (seq for (seq,) in db.query(DUE, (stream, now, HEADS)))
    for (provider,) in db.query(PROVIDERS):
        yield from (seq for (seq,) in db.query(DOUBTED, (provider, now, HEADS)))


def _expired(db: Rows, look: port.InspectionQuery) -> tuple[list[int], float]:
    # Only the first are returned: those behind them may rightly wait.
    rows = db.query(PAST_DEADLINE, (look.expiry_mark, look.now, SCANNED))
    found = [seq for _, is_waiting, seq in rows if is_waiting]
    if found:
        return found[:HEADS], look.expiry_mark
    is_cut = len(rows) == SCANNED and rows[-1][0] > look.expiry_mark
    return [], rows[-1][0] if is_cut else 0.0


def _audit(db: Rows, mark: int) -> tuple[list[int], tuple[int, ...], int]:
    ((count, last),) = db.query(BLOCK, (mark, AUDITED))
    until = last if count == AUDITED else LAST_SEQ
    odd = [seq for (seq,) in db.query(ODD, (mark, until, port.NEVER_AT, FOUND_MAX))]
    strays = tuple(seq for (seq,) in db.query(STRAY, (mark, until, FOUND_MAX)))
    return odd, strays, last if count == AUDITED else 0


def _read(db: Rows, seqs: list[int]) -> tuple[port.MessageFacts, ...]:
    among, values = db.dialect.among, (db.dialect.listed(seqs),)
    deliveries: dict[int, list[port.DeliveryFacts]] = {}
    for seq, *row in db.query(DELIVERIES.format(among=among), values):
        deliveries.setdefault(seq, []).append(port.DeliveryFacts(*row))
    return tuple(
        port.MessageFacts(*(*row, unpack_progress(progress), tuple(deliveries.get(row[0], ()))))
        for *row, progress in db.query(MESSAGES.format(among=among), values)
    )
