"""What is stuck, and since when: plain functions from facts to alarms.

A finding is what one look sees. It becomes an alarm when every look has seen it for longer than
its kind lasts in a healthy gateway, by the monotonic clock since it was first seen, so that a step
of the wall clock raises no alarm. Nothing here repairs anything.
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
from mailactors.model.facts import public_word
from mailactors.model.lifecycle import PENDING, State
from mailactors.runtime.mailbox import MailboxStatistics
from mailactors.runtime.tally import Tally
from mailactors.spool.port import ALONE_FROM, DeliveryFacts, Inspection, LeaseOwner, MessageFacts

LATE_S: Final = 5.0
"""How late something may be done before a look reports it."""
LAG_MAX_S: Final = 5.0
"""How late the event loop may wake a task."""
NAMED_MAX: Final = 20
"""Alarms of one kind that are listed at once; the others are only counted."""
SUSPECTED_MAX: Final = 1_000
"""Findings that are remembered at once; a spool that is all wrong shows with fewer."""


class AlarmKind(enum.StrEnum):
    """What may be wrong."""

    LEASE_ORPHANED = "lease_orphaned"
    INTENT_ORPHANED = "intent_orphaned"
    ATTEMPT_STUCK = "attempt_stuck"
    NOT_SENT = "not_sent"
    NOT_CLAIMED = "not_claimed"
    PASSED_BY = "passed_by"
    NOT_SETTLED = "not_settled"
    NOT_EXPIRED = "not_expired"
    COUNT_WRONG = "count_wrong"
    FINAL_UNDATED = "final_undated"
    LEDGER_IMBALANCE = "ledger_imbalance"
    MAILBOX_STUCK = "mailbox_stuck"
    LOOP_BLOCKED = "loop_blocked"
    CLOCK_JUMPED = "clock_jumped"
    LOOK_STUCK = "look_stuck"
    RESOURCES_SHORT = "resources_short"


class Rule(msgspec.Struct, frozen=True):
    """How long a finding of a kind may last in health, and what should have happened."""

    patience_s: float
    expected: str


RULES: Final[Mapping[AlarmKind, Rule]] = {
    AlarmKind.LEASE_ORPHANED: Rule(30.0, "what is leased is sent or given back by its owner"),
    AlarmKind.INTENT_ORPHANED: Rule(
        30.0, "an intent without an attempt in flight becomes uncertain"
    ),
    # More than the budget of the largest message, and the wait for the answer to its final dot.
    AlarmKind.ATTEMPT_STUCK: Rule(5400.0, "an attempt ends by its provider's own timeouts"),
    AlarmKind.NOT_SENT: Rule(30.0, "what is leased goes out while a provider of its route is free"),
    AlarmKind.NOT_CLAIMED: Rule(30.0, "what is due is leased while there is room for it"),
    AlarmKind.PASSED_BY: Rule(
        60.0, "what is due goes out while a provider is idle that may take it"
    ),
    # A look-up may take half a minute, and another doubt waits for at most one of them.
    AlarmKind.NOT_SETTLED: Rule(90.0, "what is uncertain is looked at when its wait is over"),
    AlarmKind.NOT_EXPIRED: Rule(30.0, "what is past its deadline expires"),
    AlarmKind.COUNT_WRONG: Rule(0.0, "open_count is the number of deliveries that are not final"),
    AlarmKind.FINAL_UNDATED: Rule(
        0.0, "a message has final_at when all its deliveries are final, and only then"
    ),
    AlarmKind.LEDGER_IMBALANCE: Rule(0.0, "every accepted delivery is in exactly one state"),
    AlarmKind.MAILBOX_STUCK: Rule(30.0, "an actor handles what waits for it"),
    AlarmKind.LOOP_BLOCKED: Rule(0.0, "nothing holds up the event loop"),
    AlarmKind.CLOCK_JUMPED: Rule(0.0, "the wall clock goes on as the monotonic clock does"),
    AlarmKind.LOOK_STUCK: Rule(30.0, "the spool answers a question"),
    AlarmKind.RESOURCES_SHORT: Rule(
        0.0, "there are descriptors (`ulimit -n`), memory, threads and ports for what it does"
    ),
}


class Finding(msgspec.Struct, frozen=True):
    """Something that a look found.

    `subject` is a message's id, or what else it is about. `spell` separates one period from the
    next: what has moved since, and is stuck again, is another finding. `state` is the public one.
    """

    kind: AlarmKind
    subject: str
    spell: str = ""
    seq: int = 0
    stream: str = ""
    state: str = ""
    since: float | None = None
    """UTC; since when it is so, as far as that is known."""
    detail: str = ""


class Alarm(msgspec.Struct, frozen=True):
    """A finding that lasted too long. `raised_at` is UTC, `raised_s` monotonic."""

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
    """Every finding of the latest look, and when (monotonic) it was first found."""
    alarms: dict[Key, Alarm] = field(default_factory=dict)
    raised: Tally = field(default_factory=Tally)
    """Alarms ever raised, by kind."""

    def seqs(self) -> tuple[int, ...]:
        """Return the messages to look at again."""
        return tuple(sorted({fault.seq for fault, _ in self.suspected.values() if fault.seq}))

    def forget_suspicions(self) -> None:
        """Start all times over: for a while nothing could move. Raised alarms stay."""
        self.suspected = {key: self.suspected[key] for key in self.alarms if key in self.suspected}

    def counts(self, now_s: float) -> dict[str, int]:
        """Return by kind the findings that have lasted too long, listed or not."""
        counts = dict.fromkeys(RULES, 0)
        for fault, first_s in self.suspected.values():
            counts[fault.kind] += now_s - first_s >= RULES[fault.kind].patience_s
        return {kind.value: count for kind, count in counts.items()}


def decide_changes(
    register: AlarmRegister, faults: Iterable[Finding], now_s: float, now: float
) -> Changes:
    """Apply a look's findings: raise what has lasted too long, clear what is gone."""
    before, register.suspected = register.suspected, {}
    for fault in faults:
        key = (fault.kind, fault.subject, fault.spell)
        if key in before or len(register.suspected) < SUSPECTED_MAX:
            register.suspected.setdefault(key, (fault, before[key][1] if key in before else now_s))
    gone = [key for key in register.alarms if key not in register.suspected]
    cleared = tuple(register.alarms.pop(key) for key in gone)
    return Changes(tuple(_raise(register, now_s, now)), cleared)


