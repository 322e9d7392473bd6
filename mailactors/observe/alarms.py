"""What is stuck, and since when: plain functions from facts to alarms.

A fault is what a look finds; it becomes an alarm when look after look has found it for as long as
its kind may last in health. That is counted on the monotonic clock from when it was first found,
so that a step of the wall clock alarms nobody. Nothing here repairs anything.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from mailactors.dispatch.lane import BreakerState, Lane
from mailactors.dispatch.retry import StreamPolicy, candidates
from mailactors.model.lifecycle import PENDING, State
from mailactors.runtime.mailbox import MailboxStatistics
from mailactors.runtime.tally import Tally
from mailactors.spool.port import ALONE_FROM, DeliveryFacts, Inspection, LeaseOwner, MessageFacts

LATE_S: Final = 5.0
"""How much later than its time something may be done before a look takes note of it."""
LAG_MAX_S: Final = 5.0
"""How late the event loop may wake who sleeps."""
NAMED_MAX: Final = 20
"""Alarms of one kind that are named at once; the others are counted."""
SUSPECTED_MAX: Final = 1_000
"""Faults that are remembered at once: a spool that is all wrong says so with fewer."""


class AlarmKind(enum.StrEnum):
    """What may be wrong."""

    LEASE_ORPHANED = "lease_orphaned"
    INTENT_ORPHANED = "intent_orphaned"
    ATTEMPT_STUCK = "attempt_stuck"
    NOT_SENT = "not_sent"
    NOT_CLAIMED = "not_claimed"
    NOT_SETTLED = "not_settled"
    NOT_EXPIRED = "not_expired"
    COUNT_WRONG = "count_wrong"
    FINAL_UNDATED = "final_undated"
    LEDGER_IMBALANCE = "ledger_imbalance"
    MAILBOX_STUCK = "mailbox_stuck"
    LOOP_BLOCKED = "loop_blocked"
    LOOK_STUCK = "look_stuck"


class Rule(msgspec.Struct, frozen=True):
    """How long a fault may last in health, and what should have happened."""

    patience_s: float
    expected: str


RULES: Final[Mapping[AlarmKind, Rule]] = {
    AlarmKind.LEASE_ORPHANED: Rule(
        30.0, "whoever leased it has it in hand: sends it, or gives it back"
    ),
    AlarmKind.INTENT_ORPHANED: Rule(30.0, "an intent that nobody has in flight becomes uncertain"),
    # More than every timeout of an SMTP session with fifty recipients together.
    AlarmKind.ATTEMPT_STUCK: Rule(3600.0, "an attempt ends by its provider's own timeouts"),
    AlarmKind.NOT_SENT: Rule(30.0, "what is leased goes out while a provider of its route is free"),
    AlarmKind.NOT_CLAIMED: Rule(30.0, "what is due is leased while there is room for it"),
    # A look-up may take half a minute; what waits for one is behind at most one of those.
    AlarmKind.NOT_SETTLED: Rule(90.0, "what is uncertain is settled when its wait is over"),
    AlarmKind.NOT_EXPIRED: Rule(30.0, "what waits past its deadline expires"),
    AlarmKind.COUNT_WRONG: Rule(0.0, "open_count is the number of deliveries that are not final"),
    AlarmKind.FINAL_UNDATED: Rule(
        0.0, "a message has final_at when all of it is final, and only then"
    ),
    AlarmKind.LEDGER_IMBALANCE: Rule(0.0, "every accepted delivery is in exactly one state"),
    AlarmKind.MAILBOX_STUCK: Rule(30.0, "an actor handles what waits for it"),
    AlarmKind.LOOP_BLOCKED: Rule(0.0, "nothing holds up the event loop"),
    AlarmKind.LOOK_STUCK: Rule(30.0, "the spool answers a question"),
}


class Finding(msgspec.Struct, frozen=True):
    """Something that a look found.

    `subject` is a message's id, or what else it is about. `spell` tells one bout from the next:
    what has moved on meanwhile, if only to be stuck again, is another fault.
    """

    kind: AlarmKind
    subject: str
    spell: str = ""
    seq: int = 0
    stream: str = ""
    state: str = ""
    since: float | None = None
    """UTC; since when the thing is as it is, as far as it is known."""
    detail: str = ""


class Alarm(msgspec.Struct, frozen=True):
    """A fault that lasts. `raised_at` is UTC, `raised_s` monotonic."""

    fault: Finding
    raised_at: float
    raised_s: float

    @property
    def expected(self) -> str:
        """What should have happened."""
        return RULES[self.fault.kind].expected


Key: TypeAlias = tuple[AlarmKind, str, str]


class Changes(msgspec.Struct, frozen=True):
    """Alarms that are new, and those that are over."""

    raised: tuple[Alarm, ...] = ()
    cleared: tuple[Alarm, ...] = ()


@dataclass(eq=False)
class AlarmRegister:
    """What is remembered from look to look."""

    suspected: dict[Key, tuple[Finding, float]] = field(default_factory=dict)
    """Every fault of the latest look, and when (monotonic) it was first found."""
    alarms: dict[Key, Alarm] = field(default_factory=dict)
    raised: Tally = field(default_factory=Tally)
    """Alarms ever raised, by kind."""

    def seqs(self) -> tuple[int, ...]:
        """Return the messages to look at again."""
        return tuple(sorted({fault.seq for fault, _ in self.suspected.values() if fault.seq}))

    def forget_suspicions(self) -> None:
        """Begin to count anew: for a while nothing could move. What was raised stays."""
        self.suspected = {key: self.suspected[key] for key in self.alarms if key in self.suspected}

    def counts(self, now_s: float) -> dict[str, int]:
        """Return by kind the faults that have lasted too long, named or not."""
        counts = dict.fromkeys(RULES, 0)
        for fault, first_s in self.suspected.values():
            counts[fault.kind] += now_s - first_s >= RULES[fault.kind].patience_s
        return {kind.value: count for kind, count in counts.items()}


def decide_changes(
    book: AlarmRegister, faults: Iterable[Finding], now_s: float, now: float
) -> Changes:
    """Take in what a look found: raise what has lasted too long, clear what is gone."""
    before, book.suspected = book.suspected, {}
    for fault in faults:
        key = (fault.kind, fault.subject, fault.spell)
        if key in before or len(book.suspected) < SUSPECTED_MAX:
            book.suspected.setdefault(key, (fault, before[key][1] if key in before else now_s))
    cleared = [alarm for key, alarm in book.alarms.items() if key not in book.suspected]
    book.alarms = {key: alarm for key, alarm in book.alarms.items() if key in book.suspected}
    raised = list(_raise(book, now_s, now))
    for alarm in raised:
        book.raised.add(alarm.fault.kind.value)
    return Changes(tuple(raised), tuple(cleared))


def _raise(book: AlarmRegister, now_s: float, now: float) -> Iterator[Alarm]:
    named = dict.fromkeys(RULES, 0)
    for kind, *_ in book.alarms:
        named[kind] += 1
    for key, (fault, first_s) in book.suspected.items():
        is_over = now_s - first_s >= RULES[fault.kind].patience_s
        if is_over and key not in book.alarms and named[fault.kind] < NAMED_MAX:
            named[fault.kind] += 1
            book.alarms[key] = Alarm(fault, now, now_s)
            yield book.alarms[key]


# The spool


class Snapshot(msgspec.Struct, frozen=True):
    """What the process knows at a look into its spool.

    Args:
        now: UTC seconds.
        owner: what the dispatcher has in hand.
        plans: by stream; every stream of the messages looked at is in it.
        free: lanes that would take a message now.
        well: lanes that a patient stream waits for.
        room: messages of a stream in hand below which the dispatcher leases more.
        repeating: lanes with as many repetitions by key on their way as there may be.
        is_alone: whether a message is on its way that goes alone; others of its kind wait.
    """

    now: float
    owner: LeaseOwner
    plans: Mapping[str, StreamPolicy]
    free: frozenset[str]
    well: frozenset[str]
    room: int
    repeating: frozenset[str] = frozenset()
    is_alone: bool = False


def is_free(lane: Lane, now_s: float) -> bool:
    """Whether a lane would certainly take a message: probes and panic do not count."""
    limiter = lane.limiter_status.value
    has_permit = limiter.permits > 0 and limiter.next_permit_s <= now_s and not limiter.is_paused
    is_open = lane.breaker_status.value.state is BreakerState.CLOSED and not lane.is_retired
    return is_open and has_permit and lane.slots_free > 0


def spool_faults(inspection: Inspection, world: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong in what a look into the spool saw."""
    for message in inspection.messages:
        yield from sum_faults(message)
        has_room = inspection.taken.get(message.stream, 0) < world.room
        yield from motion_faults(message, world, has_room=has_room)
    for seq in inspection.strays:
        detail = "deliveries without a message"
        yield Finding(AlarmKind.LEDGER_IMBALANCE, f"message no. {seq}", detail=detail)
    if inspection.purged_imbalance:
        detail = f"{inspection.purged_imbalance:+d} of what retention deleted"
        yield Finding(AlarmKind.LEDGER_IMBALANCE, "purged", detail, detail=detail)


