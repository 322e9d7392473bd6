"""How uncertain deliveries are settled: by evidence, by preference, by hand.

Each UPDATE names the states that it may come from, as in `store.deliver`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mailactors.model.lifecycle import FINAL, NEXT, State
from mailactors.spool import port
from mailactors.spool.store import sums
from mailactors.spool.store.doubts import close_doubts, read_evidence, set_next_at
from mailactors.spool.store.events import (
    end,
    finish,
    open_attempt,
    pack_progress,
    read_content,
    record,
    report_failure,
    to_json,
    unpack_progress,
)
from mailactors.spool.store.rows import Row, Rows
from mailactors.spool.store.suppressions import is_suppressed, normalize, suppress_bounced

EVIDENCE_MAX: Final = 20
"""Delivery events kept of one delivery: a vendor may report many."""
_IN_DOUBT: Final = (State.UNCERTAIN, State.HELD)


# By evidence and preference


def settle_doubt(db: Rows, command: port.SettleDoubt, now: float) -> port.Recorded:
    """Record what was learnt of uncertain or held deliveries, and their next states."""
    rows = db.query(
        "SELECT n, state, attempt_id, provider, stream FROM deliveries"
        " WHERE seq = ? AND state IN ('uncertain', 'held') AND (? = '' OR attempt_id = ?)",
        (command.seq, command.attempt_id, command.attempt_id),
    )
    found = {n: (State(state), attempt_id, provider) for n, state, attempt_id, provider, _ in rows}
    moved = [
        (step, *found[step.n])
        for step in command.steps
        if step.n in found and step.state in {found[step.n][0], *NEXT[found[step.n][0]]}
    ]
    if not moved:
        return port.Recorded(is_stale=True)
    for step, *_ in moved:
        db.run(
            "UPDATE deliveries SET state = ?, due_at = ?, error = coalesce(?, error),"
            " updated_at = ? WHERE seq = ? AND n = ? AND state IN ('uncertain', 'held')",
            (step.state.value, step.due_at, step.error or None, now, command.seq, step.n),
        )
        suppress_bounced(db, command.seq, step, now)
    for step, before, *_ in moved:
        sums.move(db, rows[0][4], before, step.state)
    for attempt_id in dict.fromkeys(attempt_id for *_, attempt_id, _ in moved):
        _update_doubt(db, command, attempt_id)
    final = sum(step.state in FINAL for step, *_ in moved)
    if final:
        finish(db, command.seq, final, now)
    stream = _resend(db, command, moved)
    close_doubts(db, command.seq)
    if command.rule:
        is_open = all(step.state is before for step, before, *_ in moved)
        facts = {**command.facts, "rule": command.rule}
        record(db, command.seq, now, "asked" if is_open else "resolved", facts)
    if final:
        report_failure(db, command.seq, now)
    return port.Recorded(stream=stream)


def _update_doubt(db: Rows, command: port.SettleDoubt, attempt_id: str) -> None:
    times = [step.due_at for step in command.steps if step.state in _IN_DOUBT]
    if command.next_at is not None or times:
        next_at = min(times) if command.next_at is None else command.next_at
        set_next_at(db, command.seq, attempt_id, next_at)
    if command.looks is not None:
        db.run(
            "UPDATE doubts SET looks = ?, failures = ?, negatives = ?, negative_at = ?,"
            " answered_at = ? WHERE seq = ? AND attempt_id = ?",
            (*msgspec.structs.astuple(command.looks), command.seq, attempt_id),
        )


def _resend(db: Rows, command: port.SettleDoubt, moved: list[tuple[Any, ...]]) -> str:
    """Update a message with deliveries that are ready again; return its stream, or ""."""
    again = [row for row in moved if row[0].state in {State.READY, State.DEFERRED}]
    if not again:
        return ""
    rows = db.query("SELECT stream, progress FROM messages WHERE seq = ?", (command.seq,))
    ((stream, packed),) = rows
    progress = command.progress
    if progress is None:
        # The providers of the uncertain attempts are tried again after all others.
        tried = tuple(dict.fromkeys(provider for *_, provider in again))
        progress = msgspec.structs.replace(unpack_progress(packed), tried=tried)
    db.run(
        "UPDATE messages SET declared_risks = declared_risks + ?, progress = ? WHERE seq = ?",
        (len(again) if command.is_risk else 0, pack_progress(progress), command.seq),
    )
    if command.is_risk:
        sums.add(db, stream, sums.DECLARED_RISKS, len(again))
        db.run_each(
            "INSERT INTO risks (stream, provider, count) VALUES (?, ?, 1)"
            " ON CONFLICT (stream, provider) DO UPDATE SET count = risks.count + 1",
            [(stream, provider) for *_, provider in again],
        )
    return str(stream)


def postpone(db: Rows, command: port.Postpone, _now: float) -> port.Recorded:
    """Make a doubt due at another time."""
    done = [
        set_next_at(db, command.seq, attempt_id, command.next_at, command.repeats)
        for attempt_id in command.attempt_ids
    ]
    return port.Recorded(is_stale=not any(done))


# By key


def intend_again(db: Rows, command: port.IntendAgain, now: float) -> port.Intended | port.Withdrawn:
    """Record the intent to repeat an attempt by its key, if nothing has changed since."""
    # Under its own id already if the command was applied before.
    doubts = db.query(
        "SELECT attempt_id, digest, recipients FROM doubts"
        " WHERE seq = ? AND attempt_id IN (?, ?) ORDER BY attempt_id = ?",
        (command.seq, command.attempt_id, command.repeat_of, command.repeat_of),
    )
    content = read_content(db, command.seq)
    if not doubts or content is None:
        return port.Withdrawn()
    message_id, date_s, sender, digest, expires_at, packed = content
    attempt_id, first_digest, count = doubts[0]
    is_replay = attempt_id == command.attempt_id
    chosen = db.query(
        "SELECT n, recipient, node, stream FROM deliveries"
        " WHERE seq = ? AND attempt_id = ? AND epoch = ? AND state = ? ORDER BY n",
        (command.seq, attempt_id, command.epoch, "sending" if is_replay else "uncertain"),
    )
    if not chosen:
        return port.Withdrawn()
    if not is_replay:
        is_same = digest == first_digest and len(chosen) == count
        if not is_same or now >= min(expires_at, command.not_after):
            return port.Withdrawn()
        if any(is_suppressed(db, row[1]) for row in chosen):
            return port.Withdrawn()
        if not _open_repeat(db, command, chosen, digest, now):
            return port.Withdrawn()
    recipients = tuple((row[0], row[1]) for row in chosen)
    return port.Intended(message_id, date_s, sender, recipients, packed)


def _open_repeat(
    db: Rows, command: port.IntendAgain, chosen: list[Row], digest: str, now: float
) -> bool:
    if not open_attempt(db, command, chosen, digest, now):
        return False
    count = db.run(
        "UPDATE deliveries SET state = 'sending', attempt_id = ?, updated_at = ?"
        " WHERE seq = ? AND attempt_id = ? AND epoch = ? AND state = 'uncertain'",
        (command.attempt_id, now, command.seq, command.repeat_of, command.epoch),
    )
    sums.move(db, chosen[0][3], State.UNCERTAIN, State.SENDING, count)
    # Not due while it is sending.
    db.run(
        "UPDATE doubts SET attempt_id = ?, next_at = ? WHERE seq = ? AND attempt_id = ?",
        (command.attempt_id, port.NEVER_AT, command.seq, command.repeat_of),
    )
    return True


# By events


def record_delivery_event(db: Rows, command: port.RecordDeliveryEvent, now: float) -> port.Recorded:
    """Record a delivery event; the same event again changes nothing."""
    seq = db.value("SELECT seq FROM messages WHERE id = ?", (command.marker,))
    if seq is None or not _had_attempt(db, seq, command.provider):
        return port.Recorded(is_stale=True)
    address = normalize(command.recipient)
    is_news, settled = False, []
    for n, recipient, state, provider, evidence, stream in db.query(
        "SELECT n, recipient, state, provider, evidence, stream FROM deliveries"
        " WHERE seq = ? ORDER BY n",
        (seq,),
    ):
        if normalize(recipient) != address:
            continue
        kept = _with_evidence(evidence, command)
        after = _after_event(State(state), command.kind, command.provider == provider)
        if kept is None and after is None:
            continue
        is_news = True
        changes: tuple[Any, ...] = (None, None, None)
        if after is not None:
            settled.append((n, after))
            sums.move(db, stream, State(state), after)
            changes = (after.value, command.provider, now)
        db.run(
            "UPDATE deliveries SET evidence = coalesce(?, evidence), state = coalesce(?, state),"
            " provider = coalesce(?, provider), updated_at = coalesce(?, updated_at)"
            " WHERE seq = ? AND n = ?",
            (kept, *changes, seq, n),
        )
    if not is_news:
        return port.Recorded(is_stale=True)
    facts = {"kind": "delivery event", "provider": command.provider, "event": command.kind}
    if not settled:
        rule = "a delivery event, kept as evidence"
        record(db, seq, now, "evidence", {**facts, "rule": rule, "reported_at": command.at})
        return port.Recorded(is_stale=True)
    close_doubts(db, seq)
    states = {str(n): state.value for n, state in settled}
    rule = f"a delivery event: {command.kind}, so it had been accepted"
    end(db, seq, len(settled), now, "resolved", {**facts, "rule": rule, "next": states})
    return port.Recorded()


def _had_attempt(db: Rows, seq: int, provider: str) -> bool:
    if db.query("SELECT 1 FROM deliveries WHERE seq = ? AND provider = ?", (seq, provider)):
        return True
    return any(
        msgspec.json.decode(facts).get("provider") == provider
        for (facts,) in db.query(
            "SELECT facts FROM events WHERE message_seq = ? AND kind <> 'evidence'", (seq,)
        )
    )


def _with_evidence(evidence: str, command: port.RecordDeliveryEvent) -> str | None:
    """Return the evidence with the event, or None if it has it already or is full."""
    known = read_evidence(evidence)
    if len(known) >= EVIDENCE_MAX:
        return None
    if any((each["kind"], each["provider"]) == (command.kind, command.provider) for each in known):
        return None
    new = {"kind": command.kind, "provider": command.provider, "at": command.at}
    return to_json([*known, new])


def _after_event(state: State, kind: str, is_last_provider: bool) -> State | None:
    """Return a delivery's state after an event, None if the event does not change it."""
    if kind == "delivered":
        is_open = state not in FINAL and state is not State.SENDING
        return State.SENT if is_open else None
    return State.BOUNCED if state in _IN_DOUBT and is_last_provider else None


