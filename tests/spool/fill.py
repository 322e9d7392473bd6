"""Fills a spool with many messages by a few statements: seconds instead of hours by commands."""

from __future__ import annotations

from collections.abc import Mapping

from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.sqlite.migrations import load_migrations

DEADLINE_S = 86_400.0
_FINAL = ("sent", "bounced", "failed", "expired", "suppressed", "cancelled")


def fill(store: SqliteStore, count: int, states: Mapping[str, int], now: float) -> None:
    """Insert messages with a delivery, a key, an attempt and two events each.

    They were accepted one a millisecond, the last of them now, in the streams `main` and `bulk`.

    Args:
        states: how many of a hundred are in each state, in the order of their acceptance.
    """
    db = store._db
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TEMP TABLE share (state TEXT, low INTEGER, high INTEGER)")
    low = 0
    for state, share in states.items():
        db.execute("INSERT INTO share VALUES (?, ?, ?)", (state, low, low + share))
        low += share
    db.execute(
        "CREATE TEMP TABLE made AS WITH RECURSIVE numbers (value) AS (SELECT 0 UNION ALL"
        " SELECT value + 1 FROM numbers WHERE value < ?1 - 1)"
        " SELECT value + 1 AS seq, ?2 - (?1 - value) * 0.001 AS at, state,"
        " iif(value / 100 % 5 = 0, 'bulk', 'main') AS stream,"
        f" state IN {_FINAL} AS is_final"
        " FROM numbers JOIN share ON value % 100 >= low AND value % 100 < high",
        (count, now),
    )
    for sql in _TABLES:
        db.execute(sql, {"deadline_s": DEADLINE_S})
    db.execute("DROP TABLE made")
    db.execute("DROP TABLE share")
    sums = load_migrations()[4].sql
    db.execute("DELETE FROM sums")
    db.execute(sums[sums.index("INSERT INTO sums") :])
    db.execute("COMMIT")


_TABLES = (
    "INSERT INTO messages (seq, id, client_id, message_id, stream, sender, subject, date_s,"
    " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
    " progress, final_at) SELECT seq, printf('m%031d', seq), printf('c%d', seq),"
    " seq || '@mail.example', stream, 'shop@mail.example', 'Your order', at, at, at,"
    " at + :deadline_s, 100, '', 1, 1 - is_final, x'80', iif(is_final, at + 1, NULL) FROM made",
    "INSERT INTO contents SELECT seq, zeroblob(100) FROM made WHERE :deadline_s",
    "INSERT INTO deliveries (seq, n, recipient, domain, stream, state, due_at, provider,"
    " attempt_id, attempts, error, updated_at, epoch, node) SELECT seq, 0,"
    " printf('user%d@example.com', seq % 50000), 'example.com', stream, state,"
    " at + iif(state = 'deferred', 7200, 0), 'primary', printf('a%031d', seq), 1, '', at + 1, 1,"
    " 'filled' FROM made WHERE :deadline_s",
    "INSERT INTO keys SELECT 'default', printf('k%031d', seq), '', seq, at + :deadline_s FROM made",
    "INSERT INTO attempts (id, seq, ns, provider, digest, epoch, node, started_at, finished_at,"
    " outcome) SELECT printf('a%031d', seq), seq, '[0]', 'primary', '', 1, 'filled', at, at + 1,"
    " 'accepted' FROM made WHERE :deadline_s",
    "INSERT INTO events (message_seq, at, kind, facts) SELECT seq, at, 'accepted', '{}'"
    " FROM made WHERE :deadline_s",
    "INSERT INTO events (message_seq, at, kind, facts) SELECT seq, at + 1, 'attempt',"
    """ '{"rule":"accepted","provider":"primary","outcome":"accepted"}'"""
    " FROM made WHERE :deadline_s",
)
