"""Rules for times that a clock wrote which was ahead of the present one."""

from __future__ import annotations

from typing import Final

from mailactors.spool.port import NEVER_AT, CorrectDoubts, CorrectDue, Corrected
from mailactors.spool.store.rows import Row, Rows

SLACK_S: Final = 1.0
"""Rows may be newer than now by this much: clocks are adjusted by little all the time."""
AFTER_ALL: Final = 2**62
"""A seq beyond that of any message."""


def later_than(
    db: Rows,
    stream: str,
    place: tuple[float, int, int],
    until: float,
    limit: int,
) -> tuple[list[Row], tuple[float, int, int] | None]:
    """Return a part of what waits after a place, in the order of due times, and the next place.

    Rows: due_at, seq, n, state, provider, updated_at, and when it is scheduled for: 0 for at once.
    """
    rows = db.query(
        "SELECT due_at, seq, n, state, provider, deliveries.updated_at,"
        " CASE WHEN not_before > accepted_at THEN not_before ELSE 0.0 END"
        " FROM deliveries JOIN messages USING (seq)"
        " WHERE deliveries.stream = ? AND state IN ('ready', 'deferred')"
        " AND (due_at, seq, n) > (?, ?, ?) AND due_at <= ? ORDER BY due_at, seq, n LIMIT ?",
        (stream, *place, until, limit),
    )
    if len(rows) < limit:
        return rows, None
    return rows, (rows[-1][0], rows[-1][1], rows[-1][2])


def correct_due(db: Rows, command: CorrectDue, now: float) -> Corrected:
    """Shorten a part of the waits that were written in the future."""
    place = command.after or (now, AFTER_ALL, 0)
    rows, after = later_than(db, command.stream, place, NEVER_AT, command.limit)
    wrong = [
        (now + max(0.0, due_at - updated_at), now, seq, n)
        for due_at, seq, n, _, _, updated_at, scheduled_at in rows
        if updated_at > now + SLACK_S and due_at > scheduled_at
    ]
    db.run_each(
        "UPDATE deliveries SET due_at = ?, updated_at = ?"
        " WHERE seq = ? AND n = ? AND state IN ('ready', 'deferred')",
        wrong,
    )
    return Corrected(len(wrong), after, command.stream if wrong else "")


def correct_doubts(db: Rows, command: CorrectDoubts, now: float) -> Corrected:
    """Make doubts due that a clock put too far ahead."""
    if command.back_s:
        db.run("UPDATE doubts SET began_at = began_at - ?", (command.back_s,))
    # A time of 0 is none, and stays.
    moved = ("began_at", "since", "ended_at", "negative_at", "answered_at")
    later = [f"CASE WHEN {column} > 0 THEN {column} - ? ELSE 0 END" for column in moved]
    wrong = []
    for seq, attempt_id, next_at, *times in db.query(
        f"SELECT seq, attempt_id, next_at, {', '.join(moved)} FROM doubts"
    ):
        ahead_s = max(0.0, max(times) - now)
        is_far = now + command.wait_max_s < next_at < NEVER_AT
        if ahead_s > SLACK_S or is_far:
            wrong.append(
                (min(next_at, now) if next_at < NEVER_AT else next_at, ahead_s, seq, attempt_id)
            )
    assignments = ", ".join(
        f"{column} = {value}" for column, value in zip(moved, later, strict=True)
    )
    db.run_each(
        f"UPDATE doubts SET next_at = ?, {assignments} WHERE seq = ? AND attempt_id = ?",
        [
            (next_at, max(0.0, ahead_s - command.back_s), *[ahead_s] * 4, seq, attempt_id)
            for next_at, ahead_s, seq, attempt_id in wrong
        ],
    )
    return Corrected(len(wrong))
