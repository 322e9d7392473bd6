"""What may be asked of an SQLite spool. Each answer is one snapshot, also while others write."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final

import apsw
import msgspec

from mailactors.model.lifecycle import State, Status, status_of
from mailactors.spool.port import (
    DeliveryStatus,
    Event,
    FeedEvent,
    Filters,
    Inspection,
    InspectionQuery,
    Ledger,
    MessageStatus,
    Page,
    Pending,
    Risk,
    SpoolBrokenError,
    Suppression,
)
from mailactors.spool.sqlite_inspection import inspect
from mailactors.spool.sqlite_lists import find_seqs
from mailactors.spool.sqlite_rows import fetch, read_labels, to_json

NAMED_MAX: Final = 100
"""Messages that one name may mean: a client that reuses its ids gets the newest."""

DISK_ERRORS: Final = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.ProtocolError,
)
"""What leaves the state of the file in doubt: nothing is tried again on the same handle."""

UNWRITABLE: Final = "let this user write there, or name another spool, and start again"
_DAMAGED: Final = (
    "it is damaged: keep it and its -wal as they are, and start with a backup, or with what"
    " `sqlite3 FILE .recover` finds in a copy"
)
_ADVICE: Final[dict[type[apsw.Error], str]] = {
    apsw.CorruptError: _DAMAGED,
    apsw.NotADBError: _DAMAGED,
    apsw.CantOpenError: UNWRITABLE,
    apsw.ReadOnlyError: UNWRITABLE,
    apsw.PermissionsError: UNWRITABLE,
    apsw.IOError: "see to the disk and start again: what was acknowledged is in the file",
}


def advice(error: apsw.Error) -> str:
    """Return what an operator can do about an error of SQLite's."""
    return _ADVICE.get(type(error), "start again; if it stays so, keep the file for a look at it")


_MESSAGE_COLUMNS: Final = (
    "seq, id, client_id, message_id, stream, sender, subject,"
    " accepted_at, not_before, expires_at, attempts, declared_risks, retry_of, labels"
)
_NAMED: Final = (
    f"SELECT {_MESSAGE_COLUMNS} FROM messages WHERE seq IN"  # noqa: S608
    " (SELECT seq FROM messages WHERE id = ?1 UNION"
    " SELECT seq FROM messages WHERE client_id = ?1 AND client_id <> '')"
    " ORDER BY seq DESC LIMIT ?2"
)
_NEWEST: Final = (
    f"SELECT {_MESSAGE_COLUMNS} FROM messages"  # noqa: S608
    " WHERE seq < ? ORDER BY seq DESC LIMIT ?"
)
_LISTED: Final = (
    f"SELECT {_MESSAGE_COLUMNS} FROM messages"  # noqa: S608
    " WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq DESC"
)
_FEED: Final = """
    SELECT events.seq, at, kind, facts, id, stream, client_id, message_id
    FROM events JOIN messages ON messages.seq = events.message_seq
    WHERE events.seq > ? ORDER BY events.seq LIMIT ?
"""
_FAILURES: Final = _FEED.replace("WHERE", "WHERE kind = 'final_failure' AND")
_SUPPRESSIONS: Final = """
    SELECT address, reason, source, created_at FROM suppressions
    WHERE address > ? ORDER BY address LIMIT ?
"""
_DELIVERIES: Final = """
    SELECT seq, n, recipient, state, provider, attempts, due_at, updated_at, error
    FROM deliveries WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq, n
"""
_ACCEPTED: Final = """
    SELECT purged_accepted + ifnull(sum(recipients_total), 0),
      purged_risks + ifnull(sum(declared_risks), 0)
    FROM spool LEFT JOIN messages
"""
_STATES: Final = "SELECT state, count(*) FROM deliveries GROUP BY state ORDER BY state"
_PENDING: Final = """
    SELECT deliveries.stream, state, count(*)
    FROM messages CROSS JOIN deliveries ON deliveries.seq = messages.seq
    WHERE open_count > 0
      AND state IN ('ready', 'deferred', 'leased', 'sending', 'uncertain', 'held')
    GROUP BY deliveries.stream, state ORDER BY deliveries.stream, state
"""
_PENDING_AGES: Final = """
    SELECT deliveries.stream, state, state = 'ready' AND not_before > ? AS is_scheduled, count(*),
      min(CASE WHEN not_before > accepted_at THEN not_before ELSE accepted_at END),
      min(CASE WHEN not_before > updated_at THEN not_before ELSE updated_at END)
    FROM messages CROSS JOIN deliveries ON deliveries.seq = messages.seq
    WHERE open_count > 0
      AND state IN ('ready', 'deferred', 'leased', 'sending', 'uncertain', 'held')
    GROUP BY deliveries.stream, state, is_scheduled
    ORDER BY deliveries.stream, state, is_scheduled
"""
_ATTEMPTS: Final = """
    SELECT CAST(started_at / ?3 AS INTEGER) AS bucket, count(*) FROM attempts
    WHERE provider = ?1 AND started_at IS NOT NULL AND started_at >= ?2
    GROUP BY bucket ORDER BY bucket
"""


def _feed(rows: list[tuple[Any, ...]]) -> tuple[FeedEvent, ...]:
    return tuple(
        FeedEvent(seq, at, kind, msgspec.json.decode(facts), *message)
        for seq, at, kind, facts, *message in rows
    )


