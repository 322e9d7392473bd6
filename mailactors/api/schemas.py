"""What goes over the wire, as types: bodies are decoded into them, answers encoded from them.

The OpenAPI document is generated from this file, so a docstring here is documentation there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mailactors.api.problems import Problem
from mailactors.intake.admission import SHORT_TEXT_MAX

ITEMS_MAX: Final = 100
"""Entries of any list in a body: bounds the work of checking it; admission's limits are lower."""
BATCH_MAX: Final = 1000
"""Messages of one batch: they share a commit, and other submissions wait for it."""
PAGE_MAX: Final = 1000
PAGE_DEFAULT: Final = 100
SEQ_MAX: Final = 2**53

ByContent: TypeAlias = Literal["content"]
ClientId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=SHORT_TEXT_MAX)]


class AddressIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mailbox."""

    address: str
    name: str = ""


Mailbox: TypeAlias = str | AddressIn
Mailboxes: TypeAlias = (
    str | AddressIn | Annotated[list[str | AddressIn], Meta(max_length=ITEMS_MAX)]
)


class ShortMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The short form of a message. `body` is plain text; `id` is the idempotency key.

    Without a key, or with `"key": "content"`, the same content within a minute is one message.
    """

    to: str | Annotated[list[str], Meta(min_length=1, max_length=ITEMS_MAX)]
    subject: str
    body: str
    id: ClientId | None = None
    key: ByContent | None = None


class AttachmentIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file, its content in base64. With a `content_id` it is inline (`cid:…` in the HTML)."""

    filename: str
    content: bytes
    content_type: str = "application/octet-stream"
    content_id: str = ""


class AlternativeIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The message in another form than text and HTML, such as `text/calendar; method=REQUEST`."""

    content_type: str
    content: str


class MessageIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message.

    Mailboxes are strings, bare or like `Ann <ann@example.org>`, or objects. `raw` is a whole MIME
    message in base64 that is sent byte for byte, to the recipients given beside it. `tags` and
    `metadata` are not sent; they are shown with the message, and lists filter by tag. Without a key
    each request is a new message; with `"key": "content"`, the same content within a minute is one.
    """

    sender: Mailbox | None = msgspec.field(name="from", default=None)
    to: Mailboxes = []
    cc: Mailboxes = []
    bcc: Mailboxes = []
    reply_to: Mailboxes = []
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Annotated[dict[str, str], Meta(max_length=ITEMS_MAX)] = {}
    attachments: Annotated[list[AttachmentIn], Meta(max_length=ITEMS_MAX)] = []
    raw: bytes | None = None
    stream: str = ""
    expires_in_s: float | None = None
    send_at: Annotated[datetime, Meta(tz=True)] | None = None
    tags: Annotated[list[str], Meta(max_length=ITEMS_MAX)] = []
    metadata: Annotated[dict[str, str], Meta(max_length=ITEMS_MAX)] = {}
    id: ClientId | None = None
    alternatives: Annotated[list[AlternativeIn], Meta(max_length=ITEMS_MAX)] = []
    key: ByContent | None = None


class BatchItem(MessageIn, frozen=True, forbid_unknown_fields=True):
    """One message of a batch. Its key is its `idempotency_key`, or else its `id`."""

    idempotency_key: ClientId | None = None


class StatusesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `GET /statuses` may be asked. `id` is ours or the client's.

    `cursor` is the `next` of the page before.

    What is absent is UNSET and not None: the text "null" would be read as None, and it is an id.
    """

    id: str | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[int, Meta(ge=1, le=SEQ_MAX)] | UnsetType = UNSET


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters at all."""


class ShortReceipt(msgspec.Struct, frozen=True):
    """The message is durable. `status_url` shows what becomes of it.

    The short form's own keys: `id` repeats the client's or is null, and `message_id` is our id. In
    every other answer `id` is ours, `client_id` the client's, and `rfc_message_id` the Message-ID
    header's.
    """

    message: str
    id: str | None
    message_id: str
    rfc_message_id: str
    status_url: str
    replayed: bool = False
    """It was accepted before, and this is its first answer again."""


class Idempotency(msgspec.Struct, frozen=True):
    """What identifies a repetition, and for how long.

    `key`, `fingerprint` (of the content), or `none`: the same request again is a new message.
    """

    by: str
    window_s: float


class MessageReceipt(msgspec.Struct, frozen=True):
    """The message is durable. `id` is ours, `client_id` the client's, or null.

    `rfc_message_id` is the RFC 5322 Message-ID, without brackets; empty for a raw message
    that has none.
    """

    id: str
    client_id: str | None
    rfc_message_id: str
    status: str
    status_url: str
    idempotency: Idempotency
    replayed: bool = False
    """It was accepted before, and this is its first answer again."""


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one message of a batch.

    `status` is what a request of its own would have been answered with: 202, 200 for one that was
    accepted before under its key, else that of the `problem`. Its pointers begin with the
    message's place in the batch.
    """

    status: int
    id: str = ""
    client_id: str = ""
    rfc_message_id: str = ""
    status_url: str = ""
    replayed: bool = False
    problem: Problem | None = None


