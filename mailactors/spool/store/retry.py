"""The rule by which a person sends again what was not sent, as a new message."""

from __future__ import annotations

from typing import Final

from mailactors.model.lifecycle import FINAL, State
from mailactors.spool.port import NotRetried, Receipt, Retry
from mailactors.spool.store import sums
from mailactors.spool.store.accept import NO_PROGRESS, insert_deliveries, stored_receipt
from mailactors.spool.store.events import WRITTEN_FOR, record
from mailactors.spool.store.retention import BODY
from mailactors.spool.store.rows import Rows

UNSENT: Final = FINAL - {State.SENT}
"""Final states whose deliveries a retry by hand copies."""


def retry(db: Rows, command: Retry, now: float) -> Receipt | NotRetried:
    """Copy what was not sent into a new message, or say why not.

    What was cancelled before its `send_at` keeps that time, and its deadline.
    """
    if (replay := _find_replay(db, command)) is not None:
        return replay
    rows = db.query(
        "SELECT seq, open_count, EXISTS (SELECT 1 FROM contents WHERE contents.seq = messages.seq)"
        " FROM messages WHERE id = ?",
        (command.id,),
    )
    if not rows:
        return NotRetried("there is no such message", is_known=False)
    ((seq, open_count, has_body),) = rows
    chosen = _unsent(db, command, seq, open_count)
    if isinstance(chosen, NotRetried):
        return chosen
    if not has_body:
        return NotRetried("its content is no longer kept")
    return _copy(db, command, seq, chosen, now)


def _find_replay(db: Rows, command: Retry) -> Receipt | NotRetried | None:
    rows = db.query(
        "SELECT seq, id, message_id, client_id, accepted_at, stream, retry_of"
        " FROM messages WHERE id = ?",
        (command.new_id,),
    )
    if not rows:
        return None
    ((*stored, retry_of),) = rows
    if retry_of != command.id:
        return NotRetried(f"{command.new_id} is another message")
    return stored_receipt(stored, is_replay=True)


def _unsent(
    db: Rows, command: Retry, seq: int, open_count: int
) -> list[tuple[int, str]] | NotRetried:
    # (n, recipient) of the deliveries to be copied.
    states = {
        n: (State(state), recipient)
        for n, state, recipient in db.query(
            "SELECT n, state, recipient FROM deliveries WHERE seq = ? ORDER BY n", (seq,)
        )
    }
    if command.ns is None and open_count:
        pending = sorted({state for state, _ in states.values() if state not in FINAL})
        return NotRetried(f"it is not final yet: {', '.join(pending)}")
    for n in command.ns or ():
        if n not in states:
            return NotRetried(f"it has no delivery {n}")
        if states[n][0] not in UNSENT:
            return NotRetried(f"delivery {n} is {states[n][0]}")
    wanted = states if command.ns is None else sorted(set(command.ns))
    unsent = [(n, states[n][1]) for n in wanted if states[n][0] in UNSENT]
    if not unsent:
        return NotRetried("everything was sent")
    taken: dict[str, str] = dict(
        db.query(
            "SELECT recipient, id FROM messages JOIN deliveries USING (seq)"
            " WHERE retry_of = ? AND retry_of <> '' ORDER BY seq",
            (command.id,),
        )
    )
    left = [(n, recipient) for n, recipient in unsent if recipient not in taken]
    return left or NotRetried(f"it was retried already, as {taken[unsent[-1][1]]}")


def _copy(
    db: Rows, command: Retry, old_seq: int, chosen: list[tuple[int, str]], now: float
) -> Receipt:
    count = len(chosen)
    rows = db.query(
        "INSERT INTO messages (seq, id, client_id, message_id, stream, sender, subject, date_s,"
        " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
        " progress, labels, retry_of, envelope_total, kept) SELECT ?, ?, client_id, message_id,"
        " stream, sender, subject, date_s, ?, CASE WHEN not_before > ? THEN not_before ELSE ? END,"
        " CASE WHEN not_before > ? THEN expires_at ELSE ? + expires_at - CASE"
        " WHEN not_before > accepted_at THEN not_before ELSE accepted_at END END,"
        " size_bytes, digest, ?, ?, ?, labels, id,"
        f" {WRITTEN_FOR}, ? FROM messages WHERE seq = ?"
        " RETURNING seq, id, message_id, client_id, accepted_at, stream, not_before",
        (
            *(next(db.dialect.message_seqs()), command.new_id, *[now] * 5),
            *(count, count, NO_PROGRESS, BODY, old_seq),
        ),
    )
    (*stored, due_at) = rows[0]
    receipt = stored_receipt(stored, is_replay=False)
    sums.add(db, receipt.stream, sums.ACCEPTED, count)
    db.run(
        "INSERT INTO contents (seq, packed) SELECT ?, packed FROM contents WHERE seq = ?",
        (receipt.seq, old_seq),
    )
    db.run(
        "INSERT INTO message_tags (tag, seq) SELECT tag, ? FROM message_tags WHERE seq = ?",
        (receipt.seq, old_seq),
    )
    copies = [(receipt.seq, n, to, receipt.stream, due_at) for n, (_, to) in enumerate(chosen)]
    insert_deliveries(db, copies, now)
    ns = [n for n, _ in chosen]
    record(db, receipt.seq, now, "accepted", {"rule": "by hand", "retry_of": command.id, "ns": ns})
    record(db, old_seq, now, "retried", {"rule": "by hand", "id": command.new_id, "ns": ns})
    return receipt
