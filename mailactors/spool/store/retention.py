"""Retention: deletes messages, contents, keys and attempts that were kept long enough.

It finds them along an index, oldest first, a limited number at a time, so that the writer is never
held up for long; the engine gives free space back in steps, in the same transactions.
"""

from __future__ import annotations

from typing import Final

from mailactors.spool.port import Purge, Purged
from mailactors.spool.store.rows import Rows, distinct

ATTEMPTS_KEPT_S: Final = 86_400.0
"""The longest window of a quota: its attempts are counted again after a restart."""
BODY: Final = 1
KEY: Final = 2
"""What `messages.kept` says is still there: a bit for the content, one for the key."""


_PROVIDERS: Final = distinct("provider", "attempts", "started_at IS NOT NULL")
_TABLES: Final = ("deliveries", "contents", "keys", "events", "doubts", "message_tags", "messages")


def purge(db: Rows, command: Purge, now: float) -> Purged:
    """Delete what was kept long enough; the next purge continues with the next oldest."""
    limit = command.limit
    messages = _unkeyed(db, _final(db, (0, 1, 2, 3), command.final_before, limit), now)
    _delete_messages(db, messages)
    bodies = _final(db, (BODY, BODY | KEY), command.bodies_before, limit)
    _delete_parts(db, "contents", bodies, BODY)
    keys = _unkeyed(db, _final(db, (KEY, BODY | KEY), now, limit), now)
    _delete_parts(db, "keys", keys, KEY)
    attempts = _delete_attempts(db, min(command.final_before, now - ATTEMPTS_KEPT_S), limit)
    has_free_space = db.dialect.give_space_back()
    is_cut = max(len(messages), len(bodies), len(keys), attempts) >= limit
    return Purged(len(messages), len(bodies), has_more=is_cut or has_free_space)


def _final(db: Rows, kept: tuple[int, ...], before: float, limit: int) -> list[tuple[float, int]]:
    # (final_at, seq) of the oldest; one range of the index for each value of `kept`.
    rows: list[tuple[float, int]] = []
    for each in kept:
        rows += db.query(
            "SELECT final_at, seq FROM messages WHERE kept = ? AND final_at < ?"
            " ORDER BY final_at, seq LIMIT ?",
            (each, before, limit),
        )
    return sorted(rows)[:limit]


def _unkeyed(db: Rows, rows: list[tuple[float, int]], now: float) -> list[tuple[float, int]]:
    # Messages with a live key are passed over until it expires.
    held = db.query(
        "SELECT DISTINCT seq FROM keys"
        f" WHERE seq {db.dialect.among} AND expires_at > ? ORDER BY seq",
        (_listed(db, rows), now),
    )
    keyed = {seq for (seq,) in held}
    return [row for row in rows if row[1] not in keyed]


def _delete_messages(db: Rows, rows: list[tuple[float, int]]) -> None:
    if not rows:
        return
    seqs = (_listed(db, rows),)
    db.run(
        "INSERT INTO purged (state, deliveries) SELECT state, count(*) FROM deliveries"
        f" WHERE seq {db.dialect.among} GROUP BY state"
        " ON CONFLICT (state) DO UPDATE SET deliveries = purged.deliveries + excluded.deliveries",
        seqs,
    )
    db.run(
        "UPDATE spool SET purged_accepted = purged_accepted + gone.accepted,"
        " purged_risks = purged_risks + gone.risks"
        " FROM (SELECT sum(recipients_total) AS accepted, sum(declared_risks) AS risks"
        f" FROM messages WHERE seq {db.dialect.among}) AS gone",
        seqs,
    )
    for table in _TABLES:
        column = "message_seq" if table == "events" else "seq"
        db.run(f"DELETE FROM {table} WHERE {column} {db.dialect.among}", seqs)


def _delete_parts(db: Rows, table: str, rows: list[tuple[float, int]], part: int) -> None:
    seqs = _listed(db, rows)
    db.run(f"DELETE FROM {table} WHERE seq {db.dialect.among}", (seqs,))
    db.run(f"UPDATE messages SET kept = kept & ~? WHERE seq {db.dialect.among}", (part, seqs))


def _delete_attempts(db: Rows, before: float, limit: int) -> int:
    # An open intent is never deleted, however old: a delivery may be sending with it.
    count = 0
    for (provider,) in db.query(_PROVIDERS):
        count += db.run(
            "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE provider = ?"
            " AND started_at < ? AND finished_at IS NOT NULL ORDER BY started_at LIMIT ?)",
            (provider, before, limit),
        )
    return count + db.run(
        "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE started_at IS NULL"
        " AND finished_at < ? ORDER BY finished_at LIMIT ?)",
        (before, limit),
    )


def _listed(db: Rows, rows: list[tuple[float, int]]) -> object:
    return db.dialect.listed([seq for _, seq in rows])
