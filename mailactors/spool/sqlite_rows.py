"""What the commands of an SQLite spool share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import apsw
import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import Progress

FAILURE: Final = "final_failure"
"""The kind of event that tells the whole story of what ended badly."""
STORY_EVENTS_MAX: Final = 100
"""Events that a report tells; of a longer story, the latest."""
ENDED_BADLY: Final = frozenset({State.BOUNCED, State.FAILED, State.EXPIRED})

_JSON: Final = msgspec.json.Encoder()
_LABELS: Final = msgspec.json.Decoder(tuple[tuple[str, ...], dict[str, str]])

pack_progress: Final = msgspec.msgpack.Encoder().encode
unpack_progress: Final = msgspec.msgpack.Decoder(Progress).decode


def to_json(value: object) -> str:
    """Return JSON text: facts for the timeline, or a list for SQL's json_each."""
    return _JSON.encode(value).decode()


def write_labels(tags: tuple[str, ...], metadata: dict[str, str]) -> str:
    """Return a message's tags and metadata as its row stores them: empty where there are none."""
    return to_json((tags, metadata)) if tags or metadata else ""


def read_labels(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the tags and the metadata that a message's row stores."""
    return _LABELS.decode(text) if text else ((), {})


def fetch(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return all rows, so that no cursor stays open over a commit."""
    return db.execute(sql, bindings).fetchall()


def execute_each(db: apsw.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Execute once for each row of bindings; return how many rows changed in all."""
    before = db.total_changes()
    db.executemany(sql, rows)
    return db.total_changes() - before


def finish(db: apsw.Connection, seq: int, count: int, now: float) -> None:
    """Take deliveries that became final off their message's open ones."""
    db.execute(
        "UPDATE messages SET open_count = open_count - ?1,"
        " final_at = iif(open_count = ?1, ?2, NULL) WHERE seq = ?3",
        (count, now, seq),
    )


def report_failure(db: apsw.Connection, seq: int, now: float) -> None:
    """Append the whole story of deliveries that ended badly at this moment, if there are any.

    Another command of the same commit, and so of the same moment, may have told of some of them.
    """
    ended = fetch(
        db,
        "SELECT n, state, error FROM deliveries WHERE seq = ?1 AND updated_at = ?2"
        " AND state IN ('bounced', 'failed', 'expired') AND n NOT IN"
        " (SELECT json_extract(value, '$.n') FROM events, json_each(facts, '$.deliveries')"
        " WHERE message_seq = ?1 AND at = ?2 AND kind = ?3) ORDER BY n",
        (seq, now, FAILURE),
    )
    if not ended:
        return
    story = fetch(
        db,
        "SELECT at, kind, facts FROM events WHERE message_seq = ? AND kind <> ?"
        " ORDER BY seq DESC LIMIT ?",
        (seq, FAILURE, STORY_EVENTS_MAX),
    )
    facts = {
        "deliveries": [{"n": n, "state": state, "error": error} for n, state, error in ended],
        "story": [
            {"at": at, "kind": kind, **msgspec.json.decode(facts)}
            for at, kind, facts in reversed(story)
        ],
    }
    record(db, seq, now, FAILURE, facts)


def record(db: apsw.Connection, seq: int, now: float, kind: str, facts: Mapping[str, Any]) -> None:
    """Append to a message's timeline."""
    db.execute(
        "INSERT INTO events (message_seq, at, kind, facts) VALUES (?, ?, ?, ?)",
        (seq, now, kind, to_json(facts)),
    )
