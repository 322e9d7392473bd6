"""What the client takes and returns: mails, receipts, statuses, events, and errors."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Required, TypeAlias, TypedDict

import msgspec

WORDS_MAX: Final = 500
"""Characters of a line of a problem that are repeated."""
FINAL: Final = frozenset({"sent", "bounced", "failed", "expired", "suppressed", "cancelled"})
"""The statuses of a delivery that never change again."""


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
    """A message to send: the fields of `POST /v1/messages`, where None means absent.

    `raw` is a whole MIME message. `id` is your id for the message (the gateway's `client_id`), and
    its idempotency key, for a day. `idempotency_key` is a key that is not an id.
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


class Key(enum.StrEnum):
    """What makes a message the same as another."""

    FRESH = "fresh"
    """Its `id` or `idempotency_key`; without one, the call: however often that tries, it is one."""
    CONTENT = "content"
    """Its content, whatever its `id`: the same within a minute, by any call, is one message."""


class Sent(msgspec.Struct, frozen=True):
    """The message is durable. `id` is the gateway's, `receipt` its whole answer.

    `is_replay`: it was accepted before under this key, perhaps by an earlier try of this call whose
    answer was lost. `key` is empty where the content decides.
    """

    id: str
    is_replay: bool
    key: str
    receipt: dict[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """One recipient's delivery.

    `status` is scheduled, queued, processing, deferred, uncertain, held, sent, bounced, failed,
    expired, suppressed or cancelled.
    """

    recipient: str
    status: str
    provider: str | None = None
    attempts: int = 0
    error: str | None = None


class Status(msgspec.Struct, frozen=True):
    """A message's status: the word of its deliveries, or `partial`.

    `id` is the gateway's, `client_id` yours, or None.
    """

    id: str
    status: str
    attempts: int
    deliveries: tuple[Delivery, ...]
    client_id: str | None = None
    rfc_message_id: str = ""
    updated_at: str = ""

    @property
    def is_final(self) -> bool:
        """Whether every delivery has its last status."""
        return all(delivery.status in FINAL for delivery in self.deliveries)

    @property
    def is_done(self) -> bool:
        """Whether every delivery is final or held, so that nothing more happens by itself."""
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
    """A problem document (RFC 9457), or only the HTTP status of an answer without one."""

    status: int
    title: str = ""
    detail: str = ""
    type: str = "about:blank"
    faults: tuple[Fault, ...] = msgspec.field(name="errors", default=())

    def __str__(self) -> str:
        """Return the gateway's text, a line for each fault."""
        if not self.title:
            return f"the gateway answered {self.status}"
        lines = [f"{self.title}: {self.detail}".rstrip(": ")]
        lines += [f"  {fault.pointer or fault.parameter}: {fault.detail}" for fault in self.faults]
        return "\n".join(line[:WORDS_MAX] for line in lines)


class ClientError(Exception):
    """The base of what `Client` raises. It holds neither what was sent nor the URL's password."""


class RejectedError(ClientError):
    """The gateway refuses; the same request again would be refused again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class KeyConflictError(RejectedError):
    """The idempotency key, or the `id`, was used with other content before."""


class NotFoundError(RejectedError):
    """There is no such message."""


class UnavailableError(ClientError):
    """No usable answer within the time allowed. A submission may have been accepted.

    To submit again under the same key is safe. `problem` is the gateway's answer, if it gave one.
    `may_pass` is false where another try cannot help, such as for a URL that is not one.
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
    """What answers is not a gateway, or one of another version."""


class NotDoneError(ClientError):
    """`wait` reached its timeout; `status` is the last one seen, if any."""

    def __init__(self, name: str, status: Status | None) -> None:
        super().__init__(f"{name!r} is still {status.status if status else 'unknown'}")
        self.status = status
