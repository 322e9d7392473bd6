"""Who gets no mail: the suppression list of an SQLite spool.

It is asked inside the transaction that records an intent, so that an address which is on the list
before the intent is durable gets nothing.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from mailactors.model.lifecycle import State
from mailactors.model.message import domain_of
from mailactors.spool.port import Step, Suppress, Suppression, Unsuppress, Unsuppressed
from mailactors.spool.sqlite_rows import fetch, finish, record

BOUNCE: Final = "bounce"
"""The source of what a provider's refusal put on the list."""


def normalize(address: str) -> str:
    """Return an address as the list has it: RFC 5321 leaves the local part to its domain.

    >>> normalize("Ann@Example.COM")
    'Ann@example.com'
    """
    local, at, _ = address.rpartition("@")
    return f"{local}{at}{domain_of(address)}"


def suppress(db: apsw.Connection, command: Suppress, now: float) -> Suppression:
    """Put an address on the list; who put it there first is not forgotten."""
    address = normalize(command.address)
    db.execute(
        "INSERT INTO suppressions VALUES (?, ?, ?, ?) ON CONFLICT (address) DO NOTHING",
        (address, command.reason, command.source, now),
    )
    ((reason, source, created_at),) = fetch(
        db, "SELECT reason, source, created_at FROM suppressions WHERE address = ?", (address,)
    )
    return Suppression(address, reason, source, created_at)


def unsuppress(db: apsw.Connection, command: Unsuppress, now: float) -> Unsuppressed:
    """Take an address off the list."""
    address = normalize(command.address)
    db.execute("DELETE FROM suppressions WHERE address = ?", (address,))
    return Unsuppressed(address, was_suppressed=bool(db.changes()))


def suppress_bounced(db: apsw.Connection, seq: int, step: Step, now: float) -> None:
    """Put an address on the list if it was said to be the reason of a bounce."""
    if step.suppress and step.state is State.BOUNCED:
        recipient = db.execute(
            "SELECT recipient FROM deliveries WHERE seq = ? AND n = ?", (seq, step.n)
        ).get
        suppress(db, Suppress(recipient, step.error, BOUNCE), now)


def _reason(db: apsw.Connection, recipient: str) -> str:
    rows = fetch(
        db, "SELECT source, reason FROM suppressions WHERE address = ?", (normalize(recipient),)
    )
    return f"{rows[0][0]}: {rows[0][1]}" if rows else ""


def is_suppressed(db: apsw.Connection, recipient: str) -> bool:
    """Whether an address is on the list."""
    return bool(_reason(db, recipient))


def withdraw_suppressed(
    db: apsw.Connection, seq: int, leased: list[tuple[Any, ...]], now: float
) -> list[tuple[Any, ...]]:
    """End the leased deliveries whose address is on the list, and return the others.

    Args:
        leased: rows that begin with n and recipient.
    """
    why = {row[0]: found for row in leased if (found := _reason(db, row[1]))}
    if not why:
        return leased
    db.executemany(
        "UPDATE deliveries SET state = 'suppressed', error = ?, updated_at = ?"
        " WHERE seq = ? AND n = ? AND state = 'leased'",
        [(f"suppressed ({reason})", now, seq, n) for n, reason in why.items()],
    )
    finish(db, seq, len(why), now)
    facts = {"rule": "suppression list", "why": {str(n): reason for n, reason in why.items()}}
    record(db, seq, now, "suppressed", facts)
    return [row for row in leased if row[0] not in why]
