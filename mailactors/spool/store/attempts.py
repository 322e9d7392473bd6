"""How an attempt begins, whether it is the first of a message or a repeat."""

from __future__ import annotations

from collections.abc import Sequence

from mailactors.spool.port import Intend, IntendAgain
from mailactors.spool.store.events import to_json
from mailactors.spool.store.rows import Row, Rows


def read_content(db: Rows, seq: int) -> Row | None:
    """Return (message_id, date_s, sender, digest, expires_at, packed), None if it is not kept."""
    rows = db.query(
        "SELECT message_id, date_s, sender, digest, expires_at, packed"
        " FROM messages JOIN contents USING (seq) WHERE seq = ?",
        (seq,),
    )
    return rows[0] if rows else None


def open_attempt(
    db: Rows, command: Intend | IntendAgain, chosen: Sequence[Row], digest: str, now: float
) -> bool:
    """Insert the attempt, and return True; False if it has its outcome already.

    Args:
        chosen: rows of deliveries that begin with n, recipient, node.
    """
    return bool(
        db.run(
            "INSERT INTO attempts (id, seq, ns, provider, digest, epoch, node, started_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (
                command.attempt_id,
                command.seq,
                to_json([row[0] for row in chosen]),
                command.provider,
                digest,
                command.epoch,
                chosen[0][2],
                now,
            ),
        )
    )
