"""Rows about what is uncertain, as the commands of an SQLite spool keep them.

A doubt is there as long as one of its deliveries is uncertain, held or being repeated.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import apsw
import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool.port import (
    NEVER_AT,
    Doubt,
    Doubts,
    FindDueDoubts,
    LookUps,
    RecordOutcome,
    Step,
)
from mailactors.spool.sqlite_rows import fetch, finish, record, report_failure
from mailactors.spool.sqlite_suppressions import is_suppressed

_NO_FAILURE: Final = frozenset({State.SENT, State.UNCERTAIN})
"""Of what is uncertain the settler sees to the evidence."""


def open_doubt(
    db: apsw.Connection, seq: int, attempt_id: str, now: float, next_at: float, tries: int
) -> None:
    """Note that an attempt was lost now: one of its own, or (`tries`) a repetition of one."""
    # What look-ups found before says nothing of an attempt that was lost since.
    db.execute(
        "UPDATE doubts SET ended_at = ?, next_at = ?, repeats = repeats + ?, negatives = 0"
        " WHERE seq = ? AND attempt_id = ?",
        (now, next_at, tries, seq, attempt_id),
    )
    if db.changes():
        return
    # After a resend the vendor may have had the key from an earlier attempt than this one.
    db.execute(
        "INSERT INTO doubts (seq, attempt_id, provider, digest, recipients, began_at, since,"
        " ended_at, next_at) SELECT seq, attempts.id, attempts.provider, attempts.digest,"
        " json_array_length(ns), iif(declared_risks > 0, accepted_at, ifnull(started_at, ?1)),"
        " ?1, ?1, ?2 FROM attempts JOIN messages USING (seq) WHERE attempts.id = ?3",
        (now, next_at, attempt_id),
    )


def close_doubts(db: apsw.Connection, seq: int) -> None:
    """Forget a message's doubts of which nothing is open any more."""
    db.execute(
        "DELETE FROM doubts WHERE seq = ?1 AND attempt_id NOT IN (SELECT attempt_id FROM deliveries"
        " WHERE seq = ?1 AND state IN ('uncertain', 'held', 'sending'))",
        (seq,),
    )


def note_outcome(db: apsw.Connection, command: RecordOutcome, now: float) -> None:
    """Open, prolong or close a doubt after an attempt's outcome was recorded."""
    doubted = [step.due_at for step in command.steps if step.state is State.UNCERTAIN]
    if doubted:
        tries = int(command.is_repeat)
        open_doubt(db, command.seq, command.attempt_id, now, min(doubted), tries)
    close_doubts(db, command.seq)


def settle_told(db: apsw.Connection, command: RecordOutcome, now: float) -> None:
    """Let what a delivery event told of a delivery on its way count before its failure does.

    It was of an earlier attempt, or of this one whose answer is wrong: it must not go out again.
    """
    failed = [step.n for step in command.steps if step.state not in _NO_FAILURE]
    if not failed:
        return
    told: dict[int, str] = {}
    for n, evidence in fetch(
        db,
        "SELECT n, evidence FROM deliveries WHERE seq = ? AND attempt_id = ? AND epoch = ?"
        " AND state = 'sending' AND evidence <> '' ORDER BY n",
        (command.seq, command.attempt_id, command.epoch),
    ):
        by = [each["provider"] for each in read_evidence(evidence) if each["kind"] == "delivered"]
        if by and n in failed:
            told[n] = by[0]
    if not told:
        return
    tries = int(command.is_attempt)
    db.executemany(
        "UPDATE deliveries SET state = 'sent', provider = ?, attempts = attempts + ?,"
        " updated_at = ? WHERE seq = ? AND n = ? AND state = 'sending'",
        [(provider, tries, now, command.seq, n) for n, provider in told.items()],
    )
    if len(told) == len(command.steps):  # or the steps that are left count it
        db.execute(
            "UPDATE messages SET attempts = attempts + ? WHERE seq = ?", (tries, command.seq)
        )
    finish(db, command.seq, len(told), now)
    facts = {
        "kind": "delivery event",
        "provider": next(iter(told.values())),
        "rule": "a delivery event came while it was on its way again: it had been accepted",
        "next": {str(n): State.SENT.value for n in told},
    }
    record(db, command.seq, now, "resolved", facts)


