"""The common way of a message through an SQLite spool: claim, intend, settle; release.

Every change of a delivery's state is a conditional UPDATE that names the states it may come from,
so that what `lifecycle.NEXT` does not have cannot happen, whatever order the commands come in.
A delivery's owner is named by its lease's epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from mailactors.model.lifecycle import (
    FINAL,
    NEXT,
    IllegalTransitionError,
    State,
    check_transition,
)
from mailactors.spool.port import (
    Claim,
    Claimed,
    Intend,
    Intended,
    Lease,
    Recorded,
    RecordOutcome,
    Release,
    Step,
    Withdrawn,
)
from mailactors.spool.sqlite_doubts import note_outcome, settle_late, settle_told
from mailactors.spool.sqlite_rows import (
    ENDED_BADLY,
    execute_each,
    fetch,
    finish,
    pack_progress,
    record,
    report_failure,
    to_json,
    unpack_progress,
)
from mailactors.spool.sqlite_suppressions import suppress_bounced, withdraw_suppressed

RECOVERED: Final = "unknown"
"""The outcome of an attempt that `Recover` closed; a real outcome may still come, late."""


def _settled_from(target: State) -> tuple[str, str]:
    # To stay leased, for the next lane, is no transition. Without an intent nothing was accepted.
    owned = (State.SENDING,) if target is State.SENT else (State.LEASED, State.SENDING)
    found = [state.value for state in owned if state is target or target in NEXT[state]]
    return (found[0], found[-1]) if target is not State.SENDING and found else ("", "")


_SETTLED_FROM: Final = {target: _settled_from(target) for target in State}
"""Where a delivery may be when an outcome moves it on: two bindings of one statement."""

_WITH_DUE_AT: Final = frozenset({State.READY, State.DEFERRED, State.UNCERTAIN})
"""A step to any other state leaves the time as it was: a kept lease keeps its place."""


class _Due(msgspec.Struct):
    """A message of which something is due since `due_at`; `message` is a row of `_DUE`'s rest."""

    due_at: float
    message: Sequence[Any]
    recipients: list[tuple[int, str]]


_DUE: Final = (
    "SELECT due_at, seq, n, recipient,"
    " id, max(recipients_total, envelope_total), messages.attempts, progress, accepted_at,"
    " expires_at, size_bytes, crash_count"
    " FROM deliveries CROSS JOIN messages USING (seq)"
    " WHERE deliveries.stream = ? AND state IN ('ready', 'deferred')"
    " ORDER BY due_at, seq, n"
)


def claim(db: apsw.Connection, command: Claim, now: float) -> Claimed:
    """Lease up to `limit` messages of a stream with deliveries that are due."""
    due, next_due_at = _due(db, command, now)
    if not due:
        return Claimed((), next_due_at)
    ((epoch,),) = fetch(db, "UPDATE spool SET epoch = epoch + 1 RETURNING epoch")
    # By their whole keys: to update by a query SQLite opens a temporary table, at ten times the
    # price of one row.
    db.executemany(
        "UPDATE deliveries SET state = 'leased', epoch = ?, node = ?, updated_at = ?"
        " WHERE seq = ? AND n = ?",
        [
            (epoch, command.node, now, seq, n)
            for seq, found in due.items()
            for n, _ in found.recipients
        ],
    )
    leases = (_lease(seq, found, command.stream, epoch) for seq, found in due.items())
    return Claimed(tuple(leases), next_due_at)


def _due(db: apsw.Connection, command: Claim, now: float) -> tuple[dict[int, _Due], float | None]:
    # Reads along the index no further than it must: a long backlog costs nothing.
    due: dict[int, _Due] = {}
    with contextlib.closing(db.execute(_DUE, (command.stream,))) as cursor:
        for due_at, seq, n, recipient, *message in cursor:
            if due_at > now:
                return due, due_at
            if seq not in due:
                if len(due) == command.limit:
                    break
                due[seq] = _Due(due_at, message, [])
            due[seq].recipients.append((n, recipient))
        else:
            return due, None
    _read_recipients(db, due, now)
    return due, due_at