# By hand


def settle_by_hand(db: Rows, command: port.SettleByHand, now: float) -> port.SettledByHand:
    """Settle a message's uncertain and held deliveries by hand."""
    rows = db.query("SELECT seq, expires_at FROM messages WHERE id = ?", (command.id,))
    if not rows:
        return port.SettledByHand(is_known=False)
    ((seq, expires_at),) = rows
    deliveries = db.query(
        "SELECT n, state, provider FROM deliveries WHERE seq = ? ORDER BY n", (seq,)
    )
    chosen = [(n, provider) for n, state, provider in deliveries if state in _IN_DOUBT]
    left = tuple(n for n, state, _ in deliveries if state not in _IN_DOUBT)
    if not chosen:
        why = "nothing of the message is uncertain or held"
        return port.SettledByHand(True, left=left, why=why)
    if command.into == "resend" and expires_at <= now:
        why = "the message is past its deadline: settle it as failed, then retry it"
        return port.SettledByHand(True, left=tuple(n for n, *_ in deliveries), why=why)
    after = {"sent": State.SENT, "resend": State.READY, "failed": State.FAILED}[command.into]
    error = "settled by hand as failed" if after is State.FAILED else ""
    steps = tuple(port.Step(n, after, now, error) for n, _ in chosen)
    facts = {
        "kind": "by hand",
        "provider": chosen[0][1],
        "providers": {str(n): provider for n, provider in chosen},
        "note": command.note,
        "next": {str(n): after.value for n, _ in chosen},
    }
    rule = f"by hand: as {command.into}"
    is_risk = after is State.READY
    settled = settle_doubt(db, port.SettleDoubt(seq, steps, None, rule, facts, is_risk), now)
    return port.SettledByHand(True, tuple(n for n, _ in chosen), left, stream=settled.stream)