def _raise(register: AlarmRegister, now_s: float, now: float) -> Iterator[Alarm]:
    named = dict.fromkeys(RULES, 0)
    for kind, *_ in register.alarms:
        named[kind] += 1
    for key, (fault, first_s) in register.suspected.items():
        is_over = now_s - first_s >= RULES[fault.kind].patience_s
        if is_over and key not in register.alarms and named[fault.kind] < NAMED_MAX:
            named[fault.kind] += 1
            register.raised.add(fault.kind.value)
            register.alarms[key] = Alarm(fault, now, now_s)
            yield register.alarms[key]


# The spool


class Snapshot(msgspec.Struct, frozen=True):
    """What the process knows at a look into its spool.

    Args:
        now: UTC seconds.
        owner: the leases and attempts that the dispatcher has.
        plans: by stream; every stream of the messages looked at is in it.
        free: lanes that would take a message now.
        healthy: lanes that a patient stream waits for.
        room: leased messages of a stream below which the dispatcher claims more.
        repeating: lanes with as many repeats by key in flight as they may have.
        idle: free lanes with nothing in flight.
        is_alone: whether a message is in flight that must be the only suspect; others wait.
    """

    now: float
    owner: LeaseOwner
    plans: Mapping[str, StreamPolicy]
    free: frozenset[str]
    healthy: frozenset[str]
    room: int
    repeating: frozenset[str] = frozenset()
    is_alone: bool = False
    idle: frozenset[str] = frozenset()


