"""A lane: what the dispatcher and a provider's three actors share, and what outlives each of them.

A grant travels limiter → breaker → provider and its end travels provider → breaker → limiter →
dispatcher, exactly once. Attempts are bounded by the lane's credits (`concurrency_max`), and every
mailbox has room for all of them, so nobody in a lane ever waits for another: `put_nowait`
everywhere, and an overflow is a bug.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
import trio

from mailactors.model.outcome import NotAttempted, Outcome, Why
from mailactors.providers.port import Provider
from mailactors.runtime.cell import Cell
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Clock
from mailactors.spool.port import Doubt, Lease

NEVER_S: Final = -1e9
"""A monotonic time before any other."""
CONTROL_ROOM: Final = 16
"""Room in a lane's mailboxes beside the credits, for control messages."""


class Stage(enum.IntEnum):
    """How far an attempt has come; decides what its loss means."""

    QUEUED = 0
    """In a mailbox of the lane: nothing happened."""
    CONNECTING = 1
    INTENDING = 2
    """The intent was asked for: the spool must hear how it ended, but nothing was sent."""
    SENDING = 3
    """The intent is durable and bytes may be out."""


@dataclass(eq=False)
class Attempt:
    """One try of one message through one lane. Mutable: the lane's actors mark its way."""

    id: str
    lease: Lease
    lane: str
    is_panic: bool = False
    recipients: tuple[tuple[int, str], ...] = ()
    """What the intent covers; the lease's recipients until then."""
    stage: Stage = Stage.QUEUED
    began_s: float = 0.0
    """Monotonic; when the provider actor took it up."""
    sending_s: float = 0.0
    """Monotonic; when its intent was durable, so that the provider's own time began."""
    permit_s: float | None = None
    """Monotonic; when the limiter gave its permit. None before, and when its end came back."""
    doubt: Doubt | None = None
    """What it repeats by its key; None for a message that is sent for its own sake."""

    def __post_init__(self) -> None:
        self.recipients = self.recipients or self.lease.recipients


class Done(msgspec.Struct, frozen=True):
    """The end of an attempt. `ended_s` (monotonic) is when the last byte or timeout was seen."""

    attempt: Attempt
    outcome: Outcome
    ended_s: float


class Pause(msgspec.Struct, frozen=True):
    """Stop giving permits until told otherwise."""


class Resume(msgspec.Struct, frozen=True):
    """Give permits again."""


class Reset(msgspec.Struct, frozen=True):
    """Forget what was learnt of the provider: close the breaker, lift a learnt pause."""


LaneMessage: TypeAlias = Attempt | Done | Pause | Resume | Reset


class BreakerState(enum.StrEnum):
    """The breaker's position."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    DISABLED = "disabled"
    """Open for long: the provider refuses us as such (key, suspension, quota)."""


class BreakerStatus(msgspec.Struct, frozen=True):
    """What the breaker publishes. Times are monotonic."""

    gate: BreakerState = BreakerState.CLOSED
    until_s: float = 0.0
    """When an open gate lets probes through."""
    last_resort_s: float = 0.0
    """When it is tried where every gate of a route is shut: a slow provider's opens later still."""
    probes_free: int = 0
    """Probes that a half-open gate would let through now."""
    is_dead: bool = False
    """No message was taken in so many attempts that only probes are worth anything."""
    concurrency: int = 1_000_000
    """Attempts that may be in flight; the lane's credits bound it in any case."""
    last_success_s: float = NEVER_S
    """Rounded to whole seconds, so that a busy provider does not publish at every message."""
    opened_count: int = 0
    """Times opened in a row without a lasting recovery: the open time doubles with it."""


class LearntPace(msgspec.Struct, frozen=True):
    """A pace that a provider taught us by refusing what came too fast. Times are monotonic."""

    per_s: float
    limit_per_s: float
    """At which it refused; the pace is kept below it."""
    told_s: float
    """When the first refusal of the latest lesson came: later ones of its kind are no news."""
    since_s: float
    patience_s: float
    """For how long after `since_s` the pace is kept before it climbs."""
    lessons: int = 0
    """How often in a row it was refused before its patience was over."""


