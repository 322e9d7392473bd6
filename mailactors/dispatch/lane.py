"""A lane: what the senders and one provider's three actors share; it survives each of them.

An attempt travels limiter → breaker → provider and its end travels provider → breaker → limiter →
the mailbox that the attempt names, exactly once. `concurrency_max` bounds the attempts in a lane,
and every mailbox has room for all of them, so no actor of a lane waits for another: each uses
`put_nowait`, and an overflow is a bug.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
import trio

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.speeds import Speeds, slots_of_domain
from mailactors.dispatch.subjects import Subjects
from mailactors.model.outcome import NotAttempted, Why
from mailactors.providers.port import Provider
from mailactors.runtime.cell import Cell
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Clock
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import describe
from mailactors.runtime.tally import Histogram

NEVER_S: Final = -1e9
"""A monotonic time before any other."""
CONTROL_ROOM: Final = 16
"""Room in a lane's mailboxes for control messages, beside that for attempts."""
PANIC_INTERVAL_S: Final = 0.02
"""The pace of a lane in panic: fifty attempts a second at most."""
PANIC_IN_FLIGHT_MAX: Final = 8
PANIC_DEAD_INTERVAL_S: Final = 60.0
"""The pace in panic of a lane that accepted nothing lately. Its breaker may stay open for longer,
for its probes are slow, but where no other lane is left that would be an outage of our making."""


class Control(msgspec.Struct, frozen=True):
    """An operator's command to an actor of a lane; `done` is filled when it has taken effect."""

    done: Reply[None] = msgspec.field(default_factory=Reply)


class Pause(Control, frozen=True):
    """Stop giving permits until `Resume`."""


class Resume(Control, frozen=True):
    """Give permits again."""


class Reset(Control, frozen=True):
    """Forget what was learnt of the provider: close the breaker, lift its Retry-After and pace."""


Obeyed: TypeAlias = tuple[Reply[None], ...]
LaneMessage: TypeAlias = Attempt | Done | Pause | Resume | Reset


class BreakerState(enum.StrEnum):
    """The breaker's state, in Polly's words."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    DISABLED = "disabled"
    """Open for long: the provider refuses us as such (key, suspension)."""


class BreakerStatus(msgspec.Struct, frozen=True):
    """What the breaker publishes. Times are monotonic."""

    state: BreakerState = BreakerState.CLOSED
    until_s: float = 0.0
    """When an open breaker admits probes."""
    last_resort_s: float = 0.0
    """When it is tried although open, if every breaker of a route is; not after `until_s`, which a
    slow provider's probes put off further."""
    probes_free: int = 0
    """Probes that a half-open breaker would admit now."""
    is_dead: bool = False
    """So many attempts in a row were not accepted that only probes are worth making."""
    concurrency: int = 1_000_000
    """Attempts that may be in flight; `concurrency_max` bounds them in any case."""
    last_success_s: float = NEVER_S
    """Rounded to whole seconds, so that a busy provider does not publish at every message."""
    opened_count: int = 0
    """Times opened in a row without a lasting recovery: the open time doubles with it."""


class LearntPace(msgspec.Struct, frozen=True):
    """A pace learnt from a provider's refusals as too fast. Times are monotonic."""

    per_s: float
    limit_per_s: float
    """The rate at which it refused; the pace is kept below it."""
    first_refusal_s: float
    """When the latest lesson's first refusal came; attempts permitted before it teach no more."""
    since_s: float
    patience_s: float
    """For how long after `since_s` the pace is kept before it climbs."""
    lessons: int = 0
    """How often in a row it was refused before `patience_s` was over."""


class LimiterStatus(msgspec.Struct, frozen=True):
    """What the limiter publishes. Times are monotonic."""

    next_permit_s: float = 0.0
    permits: int = 1_000_000
    """Permits available from `next_permit_s` on, as of this version."""
    full_s: float = NEVER_S
    """When the whole burst is there again: each permit moves it, so that each is news."""
    is_paused: bool = False
    learnt: LearntPace | None = None
    """None until the provider refuses us as too fast, and after the pace is forgotten."""


