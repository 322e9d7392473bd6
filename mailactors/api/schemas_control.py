"""What goes over the wire beside messages and receipts: lists, providers, the ledger, events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mailactors.api.schemas import PAGE_DEFAULT, PAGE_MAX, SEQ_MAX, DeliveryBrief, MessageHead
from mailactors.intake.admission import SHORT_TEXT_MAX
from mailactors.model.lifecycle import Status

ADDRESS_MAX: Final = 2 * SHORT_TEXT_MAX


class MessagesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `GET /v1/messages` may be asked; stream, state and recipient are of one delivery.

    `tag` is one of the message's tags; there is no filter by metadata. Accepted from `since` on and
    before `until`. `cursor` is the `next` of the page before.
    """

    stream: Annotated[str, Meta(max_length=SHORT_TEXT_MAX)] = ""
    state: Status | UnsetType = UNSET
    recipient: Annotated[str, Meta(max_length=ADDRESS_MAX)] = ""
    tag: Annotated[str, Meta(max_length=SHORT_TEXT_MAX)] = ""
    since: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    until: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[int, Meta(ge=1, le=SEQ_MAX)] | UnsetType = UNSET


class MessageBrief(MessageHead, frozen=True):
    """A message in a list. `id` is ours, `rfc_message_id` the RFC 5322 Message-ID."""

    deliveries: tuple[DeliveryBrief, ...]
    status_url: str


class MessagePage(msgspec.Struct, frozen=True):
    """Messages, newest first. `next` is the cursor of the page after, or null at the end.

    A page may be short, or empty, before the end: each looks at a bounded part of the spool.
    """

    messages: tuple[MessageBrief, ...]
    next: str | None


class CancelReceipt(msgspec.Struct, frozen=True):
    """How many deliveries are cancelled, and for how many it was too late."""

    id: str
    cancelled: int
    too_late: int


class RetryReceipt(msgspec.Struct, frozen=True):
    """The new message, which carries what the old one did not get sent."""

    id: str
    client_id: str | None
    rfc_message_id: str
    status: str
    status_url: str
    retry_of: str


class SettleIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person knows, or decides, of what is uncertain or held; `note` says why."""

    into: Literal["sent", "resend", "failed"] = msgspec.field(name="as")
    note: Annotated[str, Meta(max_length=SHORT_TEXT_MAX)] = ""


class SettleReceipt(msgspec.Struct, frozen=True):
    """The deliveries, by their place in the envelope, that are settled, and those left alone."""

    id: str
    into: str = msgspec.field(name="as")
    settled: tuple[int, ...]
    left: tuple[int, ...]


class ProviderView(msgspec.Struct, frozen=True):
    """A provider as it is now. Times are seconds from now; null where there is nothing to say.

    `breaker` is `closed`, `open`, `half_open`, or `disabled` while the provider refuses us as such.
    `permits` are those to be had in `next_permit_in_s`; null means no limit.
    """

    name: str
    breaker: str
    breaker_opens_in_s: float | None
    probes_free: int
    opened_count: int
    last_success_s_ago: float | None
    paused: bool
    next_permit_in_s: float | None
    """Null while it is not known, as of a paused provider."""
    permits: int | None
    in_flight: int
    slots_free: int
    concurrency_max: int
    concurrency: int
    """What may be in flight now; it grows up to the most while attempts succeed."""
    learnt_pace_per_s: float | None
    """The rate that the limiter learnt from its 429s and the like."""
    dead: bool
    """It accepted none of its latest attempts: it gets only a probe now and then."""


class Providers(msgspec.Struct, frozen=True):
    """All providers, in the order of the configuration."""

    providers: tuple[ProviderView, ...]


class RiskView(msgspec.Struct, frozen=True):
    """Deliveries of a stream that were sent again although `provider` may have accepted them."""

    stream: str
    provider: str
    count: int


class PendingView(msgspec.Struct, frozen=True):
    """A stream's deliveries in one state that is not final.

    `oldest_s` is how long the oldest message among them has waited: since its acceptance, or since
    its `send_at`. `unmoved_s` is how long the delivery that moved least recently is as it is. Both
    are null for what is `scheduled`.
    """

    stream: str
    state: str
    count: int
    oldest_s: float | None
    unmoved_s: float | None


class AlarmView(msgspec.Struct, frozen=True):
    """Something that is stuck, or does not add up. `subject` is a message's id, or an actor."""

    kind: str
    subject: str
    stream: str | None
    state: str | None
    since: str | None
    raised_at: str
    detail: str
    expected: str


