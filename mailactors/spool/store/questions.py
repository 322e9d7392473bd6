"""Answers to the questions of the port; each is one snapshot, also while others write."""

from __future__ import annotations

import abc
import contextlib
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool import port
from mailactors.spool.store.accept import find_known
from mailactors.spool.store.events import read_labels, unpack_progress
from mailactors.spool.store.inspection import inspect
from mailactors.spool.store.lists import find_seqs
from mailactors.spool.store.pending import count_backlog, count_pending, find_pending
from mailactors.spool.store.rows import Row, Rows
from mailactors.spool.store.sums import counted_ledger, kept_ledger

NAMED_MAX: Final = 100
"""Messages with the same client id that are returned: the newest of them."""

_MESSAGE_COLUMNS: Final = (
    "seq, id, client_id, message_id, stream, sender, subject,"
    " accepted_at, not_before, expires_at, attempts, declared_risks, retry_of, labels, progress"
)
_NAMED: Final = (
    f"SELECT {_MESSAGE_COLUMNS} FROM messages WHERE seq IN"
    " (SELECT seq FROM messages WHERE id = ? UNION"
    " SELECT seq FROM messages WHERE client_id = ? AND client_id <> '' UNION"
    " SELECT seq FROM keys WHERE scope = '' AND key = ?)"
    " ORDER BY seq DESC LIMIT ?"
)
_NEWEST: Final = f"SELECT {_MESSAGE_COLUMNS} FROM messages WHERE seq < ? ORDER BY seq DESC LIMIT ?"
# An intent has no event of its own. (The list of states is the index's, or it would not be used.)
_NEWEST_TIMES: Final = (
    "SELECT at FROM events ORDER BY seq DESC LIMIT 1",
    "SELECT max(updated_at) FROM deliveries"
    " WHERE state IN ('leased', 'sending') AND state = 'sending'",
)
_FEED: Final = """
    SELECT events.seq, at, kind, facts, id, stream, client_id, message_id
    FROM events JOIN messages ON messages.seq = events.message_seq
    WHERE events.seq > ? ORDER BY events.seq LIMIT ?
"""
_FAILURES: Final = _FEED.replace("WHERE", "WHERE kind = 'final_failure' AND")
_ACTS: Final = (
    "SELECT seq, at, what, way, subject, facts FROM acts WHERE seq > ? ORDER BY seq LIMIT ?"
)
_SUPPRESSIONS: Final = """
    SELECT address, reason, source, created_at FROM suppressions
    WHERE address > ? ORDER BY address LIMIT ?
"""
_DELIVERIES: Final = """
    SELECT seq, n, recipient, state, provider, attempts, due_at, updated_at, error
    FROM deliveries WHERE seq {among} ORDER BY seq, n
"""
_ATTEMPTS: Final = """
    SELECT floor(started_at / ?) AS bucket, count(*) FROM attempts
    WHERE provider = ? AND started_at IS NOT NULL AND started_at >= ?
    GROUP BY bucket ORDER BY bucket
"""


def _feed(rows: list[tuple[Any, ...]]) -> tuple[port.FeedEvent, ...]:
    return tuple(
        port.FeedEvent(seq, at, kind, msgspec.json.decode(facts), *message)
        for seq, at, kind, facts, *message in rows
    )