@dataclass(eq=False)
class Lane:
    """One provider's lane. The supervisor keeps its mailboxes; its actors come and go.

    A sender decides from what limiter and breaker published last (`opens_at_s`); they decide for
    real, and a refusal (`NotAttempted`) costs nothing.
    """

    name: str
    concurrency_max: int
    provider: Provider
    """A reload may replace it between two attempts."""
    limiter_mailbox: Mailbox[LaneMessage]
    breaker_mailbox: Mailbox[LaneMessage]
    provider_mailbox: Mailbox[LaneMessage]
    breaker_status: Cell[BreakerStatus] = field(default_factory=lambda: Cell(BreakerStatus()))
    limiter_status: Cell[LimiterStatus] = field(default_factory=lambda: Cell(LimiterStatus()))
    in_flight: dict[str, Attempt] = field(default_factory=dict)
    """Every attempt from its offer until its owner reads its end, by id."""
    speeds: Speeds = field(default_factory=Speeds)
    """Which domains its provider answers for in time; the breaker writes it."""
    _by_domain: Counter[str] = field(default_factory=Counter)
    """How many in flight have recipients in each domain."""
    subjects: Subjects = field(default_factory=Subjects)
    """Who was refused as too fast; the limiter writes it."""
    underway: dict[str, Attempt] = field(default_factory=dict)
    """Those that the provider actor has begun, oldest first."""
    offered: int = 0
    """Attempts offered since the published states that are `_seen`."""
    blocked_until_s: float = NEVER_S
    """Monotonic; a refusal said so. Any newer published state lifts it."""
    panicked_s: float = NEVER_S
    """Monotonic; when the latest attempt in panic was offered."""
    is_paused: bool = False
    """By an operator; the limiter obeys it, and so does its successor."""
    asked_until_s: float = NEVER_S
    """Monotonic; until when the provider asked us to keep away. It survives the limiter."""
    short_until_s: float = NEVER_S
    """Monotonic; this process lacked a resource. No news of the provider lifts it."""
    took_s: Histogram = field(default_factory=Histogram)
    """How long attempts took, connection included."""
    is_retired: bool = False
    """No route names it any more; it ends when nothing is in flight."""
    emptied: trio.Event = field(default_factory=trio.Event)
    """Set when a retired lane has nothing in flight."""
    _seen: tuple[int, int] = (-1, -1)
    """Versions of the limiter's and the breaker's status."""

    # Attempts

    def offer(self, attempt: Attempt, now_s: float) -> None:
        """Take a slot for an attempt and pass it to the limiter."""
        self.offered += 1
        if attempt.is_panic:
            self.panicked_s = now_s
        self.in_flight[attempt.id] = attempt
        self._by_domain.update(attempt.domains)
        self.limiter_mailbox.put_nowait(attempt)

    def end(self, attempt: Attempt) -> bool:
        """Free an attempt's slot; False if it was freed before, so that its end is no news."""
        if self.in_flight.pop(attempt.id, None) is None:
            return False
        self._by_domain.subtract(attempt.domains)
        self._by_domain = +self._by_domain
        self._note_empty()
        return True

    def block(self, until_s: float) -> None:
        """Offer nothing before this time (monotonic), for a refusal said so; any news lifts it."""
        self._refresh()
        self.blocked_until_s = max(self.blocked_until_s, until_s)

    def opens_at_s(self) -> float:
        """Return when the lane takes a message: a time, perhaps past, or `inf` for "on news"."""
        self._refresh()
        limiter, breaker = self.limiter_status.value, self.breaker_status.value
        bearable = min(self.concurrency_max, breaker.concurrency)
        if self.is_retired or len(self.in_flight) >= bearable:
            return float("inf")  # until an attempt ends
        if self.offered >= limiter.permits:
            return float("inf")  # until the limiter publishes what is left
        if breaker.state is BreakerState.HALF_OPEN and self.offered >= breaker.probes_free:
            return float("inf")  # until a probe ends
        at_s = max(limiter.next_permit_s, self.blocked_until_s, self.short_until_s)
        if breaker.state in {BreakerState.OPEN, BreakerState.DISABLED}:
            # One probe goes first; the half-open breaker says how many more may follow it.
            at_s = max(at_s, breaker.until_s) if not self.offered else float("inf")
        return at_s

    def panics_at_s(self) -> float:
        """Return when the lane takes a message in panic, its breaker being open, or inf.

        A lane that is dead rather than failing takes one rarely.
        """
        limiter, breaker = self.limiter_status.value, self.breaker_status.value
        if breaker.state not in {BreakerState.OPEN, BreakerState.HALF_OPEN}:
            return float("inf")
        in_flight_max = 1 if breaker.is_dead else PANIC_IN_FLIGHT_MAX
        if len(self.in_flight) >= min(in_flight_max, self.concurrency_max):
            return float("inf")
        if breaker.is_dead:
            at_s = max(breaker.last_resort_s, self.panicked_s + PANIC_DEAD_INTERVAL_S)
            return max(limiter.next_permit_s, self.short_until_s, at_s)
        at_s = max(limiter.next_permit_s, self.short_until_s)
        return max(at_s, self.panicked_s + PANIC_INTERVAL_S)

    @property
    def is_well(self) -> bool:
        """Whether it is worth waiting for: its breaker is closed and it is not paused."""
        is_closed = self.breaker_status.value.state is BreakerState.CLOSED
        return is_closed and not self.limiter_status.value.is_paused

    @property
    def opens_on_news(self) -> bool:
        """Whether `opens_at_s` names no time because an attempt has to end first."""
        return math.isinf(self.opens_at_s()) and not math.isinf(
            self.limiter_status.value.next_permit_s
        )

    def has_room_for(self, domains: Iterable[str]) -> bool:
        """Whether a message to these domains leaves enough slots for mail to others."""
        slots = min(self.concurrency_max, self.breaker_status.value.concurrency)
        flying = len(self.in_flight)
        for domain in domains:
            own, is_prompt = self._by_domain[domain], self.speeds.is_prompt(self.name, domain)
            if own and own >= slots_of_domain(slots, flying, own, is_prompt=is_prompt):
                return False
        return True

    def keeps_waiting(self, domains: Iterable[str], now_s: float) -> bool:
        """Whether these domains are slow and have their slots, or are refused with nothing served.

        Those of the latter may be over a limit of their own, which only others' mail would show.
        """
        names = list(domains)
        is_slow = any(self.speeds.is_late(self.name, each) for each in names)
        if is_slow and not self.has_room_for(names):
            return True
        return self.subjects.starves(frozenset(f"@{each}" for each in names), now_s)

    @property
    def is_crowded(self) -> bool:
        """Whether a domain has as many slots as it may have."""
        return not self.has_room_for(self._by_domain)

    @property
    def slots_free(self) -> int:
        """Attempts that may be offered beside those in flight, as far as the settings say."""
        return self.concurrency_max - len(self.in_flight)

    @property
    def repeats_in_flight(self) -> int:
        """Attempts in flight that repeat an uncertain one."""
        return sum(attempt.doubt is not None for attempt in self.in_flight.values())

    # Control

    def resize(self, concurrency_max: int) -> None:
        """Change the number of slots; more may be in flight for a while."""
        room = max(concurrency_max, len(self.in_flight)) + CONTROL_ROOM
        self.concurrency_max = concurrency_max
        self.limiter_mailbox.capacity = self.breaker_mailbox.capacity = 2 * room
        self.provider_mailbox.capacity = room

    def pause(self) -> Obeyed:
        """Give no more permits until `resume`; what is in flight goes on.

        Returns the replies that are filled when it has taken effect, as `resume` and `reset` do.
        """
        self.is_paused = True
        return _told(self.limiter_mailbox, Pause())

    def resume(self) -> Obeyed:
        """Give permits again."""
        self.is_paused = False
        return _told(self.limiter_mailbox, Resume())

    def reset(self) -> Obeyed:
        """Close the breaker, and forget the provider's Retry-After and learnt pace."""
        # The limiter last: it refuses by what the breaker has published.
        return _told(self.breaker_mailbox, Reset()) + _told(self.limiter_mailbox, Reset())

    def retire(self) -> None:
        """Take nothing new from now on."""
        self.is_retired = True
        self._note_empty()

    def unretire(self) -> None:
        """Take messages again, if it was retired."""
        if self.is_retired:
            self.is_retired = False
            self.emptied.set()
            self.emptied = trio.Event()

    def _note_empty(self) -> None:
        if self.is_retired and not self.in_flight:
            self.emptied.set()

    def _refresh(self) -> None:
        versions = self.limiter_status.version, self.breaker_status.version
        if versions != self._seen:
            self._seen, self.offered, self.blocked_until_s = versions, 0, NEVER_S
        elif not self.in_flight:
            self.offered = 0  # all of it came back without news, as from an actor that died of it


