"""The usual way of a delivery: claim, intend, record the outcome; or release.

Every change of a delivery's state is a conditional UPDATE that names the states it may come from,
so that a transition that `lifecycle.NEXT` does not have cannot happen, in whatever order commands
come. The epoch of its lease names a delivery's owner.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import FINAL, NEXT, IllegalTransitionError, State, check_transition
from mailactors.spool import port
from mailactors.spool.store import sums
from mailactors.spool.store.doubts import settle_by_event, settle_late, update_doubt
from mailactors.spool.store.events import (
    ENDED_BADLY,
    WRITTEN_FOR,
    end,
    open_attempt,
    pack_progress,
    read_content,
    record,
    report_failure,
    to_json,
    unpack_progress,
)
from mailactors.spool.store.rows import Row, Rows
from mailactors.spool.store.suppressions import suppress_bounced, withdraw_suppressed

RECOVERED: Final = "unknown"
"""The outcome of an attempt that `Recover` closed; the real one may still come, late."""


def _comes_from(target: State) -> tuple[str, str]:
    # A kept lease, for the next lane, is no transition. Without an intent nothing was accepted.
    owned = (State.SENDING,) if target is State.SENT else (State.LEASED, State.SENDING)
    found = [state.value for state in owned if state is target or target in NEXT[state]]
    return (found[0], found[-1]) if target is not State.SENDING and found else ("", "")


_COMES_FROM: Final = {target: _comes_from(target) for target in State}
"""The states that an outcome may move a delivery from, as two values of one statement."""

_WITH_DUE_AT: Final = frozenset({State.READY, State.DEFERRED, State.UNCERTAIN})
"""A step to any other state does not change `due_at`: a kept lease keeps its place."""


class _Due(msgspec.Struct):
    """A message with a delivery due since `due_at`; `message` is the rest of a row of `_DUE`."""

    due_at: float
    message: Sequence[Any]
    recipients: list[tuple[int, str]]
    deferred_count: int = 0


_DUE: Final = (
    "SELECT due_at, seq, n, recipient, state,"
    f" id, {WRITTEN_FOR}, messages.attempts, progress, accepted_at,"
    " expires_at, size_bytes, crash_count, sender"
    " FROM deliveries JOIN messages USING (seq)"
    " WHERE deliveries.stream = ? AND state IN ('ready', 'deferred')"
    " ORDER BY due_at, seq, n"
)


def claim(db: Rows, command: port.Claim, now: float) -> port.Claimed:
    """Lease up to `limit` messages of a stream with deliveries that are due."""
    due, next_due_at = _due(db, command, now)
    if not due:
        return port.Claimed((), next_due_at)
    epoch = db.dialect.next_epoch()
    # One UPDATE a row: to update by a query SQLite opens a temporary table, at ten times the cost.
    db.run_each(
        "UPDATE deliveries SET state = 'leased', epoch = ?, node = ?, updated_at = ?"
        " WHERE seq = ? AND n = ?",
        [
            (epoch, command.node, now, seq, n)
            for seq, found in due.items()
            for n, _ in found.recipients
        ],
    )
    deferred_count = sum(found.deferred_count for found in due.values())
    sums.move(db, command.stream, State.DEFERRED, State.LEASED, deferred_count)
    leases = (_lease(seq, found, command.stream, epoch) for seq, found in due.items())
    return port.Claimed(tuple(leases), next_due_at)


def _due(db: Rows, command: port.Claim, now: float) -> tuple[dict[int, _Due], float | None]:
    # Reads along the index no further than it must: a long backlog costs nothing.
    due: dict[int, _Due] = {}
    with contextlib.closing(db.each(_DUE + db.dialect.skip_locked, (command.stream,))) as rows:
        for due_at, seq, n, recipient, state, *message in rows:
            if due_at > now:
                return due, due_at
            if seq not in due:
                if len(due) == command.limit:
                    break
                due[seq] = _Due(due_at, message, [])
            due[seq].recipients.append((n, recipient))
            due[seq].deferred_count += state == "deferred"
        else:
            return due, None
    _read_recipients(db, due, now)
    return due, due_at


def _read_recipients(db: Rows, due: dict[int, _Due], now: float) -> None:
    # The limit ends between messages; the last ones may have due deliveries further on.
    for found in due.values():
        found.recipients.clear()
        found.deferred_count = 0
    for seq, n, recipient, state in db.query(
        f"SELECT seq, n, recipient, state FROM deliveries WHERE seq {db.dialect.among}"
        " AND state IN ('ready', 'deferred') AND due_at <= ?",
        (db.dialect.listed(list(due)), now),
    ):
        due[seq].recipients.append((n, recipient))
        due[seq].deferred_count += state == "deferred"


def _lease(seq: int, found: _Due, stream: str, epoch: int) -> port.Lease:
    id_, total, attempts, packed, *rest = found.message  # in the order of the struct's fields
    recipients, progress = tuple(sorted(found.recipients)), unpack_progress(packed)
    head = (seq, id_, stream, recipients, total, epoch, attempts, progress, found.due_at)
    return port.Lease(*head, *rest)


def release(db: Rows, command: port.Release, now: float) -> port.Recorded:
    """Make leased deliveries ready again, or end them with an error."""
    state = State.FAILED if command.error else State.READY
    count = _end_leases(db, command, (state.value, command.due_at, command.error or None, now))
    if count and command.error:
        facts = {"error": command.error, "ns": command.ns}
        stream = end(db, command.seq, count, now, "failed", facts)
        sums.move(db, stream, State.LEASED, state, count)
    return port.Recorded(is_stale=count == 0)


def _end_leases(db: Rows, command: port.Release | port.Intend, moved: Row) -> int:
    # `moved`: the new state, due_at, error (None: as they were), and now.
    return db.run_each(
        "UPDATE deliveries SET state = ?, due_at = coalesce(?, due_at),"
        " error = coalesce(?, error), updated_at = ?"
        " WHERE seq = ? AND n = ? AND epoch = ? AND state = 'leased'",
        [(*moved, command.seq, n, command.epoch) for n in command.ns],
    )


def intend(db: Rows, command: port.Intend, now: float) -> port.Intended | port.Withdrawn:
    """Record the intent to send what is still leased under this epoch, in time."""
    content = read_content(db, command.seq)
    if content is None:
        return port.Withdrawn()
    message_id, date_s, sender, digest, expires_at, packed = content
    owned = db.query(
        "SELECT n, recipient, node, state, attempt_id FROM deliveries"
        " WHERE seq = ? AND epoch = ? AND state IN ('leased', 'sending') ORDER BY n",
        (command.seq, command.epoch),
    )
    # Some are sending with this attempt only if the command was applied before.
    chosen = [row for row in owned if row[4] == command.attempt_id and row[3] == State.SENDING]
    if not chosen:
        chosen = [row for row in owned if row[0] in command.ns and row[3] == State.LEASED]
        if not chosen:
            return port.Withdrawn()
        if expires_at <= now:
            count = _end_leases(db, command, (State.EXPIRED.value, None, None, now))
            facts = {"rule": "deadline at the intent"}
            stream = end(db, command.seq, count, now, "expired", facts)
            sums.move(db, stream, State.LEASED, State.EXPIRED, count)
            return port.Withdrawn()
        chosen = withdraw_suppressed(db, command.seq, chosen, now)
        if not chosen or not open_attempt(db, command, chosen, digest, now):
            return port.Withdrawn()
        moved = (command.provider, command.attempt_id, now)
        db.run_each(
            "UPDATE deliveries SET state = 'sending', provider = ?, attempt_id = ?, updated_at = ?"
            " WHERE seq = ? AND n = ? AND epoch = ? AND state = 'leased'",
            [(*moved, command.seq, row[0], command.epoch) for row in chosen],
        )
    recipients = tuple((row[0], row[1]) for row in chosen)
    return port.Intended(message_id, date_s, sender, recipients, packed)


def record_outcome(db: Rows, command: port.RecordOutcome, now: float) -> port.Recorded:
    """Record an outcome and the next steps, and close the attempt."""
    if not db.run(
        "UPDATE attempts SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL",
        (now, command.outcome, command.attempt_id),
    ):
        if (replay := _find_replay(db, command)) is not None:
            return replay
        _close_without_intent(db, command, now)
    settle_by_event(db, command, now)
    is_stale = not _take_steps(db, command, now) and bool(command.steps)
    if is_stale:
        db.run("UPDATE attempts SET is_late = 1 WHERE id = ?", (command.attempt_id,))
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
        update_doubt(db, command, now)
    if any(step.state in ENDED_BADLY for step in command.steps):
        report_failure(db, command.seq, now)
    return port.Recorded(is_stale)


def _find_replay(db: Rows, command: port.RecordOutcome) -> port.Recorded | None:
    rows = db.query("SELECT outcome, is_late FROM attempts WHERE id = ?", (command.attempt_id,))
    if not rows or rows[0][0] == RECOVERED:
        return None
    return port.Recorded(is_stale=bool(rows[0][1]))


def _close_without_intent(db: Rows, command: port.RecordOutcome, now: float) -> None:
    attempt = (command.attempt_id, command.seq, to_json([step.n for step in command.steps]))
    db.run(
        "INSERT INTO attempts (id, seq, ns, provider, digest, epoch, node, finished_at, outcome)"
        " VALUES (?, ?, ?, ?, '', ?, '', ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome",
        (*attempt, command.provider, command.epoch, now, command.outcome),
    )


def _take_steps(db: Rows, command: port.RecordOutcome, now: float) -> int:
    matched: list[State] = []
    final = 0
    tries = int(command.is_attempt)
    owner = (command.epoch, command.attempt_id)
    for step in command.steps:
        due_at = step.due_at if step.state in _WITH_DUE_AT else None
        moved = (step.state.value, due_at, step.error, command.provider, tries, now)
        if db.run(
            "UPDATE deliveries SET state = ?, due_at = coalesce(?, due_at), error = ?,"
            " provider = ?, attempts = attempts + ?, updated_at = ?"
            " WHERE seq = ? AND n = ? AND epoch = ?"
            " AND (state = 'leased' OR attempt_id = ?) AND state IN (?, ?)",
            (*moved, command.seq, step.n, *owner, *_COMES_FROM[step.state]),
        ):
            matched.append(step.state)
            final += step.state in FINAL
            suppress_bounced(db, command.seq, step, now)
        else:
            _check_stale(db, command, step)
    if matched:
        progress = None if command.is_repeat else pack_progress(command.progress)
        db.run(
            "UPDATE messages SET open_count = open_count - ?,"
            " final_at = CASE WHEN open_count = ? THEN ? END, attempts = attempts + ?,"
            " crash_count = CASE WHEN ? > 0 THEN 0 ELSE crash_count END,"
            " progress = coalesce(?, progress) WHERE seq = ?",
            (final, final, now, tries, tries, progress, command.seq),
        )
        _count_moves(db, command, matched)
    return len(matched)


def _count_moves(db: Rows, command: port.RecordOutcome, states: list[State]) -> None:
    gone = [state for state in states if state not in sums.IN_MOTION]
    if gone:
        stream = command.stream  # `UPDATE … RETURNING` would cost 6 µs a message
        if not stream:
            stream = db.value("SELECT stream FROM messages WHERE seq = ?", (command.seq,))
        for state in gone:
            sums.move(db, stream, State.SENDING, state)


def _check_stale(db: Rows, command: port.RecordOutcome, step: port.Step) -> None:
    # A step of the present owner that `lifecycle.NEXT` does not have is a bug, not an old epoch.
    for (state,) in db.query(
        "SELECT state FROM deliveries WHERE seq = ? AND n = ? AND epoch = ?"
        " AND (state = 'leased' OR state = 'sending' AND attempt_id = ?)",
        (command.seq, step.n, command.epoch, command.attempt_id),
    ):
        check_transition(State(state), step.state)
        if step.state is State.SENT:  # from leased: only evidence of another attempt leads there
            raise IllegalTransitionError("a delivery cannot be sent without an intent")
