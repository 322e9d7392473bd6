"""What happens to a message off the common way: deadlines, cancelling, doubts, crashes.

The rule of `sqlite_flow` holds: each UPDATE names the states that it may come from.
"""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from mailactors.model.lifecycle import FINAL, State, check_transition
from mailactors.spool.port import (
    Cancel,
    Cancelled,
    Doubt,
    Doubts,
    Expire,
    Expired,
    Overdue,
    Recover,
    Recovered,
    Resolve,
    Settled,
)
from mailactors.spool.sqlite_flow import RECOVERED
from mailactors.spool.sqlite_rows import (
    fetch,
    finish,
    pack_progress,
    record,
    report_failure,
    unpack_progress,
)
from mailactors.spool.sqlite_suppressions import suppress_bounced


def expire(db: apsw.Connection, command: Expire, now: float) -> Expired:
    """End what is past its deadline and not on its way."""
    rows = fetch(
        db,
        "SELECT seq, id, expires_at FROM messages WHERE open_count > 0 AND expires_at <= ?"
        " AND EXISTS (SELECT 1 FROM deliveries WHERE deliveries.seq = messages.seq"
        " AND state IN ('ready', 'deferred', 'leased')) ORDER BY expires_at, seq LIMIT ?",
        (now, command.limit + 1),
    )
    expired = rows[: command.limit]
    for seq, _, _ in expired:
        db.execute(
            "UPDATE deliveries SET state = 'expired', updated_at = ?"
            " WHERE seq = ? AND state IN ('ready', 'deferred', 'leased')",
            (now, seq),
        )
        finish(db, seq, db.changes(), now)
        record(db, seq, now, "expired", {"rule": "deadline"})
        report_failure(db, seq, now)
    if len(rows) > command.limit:
        next_expiry_at = rows[-1][2]
    else:
        # What is past its deadline but uncertain or held has other clocks than this one.
        next_expiry_at = db.execute(
            "SELECT min(expires_at) FROM messages WHERE open_count > 0 AND expires_at > ?", (now,)
        ).get
    return Expired(
        tuple(row[0] for row in expired), tuple(row[1] for row in expired), next_expiry_at
    )


def cancel(db: apsw.Connection, command: Cancel, now: float) -> Cancelled:
    """Cancel what is not yet on its way; asked again, answer the same."""
    seq = db.execute("SELECT seq FROM messages WHERE id = ?", (command.id,)).get
    if seq is None:
        return Cancelled(is_known=False, cancelled_count=0, too_late_count=0)
    db.execute(
        "UPDATE deliveries SET state = 'cancelled', updated_at = ?"
        " WHERE seq = ? AND state IN ('ready', 'deferred', 'leased')",
        (now, seq),
    )
    if count := db.changes():
        finish(db, seq, count, now)
        record(db, seq, now, "cancelled", {})
    ((cancelled_count, total),) = fetch(
        db,
        "SELECT count(*) FILTER (WHERE state = 'cancelled'), count(*) FROM deliveries"
        " WHERE seq = ?",
        (seq,),
    )
    return Cancelled(True, cancelled_count, total - cancelled_count)


def overdue(db: apsw.Connection, command: Overdue, now: float) -> Doubts:
    """Return the uncertain deliveries whose wait is over, by attempt."""
    groups: dict[tuple[int, str], list[int]] = {}
    next_due_at = None
    cursor = db.execute(
        "SELECT due_at, seq, n, attempt_id FROM deliveries WHERE state = 'uncertain'"
        " ORDER BY due_at, seq, n"
    )
    for due_at, seq, n, attempt_id in cursor:
        group = (seq, attempt_id)
        if due_at > now or (group not in groups and len(groups) >= command.limit):
            next_due_at = due_at
            break
        groups.setdefault(group, []).append(n)
    cursor.close()
    return Doubts(tuple(_doubt(db, *group, ns) for group, ns in groups.items()), next_due_at)


