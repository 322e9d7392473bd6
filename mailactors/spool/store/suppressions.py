"""The suppression list: addresses that get no mail.

The transaction that records an intent checks it, so that an address which is on the list before
the intent is durable gets nothing.
"""

from __future__ import annotations

import contextlib
import unicodedata
from typing import Final

import idna

from mailactors.model.lifecycle import State
from mailactors.spool.port import Step, Suppress, Suppression, Unsuppress, Unsuppressed
from mailactors.spool.store import sums
from mailactors.spool.store.events import finish, record
from mailactors.spool.store.rows import Row, Rows

BOUNCE: Final = "bounce"
"""The source of an address that a provider refused."""


def normalize(address: str) -> str:
    """Return an address as the list has it: without case, and with its domain in ASCII.

    RFC 5321 leaves the case of a local part to its domain, but no provider of note tells two
    mailboxes apart by it, and who asked for no more mail does not write an address as we do.

    >>> normalize("Ann@Example.COM"), normalize("Zoë@BÜCHER.example")
    ('ann@example.com', 'zoë@xn--bcher-kva.example')
    """
    if address.isascii():  # nearly all, and each intent asks
        return address.lower()
    local, at, domain = address.rpartition("@")
    if not domain.isascii():
        with contextlib.suppress(idna.IDNAError):  # then it is no domain, and stays as it is
            domain = idna.encode(domain, uts46=True).decode("ascii")
    return unicodedata.normalize("NFC", f"{local.casefold()}{at}{domain.casefold()}")


def suppress(db: Rows, command: Suppress, now: float) -> Suppression:
    """Put an address on the list; an entry that is there already stays."""
    address = normalize(command.address)
    db.run(
        "INSERT INTO suppressions (address, reason, source, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (address) DO NOTHING",
        (address, command.reason, command.source, now),
    )
    ((reason, source, created_at),) = db.query(
        "SELECT reason, source, created_at FROM suppressions WHERE address = ?", (address,)
    )
    return Suppression(address, reason, source, created_at)


def unsuppress(db: Rows, command: Unsuppress, now: float) -> Unsuppressed:
    """Take an address off the list."""
    address = normalize(command.address)
    count = db.run("DELETE FROM suppressions WHERE address = ?", (address,))
    return Unsuppressed(address, was_suppressed=count > 0)


def suppress_bounced(db: Rows, seq: int, step: Step, now: float) -> None:
    """Put an address on the list if it is the reason of a bounce."""
    if step.suppress and step.state is State.BOUNCED:
        recipient = db.value(
            "SELECT recipient FROM deliveries WHERE seq = ? AND n = ?", (seq, step.n)
        )
        suppress(db, Suppress(recipient, step.error, BOUNCE), now)


def _reason(db: Rows, recipient: str) -> str:
    rows = db.query(
        "SELECT source, reason FROM suppressions WHERE address = ?", (normalize(recipient),)
    )
    return f"{rows[0][0]}: {rows[0][1]}" if rows else ""


def is_suppressed(db: Rows, recipient: str) -> bool:
    """Whether an address is on the list."""
    return bool(_reason(db, recipient))


def withdraw_suppressed(db: Rows, seq: int, leased: list[Row], now: float) -> list[Row]:
    """End the leased deliveries whose address is on the list, and return the others.

    Args:
        leased: rows that begin with n and recipient.
    """
    why = {row[0]: found for row in leased if (found := _reason(db, row[1]))}
    if not why:
        return leased
    db.run_each(
        "UPDATE deliveries SET state = 'suppressed', error = ?, updated_at = ?"
        " WHERE seq = ? AND n = ? AND state = 'leased'",
        [(f"suppressed ({reason})", now, seq, n) for n, reason in why.items()],
    )
    stream = finish(db, seq, len(why), now)
    sums.move(db, stream, State.LEASED, State.SUPPRESSED, len(why))
    facts = {"rule": "suppression list", "why": {str(n): reason for n, reason in why.items()}}
    record(db, seq, now, "suppressed", facts)
    return [row for row in leased if row[0] not in why]