class BatchResults(msgspec.Struct, frozen=True):
    """A result for each message, in the order of the batch."""

    results: tuple[BatchResult, ...]


class DeliveryBrief(msgspec.Struct, frozen=True):
    """One recipient's delivery.

    `status` is `scheduled` (until the message's `send_at`), `queued`, `processing`, `deferred`,
    `uncertain`, `held`, `sent`, `bounced`, `failed`, `expired`, `suppressed` or `cancelled`.
    """

    recipient: str
    status: str
    provider: str | None
    attempts: int
    error: str | None
    updated_at: str


class StatusView(msgspec.Struct, frozen=True):
    """A message's status. `id` is ours, `client_id` the client's, or null.

    `status` is that of its deliveries: the most telling one that is not final, else the one that
    all share, else `partial`.
    """

    id: str
    client_id: str | None
    rfc_message_id: str
    to: tuple[str, ...]
    subject: str
    status: str
    provider: str | None
    attempts: int
    updated_at: str
    error: str | None
    deliveries: tuple[DeliveryBrief, ...]


class StatusPage(msgspec.Struct, frozen=True):
    """Statuses, newest first. `next` is the cursor of the page after, or null."""

    statuses: tuple[StatusView, ...]
    next: str | None


class DeliveryView(DeliveryBrief, frozen=True):
    """One recipient's delivery. `next_at` is when it is due; null when it is final or held."""

    next_at: str | None


class NextStep(msgspec.Struct, frozen=True):
    """What was decided for one recipient, and when it is due."""

    recipient: str
    status: str
    due_at: str | None


class PassedOverView(msgspec.Struct, frozen=True):
    """A provider that the route names before the one that was used, why, and until when."""

    provider: str
    why: str
    until: str | None


class TimelineEntry(msgspec.Struct, frozen=True):
    """One attempt or decision: its rule, its inputs (`facts`), and the next step."""

    at: str
    kind: str
    rule: str | None
    provider: str | None
    outcome: str | None
    reason: str | None
    next: tuple[NextStep, ...]
    passed_over: tuple[PassedOverView, ...]
    facts: dict[str, Any]


class MessageHead(msgspec.Struct, frozen=True):
    """What a list and the message's own page show alike."""

    id: str
    client_id: str | None
    rfc_message_id: str
    status: str
    stream: str
    sender: str = msgspec.field(name="from")
    subject: str
    accepted_at: str
    attempts: int
    retry_of: str | None
    tags: tuple[str, ...]
    metadata: dict[str, str]


class MessageView(MessageHead, frozen=True):
    """A message, the status of each delivery, and the timeline, oldest first.

    `retry_of` is the message of which this one is a retry by hand. `explanation` is a sentence for
    a person: the rule that decides, what the message waits for and until when, and which providers
    were passed over and why.
    """

    explanation: str
    not_before: str
    expires_at: str
    declared_risks: int
    deliveries: tuple[DeliveryView, ...]
    timeline: tuple[TimelineEntry, ...]
