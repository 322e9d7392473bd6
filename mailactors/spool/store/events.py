"""What the rules share: a message's events, open deliveries, progress, content and attempts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool import port
from mailactors.spool.store.rows import Row, Rows

FAILURE: Final = "final_failure"
"""The kind of event that reports deliveries that ended badly, with the message's history."""
HISTORY_MAX: Final = 100
"""Events in such a report, the latest ones."""
ENDED_BADLY: Final = frozenset({State.BOUNCED, State.FAILED, State.EXPIRED})
WRITTEN_FOR: Final = (
    "CASE WHEN envelope_total > recipients_total THEN envelope_total ELSE recipients_total END"
)
"""How many recipients a message's content was written for."""

_JSON: Final = msgspec.json.Encoder()
_LABELS: Final = msgspec.json.Decoder(tuple[tuple[str, ...], dict[str, str]])

pack_progress: Final = msgspec.msgpack.Encoder().encode
unpack_progress: Final = msgspec.msgpack.Decoder(port.Progress).decode


def to_json(value: object) -> str:
    """Return JSON text."""
    return _JSON.encode(value).decode()


def write_labels(tags: tuple[str, ...], metadata: dict[str, str]) -> str:
    """Return a message's tags and metadata as its row stores them: empty where there are none."""
    return to_json((tags, metadata)) if tags or metadata else ""


def read_labels(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the tags and the metadata that a message's row stores."""
    return _LABELS.decode(text) if text else ((), {})


def finish(db: Rows, seq: int, count: int, now: float) -> str:
    """Subtract deliveries that became final from a message's open ones; return its stream."""
    return str(
        db.value(
            "UPDATE messages SET open_count = open_count - ?,"
            " final_at = CASE WHEN open_count = ? THEN ? END WHERE seq = ? RETURNING stream",
            (count, count, now, seq),
        )
    )


def end(db: Rows, seq: int, count: int, now: float, kind: str, facts: Mapping[str, Any]) -> str:
    """Count deliveries that became final, record why, report those that ended badly.

    Returns: the message's stream.
    """
    stream = finish(db, seq, count, now)
    record(db, seq, now, kind, facts)
    report_failure(db, seq, now)
    return stream


def report_failure(db: Rows, seq: int, now: float) -> None:
    """Append a report of the deliveries that ended badly at this moment, if there are any.

    Another command of the same commit, at the same moment, may have reported some of them.
    """
    ended = db.query(
        "SELECT n, state, error FROM deliveries WHERE seq = ? AND updated_at = ?"
        " AND state IN ('bounced', 'failed', 'expired') ORDER BY n",
        (seq, now),
    )
    if not ended:  # the usual case, and cheap
        return
    reported = {
        delivery["n"]
        for (facts,) in db.query(
            "SELECT facts FROM events WHERE message_seq = ? AND at = ? AND kind = ?",
            (seq, now, FAILURE),
        )
        for delivery in msgspec.json.decode(facts)["deliveries"]
    }
    new = [{"n": n, "state": state, "error": error} for n, state, error in ended]
    new = [delivery for delivery in new if delivery["n"] not in reported]
    if not new:
        return
    story = [
        {"at": at, "kind": kind, **msgspec.json.decode(facts)}
        for at, kind, facts in db.query(
            "SELECT at, kind, facts FROM events WHERE message_seq = ? AND kind <> ?"
            " ORDER BY seq DESC LIMIT ?",
            (seq, FAILURE, HISTORY_MAX),
        )
    ]
    record(db, seq, now, FAILURE, {"deliveries": new, "story": story[::-1]})


def record(db: Rows, seq: int, now: float, kind: str, facts: Mapping[str, Any]) -> None:
    """Append an event to a message's timeline."""
    db.run(
        "INSERT INTO events (message_seq, at, kind, facts) VALUES (?, ?, ?, ?)",
        (seq, now, kind, to_json(facts)),
    )


def read_content(db: Rows, seq: int) -> Row | None:
    """Return (message_id, date_s, sender, digest, expires_at, packed), None if it is not kept."""
    rows = db.query(
        "SELECT message_id, date_s, sender, digest, expires_at, packed"
        " FROM messages JOIN contents USING (seq) WHERE seq = ?",
        (seq,),
    )
    return rows[0] if rows else None


def open_attempt(
    db: Rows, command: port.Intend | port.IntendAgain, chosen: list[Row], digest: str, now: float
) -> bool:
    """Insert the attempt, and return True; False if it has its outcome already.

    `chosen` are rows of deliveries that begin with n, recipient, node.
    """
    ns, node = to_json([row[0] for row in chosen]), chosen[0][2]
    attempt = (command.attempt_id, command.seq, ns, command.provider, digest, command.epoch)
    sql = (
        "INSERT INTO attempts (id, seq, ns, provider, digest, epoch, node, started_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
    )
    return db.run(sql, (*attempt, node, now)) > 0