class DifferenceView(msgspec.Struct, frozen=True):
    """A sum as it is kept, and as it is counted."""

    name: str
    kept: int
    counted: int


class LedgerView(msgspec.Struct, frozen=True):
    """Accepted deliveries and where they are: `holds` if `accepted` is the sum of `states`.

    `imbalance` is the one less the other. `in_flight` counts what is due and not final (`queued`,
    `processing`, `deferred`, `uncertain`), `purged` the deliveries whose messages retention has
    deleted. `oldest_s` is by state how long the oldest message with a delivery in it has waited;
    what is `scheduled` is not in it. `alarms` are null in a file that is read: nobody watches it.

    The figures are sums that are kept; with `?audit=true` every row is counted, and `audit` says
    where the kept sums differ: then `holds` is false.
    """

    holds: bool
    accepted: int
    imbalance: int
    states: dict[str, int]
    in_flight: int
    purged: int
    declared_risks: int
    risks: tuple[RiskView, ...]
    pending: tuple[PendingView, ...]
    oldest_s: dict[str, float]
    alarms: tuple[AlarmView, ...] | None
    audit: tuple[DifferenceView, ...] | UnsetType = UNSET
    """The sums that are wrong, empty if none is; missing where nothing was counted."""


class LedgerQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to count every row as well, which takes seconds in a spool of millions."""

    audit: bool = False


class SuppressionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cursor` is the `next` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, Meta(max_length=ADDRESS_MAX)] = ""


class AddressQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one address that is meant."""

    address: Annotated[str, Meta(max_length=ADDRESS_MAX)]


class FlushQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be due now: all that is deferred, what this provider had last, or a stream's."""

    provider: Annotated[str, Meta(max_length=200)] = ""
    stream: Annotated[str, Meta(max_length=200)] = ""


class FlushView(msgspec.Struct, frozen=True):
    """How many deliveries are due now that would have waited."""

    flushed: int


class SuppressionIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address that is to get no mail."""

    address: Annotated[str, Meta(max_length=ADDRESS_MAX)]
    reason: Annotated[str, Meta(max_length=SHORT_TEXT_MAX)] = ""


class SuppressionView(msgspec.Struct, frozen=True):
    """An address that gets no mail; `source` is who listed it first: `bounce`, `api`, …"""

    address: str
    reason: str
    source: str
    created_at: str


class ActsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`after` is the `next` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT
    after: Annotated[int, Meta(ge=0, le=SEQ_MAX)] = 0


class ActView(msgspec.Struct, frozen=True):
    """What an operator asked for: `what`, by which `way` (api, cli, signal), on which subject.

    Whether it had an effect is in the message's timeline, the log and the provider's state.
    """

    seq: int
    at: str
    what: str
    way: str
    subject: str | None
    facts: dict[str, Any]


class ActPage(msgspec.Struct, frozen=True):
    """Acts of operators, oldest first. `next` continues the list, or is null at its end."""

    acts: tuple[ActView, ...]
    next: int | None


class SuppressionPage(msgspec.Struct, frozen=True):
    """Suppressed addresses in their order. `next` is the cursor of the page after, or null."""

    suppressions: tuple[SuppressionView, ...]
    next: str | None


class Unsuppression(msgspec.Struct, frozen=True):
    """The address gets mail; `was_suppressed` if it did not before."""

    address: str
    was_suppressed: bool


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`after` is the `id` of the last event known; a `Last-Event-ID` header goes before it."""

    after: Annotated[int, Meta(ge=0, le=SEQ_MAX)] | UnsetType = UNSET


class EventView(msgspec.Struct, frozen=True):
    """An event's `data`. `id` is the message's, ours; `facts` depend on the kind."""

    id: str
    client_id: str | None
    rfc_message_id: str
    stream: str
    at: str
    facts: dict[str, Any]


class Reloaded(msgspec.Struct, frozen=True):
    """The configuration was taken over; `notes` name what has to wait for a restart."""

    status: str
    notes: tuple[str, ...]


class HealthView(msgspec.Struct, frozen=True):
    """`ok` or `ready`."""

    status: str


class Index(msgspec.Struct, frozen=True):
    """What is served here."""

    service: str
    version: str
    routes: dict[str, str]