def sum_faults(message: MessageFacts) -> Iterator[Finding]:
    """Yield what does not add up in a message."""

    def fault(kind: AlarmKind, detail: str) -> Finding:
        return Finding(kind, message.id, "", message.seq, message.stream, detail=detail)

    states = [each.state for each in message.deliveries]
    known = sum(state in set(State) for state in states)
    pending = sum(state in PENDING for state in states)
    if known != message.recipients_total:
        detail = f"accepted {message.recipients_total}, in a state {known}"
        yield fault(AlarmKind.LEDGER_IMBALANCE, detail)
    if pending != message.open_count:
        detail = f"open_count {message.open_count}, not final {pending}"
        yield fault(AlarmKind.COUNT_WRONG, detail)
    if (message.open_count == 0) != (message.final_at is not None):
        detail = "final_at is missing" if message.open_count == 0 else "final_at is set"
        yield fault(AlarmKind.FINAL_UNDATED, detail)


def motion_faults(message: MessageFacts, world: Snapshot, *, has_room: bool) -> Iterator[Finding]:
    """Yield what should have moved on; of several deliveries in the same case, the first."""
    found: dict[tuple[AlarmKind, str], Finding] = {}
    for each in message.deliveries:
        for kind, spell, detail in delivery_faults(message, each, world, has_room=has_room):
            since = since_of(kind, message, each)
            fault = Finding(
                kind, message.id, spell, message.seq, message.stream, each.state, since, detail
            )
            found.setdefault((kind, spell), fault)
    yield from found.values()


