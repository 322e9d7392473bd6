"""A watchdog's look into an SQLite spool: every statement reads along an index, and so far only.

What is `leased` or `sending` is bounded by the dispatcher's window and read whole; of every other
queue the head is read; of all messages a block a look, in turn.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import apsw

from mailactors.model.lifecycle import PENDING, State
from mailactors.spool.port import (
    DeliveryFacts,
    Inspection,
    InspectionQuery,
    LeaseOwner,
    MessageFacts,
)
from mailactors.spool.sqlite_rows import fetch, to_json, unpack_progress

HEADS: Final = 20
"""Messages at the head of each queue that are returned."""
SCANNED: Final = 1_000
"""Messages past their deadline that are passed over in a look: most are held, and may be."""
AUDITED: Final = 250
"""Messages of which a look checks that each adds up."""
FOUND_MAX: Final = 100
"""Messages that are returned for one reason."""
LAST_SEQ: Final = 2**63 - 1

_STATES: Final = ", ".join(f"'{state.value}'" for state in State)
_OPEN: Final = ", ".join(f"'{state.value}'" for state in State if state in PENDING)

TAKEN: Final = """
    SELECT seq, stream, state, epoch, node, attempt_id, min(due_at)
    FROM deliveries INDEXED BY deliveries_taken WHERE state IN ('leased', 'sending')
    GROUP BY seq, state, epoch, node, attempt_id ORDER BY seq
"""
STREAMS: Final = """
    WITH RECURSIVE streams (stream) AS (
      SELECT min(stream) FROM deliveries WHERE state IN ('ready', 'deferred')
      UNION ALL
      SELECT (SELECT min(stream) FROM deliveries
        WHERE state IN ('ready', 'deferred') AND deliveries.stream > streams.stream)
      FROM streams WHERE streams.stream IS NOT NULL
    )
    SELECT stream FROM streams WHERE stream IS NOT NULL ORDER BY stream
"""
DUE: Final = """
    SELECT seq FROM deliveries WHERE stream = ? AND state IN ('ready', 'deferred')
    AND due_at <= ? ORDER BY due_at, seq, n LIMIT ?
"""
PROVIDERS: Final = """
    WITH RECURSIVE providers (provider) AS (
      SELECT min(provider) FROM doubts
      UNION ALL
      SELECT (SELECT min(provider) FROM doubts WHERE doubts.provider > providers.provider)
      FROM providers WHERE providers.provider IS NOT NULL
    )
    SELECT provider FROM providers WHERE provider IS NOT NULL ORDER BY provider
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
    AND ((open_count = 0) = (final_at IS NULL) OR (recipients_total, open_count, 0) IS NOT
      (SELECT count(*), count(*) FILTER (WHERE state IN ({_OPEN})),
         count(*) FILTER (WHERE state = 'uncertain' AND NOT EXISTS (SELECT 1 FROM doubts
           WHERE doubts.seq = deliveries.seq AND doubts.attempt_id = deliveries.attempt_id
           AND next_at < 9e999))
       FROM deliveries WHERE deliveries.seq = messages.seq AND state IN ({_STATES})))
    ORDER BY seq LIMIT ?
"""  # noqa: S608
STRAY: Final = """
    SELECT DISTINCT seq FROM deliveries WHERE seq > ? AND seq <= ?
    AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.seq = deliveries.seq)
    ORDER BY seq LIMIT ?
"""
PURGED: Final = """
    SELECT purged_accepted - ifnull((SELECT sum(deliveries) FROM purged), 0) FROM spool
"""
MESSAGES: Final = """
    SELECT seq, id, stream, accepted_at, expires_at, final_at, recipients_total, open_count,
      max(recipients_total, envelope_total), crash_count, progress
    FROM messages WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq
"""
DELIVERIES: Final = """
    SELECT seq, n, state, due_at, updated_at, epoch, node, attempt_id, deliveries.provider, next_at
    FROM deliveries LEFT JOIN doubts USING (seq, attempt_id)
    WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq, n
"""


def inspect(db: apsw.Connection, look: InspectionQuery) -> Inspection:
    """Return what a watchdog should judge. The caller holds a snapshot."""
    taken = fetch(db, TAKEN)
    expired, expiry_mark = _expired(db, look)
    odd, strays, audit_mark = _audit(db, look.audit_mark)
    ((purged_imbalance,),) = fetch(db, PURGED)
    seqs = {*look.seqs, *_in_hand(taken, look.owner), *_due(db, look.now), *expired, *odd}
    return Inspection(
        _read(db, sorted(seqs)),
        _count_taken(taken),
        strays,
        purged_imbalance,
        expiry_mark,
        audit_mark,
    )


def _in_hand(taken: Sequence[tuple[Any, ...]], owner: LeaseOwner) -> Iterator[int]:
    # What the owner knows nothing of, and of each stream what waits for it first in line.
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
    for line in waiting.values():
        yield from (seq for _, seq in heapq.nsmallest(HEADS, line))


def _count_taken(taken: Sequence[tuple[Any, ...]]) -> dict[str, int]:
    streams = dict(row[:2] for row in taken)  # each message once
    return dict(sorted(Counter(streams.values()).items()))


def _due(db: apsw.Connection, now: float) -> Iterator[int]:
    for (stream,) in fetch(db, STREAMS):
        yield from (seq for (seq,) in fetch(db, DUE, (stream, now, HEADS)))
    for (provider,) in fetch(db, PROVIDERS):
        yield from (seq for (seq,) in fetch(db, DOUBTED, (provider, now, HEADS)))


def _expired(db: apsw.Connection, look: InspectionQuery) -> tuple[list[int], float]:
    # Only the first are returned: those behind them wait for their turn, and may.
    rows = fetch(db, PAST_DEADLINE, (look.expiry_mark, look.now, SCANNED))
    found = [seq for _, is_waiting, seq in rows if is_waiting]
    if found:
        return found[:HEADS], look.expiry_mark
    is_cut = len(rows) == SCANNED and rows[-1][0] > look.expiry_mark
    return [], rows[-1][0] if is_cut else 0.0


def _audit(db: apsw.Connection, mark: int) -> tuple[list[int], tuple[int, ...], int]:
    ((count, last),) = fetch(db, BLOCK, (mark, AUDITED))
    until = last if count == AUDITED else LAST_SEQ
    odd = [seq for (seq,) in fetch(db, ODD, (mark, until, FOUND_MAX))]
    strays = tuple(seq for (seq,) in fetch(db, STRAY, (mark, until, FOUND_MAX)))
    return odd, strays, last if count == AUDITED else 0


def _read(db: apsw.Connection, seqs: list[int]) -> tuple[MessageFacts, ...]:
    deliveries: dict[int, list[DeliveryFacts]] = {}
    for seq, *row in db.execute(DELIVERIES, (to_json(seqs),)):
        deliveries.setdefault(seq, []).append(DeliveryFacts(*row))
    return tuple(
        _message(row, deliveries.get(row[0], [])) for row in fetch(db, MESSAGES, (to_json(seqs),))
    )


def _message(row: tuple[Any, ...], deliveries: list[DeliveryFacts]) -> MessageFacts:
    return MessageFacts(*(*row[:-1], unpack_progress(row[-1]), tuple(deliveries)))
