"""Rules for what leaves the usual way: deadlines, cancelling, crashes.

Each UPDATE names the states that it may come from, as in `store.deliver`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mailactors.model.lifecycle import State
from mailactors.spool import port
from mailactors.spool.store import sums
from mailactors.spool.store.clocks import AFTER_ALL, later_than
from mailactors.spool.store.deliver import RECOVERED
from mailactors.spool.store.doubts import open_doubt
from mailactors.spool.store.events import end, finish, record
from mailactors.spool.store.rows import Rows


def expire(db: Rows, command: port.Expire, now: float) -> port.Expired:
    """End what is past its deadline and neither sending nor uncertain."""
    rows = db.query(
        "SELECT seq, id, expires_at FROM messages WHERE open_count > 0 AND expires_at <= ?"
        " AND EXISTS (SELECT 1 FROM deliveries WHERE deliveries.seq = messages.seq"
        " AND state IN ('ready', 'deferred', 'leased')) ORDER BY expires_at, seq LIMIT ?",
        (now, command.limit + 1),
    )
    expired = rows[: command.limit]
    for seq, _, _ in expired:
        deferred_count = _count_deferred(db, seq)
        count = db.run(
            "UPDATE deliveries SET state = 'expired', updated_at = ?"
            " WHERE seq = ? AND state IN ('ready', 'deferred', 'leased')",
            (now, seq),
        )
        stream = end(db, seq, count, now, "expired", {"rule": "deadline"})
        _leave(db, stream, State.EXPIRED, count, deferred_count)
    if len(rows) > command.limit:
        next_expiry_at = rows[-1][2]
    else:
        # Uncertain and held deliveries past the deadline are settled, not expired.
        next_expiry_at = db.value(
            "SELECT min(expires_at) FROM messages WHERE open_count > 0 AND expires_at > ?", (now,)
        )
    seqs, ids = (tuple(row[place] for row in expired) for place in (0, 1))
    return port.Expired(seqs, ids, next_expiry_at)


def flush(db: Rows, command: port.Flush, now: float) -> port.Flushed:
    """Make a part of what waits for a later time due since the flush began."""
    place = command.after or (command.since, AFTER_ALL, 0)
    rows, after = later_than(db, command.stream, place, command.until, command.limit)
    chosen = [
        (seq, n)
        for _, seq, n, state, provider, _, scheduled_at in rows
        if now >= scheduled_at
        and command.provider in {"", provider}
        and not (command.is_recall and state == State.DEFERRED)
    ]
    db.run_each(
        "UPDATE deliveries SET due_at = ?, updated_at = ?"
        " WHERE seq = ? AND n = ? AND state IN ('ready', 'deferred')",
        [(command.since, now, seq, n) for seq, n in chosen],
    )
    if not command.is_recall:
        for seq in dict.fromkeys(seq for seq, _ in chosen):
            ns = [n for each, n in chosen if each == seq]
            record(db, seq, now, "flushed", {"rule": "by hand: due now", "ns": ns})
    return port.Flushed(len(chosen), after, command.stream if chosen else "")


def cancel(db: Rows, command: port.Cancel, now: float) -> port.Cancelled:
    """Cancel ready, deferred and leased deliveries; a second time the answer is the same."""
    seq = db.value("SELECT seq FROM messages WHERE id = ?", (command.id,))
    if seq is None:
        return port.Cancelled(is_known=False, cancelled_count=0, too_late_count=0)
    deferred_count = _count_deferred(db, seq)
    if count := db.run(
        "UPDATE deliveries SET state = 'cancelled', updated_at = ?"
        " WHERE seq = ? AND state IN ('ready', 'deferred', 'leased')",
        (now, seq),
    ):
        stream = finish(db, seq, count, now)
        _leave(db, stream, State.CANCELLED, count, deferred_count)
        record(db, seq, now, "cancelled", {})
    ((cancelled_count, total),) = db.query(
        "SELECT count(*) FILTER (WHERE state = 'cancelled'), count(*) FROM deliveries"
        " WHERE seq = ?",
        (seq,),
    )
    return port.Cancelled(True, cancelled_count, total - cancelled_count)


def _count_deferred(db: Rows, seq: int) -> int:
    return int(
        db.value("SELECT count(*) FROM deliveries WHERE seq = ? AND state = 'deferred'", (seq,))
    )


def _leave(db: Rows, stream: str, after: State, count: int, deferred_count: int) -> None:
    # Of ready, deferred and leased deliveries that ended together.
    sums.move(db, stream, State.DEFERRED, after, deferred_count)
    sums.move(db, stream, State.READY, after, count - deferred_count)


def recover(db: Rows, command: port.Recover, now: float) -> port.Recovered:
    """Make a dead owner's deliveries ready again, or uncertain if they may have been sent."""
    taken = db.query(
        "SELECT seq, n, state, attempt_id, provider, stream, epoch FROM deliveries"
        " WHERE state IN ('leased', 'sending') AND node = ? ORDER BY seq, n",
        (command.node,),
    )
    waits = command.uncertain_wait_s
    leased = [
        (now, seq, n)
        for seq, n, state, *_, epoch in taken
        if state == State.LEASED and (seq, epoch) not in command.leases
    ]
    sending = [
        (now + waits.get(stream, waits[""]), now, seq, n, attempt_id, provider, stream)
        for seq, n, state, attempt_id, provider, stream, _ in taken
        if state == State.SENDING and attempt_id not in command.in_flight
    ]
    db.run_each(
        "UPDATE deliveries SET state = 'ready', updated_at = ?"
        " WHERE seq = ? AND n = ? AND state = 'leased'",
        leased,
    )
    db.run_each(
        "UPDATE deliveries SET state = 'uncertain', due_at = ?, attempts = attempts + 1,"
        " updated_at = ? WHERE seq = ? AND n = ? AND state = 'sending'",
        [row[:4] for row in sending],
    )
    for *_, stream in sending:
        sums.move(db, stream, State.SENDING, State.UNCERTAIN)
    _fail_poison(db, command, dict.fromkeys(row[1] for row in leased), now)
    intents: dict[tuple[int, str, str], dict[int, float]] = {}
    for due_at, _, seq, n, attempt_id, provider, _ in sending:
        intents.setdefault((seq, attempt_id, provider), {})[n] = due_at
    for (seq, attempt_id, provider), due_ats in intents.items():
        _close_open_intent(db, seq, attempt_id, provider, due_ats, now)
    held = _hold_poison(db, command, dict.fromkeys(row[2] for row in sending), now)
    return port.Recovered(len(leased), len(sending), held)


