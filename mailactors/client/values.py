"""What goes into the client and comes out of it: mails, receipts, statuses, events, and errors."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Required, TypeAlias, TypedDict

import msgspec

WORDS_MAX: Final = 500
"""Characters of a line of a problem that are repeated."""
FINAL: Final = frozenset({"sent", "bounced", "failed", "expired", "suppressed", "cancelled"})
"""The deliveries' states that nothing leaves."""


class Address(TypedDict, total=False):
    """A mailbox; a string such as `Ann <ann@example.org>` does as well."""

    address: Required[str]
    name: str


class Attachment(TypedDict, total=False):
    """A file; with a `content_id` it is inline."""

    filename: Required[str]
    content: Required[bytes]
    content_type: str
    content_id: str


class Alternative(TypedDict):
    """Another form of the message, such as an invitation: `text/calendar; method=REQUEST`."""

    content_type: str
    content: str


Mailboxes: TypeAlias = str | Address | Sequence[str | Address]


class Mail(TypedDict, total=False):
    """What may be said of a message: the fields of `POST /v1/messages`, None being absent.

    `raw` is a whole MIME message. `id` is your name for the message, and its key.
    `idempotency_key` is a key that is no name.
    """

    to: Required[Mailboxes]
    sender: str | Address | None
    cc: Mailboxes
    bcc: Mailboxes
    reply_to: Mailboxes
    subject: str
    text: str | None
    html: str | None
    headers: Mapping[str, str]
    attachments: Sequence[Attachment]
    raw: bytes | None
    stream: str | None
    expires_in_s: float | None
    send_at: datetime | None
    tags: Sequence[str]
    metadata: Mapping[str, str]
    id: str | None
    idempotency_key: str | None
    alternatives: Sequence[Alternative]


class Key(enum.Enum):
    """How a key is made for a message that brings none."""

    CONTENT = "content"
    """From the content: the same message again, by whichever call, is sent once."""
    FRESH = "fresh"
    """By chance, once a call: each call is a message, however often it is tried."""


class Sent(msgspec.Struct, frozen=True):
    """The message is durable. `id` is the gateway's, `receipt` its whole answer.

    `is_replay`: it was accepted before under this key, be it by a try of this very call whose
    answer was lost.
    """

    id: str
    is_replay: bool
    key: str
    receipt: dict[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """One recipient's fate."""

    recipient: str
    status: str
    provider: str | None = None
    attempts: int = 0
    error: str | None = None


class Status(msgspec.Struct, frozen=True):
    """Where a message stands. `id` is the gateway's, `name` yours, or the gateway's if none."""

    id: str = msgspec.field(name="message_id")
    name: str = msgspec.field(name="id")
    status: str
    attempts: int
    deliveries: tuple[Delivery, ...]
    updated_at: str = ""

    @property
    def is_final(self) -> bool:
        """Every delivery has come to its end."""
        return all(delivery.status in FINAL for delivery in self.deliveries)

    @property
    def is_settled(self) -> bool:
        """Nothing more happens by itself: every delivery is final, or held for a person."""
        return all(delivery.status in FINAL | {"held"} for delivery in self.deliveries)


class Event(msgspec.Struct, frozen=True):
    """Something that happened; `seq` is what `events(after=…)` takes."""

    seq: int
    kind: str
    data: Any


class Fault(msgspec.Struct, frozen=True):
    """One fault: what it is, and where in the body (a JSON pointer) or in the query."""

    detail: str
    pointer: str = ""
    parameter: str = ""


class Problem(msgspec.Struct, frozen=True):
    """A problem document (RFC 9457), or no more than the status of an answer that had none."""

    status: int
    title: str = ""
    detail: str = ""
    type: str = "about:blank"
    faults: tuple[Fault, ...] = msgspec.field(name="errors", default=())

    def __str__(self) -> str:
        """Say it in the gateway's words, a line for each fault."""
        if not self.title:
            return f"the gateway answered {self.status}"
        lines = [f"{self.title}: {self.detail}".rstrip(": ")]
        lines += [f"  {fault.pointer or fault.parameter}: {fault.detail}" for fault in self.faults]
        return "\n".join(line[:WORDS_MAX] for line in lines)


class ClientError(Exception):
    """Whatever `Client` raises. None of these holds what was sent, nor a password of the URL."""


class RejectedError(ClientError):
    """The gateway refuses; the same request again would be refused again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class KeyConflictError(RejectedError):
    """The key, or `id`, was used with other content before."""


class NotFoundError(RejectedError):
    """There is no such message."""


class UnavailableError(ClientError):
    """No answer that counts, for as long as was allowed. A submission may have been accepted.

    To submit again under the same key is safe. `problem` is there if the gateway had words for
    it; `may_pass` is false for what no second try would mend, such as a URL that is none.
    """

    def __init__(
        self,
        reason: str,
        problem: Problem | None = None,
        *,
        retry_after_s: float = 0.0,
        may_pass: bool = True,
    ) -> None:
        super().__init__(reason)
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.may_pass = may_pass


class NotAGatewayError(ClientError):
    """What answers speaks another language."""


class NotSettledError(ClientError):
    """`wait` waited long enough; `status` is the last one seen, if any."""

    def __init__(self, name: str, status: Status | None) -> None:
        super().__init__(f"{name!r} is {status.status if status else 'unknown'} still")
        self.status = status