def _read_recipients(db: apsw.Connection, due: dict[int, _Due], now: float) -> None:
    # A limit cuts between messages: what is due of the chosen ones beyond it goes along.
    for found in due.values():
        found.recipients.clear()
    for seq, n, recipient in db.execute(
        "SELECT seq, n, recipient FROM deliveries WHERE seq IN (SELECT value FROM json_each(?))"
        " AND state IN ('ready', 'deferred') AND due_at <= ?",
        (to_json(list(due)), now),
    ):
        due[seq].recipients.append((n, recipient))


def _lease(seq: int, found: _Due, stream: str, epoch: int) -> Lease:
    id_, total, attempts, progress, accepted_at, expires_at, size_bytes, crashes = found.message
    return Lease(
        seq=seq,
        id=id_,
        stream=stream,
        recipients=tuple(sorted(found.recipients)),
        recipients_total=total,
        epoch=epoch,
        attempts=attempts,
        progress=unpack_progress(progress),
        due_at=found.due_at,
        accepted_at=accepted_at,
        expires_at=expires_at,
        size_bytes=size_bytes,
        crashes=crashes,
    )


def release(db: apsw.Connection, command: Release, now: float) -> Recorded:
    """Give leased deliveries back, or end them with an error."""
    state = State.FAILED if command.error else State.READY
    count = execute_each(
        db,
        "UPDATE deliveries SET state = ?1, due_at = ?2, error = iif(?3 = '', error, ?3),"
        " updated_at = ?4 WHERE seq = ?5 AND n = ?6 AND epoch = ?7 AND state = 'leased'",
        [
            (state.value, command.due_at, command.error, now, command.seq, n, command.epoch)
            for n in command.ns
        ],
    )
    if count and command.error:
        finish(db, command.seq, count, now)
        record(db, command.seq, now, "failed", {"error": command.error, "ns": command.ns})
        report_failure(db, command.seq, now)
    return Recorded(is_stale=count == 0)


def intend(db: apsw.Connection, command: Intend, now: float) -> Intended | Withdrawn:
    """Record the intent to send what is still leased under this epoch, in time."""
    rows = fetch(
        db,
        "SELECT message_id, date_s, sender, digest, expires_at, packed"
        " FROM messages JOIN contents USING (seq) WHERE seq = ?",
        (command.seq,),
    )
    if not rows:
        return Withdrawn()
    ((message_id, date_s, sender, digest, expires_at, packed),) = rows
    owned = fetch(
        db,
        "SELECT n, recipient, node, state, attempt_id FROM deliveries"
        " WHERE seq = ? AND epoch = ? AND state IN ('leased', 'sending') ORDER BY n",
        (command.seq, command.epoch),
    )
    # Some are sending with this very attempt only if the command was applied before.
    chosen = [row for row in owned if row[4] == command.attempt_id and row[3] == State.SENDING]
    if not chosen:
        chosen = [row for row in owned if row[0] in command.ns and row[3] == State.LEASED]
        if not chosen:
            return Withdrawn()
        if expires_at <= now:
            _expire_leased(db, command, now)
            return Withdrawn()
        chosen = withdraw_suppressed(db, command.seq, chosen, now)
        if not chosen or not _open_attempt(db, command, chosen, digest, now):
            return Withdrawn()
        moved = (command.provider, command.attempt_id, now)
        db.executemany(
            "UPDATE deliveries SET state = 'sending', provider = ?, attempt_id = ?, updated_at = ?"
            " WHERE seq = ? AND n = ? AND epoch = ? AND state = 'leased'",
            [(*moved, command.seq, row[0], command.epoch) for row in chosen],
        )
    recipients = tuple((row[0], row[1]) for row in chosen)
    return Intended(message_id, date_s, sender, recipients, packed)