class LimiterStatus(msgspec.Struct, frozen=True):
    """What the limiter publishes. Times are monotonic."""

    next_permit_s: float = 0.0
    permits: int = 1_000_000
    """Permits to be had from `next_permit_s` on, at the version that says so."""
    is_paused: bool = False
    learnt: LearntPace | None = None
    """None as long as the provider never refused us as too fast, and after it is forgotten."""


@dataclass(eq=False)
class Lane:
    """The desk of one provider. The supervisor keeps it; actors come and go."""

    name: str
    concurrency_max: int
    out: Provider
    """The way out itself; a reload may put another in its place between two attempts."""
    limiter: Mailbox[LaneMessage]
    breaker: Mailbox[LaneMessage]
    provider: Mailbox[LaneMessage]
    health: Cell[BreakerStatus] = field(default_factory=lambda: Cell(BreakerStatus()))
    pace: Cell[LimiterStatus] = field(default_factory=lambda: Cell(LimiterStatus()))
    in_flight: dict[str, Attempt] = field(default_factory=dict)
    """Every attempt between the dispatcher's choice and its reading of the outcome, by id."""
    underway: dict[str, Attempt] = field(default_factory=dict)
    """Those that the provider actor has taken up, oldest first."""
    is_paused: bool = False
    """What an operator asked for; the limiter obeys it, and so does its successor."""
    asked_until_s: float = NEVER_S
    """Monotonic; until when the provider asked to be left alone. Outlives the limiter."""
    is_retired: bool = False
    """No route names it any more; it ends when nothing is in flight."""
    emptied: trio.Event = field(default_factory=trio.Event)
    """Set when a retired lane has nothing in flight."""

    @property
    def slots_free(self) -> int:
        """Credits that are left."""
        return self.concurrency_max - len(self.in_flight)

    def resize(self, concurrency_max: int) -> None:
        """Change the credits; more than the new number may be in flight for a while."""
        room = max(concurrency_max, len(self.in_flight)) + CONTROL_ROOM
        self.concurrency_max = concurrency_max
        self.limiter.capacity = self.breaker.capacity = 2 * room
        self.provider.capacity = room

    def pause(self) -> None:
        """Give no more permits until `resume`; what is in flight goes on."""
        self.is_paused = True
        self.limiter.put_nowait(Pause())

    def resume(self) -> None:
        """Give permits again."""
        self.is_paused = False
        self.limiter.put_nowait(Resume())

    def reset(self) -> None:
        """Forget what was learnt of the provider: close the breaker, lift a learnt pause."""
        self.limiter.put_nowait(Reset())
        self.breaker.put_nowait(Reset())

    def retire(self) -> None:
        """Take nothing new from now on."""
        self.is_retired = True
        self.note_end()

    def unretire(self) -> None:
        """Take messages again, if it was retired."""
        if self.is_retired:
            self.is_retired = False
            self.emptied.set()
            self.emptied = trio.Event()

    def note_end(self) -> None:
        """Tell whoever waits for a retired lane when its last attempt has ended."""
        if self.is_retired and not self.in_flight:
            self.emptied.set()


def open_lane(
    name: str,
    concurrency_max: int,
    out: Provider,
    outcomes: Mailbox[Done],
    clock: Clock,
) -> Lane:
    """Build a lane's desk: mailboxes that pass on what their actor died of.

    Where an actor dies with an attempt under its cursor, that attempt was not sent; with a `Done`
    under its cursor, the outcome travels on without it. Either way the next one up hears of it, so
    that probes and permits are given back.
    """
    room = concurrency_max + CONTROL_ROOM
    limiter = Mailbox(f"limiter:{name}", 2 * room, pass_up(outcomes.put_nowait, clock))
    breaker = Mailbox(f"breaker:{name}", 2 * room, pass_up(limiter.put_nowait, clock))
    provider = Mailbox(f"provider:{name}", room, pass_up(breaker.put_nowait, clock))
    return Lane(name, concurrency_max, out, limiter, breaker, provider)


def pass_up(send: Callable[[Done], None], clock: Clock) -> Callable[[LaneMessage, Exception], None]:
    """Return what a mailbox does with the item that its actor died of: `send` its end."""

    def lost(item: LaneMessage, _error: Exception) -> None:
        match item:
            case Attempt():
                send(Done(item, NotAttempted(Why.CRASHED), clock.now_s()))
            case Done():
                send(item)
            case Pause() | Resume() | Reset():
                pass

    return lost