def _fail_poison(db: Rows, command: port.Recover, released: Iterable[int], now: float) -> None:
    # Nothing of these was sent: a message that crashes its actor each time has failed.
    for seq in released:
        if seq not in command.blamed:
            continue
        count = db.value(
            "UPDATE messages SET crash_count = crash_count + 1 WHERE seq = ? RETURNING crash_count",
            (seq,),
        )
        if count < port.CRASHES_MAX:
            continue
        error = f"actors died on it {count} times"
        failed_count = db.run(
            "UPDATE deliveries SET state = 'failed', error = ?, updated_at = ?"
            " WHERE seq = ? AND state = 'ready'",
            (error, now, seq),
        )
        stream = end(db, seq, failed_count, now, "failed", {"error": error})
        sums.move(db, stream, State.READY, State.FAILED, failed_count)


def _hold_poison(
    db: Rows, command: port.Recover, lost: Iterable[int], now: float
) -> tuple[str, ...]:
    """Count a crash for the suspected messages; hold those that reach `CRASHES_MAX`.

    An actor crashes on the item that it handles. A process may die for any reason: then all
    messages in flight are suspected, and only one that was sent alone, without another that has
    `ALONE_FROM` crashes, may reach `CRASHES_MAX`.
    """
    counts = {
        seq: db.value("SELECT crash_count FROM messages WHERE seq = ?", (seq,))
        for seq in lost
        if command.died or seq in command.blamed
    }
    is_alone = sum(count >= port.ALONE_FROM for count in counts.values()) == 1
    held = []
    for seq, count in counts.items():
        is_sure = is_alone or seq in command.blamed
        after = count + 1 if is_sure else min(count + 1, port.ALONE_FROM)
        db.run("UPDATE messages SET crash_count = ? WHERE seq = ?", (after, seq))
        if after < port.CRASHES_MAX:
            continue
        held_count = db.run(
            "UPDATE deliveries SET state = 'held', error = ?, updated_at = ?"
            " WHERE seq = ? AND state = 'uncertain'",
            (f"uncertain, and its sender died {after} times", now, seq),
        )
        facts = {"kind": "crashes", "crashes": after, "rule": "poison: held, it may have gone out"}
        record(db, seq, now, "resolved", facts)
        ((id_, stream),) = db.query("SELECT id, stream FROM messages WHERE seq = ?", (seq,))
        sums.move(db, stream, State.UNCERTAIN, State.HELD, held_count)
        held.append(id_)
    return tuple(held)


def count_crash(db: Rows, command: port.CountCrash, _now: float) -> port.Recorded:
    """Record that an actor crashed on a message."""
    db.run(
        "UPDATE messages SET crash_count = ? WHERE seq = ? AND crash_count < ?",
        (command.crashes, command.seq, command.crashes),
    )
    return port.Recorded()


def _close_open_intent(
    db: Rows, seq: int, attempt_id: str, provider: str, due_ats: Mapping[int, float], now: float
) -> None:
    db.run(
        "UPDATE attempts SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL",
        (now, RECOVERED, attempt_id),
    )
    db.run("UPDATE messages SET attempts = attempts + 1 WHERE seq = ?", (seq,))
    open_doubt(db, seq, attempt_id, now, min(due_ats.values()), 1)
    steps: dict[str, str | float] = {}
    for n, at in due_ats.items():
        steps |= {str(n): State.UNCERTAIN.value, f"{n}.due_at": round(at, 3)}
    facts = {
        "rule": "intent without outcome",
        "provider": provider,
        "outcome": RECOVERED,
        "attempt_id": attempt_id,
        "next": steps,
    }
    record(db, seq, now, "uncertain", facts)