def _risks(db: apsw.Connection) -> tuple[Risk, ...]:
    # A spool that is only read may be one from before there was this table.
    if not fetch(db, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'risks'"):
        return ()
    rows = fetch(db, "SELECT stream, provider, count FROM risks ORDER BY stream, provider")
    return tuple(Risk(*row) for row in rows)


def _status(row: tuple[Any, ...], deliveries: list[DeliveryStatus]) -> MessageStatus:
    *fields, retry_of, labels = row  # in the order of the struct's fields
    return MessageStatus(*(*fields, tuple(deliveries), retry_of, *read_labels(labels)))


def _by_status(rows: list[tuple[Any, ...]]) -> tuple[Pending, ...]:
    # Several stored states may have one public status.
    found: dict[tuple[str, Status], Pending] = {}
    for stream, state, is_scheduled, count, waits_since, unmoved_since in rows:
        status = status_of(State(state), is_scheduled=bool(is_scheduled))
        other = found.get((stream, status), Pending(stream, status, 0, math.inf, math.inf))
        found[stream, status] = Pending(
            stream,
            status,
            other.count + count,
            min(other.waits_since, waits_since),
            min(other.unmoved_since, unmoved_since),
        )
    return tuple(found[key] for key in sorted(found))


class SqliteQuestions:
    """Questions over one connection; for another thread, over another connection."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def status(self, name: str) -> tuple[MessageStatus, ...]:
        """Return the messages that this name means: our id, or the client's (newest first)."""
        return self._messages(_NAMED, name, NAMED_MAX)

    def statuses(self, limit: int, before_seq: int | None) -> tuple[MessageStatus, ...]:
        """Return up to `limit` messages, newest first, older than `before_seq` if given."""
        return self._messages(_NEWEST, 2**63 - 1 if before_seq is None else before_seq, limit)

    def timeline(self, seq: int) -> tuple[Event, ...]:
        """Return a message's events, oldest first."""
        with self._snapshot() as db:
            rows = fetch(
                db,
                "SELECT seq, at, kind, facts FROM events WHERE message_seq = ? ORDER BY seq",
                (seq,),
            )
        return tuple(
            Event(event_seq, at, kind, msgspec.json.decode(facts))
            for event_seq, at, kind, facts in rows
        )

    def ledger(self) -> Ledger:
        """Return the accounting identity over all deliveries."""
        with self._snapshot() as db:
            ((accepted, declared_risks),) = fetch(db, _ACCEPTED)
            states = dict(db.execute(_STATES))
            purged = dict(db.execute("SELECT state, deliveries FROM purged ORDER BY state"))
            risks = _risks(db)
        total = {state: states.get(state, 0) + purged.get(state, 0) for state in states | purged}
        in_order = dict(sorted(total.items()))
        return Ledger(accepted, in_order, declared_risks, sum(purged.values()), risks)

    def pending(self, now: float) -> tuple[Pending, ...]:
        """Return what is not final by stream and status, in that order."""
        with self._snapshot() as db:
            return _by_status(fetch(db, _PENDING_AGES, (now,)))

    def inspect(self, look: InspectionQuery) -> Inspection:
        """Return what a watchdog should judge; reads a bounded part, along indices."""
        with self._snapshot() as db:
            return inspect(db, look)

    def pending_counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pending deliveries by stream, then by state."""
        counts: dict[str, dict[str, int]] = {}
        with self._snapshot() as db:
            for stream, state, count in db.execute(_PENDING):
                counts.setdefault(stream, {})[state] = count
        return counts

    def attempt_counts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return intents of a provider since a time, by floor(started_at / bucket_s)."""
        with self._snapshot() as db:
            return dict(db.execute(_ATTEMPTS, (provider, since, bucket_s)))

    def messages(self, filters: Filters, limit: int, before_seq: int | None) -> Page:
        """Return up to `limit` messages that the filters let through, older than `before_seq`."""
        with self._snapshot() as db:
            seqs, next_before_seq = find_seqs(db, filters, limit, before_seq)
            messages = self._read(db, _LISTED, to_json(seqs))
        return Page(messages, next_before_seq)

    def events_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next events of all messages after event `seq`, oldest first."""
        with self._snapshot() as db:
            return _feed(fetch(db, _FEED, (seq, limit)))

    def failures_after(self, seq: int, limit: int) -> tuple[FeedEvent, ...]:
        """Return the next reports of what finally failed after event `seq`, oldest first."""
        with self._snapshot() as db:
            return _feed(fetch(db, _FAILURES, (seq, limit)))

    def latest_event_seq(self) -> int:
        """Return the seq of the latest event ever, or 0: what comes after it is new."""
        with self._snapshot() as db:
            rows = fetch(db, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def suppressions(self, limit: int, after: str = "") -> tuple[Suppression, ...]:
        """Return suppressed addresses in their order, those after `after`."""
        with self._snapshot() as db:
            rows = fetch(db, _SUPPRESSIONS, (after, limit))
        return tuple(Suppression(*row) for row in rows)

    def _messages(self, sql: str, *bindings: str | int) -> tuple[MessageStatus, ...]:
        with self._snapshot() as db:
            return self._read(db, sql, *bindings)

    @staticmethod
    def _read(db: apsw.Connection, sql: str, *bindings: str | int) -> tuple[MessageStatus, ...]:
        rows = fetch(db, sql, bindings)
        deliveries: dict[int, list[DeliveryStatus]] = {row[0]: [] for row in rows}
        for seq, n, recipient, state, *rest in db.execute(
            _DELIVERIES, (to_json(list(deliveries)),)
        ):
            deliveries[seq].append(DeliveryStatus(n, recipient, State(state), *rest))
        return tuple(_status(row, deliveries[row[0]]) for row in rows)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        # A deferred transaction: the first read fixes what all the others see.
        try:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except DISK_ERRORS as error:
            raise SpoolBrokenError(f"the spool cannot be read: {error}; {advice(error)}") from error
