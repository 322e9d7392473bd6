"""The rows of `doubts`: what is known of attempts that the provider may have accepted.

A doubt exists as long as one of its deliveries is uncertain, held or being repeated.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import State
from mailactors.spool import port
from mailactors.spool.store import sums
from mailactors.spool.store.events import WRITTEN_FOR, end, finish, record, unpack_progress
from mailactors.spool.store.rows import Row, Rows, distinct
from mailactors.spool.store.suppressions import is_suppressed

_NO_FAILURE: Final = frozenset({State.SENT, State.UNCERTAIN})
"""Evidence of an uncertain delivery is settled by the settler."""


def open_doubt(db: Rows, seq: int, attempt_id: str, now: float, next_at: float, tries: int) -> None:
    """Record that an attempt became uncertain now: a first one, or (`tries` 1) a repeat."""
    # Earlier look-ups say nothing of an attempt that became uncertain after them.
    if db.run(
        "UPDATE doubts SET ended_at = ?, next_at = ?, repeats = repeats + ?, negatives = 0"
        " WHERE seq = ? AND attempt_id = ?",
        (now, next_at, tries, seq, attempt_id),
    ):
        return
    # After a resend the vendor may have had the key from an earlier attempt than this one.
    for provider, digest, ns, risks, accepted_at, started_at in db.query(
        "SELECT attempts.provider, attempts.digest, ns, declared_risks, accepted_at, started_at"
        " FROM attempts JOIN messages USING (seq) WHERE attempts.id = ?",
        (attempt_id,),
    ):
        began_at = accepted_at if risks else now if started_at is None else started_at
        known = (seq, attempt_id, provider, digest, len(msgspec.json.decode(ns)))
        db.run(
            "INSERT INTO doubts (seq, attempt_id, provider, digest, recipients, began_at, since,"
            " ended_at, next_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*known, began_at, now, now, next_at),
        )


def close_doubts(db: Rows, seq: int) -> None:
    """Delete a message's doubts that have no open delivery any more."""
    db.run(
        "DELETE FROM doubts WHERE seq = ? AND attempt_id NOT IN (SELECT attempt_id FROM deliveries"
        " WHERE seq = ? AND state IN ('uncertain', 'held', 'sending'))",
        (seq, seq),
    )


def update_doubt(db: Rows, command: port.RecordOutcome, now: float) -> None:
    """Open, prolong or close a doubt after an attempt's outcome was recorded."""
    due_ats = [step.due_at for step in command.steps if step.state is State.UNCERTAIN]
    if due_ats:
        tries = int(command.is_repeat)
        open_doubt(db, command.seq, command.attempt_id, now, min(due_ats), tries)
    close_doubts(db, command.seq)


def settle_by_event(db: Rows, command: port.RecordOutcome, now: float) -> None:
    """Settle sending deliveries by their delivery events before this attempt's failure counts.

    The provider accepted an earlier attempt, or this one and its answer is wrong: they must not
    be sent again.
    """
    failed = [step.n for step in command.steps if step.state not in _NO_FAILURE]
    if not failed:
        return
    delivered: dict[int, str] = {}
    for n, evidence in db.query(
        "SELECT n, evidence FROM deliveries WHERE seq = ? AND attempt_id = ? AND epoch = ?"
        " AND state = 'sending' AND evidence <> '' ORDER BY n",
        (command.seq, command.attempt_id, command.epoch),
    ):
        by = [each["provider"] for each in read_evidence(evidence) if each["kind"] == "delivered"]
        if by and n in failed:
            delivered[n] = by[0]
    if not delivered:
        return
    tries = int(command.is_attempt)
    db.run_each(
        "UPDATE deliveries SET state = 'sent', provider = ?, attempts = attempts + ?,"
        " updated_at = ? WHERE seq = ? AND n = ? AND state = 'sending'",
        [(provider, tries, now, command.seq, n) for n, provider in delivered.items()],
    )
    if len(delivered) == len(command.steps):  # otherwise the other steps count the attempt
        db.run("UPDATE messages SET attempts = attempts + ? WHERE seq = ?", (tries, command.seq))
    stream = finish(db, command.seq, len(delivered), now)
    sums.move(db, stream, State.SENDING, State.SENT, len(delivered))
    close_doubts(db, command.seq)
    facts = {
        "kind": "delivery event",
        "provider": next(iter(delivered.values())),
        "rule": "a delivery event came while it was on its way again: it had been accepted",
        "next": {str(n): State.SENT.value for n in delivered},
    }
    record(db, command.seq, now, "resolved", facts)


def settle_late(db: Rows, command: port.RecordOutcome, now: float) -> None:
    """Let the real outcome of an attempt that was given up settle its deliveries.

    An acceptance counts unless the delivery is final or sending again; a bounce only for a
    delivery whose latest attempt this is.
    """
    before = {
        n: State(state)
        for n, state in db.query("SELECT n, state FROM deliveries WHERE seq = ?", (command.seq,))
    }
    final = [step for step in command.steps if _is_settled_late(db, command, step, now)]
    if not final:
        return
    close_doubts(db, command.seq)
    facts = {
        "kind": "late outcome",
        "provider": command.provider,
        "next": {str(step.n): step.state.value for step in final},
        "rule": "the provider's answer came late, and counts",
    }
    stream = end(db, command.seq, len(final), now, "resolved", facts)
    for step in final:
        sums.move(db, stream, before[step.n], step.state)


