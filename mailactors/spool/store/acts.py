"""Rules for what operators did."""

from __future__ import annotations

from mailactors.spool.port import NoteAct, Noted, SetPaused
from mailactors.spool.store.events import to_json
from mailactors.spool.store.rows import Rows


def note_act(db: Rows, command: NoteAct, now: float) -> Noted:
    """Keep an act, once."""
    db.run(
        "INSERT INTO acts (id, at, what, way, subject, facts) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING",
        (command.id, now, command.what, command.way, command.subject, to_json(command.facts)),
    )
    return Noted()


def set_paused(db: Rows, command: SetPaused, now: float) -> Noted:
    """Keep or forget a pause; the first time of one that lasts stands."""
    if command.is_paused:
        db.run(
            "INSERT INTO paused (provider, since) VALUES (?, ?) ON CONFLICT (provider) DO NOTHING",
            (command.provider, now),
        )
    else:
        db.run("DELETE FROM paused WHERE provider = ?", (command.provider,))
    return Noted()