class Answers(abc.ABC):
    """`port.Questions`, which has the words for each method; an engine adds the snapshot."""

    @abc.abstractmethod
    def _snapshot(self) -> contextlib.AbstractContextManager[Rows]:
        """Open a read-only transaction: its first read fixes what all others see."""

    def _query(self, sql: str, values: tuple[Any, ...]) -> list[Row]:
        with self._snapshot() as db:
            return db.query(sql, values)

    def status(self, name: str) -> tuple[port.MessageStatus, ...]:
        with self._snapshot() as db:
            return _read(db, _NAMED, (name, name, name, NAMED_MAX))

    def statuses(self, limit: int, before_seq: int | None) -> tuple[port.MessageStatus, ...]:
        with self._snapshot() as db:
            return _read(db, _NEWEST, (2**63 - 1 if before_seq is None else before_seq, limit))

    def find_known(
        self, key: port.IdempotencyKey, now: float
    ) -> port.Receipt | port.Conflict | None:
        with self._snapshot() as db:
            return find_known(db, key, "", now)

    def timeline(self, seq: int) -> tuple[port.Event, ...]:
        sql = "SELECT seq, at, kind, facts FROM events WHERE message_seq = ? ORDER BY seq"
        return tuple(
            port.Event(number, at, kind, msgspec.json.decode(facts))
            for number, at, kind, facts in self._query(sql, (seq,))
        )

    def acts_after(self, seq: int, limit: int) -> tuple[port.Act, ...]:
        return tuple(
            port.Act(number, at, what, way, subject, msgspec.json.decode(facts))
            for number, at, what, way, subject, facts in self._query(_ACTS, (seq, limit))
        )

    def paused(self) -> frozenset[str]:
        rows = self._query("SELECT provider FROM paused ORDER BY provider", ())
        return frozenset(provider for (provider,) in rows)

    def ledger(self) -> port.Ledger:
        with self._snapshot() as db:
            return kept_ledger(db)

    def audit(self) -> port.Audit:
        with self._snapshot() as db:
            return port.Audit(kept_ledger(db), counted_ledger(db))

    def pending(self, now: float) -> tuple[port.Pending, ...]:
        with self._snapshot() as db:
            return find_pending(db, now)

    def inspect(self, look: port.InspectionQuery) -> port.Inspection:
        with self._snapshot() as db:
            return inspect(db, look)

    def pending_counts(self) -> dict[str, dict[str, int]]:
        with self._snapshot() as db:
            return count_pending(db)

    def backlog(self, now: float) -> int:
        with self._snapshot() as db:
            return count_backlog(db, now)

    def attempt_counts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        rows = self._query(_ATTEMPTS, (bucket_s, provider, since))
        return {int(bucket): count for bucket, count in rows}

    def messages(self, filters: port.Filters, limit: int, before_seq: int | None) -> port.Page:
        with self._snapshot() as db:
            seqs, next_before_seq = find_seqs(db, filters, limit, before_seq)
            where = f"WHERE seq {db.dialect.among} ORDER BY seq DESC"
            sql = f"SELECT {_MESSAGE_COLUMNS} FROM messages {where}"
            messages = _read(db, sql, (db.dialect.listed(seqs),))
        return port.Page(messages, next_before_seq)

    def events_after(self, seq: int, limit: int) -> tuple[port.FeedEvent, ...]:
        return _feed(self._query(_FEED, (seq, limit)))

    def failures_after(self, seq: int, limit: int) -> tuple[port.FeedEvent, ...]:
        return _feed(self._query(_FAILURES, (seq, limit)))

    def newest_at(self) -> float:
        with self._snapshot() as db:
            return max(db.value(sql) or 0.0 for sql in _NEWEST_TIMES)

    def latest_event_seq(self) -> int:
        with self._snapshot() as db:
            return db.dialect.latest_event_seq()

    def suppressions(self, limit: int, after: str = "") -> tuple[port.Suppression, ...]:
        return tuple(port.Suppression(*row) for row in self._query(_SUPPRESSIONS, (after, limit)))


def _read(db: Rows, sql: str, values: tuple[Any, ...]) -> tuple[port.MessageStatus, ...]:
    rows = db.query(sql, values)
    deliveries: dict[int, list[port.DeliveryStatus]] = {row[0]: [] for row in rows}
    for seq, n, recipient, state, *rest in db.query(
        _DELIVERIES.format(among=db.dialect.among), (db.dialect.listed(list(deliveries)),)
    ):
        deliveries[seq].append(port.DeliveryStatus(n, recipient, State(state), *rest))
    return tuple(  # in the order of the struct's fields
        port.MessageStatus(*(*row, tuple(deliveries[row[0]]), retry_of, *_unpacked(labels, packed)))
        for *row, retry_of, labels, packed in rows
    )


def _unpacked(labels: str, progress: bytes) -> tuple[Any, ...]:
    return (*read_labels(labels), unpack_progress(progress))