def _is_settled_late(db: Rows, command: port.RecordOutcome, step: port.Step, now: float) -> bool:
    values = (step.state.value, command.provider, step.error, now, command.seq, step.n)
    sql = (
        "UPDATE deliveries SET state = ?, provider = ?, error = ?, updated_at = ?"
        " WHERE seq = ? AND n = ?"
    )
    if step.state is State.SENT:
        where = " AND state IN ('uncertain', 'held', 'ready', 'deferred', 'leased')"
        return bool(db.run(sql + where, values))
    if step.state is State.BOUNCED:
        where = " AND state IN ('uncertain', 'held') AND attempt_id = ?"
        return bool(db.run(sql + where, (*values, command.attempt_id)))
    return False


def set_next_at(db: Rows, seq: int, attempt_id: str, next_at: float, repeats: int = 0) -> bool:
    """Make a doubt due at a time, with at least so many repeats; return whether it exists."""
    return bool(
        db.run(
            "UPDATE doubts SET next_at = ?, repeats = CASE WHEN repeats < ? THEN ? ELSE repeats END"
            " WHERE seq = ? AND attempt_id = ?",
            (next_at, repeats, repeats, seq, attempt_id),
        )
    )


# What is due

PROVIDERS: Final = distinct("provider", "doubts")


def find_due_doubts(db: Rows, command: port.FindDueDoubts, now: float) -> port.Doubts:
    """Return the doubts that are due, by provider."""
    doubts: list[port.Doubt] = []
    later: list[float] = []
    for (provider,) in db.query(PROVIDERS):
        rows = db.query(
            "SELECT doubts.seq, attempt_id, provider, next_at FROM doubts"
            " WHERE provider = ? ORDER BY next_at, seq LIMIT ?",
            (provider, command.limit + 1),
        )
        due = [row for row in rows[: command.limit] if row[3] <= now]
        doubts += [_doubt(db, row[0], row[1]) for row in due]
        if len(due) < len(rows):
            later.append(rows[len(due)][3])
    return port.Doubts(tuple(doubts), min(later, default=None))


def _doubt(db: Rows, seq: int, attempt_id: str) -> port.Doubt:
    (row,) = db.query(
        f"SELECT id, stream, {WRITTEN_FOR}, attempts, accepted_at, expires_at, size_bytes,"
        " crash_count, progress, doubts.provider, doubts.recipients, began_at, since,"
        " ended_at, repeats, looks, failures, negatives, negative_at, answered_at"
        " FROM messages JOIN doubts USING (seq) WHERE seq = ? AND attempt_id = ?",
        (seq, attempt_id),
    )
    id_, stream, total, attempts, accepted_at, expires_at, size_bytes, crashes, packed = row[:9]
    provider, recipients_count, began_at, since, ended_at, repeats, *looks = row[9:]
    rows = db.query(
        "SELECT n, recipient, state, epoch, evidence FROM deliveries"
        " WHERE seq = ? AND attempt_id = ? AND state IN ('uncertain', 'held') ORDER BY n",
        (seq, attempt_id),
    )
    return port.Doubt(
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
        looks=port.LookUps(*looks),
        is_held=any(row[2] == State.HELD for row in rows),
        is_whole=len(rows) == recipients_count,
        is_sole=_is_sole(db, seq, provider, attempt_id, [row[0] for row in rows]),
        is_suppressed=any(is_suppressed(db, row[1]) for row in rows),
        evidence=_reported(rows, provider),
        crashes=crashes,
        progress=unpack_progress(packed),
    )


def _is_sole(db: Rows, seq: int, provider: str, attempt_id: str, ns: list[int]) -> bool:
    # All attempts of a message carry the same marker, whichever recipients they are for.
    for kind, text in db.query(
        "SELECT kind, facts FROM events WHERE message_seq = ?"
        " AND kind IN ('attempt', 'uncertain', 'evidence')",
        (seq,),
    ):
        facts = msgspec.json.decode(text)
        if facts.get("provider") != provider or facts.get("attempt_id") == attempt_id:
            continue
        outcome = facts.get("outcome")
        if outcome == "accepted":
            return False
        if outcome == "uncertain" and any(
            facts.get("next", {}).get(str(n)) != "uncertain" for n in ns
        ):
            return False
        if kind == "uncertain" and not _was_for(db, facts["attempt_id"], ns):
            return False
    return True


def _was_for(db: Rows, attempt_id: str, ns: list[int]) -> bool:
    known = db.value("SELECT ns FROM attempts WHERE id = ?", (attempt_id,))
    return known is not None and set(msgspec.json.decode(known)) >= set(ns)


def _reported(rows: list[Row], provider: str) -> tuple[tuple[int, str], ...]:
    # An event that came while the delivery was sending again is still in its column.
    reported: list[tuple[int, str]] = []
    for n, _, _, _, evidence in rows:
        known = [(each["kind"], each["provider"]) for each in read_evidence(evidence)]
        if any(kind == "delivered" for kind, _ in known):
            reported.append((n, "delivered"))
        elif ("bounced", provider) in known:
            reported.append((n, "bounced"))
    return tuple(reported)


def read_evidence(evidence: str) -> list[dict[str, Any]]:
    """Return the delivery events in a delivery's `evidence`."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(evidence, type=list[dict[str, Any]])
    return []