def is_free(lane: Lane, now_s: float) -> bool:
    """Whether a lane would certainly take any message: probes and panic do not count.

    Where a domain has all the slots that it may have, more of its mail waits in health.
    """
    limiter = lane.limiter_status.value
    has_permit = limiter.permits > 0 and limiter.next_permit_s <= now_s and not limiter.is_paused
    is_open = lane.breaker_status.value.state is BreakerState.CLOSED and not lane.is_retired
    is_busy = lane.is_crowded or now_s < lane.short_until_s
    return is_open and has_permit and lane.slots_free > 0 and not is_busy


def spool_faults(inspection: Inspection, known: Snapshot) -> Iterator[Finding]:
    """Yield what is wrong in a look's part of the spool."""
    for message in inspection.messages:
        yield from sum_faults(message)
        has_room = inspection.taken.get(message.stream, 0) < known.room
        yield from motion_faults(message, known, has_room=has_room)
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
    total, opened = message.recipients_total, message.open_count
    if known != total:
        yield fault(AlarmKind.LEDGER_IMBALANCE, f"accepted {total}, in a state {known}")
    if pending != opened:
        yield fault(AlarmKind.COUNT_WRONG, f"open_count {opened}, not final {pending}")
    if (opened == 0) != (message.final_at is not None):
        detail = "final_at is missing" if opened == 0 else "final_at is set"
        yield fault(AlarmKind.FINAL_UNDATED, detail)


def motion_faults(message: MessageFacts, known: Snapshot, *, has_room: bool) -> Iterator[Finding]:
    """Yield what should have moved; of several deliveries alike, the first."""
    found: dict[tuple[AlarmKind, str], Finding] = {}
    for each in message.deliveries:
        for kind, spell, detail in delivery_faults(message, each, known, has_room=has_room):
            about = (message.id, spell, message.seq, message.stream, public_word(each.state))
            fault = Finding(kind, *about, since_of(kind, message, each), detail)
            found.setdefault((kind, spell), fault)
    yield from found.values()


def since_of(kind: AlarmKind, message: MessageFacts, each: DeliveryFacts) -> float:
    """Return when what should have happened was due, or since when the delivery is as it is."""
    match kind:
        case AlarmKind.NOT_EXPIRED:
            return message.expires_at
        case AlarmKind.NOT_CLAIMED | AlarmKind.PASSED_BY:
            return each.due_at
        case AlarmKind.NOT_SETTLED if each.doubt_at is not None and math.isfinite(each.doubt_at):
            return each.doubt_at
        case _:
            return each.updated_at


def delivery_faults(
    message: MessageFacts, each: DeliveryFacts, known: Snapshot, *, has_room: bool
) -> Iterator[tuple[AlarmKind, str, str]]:
    """Yield kind, spell and detail of what is wrong with where a delivery is."""
    late = known.now - LATE_S
    match each.state:
        case State.LEASED | State.SENDING:
            yield from _taken_faults(message, each, known)
        case State.READY | State.DEFERRED if each.due_at <= late and has_room:
            yield AlarmKind.NOT_CLAIMED, repr(each.due_at), ""
        case State.READY | State.DEFERRED if each.due_at <= late:
            if (lane := idle_lane(message, known)) is not None:
                yield AlarmKind.PASSED_BY, repr(each.due_at), f"provider {lane} is idle"
        case State.UNCERTAIN if each.doubt_at is None or math.isinf(each.doubt_at):
            yield AlarmKind.NOT_SETTLED, each.attempt_id, "no look-up or repeat is due"
        case State.UNCERTAIN | State.HELD if each.doubt_at is not None and each.doubt_at <= late:
            if each.provider not in known.repeating and not must_wait_alone(message, known):
                yield AlarmKind.NOT_SETTLED, repr(each.doubt_at), ""
    is_waiting = each.state in {State.READY, State.DEFERRED, State.LEASED}
    if is_waiting and message.expires_at <= late:
        yield AlarmKind.NOT_EXPIRED, "", ""