def since_of(kind: AlarmKind, message: MessageFacts, each: DeliveryFacts) -> float:
    """Return when what should have happened was due, or since when the delivery is as it is."""
    match kind:
        case AlarmKind.NOT_EXPIRED:
            return message.expires_at
        case AlarmKind.NOT_CLAIMED:
            return each.due_at
        case AlarmKind.NOT_SETTLED if each.doubt_at is not None and math.isfinite(each.doubt_at):
            return each.doubt_at
        case _:
            return each.updated_at


def delivery_faults(
    message: MessageFacts, each: DeliveryFacts, world: Snapshot, *, has_room: bool
) -> Iterator[tuple[AlarmKind, str, str]]:
    """Yield kind, spell and detail of what is wrong with where a delivery is."""
    late = world.now - LATE_S
    match each.state:
        case State.LEASED | State.SENDING:
            yield from _taken_faults(message, each, world)
        case State.READY | State.DEFERRED if each.due_at <= late and has_room:
            yield AlarmKind.NOT_CLAIMED, repr(each.due_at), ""
        case State.UNCERTAIN if each.doubt_at is None or math.isinf(each.doubt_at):
            yield AlarmKind.NOT_SETTLED, each.attempt_id, "nobody is going to see to it"
        case State.UNCERTAIN | State.HELD if each.doubt_at is not None and each.doubt_at <= late:
            if each.provider not in world.repeating and not must_wait_alone(message, world):
                yield AlarmKind.NOT_SETTLED, repr(each.doubt_at), ""
    is_waiting = each.state in {State.READY, State.DEFERRED, State.LEASED}
    if is_waiting and message.expires_at <= late:
        yield AlarmKind.NOT_EXPIRED, "", ""


def _taken_faults(
    message: MessageFacts, each: DeliveryFacts, world: Snapshot
) -> Iterator[tuple[AlarmKind, str, str]]:
    if each.state == State.SENDING:
        if each.attempt_id not in world.owner.attempts:
            yield AlarmKind.INTENT_ORPHANED, each.attempt_id, f"attempt {each.attempt_id}"
    elif not world.owner.knows_lease(message.seq, each.epoch, each.node):
        yield AlarmKind.LEASE_ORPHANED, str(each.epoch), f"leased to {each.node or 'nobody'}"
    elif (message.seq, each.epoch) not in world.owner.flying:
        lane = free_lane(message, each.epoch, world)
        if lane is not None:
            yield AlarmKind.NOT_SENT, str(each.epoch), f"provider {lane} is free"


def free_lane(message: MessageFacts, epoch: int, world: Snapshot) -> str | None:
    """Return a lane that would take what is leased of a message, or None: then it may wait."""
    if must_wait_alone(message, world):
        return None
    plan = world.plans[message.stream]
    leased = [d for d in message.deliveries if d.state == State.LEASED and d.epoch == epoch]
    able = plan.carrying(len(leased), message.written_for)
    for lane in candidates(able, message.progress):
        if lane in world.free:
            return lane
        if plan.is_patient and lane in world.well:
            return None
    return None


def must_wait_alone(message: MessageFacts, world: Snapshot) -> bool:
    """Whether it is one of those that are sent one at a time, and another one is on its way."""
    return world.is_alone and message.crashes >= ALONE_FROM


# The process


def process_faults(
    mailboxes: Sequence[MailboxStatistics],
    lanes: Iterable[Lane],
    lag_s: float,
    look_began_s: float | None,
) -> Iterator[Finding]:
    """Yield what is wrong with the process, as far as it can see itself."""
    for box in mailboxes:
        if box.waiting:
            spell = f"{box.handled}+{box.crashed}"
            yield Finding(
                AlarmKind.MAILBOX_STUCK, box.name, spell, detail=f"{box.waiting} items wait"
            )
    for lane in lanes:
        for attempt in lane.in_flight.values():
            lease, stage = attempt.lease, attempt.stage.name.lower()
            detail = f"attempt {attempt.id} with {lane.name}, {stage}"
            yield Finding(
                AlarmKind.ATTEMPT_STUCK,
                lease.id,
                attempt.id,
                lease.seq,
                lease.stream,
                detail=detail,
            )
    if lag_s > LAG_MAX_S:
        yield Finding(AlarmKind.LOOP_BLOCKED, "event loop", detail=f"woke {lag_s:.1f} s late")
    if look_began_s is not None:
        yield Finding(AlarmKind.LOOK_STUCK, "spool reader", repr(look_began_s))