def _open_attempt(
    db: apsw.Connection, command: Intend, chosen: list[tuple[Any, ...]], digest: str, now: float
) -> bool:
    # False if it was settled already: an intent that comes after its own outcome is void.
    db.execute(
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
    return bool(db.changes())


def _expire_leased(db: apsw.Connection, command: Intend, now: float) -> None:
    count = execute_each(
        db,
        "UPDATE deliveries SET state = 'expired', updated_at = ?"
        " WHERE seq = ? AND n = ? AND epoch = ? AND state = 'leased'",
        [(now, command.seq, n, command.epoch) for n in command.ns],
    )
    if count:
        finish(db, command.seq, count, now)
        record(db, command.seq, now, "expired", {"rule": "deadline at the intent"})
        report_failure(db, command.seq, now)


def settle(db: apsw.Connection, command: RecordOutcome, now: float) -> Recorded:
    """Record an outcome and the next step, closing the attempt."""
    db.execute(
        "UPDATE attempts SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL",
        (now, command.outcome, command.attempt_id),
    )
    if not db.changes():
        replay = _settled_before(db, command)
        if replay is not None:
            return replay
        _close_without_intent(db, command, now)
    settle_told(db, command, now)
    is_stale = not _settle_steps(db, command, now) and bool(command.steps)
    if is_stale:
        db.execute("UPDATE attempts SET is_late = 1 WHERE id = ?", (command.attempt_id,))
    facts = {
        **command.facts,
        "provider": command.provider,
        "outcome": command.outcome,
        "attempt_id": command.attempt_id,
    }
    record(db, command.seq, now, "evidence" if is_stale else "attempt", facts)
    if is_stale:
        settle_late(db, command, now)
    elif command.is_repeat or any(step.state is State.UNCERTAIN for step in command.steps):
        note_outcome(db, command, now)
    if any(step.state in ENDED_BADLY for step in command.steps):
        report_failure(db, command.seq, now)
    return Recorded(is_stale)


def _settled_before(db: apsw.Connection, command: RecordOutcome) -> Recorded | None:
    rows = fetch(db, "SELECT outcome, is_late FROM attempts WHERE id = ?", (command.attempt_id,))
    if not rows or rows[0][0] == RECOVERED:
        return None
    return Recorded(is_stale=bool(rows[0][1]))


def _close_without_intent(db: apsw.Connection, command: RecordOutcome, now: float) -> None:
    db.execute(
        "INSERT INTO attempts (id, seq, ns, provider, digest, epoch, node, finished_at, outcome)"
        " VALUES (?, ?, ?, ?, '', ?, '', ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome",
        (
            command.attempt_id,
            command.seq,
            to_json([step.n for step in command.steps]),
            command.provider,
            command.epoch,
            now,
            command.outcome,
        ),
    )


def _settle_steps(db: apsw.Connection, command: RecordOutcome, now: float) -> int:
    matched = final = 0
    tries = int(command.is_attempt)
    owner = (command.epoch, command.attempt_id)
    for step in command.steps:
        due_at = step.due_at if step.state in _WITH_DUE_AT else None
        moved = (step.state.value, due_at, step.error, command.provider, tries, now)
        db.execute(
            "UPDATE deliveries SET state = ?, due_at = ifnull(?, due_at), error = ?, provider = ?,"
            " attempts = attempts + ?, updated_at = ? WHERE seq = ? AND n = ? AND epoch = ?"
            " AND (state = 'leased' OR attempt_id = ?) AND state IN (?, ?)",
            (*moved, command.seq, step.n, *owner, *_SETTLED_FROM[step.state]),
        )
        if db.changes():
            matched += 1
            final += step.state in FINAL
            suppress_bounced(db, command.seq, step, now)
        else:
            _check_stale(db, command, step)
    if matched:
        db.execute(
            "UPDATE messages SET open_count = open_count - ?1,"
            " final_at = iif(open_count = ?1, ?2, NULL), attempts = attempts + ?3,"
            " crash_count = iif(?3, 0, crash_count), progress = ifnull(?4, progress)"
            " WHERE seq = ?5",
            (
                final,
                now,
                tries,
                None if command.is_repeat else pack_progress(command.progress),
                command.seq,
            ),
        )
    return matched


def _check_stale(db: apsw.Connection, command: RecordOutcome, step: Step) -> None:
    # A step of the present owner that the table does not have is a bug, not an old epoch.
    for (state,) in fetch(
        db,
        "SELECT state FROM deliveries WHERE seq = ? AND n = ? AND epoch = ?"
        " AND (state = 'leased' OR state = 'sending' AND attempt_id = ?)",
        (command.seq, step.n, command.epoch, command.attempt_id),
    ):
        check_transition(State(state), step.state)
        if step.state is State.SENT:  # from leased: only evidence of another attempt leads there
            raise IllegalTransitionError("a delivery cannot be sent without an intent")