def settle_late(db: apsw.Connection, command: RecordOutcome, now: float) -> None:
    """Let a real outcome settle what was given up, though its owner is no longer the owner.

    That it was accepted is worth knowing as long as it is not final and not on its way again; any
    other outcome tells something only of that very attempt.
    """
    final = [step for step in command.steps if _is_settled_late(db, command, step, now)]
    if not final:
        return
    finish(db, command.seq, len(final), now)
    close_doubts(db, command.seq)
    states = {str(step.n): step.state.value for step in final}
    facts = {"kind": "late outcome", "provider": command.provider, "next": states}
    rule = "the provider's answer came late, and counts"
    record(db, command.seq, now, "resolved", {**facts, "rule": rule})
    report_failure(db, command.seq, now)


def _is_settled_late(db: apsw.Connection, command: RecordOutcome, step: Step, now: float) -> bool:
    if step.state is State.SENT:
        where = "state IN ('uncertain', 'held', 'ready', 'deferred', 'leased')"
    elif step.state is State.BOUNCED:
        where = "state IN ('uncertain', 'held') AND attempt_id = ?6"
    else:
        return False
    db.execute(
        "UPDATE deliveries SET state = ?1, provider = ?2, error = ?3, updated_at = ?4 "  # noqa: S608
        f"WHERE seq = ?5 AND n = ?7 AND {where}",
        (
            step.state.value,
            command.provider,
            step.error,
            now,
            command.seq,
            command.attempt_id,
            step.n,
        ),
    )
    return bool(db.changes())


def count_risk(db: apsw.Connection, stream: str, provider: str, count: int) -> None:
    """Count deliveries that go out again though that provider may have accepted them."""
    db.execute(
        "INSERT INTO risks VALUES (?, ?, ?)"
        " ON CONFLICT (stream, provider) DO UPDATE SET count = count + excluded.count",
        (stream, provider, count),
    )


def postpone(
    db: apsw.Connection, seq: int, attempt_id: str, next_at: float, repeats: int = 0
) -> bool:
    """See to a doubt at another time; return whether there is one."""
    db.execute(
        "UPDATE doubts SET next_at = ?, repeats = max(repeats, ?) WHERE seq = ? AND attempt_id = ?",
        (next_at, repeats, seq, attempt_id),
    )
    return bool(db.changes())


def take_up(db: apsw.Connection, seq: int, repeat_of: str, attempt_id: str) -> None:
    """Let a doubt go on under the attempt that repeats it; it is not due while that is made."""
    db.execute(
        "UPDATE doubts SET attempt_id = ?, next_at = ? WHERE seq = ? AND attempt_id = ?",
        (attempt_id, NEVER_AT, seq, repeat_of),
    )


def find_doubt(db: apsw.Connection, seq: int, *attempt_ids: str) -> tuple[Any, ...] | None:
    """Return (attempt_id, digest, recipients) of a message's doubt with one of these attempts."""
    for attempt_id in attempt_ids:
        rows = fetch(
            db,
            "SELECT attempt_id, digest, recipients FROM doubts WHERE seq = ? AND attempt_id = ?",
            (seq, attempt_id),
        )
        if rows:
            return rows[0]
    return None


# What is due


def overdue(db: apsw.Connection, command: FindDueDoubts, now: float) -> Doubts:
    """Return the doubts that are due, of each provider apart."""
    doubts: list[Doubt] = []
    later: list[float] = []
    provider = db.execute("SELECT min(provider) FROM doubts").get
    while provider is not None:
        rows = fetch(
            db,
            "SELECT doubts.seq, attempt_id, provider, next_at FROM doubts"
            " WHERE provider = ? ORDER BY next_at, seq LIMIT ?",
            (provider, command.limit + 1),
        )
        due = [row for row in rows[: command.limit] if row[3] <= now]
        doubts += [_doubt(db, row[0], row[1]) for row in due]
        if len(due) < len(rows):
            later.append(rows[len(due)][3])
        provider = db.execute(
            "SELECT min(provider) FROM doubts WHERE provider > ?", (provider,)
        ).get
    return Doubts(tuple(doubts), min(later, default=None))