def _taken_faults(
    message: MessageFacts, each: DeliveryFacts, known: Snapshot
) -> Iterator[tuple[AlarmKind, str, str]]:
    if each.state == State.SENDING:
        if each.attempt_id not in known.owner.attempts:
            yield AlarmKind.INTENT_ORPHANED, each.attempt_id, f"attempt {each.attempt_id}"
    elif not known.owner.knows_lease(message.seq, each.epoch, each.node):
        yield AlarmKind.LEASE_ORPHANED, str(each.epoch), f"leased to node {each.node!r}"
    elif (message.seq, each.epoch) not in known.owner.flying:
        lane = free_lane(message, each.epoch, known)
        if lane is not None:
            yield AlarmKind.NOT_SENT, str(each.epoch), f"provider {lane} is free"


def free_lane(message: MessageFacts, epoch: int, known: Snapshot) -> str | None:
    """Return a lane that would take a message's leased deliveries, or None: then they may wait."""
    leased = [d for d in message.deliveries if d.state == State.LEASED and d.epoch == epoch]
    return _lane_among(known.free, message, len(leased), known)


def idle_lane(message: MessageFacts, known: Snapshot) -> str | None:
    """Return an idle lane that would take what is due of a message, or None."""
    waiting = {State.READY, State.DEFERRED}
    due = [d for d in message.deliveries if d.state in waiting and d.due_at <= known.now]
    return _lane_among(known.idle, message, len(due), known)


def _lane_among(
    lanes: frozenset[str], message: MessageFacts, count: int, known: Snapshot
) -> str | None:
    if must_wait_alone(message, known):
        return None
    plan = known.plans[message.stream]
    able = plan.carrying(count, message.written_for)
    for lane in candidates(able, message.progress):
        if lane in lanes:
            return lane
        may_wait = plan.patience_s >= RULES[AlarmKind.NOT_SENT].patience_s
        if may_wait and lane in known.healthy:
            return None
    return None


def must_wait_alone(message: MessageFacts, known: Snapshot) -> bool:
    """Whether the message is a suspect, and another suspect is in flight: they go one at a time."""
    return known.is_alone and message.crashes >= ALONE_FROM


# The process


def process_faults(
    mailboxes: Sequence[MailboxStatistics],
    lanes: Iterable[Lane],
    lag_s: float,
    look_began_s: float | None,
    jump_s: float = 0.0,
    shortages: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Yield what the process can find wrong with itself; `jump_s`: the clock is that far ahead."""
    if jump_s:
        words = f"{abs(jump_s):,.0f} s {'ahead' if jump_s > 0 else 'back'}, not believed yet"
        yield Finding(AlarmKind.CLOCK_JUMPED, "wall clock", detail=f"it was set {words}")
    for box in mailboxes:
        if box.waiting:
            spell, detail = f"{box.handled}+{box.crashed}", f"{box.waiting} items wait"
            yield Finding(AlarmKind.MAILBOX_STUCK, box.name, spell, detail=detail)
    for lane in lanes:
        for attempt in lane.in_flight.values():
            about = (attempt.lease.id, attempt.id, attempt.lease.seq, attempt.lease.stream)
            detail = f"attempt {attempt.id} with {lane.name}, {attempt.stage.name.lower()}"
            yield Finding(AlarmKind.ATTEMPT_STUCK, *about, detail=detail)
    if lag_s > LAG_MAX_S:
        yield Finding(AlarmKind.LOOP_BLOCKED, "event loop", detail=f"woke {lag_s:.1f} s late")
    if look_began_s is not None:
        yield Finding(AlarmKind.LOOK_STUCK, "spool reader", repr(look_began_s))
    for where, text in (shortages or {}).items():
        yield Finding(AlarmKind.RESOURCES_SHORT, where, detail=f"{where}: {text}")
