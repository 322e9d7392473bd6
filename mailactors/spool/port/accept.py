"""Commands that bring new messages into the spool."""

from __future__ import annotations

import msgspec

from mailactors.model.message import Message
from mailactors.spool.port.command import Command, Result


class IdempotencyKey(msgspec.Struct, frozen=True):
    """An idempotency key, unique within its scope until `expires_at` (and its message is final).

    One made of the content is the fingerprint itself, and ends at `expires_at` in any case.
    """

    scope: str
    key: str
    fingerprint: str
    expires_at: float
    fingerprint_before: str = ""  # as versions before 0.2 made it; to be deleted in 0.3


class Accept(Command, frozen=True):
    """Store a message, its deliveries, its key and its first event. → Receipt | Conflict

    `client_id` is the client's own name for it (the short form's `id`), or empty. A live key with
    the same fingerprint answers the first receipt again; with another fingerprint, Conflict.
    """

    message: Message
    packed: bytes
    digest: str
    key: IdempotencyKey
    client_id: str = ""


class Receipt(Result, frozen=True):
    """The message is durable. `is_replay`: it already was, under this key."""

    seq: int
    id: str
    message_id: str
    client_id: str
    accepted_at: float
    is_replay: bool
    stream: str = ""


class Conflict(Result, frozen=True):
    """The key belongs to a message with other content; `id` is that message."""

    id: str


class AcceptMany(Command, frozen=True):
    """Accept several in one transaction. → AcceptedMany"""

    accepts: tuple[Accept, ...]


class AcceptedMany(Result, frozen=True):
    """The result of each `Accept`, in order."""

    results: tuple[Receipt | Conflict, ...]
