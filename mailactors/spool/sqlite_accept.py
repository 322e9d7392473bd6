"""How messages come into an SQLite spool: accepted, many at a time, or retried by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from mailactors.model.lifecycle import FINAL, State
from mailactors.model.message import domain_of
from mailactors.spool.port import (
    Accept,
    AcceptedMany,
    AcceptMany,
    Conflict,
    IdempotencyKey,
    NotRetried,
    Progress,
    Receipt,
    Retry,
)
from mailactors.spool.sqlite_rows import fetch, pack_progress, record, write_labels

UNSENT: Final = FINAL - {State.SENT}
"""Final states out of which a retry by hand makes something new."""

_NO_PROGRESS: Final = pack_progress(Progress())


def accept_all(
    db: apsw.Connection, commands: Sequence[Accept], now: float
) -> list[Receipt | Conflict]:
    """Store each message with its deliveries, key and first event, or know it again.

    New ones are inserted together, table by table: that is a third faster than one by one.
    """
    results: list[Receipt | Conflict] = []
    fresh: dict[tuple[str, str], tuple[int, Accept]] = {}
    next_seq = _last_seq(db) + 1
    for command in commands:
        name = (command.key.scope, command.key.key)
        if name in fresh:  # then the database has to know it before it can know it again
            _insert(db, list(fresh.values()), now)
            fresh.clear()
        known = _known(db, command.key, command.message.id, now)
        if known is None:
            fresh[name] = (next_seq, command)
            known = _receipt(next_seq, command)
            next_seq += 1
        results.append(known)
    _insert(db, list(fresh.values()), now)
    return results


def accept_many(db: apsw.Connection, command: AcceptMany, now: float) -> AcceptedMany:
    """Accept several for one who asks for all of them."""
    return AcceptedMany(tuple(accept_all(db, command.accepts, now)))


def _last_seq(db: apsw.Connection) -> int:
    rows = fetch(db, "SELECT seq FROM sqlite_sequence WHERE name = 'messages'")
    return int(rows[0][0]) if rows else 0


def _receipt(seq: int, command: Accept) -> Receipt:
    message = command.message
    return Receipt(
        seq=seq,
        id=message.id,
        message_id=message.message_id,
        client_id=command.client_id,
        accepted_at=message.accepted_at,
        is_replay=False,
        stream=message.stream,
    )


def _stored_receipt(row: Sequence[Any], *, is_replay: bool) -> Receipt:
    seq, id_, message_id, client_id, accepted_at, stream = row
    return Receipt(seq, id_, message_id, client_id, accepted_at, is_replay, stream)


def _known(
    db: apsw.Connection, key: IdempotencyKey, id_: str, now: float
) -> Receipt | Conflict | None:
    # A key made of the content is its fingerprint, which versions before 0.2 made otherwise.
    before = key.fingerprint_before if key.key == key.fingerprint else key.key
    rows = fetch(
        db,
        "SELECT fingerprint, keys.expires_at, open_count,"
        " seq, id, message_id, client_id, accepted_at, stream"
        " FROM keys JOIN messages USING (seq) WHERE scope = ? AND key IN (?, ?)",
        (key.scope, key.key, before),
    )
    for fingerprint, expires_at, open_count, *stored in rows:
        receipt = _stored_receipt(stored, is_replay=True)
        # The same id is the same command again, however long ago its key ran out.
        if now < expires_at or open_count or receipt.id == id_:
            is_same = fingerprint in (key.fingerprint, key.fingerprint_before)
            return receipt if is_same else Conflict(receipt.id)
    return None


def _insert(db: apsw.Connection, fresh: Sequence[tuple[int, Accept]], now: float) -> None:
    if not fresh:
        return
    db.executemany(
        "INSERT INTO messages (seq, id, client_id, message_id, stream, sender, subject, date_s,"
        " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
        " progress, labels) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_message_row(seq, command) for seq, command in fresh],
    )
    tags = [(tag, seq) for seq, each in fresh for tag in dict.fromkeys(each.message.content.tags)]
    if tags:
        db.executemany("INSERT INTO message_tags VALUES (?, ?)", tags)
    db.executemany(
        "INSERT INTO contents VALUES (?, ?)", [(seq, command.packed) for seq, command in fresh]
    )
    _insert_deliveries(
        db, [row for seq, command in fresh for row in _delivery_rows(seq, command)], now
    )
    db.executemany(
        "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)",
        [_key_row(seq, command.key) for seq, command in fresh],
    )
    db.executemany(
        "INSERT INTO events (message_seq, at, kind, facts) VALUES (?, ?, 'accepted', '{}')",
        [(seq, now) for seq, _ in fresh],
    )


def _message_row(seq: int, command: Accept) -> tuple[Any, ...]:
    message = command.message
    recipients_total = len(message.envelope.recipients)
    return (
        seq,
        message.id,
        command.client_id,
        message.message_id,
        message.stream,
        message.envelope.sender,
        message.content.subject,
        message.date_s,
        message.accepted_at,
        message.not_before,
        message.expires_at,
        len(command.packed),
        command.digest,
        recipients_total,
        recipients_total,
        _NO_PROGRESS,
        write_labels(message.content.tags, message.content.metadata),
    )


def _key_row(seq: int, key: IdempotencyKey) -> tuple[Any, ...]:
    return (key.scope, key.key, key.fingerprint, seq, key.expires_at)


def _delivery_rows(seq: int, command: Accept) -> list[tuple[Any, ...]]:
    message = command.message
    due_at = max(message.not_before, message.accepted_at)
    return [
        (seq, n, recipient, message.stream, due_at)
        for n, recipient in enumerate(message.envelope.recipients)
    ]


def _insert_deliveries(db: apsw.Connection, rows: list[tuple[Any, ...]], now: float) -> None:
    db.executemany(
        "INSERT INTO deliveries (seq, n, recipient, domain, stream, state, due_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, 'ready', ?, ?)",
        [
            (seq, n, recipient, domain_of(recipient), stream, due_at, now)
            for seq, n, recipient, stream, due_at in rows
        ],
    )


def retry(db: apsw.Connection, command: Retry, now: float) -> Receipt | NotRetried:
    """Make a new message of what a final one did not get sent, or say why not."""
    known = _retried_before(db, command)
    if known is not None:
        return known
    rows = fetch(
        db,
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


def _retried_before(db: apsw.Connection, command: Retry) -> Receipt | NotRetried | None:
    rows = fetch(
        db,
        "SELECT seq, id, message_id, client_id, accepted_at, stream, retry_of"
        " FROM messages WHERE id = ?",
        (command.new_id,),
    )
    if not rows:
        return None
    ((*stored, retry_of),) = rows
    if retry_of != command.id:
        return NotRetried(f"{command.new_id} is another message")
    return _stored_receipt(stored, is_replay=True)


def _unsent(
    db: apsw.Connection, command: Retry, seq: int, open_count: int
) -> list[tuple[int, str]] | NotRetried:
    # (n, recipient) of what is to be copied.
    states = {
        n: (State(state), recipient)
        for n, state, recipient in db.execute(
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
        db.execute(
            "SELECT recipient, id FROM messages JOIN deliveries USING (seq)"
            " WHERE retry_of = ? AND retry_of <> '' ORDER BY seq",
            (command.id,),
        )
    )
    left = [(n, recipient) for n, recipient in unsent if recipient not in taken]
    return left or NotRetried(f"it was retried already, as {taken[unsent[-1][1]]}")


def _copy(
    db: apsw.Connection, command: Retry, old_seq: int, chosen: list[tuple[int, str]], now: float
) -> Receipt:
    rows = fetch(
        db,
        "INSERT INTO messages (id, client_id, message_id, stream, sender, subject, date_s,"
        " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
        " progress, labels, retry_of, envelope_total, kept) SELECT ?1, client_id, message_id,"
        " stream, sender, subject, date_s, ?2, ?2, ?2 + expires_at - max(accepted_at, not_before),"
        " size_bytes, digest, ?3, ?3, ?4, labels, id, max(recipients_total, envelope_total), 1"
        " FROM messages WHERE seq = ?5"
        " RETURNING seq, id, message_id, client_id, accepted_at, stream",
        (command.new_id, now, len(chosen), _NO_PROGRESS, old_seq),
    )
    receipt = _stored_receipt(rows[0], is_replay=False)
    db.execute(
        "INSERT INTO contents SELECT ?, packed FROM contents WHERE seq = ?", (receipt.seq, old_seq)
    )
    db.execute(
        "INSERT INTO message_tags SELECT tag, ? FROM message_tags WHERE seq = ?",
        (receipt.seq, old_seq),
    )
    _insert_deliveries(
        db, [(receipt.seq, n, to, receipt.stream, now) for n, (_, to) in enumerate(chosen)], now
    )
    ns = [n for n, _ in chosen]
    record(db, receipt.seq, now, "accepted", {"rule": "by hand", "retry_of": command.id, "ns": ns})
    record(db, old_seq, now, "retried", {"rule": "by hand", "id": command.new_id, "ns": ns})
    return receipt
