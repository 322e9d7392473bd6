"""The rules by which messages are accepted, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mailactors.model.message import domain_of
from mailactors.spool import port
from mailactors.spool.store import sums
from mailactors.spool.store.events import pack_progress, write_labels
from mailactors.spool.store.rows import Row, Rows

NO_PROGRESS: Final = pack_progress(port.Progress())


def accept_all(
    db: Rows, commands: Sequence[port.Accept], now: float
) -> list[port.Receipt | port.Conflict]:
    """Store each message with its deliveries, key and first event, or find it by its key.

    New ones are inserted together, table by table: that is a third faster than one by one.
    """
    results: list[port.Receipt | port.Conflict] = []
    fresh: dict[tuple[str, str], tuple[int, port.Accept]] = {}
    seqs = db.dialect.message_seqs()
    for command in commands:
        name = (command.key.scope, command.key.key)
        if name in fresh:  # it must be inserted before it can be found
            _insert(db, list(fresh.values()), now)
            fresh.clear()
        result = find_known(db, command.key, command.message.id, now)
        if result is None:
            seq, new = next(seqs), command.message
            fresh[name] = (seq, command)
            stored = (seq, new.id, new.message_id, command.client_id, new.accepted_at, new.stream)
            result = stored_receipt(stored, is_replay=False)
        results.append(result)
    _insert(db, list(fresh.values()), now)
    return results


def accept_many(db: Rows, command: port.AcceptMany, now: float) -> port.AcceptedMany:
    """Accept several messages of one client."""
    return port.AcceptedMany(tuple(accept_all(db, command.accepts, now)))


def stored_receipt(row: Sequence[Any], *, is_replay: bool) -> port.Receipt:
    """Return the receipt of a row: seq, id, message_id, client_id, accepted_at, stream."""
    seq, id_, message_id, client_id, accepted_at, stream = row
    return port.Receipt(seq, id_, message_id, client_id, accepted_at, is_replay, stream)


def find_known(
    db: Rows, key: port.IdempotencyKey, id_: str, now: float
) -> port.Receipt | port.Conflict | None:
    """Return what was accepted under a key, if that is live or the message has this id."""
    # A key made of the content is its fingerprint, which versions before 0.2 made otherwise.
    before = key.fingerprint_before if key.key == key.fingerprint else key.key
    rows = db.query(
        "SELECT fingerprint, keys.expires_at, open_count,"
        " seq, id, message_id, client_id, accepted_at, stream"
        " FROM keys JOIN messages USING (seq) WHERE scope = ? AND key IN (?, ?)",
        (key.scope, key.key, before),
    )
    for fingerprint, expires_at, open_count, *stored in rows:
        receipt = stored_receipt(stored, is_replay=True)
        # The same id is the same command again, however long ago its key ran out. A client's key
        # lives as long as its message is open; one made of the content ends with its window.
        is_live = now < expires_at or (open_count and key.key != key.fingerprint)
        if is_live or receipt.id == id_:
            is_same = fingerprint in (key.fingerprint, key.fingerprint_before)
            return receipt if is_same else port.Conflict(receipt.id)
    return None


def _insert(db: Rows, fresh: Sequence[tuple[int, port.Accept]], now: float) -> None:
    if not fresh:
        return
    db.run_each(
        "INSERT INTO messages (seq, id, client_id, message_id, stream, sender, subject, date_s,"
        " accepted_at, not_before, expires_at, size_bytes, digest, recipients_total, open_count,"
        " progress, labels) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_message_row(seq, command) for seq, command in fresh],
    )
    tags = [(tag, seq) for seq, each in fresh for tag in dict.fromkeys(each.message.content.tags)]
    if tags:
        db.run_each("INSERT INTO message_tags (tag, seq) VALUES (?, ?)", tags)
    for _, each in fresh:
        sums.add(db, each.message.stream, sums.ACCEPTED, len(each.message.envelope.recipients))
    db.run_each(
        "INSERT INTO contents (seq, packed) VALUES (?, ?)",
        [(seq, command.packed) for seq, command in fresh],
    )
    insert_deliveries(db, [row for each in fresh for row in _delivery_rows(*each)], now)
    keys = ((seq, command.key) for seq, command in fresh)
    db.run_each(
        "INSERT INTO keys (scope, key, fingerprint, seq, expires_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (scope, key) DO UPDATE SET fingerprint = excluded.fingerprint,"
        " seq = excluded.seq, expires_at = excluded.expires_at",
        [(key.scope, key.key, key.fingerprint, seq, key.expires_at) for seq, key in keys],
    )
    db.run_each(
        "INSERT INTO events (message_seq, at, kind, facts) VALUES (?, ?, 'accepted', '{}')",
        [(seq, now) for seq, _ in fresh],
    )


def _message_row(seq: int, command: port.Accept) -> Row:
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
        NO_PROGRESS,
        write_labels(message.content.tags, message.content.metadata),
    )


def _delivery_rows(seq: int, command: port.Accept) -> list[Row]:
    message = command.message
    due_at = max(message.not_before, message.accepted_at)
    return [
        (seq, n, recipient, message.stream, due_at)
        for n, recipient in enumerate(message.envelope.recipients)
    ]


def insert_deliveries(db: Rows, rows: list[Row], now: float) -> None:
    """Insert deliveries that are ready: rows of (seq, n, recipient, stream, due_at)."""
    db.run_each(
        "INSERT INTO deliveries (seq, n, recipient, domain, stream, state, due_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, 'ready', ?, ?)",
        [
            (seq, n, recipient, domain_of(recipient), stream, due_at, now)
            for seq, n, recipient, stream, due_at in rows
        ],
    )
    for row in rows:
        sums.enter(db, row[3])