def open_lane(name: str, concurrency_max: int, provider: Provider, clock: Clock) -> Lane:
    """Build a lane with mailboxes that pass on the end of what their actor died of.

    An attempt under the cursor of an actor that dies was not sent; an end under the cursor travels
    on without the actor. Either way the next actor up hears of it, so that probes and permits are
    given back.
    """
    room = concurrency_max + CONTROL_ROOM
    limiter = Mailbox(f"limiter:{name}", 2 * room, pass_up(reply, clock))
    breaker = Mailbox(f"breaker:{name}", 2 * room, pass_up(limiter.put_nowait, clock))
    to_provider = Mailbox(f"provider:{name}", room, pass_up(breaker.put_nowait, clock))
    return Lane(name, concurrency_max, provider, limiter, breaker, to_provider)


def _told(mailbox: Mailbox[LaneMessage], command: Pause | Resume | Reset) -> Obeyed:
    mailbox.put_nowait(command)
    return (command.done,)


def reply(done: Done) -> None:
    """Pass an attempt's end to the actor that offered it."""
    done.attempt.reply_to(done)


def pass_up(send: Callable[[Done], None], clock: Clock) -> Callable[[LaneMessage, Exception], None]:
    """Return what a mailbox does with the item that its actor died of: `send` its end."""

    def lost(item: LaneMessage, error: Exception) -> None:
        match item:
            case Attempt():
                send(Done(item, NotAttempted(Why.CRASHED), clock.now_s()))
            case Done():
                send(item)
            case Pause() | Resume() | Reset():
                item.done.fail(ActorCrashedError(describe(error)))

    return lost