def _doubt(db: apsw.Connection, seq: int, attempt_id: str) -> Doubt:
    ((id_, stream, total, attempts, accepted_at, expires_at, size_bytes, crashes, *known),) = fetch(
        db,
        "SELECT id, stream, max(recipients_total, envelope_total), attempts, accepted_at,"
        " expires_at, size_bytes, crash_count, doubts.provider, doubts.recipients, began_at,"
        " since, ended_at, repeats, looks, failures, negatives, negative_at, answered_at"
        " FROM messages JOIN doubts USING (seq) WHERE seq = ? AND attempt_id = ?",
        (seq, attempt_id),
    )
    provider, recipients_count, began_at, since, ended_at, repeats, *looks = known
    rows = fetch(
        db,
        "SELECT n, recipient, state, epoch, evidence FROM deliveries"
        " WHERE seq = ? AND attempt_id = ? AND state IN ('uncertain', 'held') ORDER BY n",
        (seq, attempt_id),
    )
    return Doubt(
        seq=seq,
        id=id_,
        stream=stream,
        provider=provider,
        attempt_id=attempt_id,
        recipients=tuple((row[0], row[1]) for row in rows),
        recipients_total=total,
        epoch=max((row[3] for row in rows), default=0),
        attempts=attempts,
        accepted_at=accepted_at,
        expires_at=expires_at,
        size_bytes=size_bytes,
        began_at=began_at,
        since=since,
        ended_at=ended_at,
        repeats=repeats,
        looks=LookUps(*looks),
        is_held=any(row[2] == State.HELD for row in rows),
        is_whole=len(rows) == recipients_count,
        is_sole=_is_sole(db, seq, provider, attempt_id, [row[0] for row in rows]),
        is_suppressed=any(is_suppressed(db, row[1]) for row in rows),
        evidence=_told(rows, provider),
        crashes=crashes,
    )


def _is_sole(db: apsw.Connection, seq: int, provider: str, attempt_id: str, ns: list[int]) -> bool:
    # Each attempt of a message carries the same marker, for whichever recipients it is.
    events = db.execute(
        "SELECT kind, facts FROM events WHERE message_seq = ?"
        " AND kind IN ('attempt', 'uncertain', 'evidence')"
        " AND json_extract(facts, '$.provider') = ?",
        (seq, provider),
    )
    rows: list[tuple[Any, ...]] = events.fetchall()
    for kind, text in rows:
        facts = msgspec.json.decode(text)
        outcome = facts.get("outcome")
        if facts.get("attempt_id") == attempt_id:
            continue
        if outcome == "accepted":
            return False
        if outcome == "uncertain" and any(
            facts.get("next", {}).get(str(n)) != "uncertain" for n in ns
        ):
            return False
        if kind == "uncertain" and not _was_for(db, facts["attempt_id"], ns):
            return False
    return True


def _was_for(db: apsw.Connection, attempt_id: str, ns: list[int]) -> bool:
    known = db.execute("SELECT ns FROM attempts WHERE id = ?", (attempt_id,)).get
    return known is not None and set(msgspec.json.decode(known)) >= set(ns)


def _told(rows: list[tuple[Any, ...]], provider: str) -> tuple[tuple[int, str], ...]:
    # What was reported while the delivery was on its way again waits in its column.
    told: list[tuple[int, str]] = []
    for n, _, _, _, evidence in rows:
        known = [(each["kind"], each["provider"]) for each in read_evidence(evidence)]
        if any(kind == "delivered" for kind, _ in known):
            told.append((n, "delivered"))
        elif ("bounced", provider) in known:
            told.append((n, "bounced"))
    return tuple(told)


def read_evidence(evidence: str) -> list[dict[str, Any]]:
    """Return the delivery events that a delivery's column has."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(evidence, type=list[dict[str, Any]])
    return []
