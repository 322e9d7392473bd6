"""What an SQLite spool forgets: messages, contents, keys and attempts that were kept long enough.

Everything is found along an index, oldest first, and in portions, so that the writer is never
held up for long; the file gives its free pages back a few at a time, in the same transactions.
"""

from __future__ import annotations

from typing import Final

import apsw

from mailactors.spool.port import Purge, Purged
from mailactors.spool.sqlite_rows import fetch, to_json

ATTEMPTS_KEPT_S: Final = 86_400.0
"""The longest window of a quota: its attempts are counted again after a restart."""
PAGES_A_STEP: Final = 500
"""Pages that one purge gives back; each may have to be moved (2 MB)."""
PAGES_KEPT: Final = 1_000
"""Free pages that stay for what comes next (4 MB)."""

_BODY: Final = 1
_KEY: Final = 2
_INCREMENTAL: Final = 2


def purge(db: apsw.Connection, command: Purge, now: float) -> Purged:
    """Delete what is older than it has to be; asked again, go on with the next oldest."""
    limit = command.limit
    messages = _unkeyed(db, _final(db, (0, 1, 2, 3), command.final_before, limit), now)
    _delete_messages(db, messages)
    bodies = _final(db, (_BODY, _BODY | _KEY), command.bodies_before, limit)
    _delete_parts(db, "contents", bodies, _BODY)
    keys = _unkeyed(db, _final(db, (_KEY, _BODY | _KEY), now, limit), now)
    _delete_parts(db, "keys", keys, _KEY)
    attempts = _delete_attempts(db, min(command.final_before, now - ATTEMPTS_KEPT_S), limit)
    has_free_pages = _give_pages_back(db)
    is_cut = max(len(messages), len(bodies), len(keys), attempts) >= limit
    return Purged(len(messages), len(bodies), has_more=is_cut or has_free_pages)


def _final(
    db: apsw.Connection, kept: tuple[int, ...], before: float, limit: int
) -> list[tuple[float, int]]:
    # (final_at, seq) of the oldest; one range of the index for each value of `kept`.
    rows: list[tuple[float, int]] = []
    for each in kept:
        rows += db.execute(
            "SELECT final_at, seq FROM messages WHERE kept = ? AND final_at < ?"
            " ORDER BY final_at, seq LIMIT ?",
            (each, before, limit),
        )
    return sorted(rows)[:limit]


def _unkeyed(
    db: apsw.Connection, rows: list[tuple[float, int]], now: float
) -> list[tuple[float, int]]:
    # Those whose key holds are passed over: they are at most a key's window away from their turn.
    held = fetch(
        db,
        "SELECT DISTINCT seq FROM keys"
        " WHERE seq IN (SELECT value FROM json_each(?)) AND expires_at > ? ORDER BY seq",
        (_seqs(rows), now),
    )
    keyed = {seq for (seq,) in held}
    return [row for row in rows if row[1] not in keyed]


def _delete_messages(db: apsw.Connection, rows: list[tuple[float, int]]) -> None:
    if not rows:
        return
    seqs = (_seqs(rows),)
    db.execute(
        "INSERT INTO purged SELECT state, count(*) FROM deliveries"
        " WHERE seq IN (SELECT value FROM json_each(?)) GROUP BY state"
        " ON CONFLICT (state) DO UPDATE SET deliveries = deliveries + excluded.deliveries",
        seqs,
    )
    db.execute(
        "UPDATE spool SET purged_accepted = purged_accepted + gone.accepted,"
        " purged_risks = purged_risks + gone.risks"
        " FROM (SELECT sum(recipients_total) AS accepted, sum(declared_risks) AS risks"
        " FROM messages WHERE seq IN (SELECT value FROM json_each(?))) AS gone",
        seqs,
    )
    for table, column in _TABLES:
        db.execute(
            f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))",  # noqa: S608
            seqs,
        )


_TABLES: Final = (
    ("deliveries", "seq"),
    ("contents", "seq"),
    ("keys", "seq"),
    ("events", "message_seq"),
    ("doubts", "seq"),
    ("message_tags", "seq"),
    ("messages", "seq"),
)


def _delete_parts(
    db: apsw.Connection, table: str, rows: list[tuple[float, int]], part: int
) -> None:
    seqs = _seqs(rows)
    db.execute(
        f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))",  # noqa: S608
        (seqs,),
    )
    db.execute(
        "UPDATE messages SET kept = kept & ~? WHERE seq IN (SELECT value FROM json_each(?))",
        (part, seqs),
    )


def _delete_attempts(db: apsw.Connection, before: float, limit: int) -> int:
    # An open intent is never deleted, however old: it is how a delivery that is sending is known.
    before_changes = db.total_changes()
    provider = db.execute("SELECT min(provider) FROM attempts WHERE started_at IS NOT NULL").get
    while provider is not None:
        db.execute(
            "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE provider = ?"
            " AND started_at < ? AND finished_at IS NOT NULL ORDER BY started_at LIMIT ?)",
            (provider, before, limit),
        )
        provider = db.execute(
            "SELECT min(provider) FROM attempts WHERE provider > ? AND started_at IS NOT NULL",
            (provider,),
        ).get
    db.execute(
        "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE started_at IS NULL"
        " AND finished_at < ? ORDER BY finished_at LIMIT ?)",
        (before, limit),
    )
    return db.total_changes() - before_changes


def _give_pages_back(db: apsw.Connection) -> bool:
    # Each row of the pragma is a page moved: it has to be read to its end.
    if db.pragma("auto_vacuum") != _INCREMENTAL or _free_pages(db) <= PAGES_KEPT:
        return False
    count = min(PAGES_A_STEP, _free_pages(db) - PAGES_KEPT)
    db.execute(f"PRAGMA incremental_vacuum({count})").fetchall()
    return _free_pages(db) > PAGES_KEPT


def _free_pages(db: apsw.Connection) -> int:
    count = db.pragma("freelist_count")
    assert isinstance(count, int)
    return count


def _seqs(rows: list[tuple[float, int]]) -> str:
    return to_json([seq for _, seq in rows])