def _doubt(db: apsw.Connection, seq: int, attempt_id: str, ns: list[int]) -> Doubt:
    ((id_, stream, provider, expires_at, progress),) = fetch(
        db,
        "SELECT id, messages.stream, provider, expires_at, progress"
        " FROM messages JOIN deliveries USING (seq) WHERE seq = ? AND n = ?",
        (seq, ns[0]),
    )
    return Doubt(
        seq=seq,
        id=id_,
        stream=stream,
        ns=tuple(sorted(ns)),
        provider=provider,
        expires_at=expires_at,
        progress=unpack_progress(progress),
        attempt_id=attempt_id,
    )


def resolve(db: apsw.Connection, command: Resolve, now: float) -> Settled:
    """Move uncertain deliveries on, with the rule as evidence."""
    matched = final = 0
    for step in command.steps:
        if step.state is not State.UNCERTAIN:  # to wait longer is no transition
            check_transition(State.UNCERTAIN, step.state)
        db.execute(
            "UPDATE deliveries SET state = ?, due_at = ?, error = ?, updated_at = ?"
            " WHERE seq = ? AND n = ? AND state = 'uncertain'",
            (step.state.value, step.due_at, step.error, now, command.seq, step.n),
        )
        if db.changes():
            matched += 1
            final += step.state in FINAL
            suppress_bounced(db, command.seq, step, now)
    if not matched:
        return Settled(is_stale=True)
    db.execute(
        "UPDATE messages SET open_count = open_count - ?1,"
        " final_at = iif(open_count = ?1, ?2, NULL), declared_risks = declared_risks + ?3,"
        " progress = ?4 WHERE seq = ?5",
        (
            final,
            now,
            matched if command.is_risk else 0,
            pack_progress(command.progress),
            command.seq,
        ),
    )
    record(db, command.seq, now, "resolved", {**command.facts, "rule": command.rule})
    return Settled()


def recover(db: apsw.Connection, command: Recover, now: float) -> Recovered:
    """Make what a dead owner held ready again, or uncertain if bytes may have gone out."""
    taken = fetch(
        db,
        "SELECT seq, n, state, attempt_id, provider, stream, epoch FROM deliveries"
        " WHERE state IN ('leased', 'sending') AND node = ? ORDER BY seq, n",
        (command.node,),
    )
    leased = [
        (now, seq, n)
        for seq, n, state, *_, epoch in taken
        if state == State.LEASED and (seq, epoch) not in command.leases
    ]
    sending = [
        (now + _wait_s(command, stream), now, seq, n, attempt_id, provider)
        for seq, n, state, attempt_id, provider, stream, _ in taken
        if state == State.SENDING and attempt_id not in command.in_flight
    ]
    db.executemany(
        "UPDATE deliveries SET state = 'ready', updated_at = ?"
        " WHERE seq = ? AND n = ? AND state = 'leased'",
        leased,
    )
    db.executemany(
        "UPDATE deliveries SET state = 'uncertain', due_at = ?, attempts = attempts + 1,"
        " updated_at = ? WHERE seq = ? AND n = ? AND state = 'sending'",
        [row[:4] for row in sending],
    )
    _close_open_intents(db, dict.fromkeys(row[2:3] + row[4:] for row in sending), now)
    crashed = sorted({row[1] for row in leased} | {row[2] for row in sending})
    db.executemany(
        "UPDATE messages SET crash_count = crash_count + 1 WHERE seq = ?",
        [(seq,) for seq in crashed],
    )
    return Recovered(len(leased), len(sending))


def _wait_s(command: Recover, stream: str) -> float:
    waits = command.uncertain_wait_s
    return waits[stream] if stream in waits else waits[""]


def _close_open_intents(
    db: apsw.Connection, attempts: Iterable[tuple[int, str, str]], now: float
) -> None:
    for seq, attempt_id, provider in attempts:
        db.execute(
            "UPDATE attempts SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL",
            (now, RECOVERED, attempt_id),
        )
        db.execute("UPDATE messages SET attempts = attempts + 1 WHERE seq = ?", (seq,))
        facts = {
            "rule": "intent without outcome",
            "provider": provider,
            "attempt_id": attempt_id,
        }
        record(db, seq, now, "uncertain", facts)
