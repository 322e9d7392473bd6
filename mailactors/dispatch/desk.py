"""The dispatcher's desk: what outlives the dispatcher, and what others may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from mailactors.dispatch.lane import Done, Lane
from mailactors.dispatch.retry import StreamPolicy
from mailactors.dispatch.settling import ClockSteps
from mailactors.providers.port import LookUpResult
from mailactors.runtime.cell import Cell
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.tally import Histogram, Tally
from mailactors.spool.actor import SpoolSignals, Write
from mailactors.spool.port import ALONE_FROM, Doubt

LOOKED_CAPACITY: Final = 100_000
"""Look-ups are bounded at each provider; this is never reached."""


class LookUpEnded(msgspec.Struct, frozen=True):
    """A look-up that came back. `asked_at` is UTC."""

    doubt: Doubt
    sighting: LookUpResult
    asked_at: float


def open_looked() -> Mailbox[LookUpEnded]:
    """Build the settler's mailbox; a look-up that it died on is made again."""
    return Mailbox("settler", LOOKED_CAPACITY, lambda _looked, _error: None)


@dataclass(eq=False)
class DispatchDesk:
    """What outlives the dispatcher: its mailbox, the lanes, the plans, and whether to go on."""

    outcomes: Mailbox[Done]
    lanes: dict[str, Lane]
    plans: dict[str, StreamPolicy]
    spool: Mailbox[Write]
    signals: SpoolSignals
    node: str
    changes: Cell[int] = field(default_factory=lambda: Cell(0))
    """Counts changes of lanes and plans by a reload."""
    attempts: Tally = field(default_factory=Tally)
    """By provider and outcome."""
    decided_s: Histogram = field(default_factory=Histogram)
    """From a failure's last byte or timeout to the decision on what follows."""
    recorded_s: Histogram = field(default_factory=Histogram)
    """From the same moment until outcome and decision were durable."""
    looked: Mailbox[LookUpEnded] = field(default_factory=open_looked)
    """The settler's mailbox."""
    doubt_at: float = 0.0
    """UTC; when the settler has something to see to, as far as anybody knows."""
    clock_steps: ClockSteps = ClockSteps()  # noqa: RUF009  # frozen
    """What the settler noticed of the wall clock; outlives it."""
    blamed: set[int] = field(default_factory=set)
    """Messages under the cursor of a dispatcher that died, until its successor has said so."""
    has_recovered: bool = False
    """Whether what a dead process left behind has been put right."""
    leases: Callable[[], frozenset[tuple[int, int]]] | None = None
    """(seq, epoch) of what the dispatcher has in memory and no lane has; None before it began."""
    is_draining: bool = False
    drained: trio.Event = field(default_factory=trio.Event)
    """Set when nothing is in flight any more after `drain`."""

    def drain(self) -> None:
        """Send nothing new; outcomes of what is in flight are still recorded."""
        self.is_draining = True
        self.outcomes.nudge()

    def plan(self, stream: str) -> StreamPolicy:
        """Return a stream's plan; one that is configured no more goes by the first stream's."""
        return self.plans.get(stream) or next(iter(self.plans.values()))

    def expect_doubt(self, at: float) -> None:
        """Let the settler look not later than `at` (UTC)."""
        if at < self.doubt_at:
            self.doubt_at = at
            self.looked.nudge()

    @property
    def has_suspect_in_flight(self) -> bool:
        """Whether a message is on its way on which so many died that it goes alone."""
        attempts = (each for lane in self.lanes.values() for each in lane.in_flight.values())
        return any(each.lease.crashes >= ALONE_FROM for each in attempts)

    @property
    def in_flight(self) -> int:
        """Attempts whose outcome the dispatcher has not read yet."""
        return sum(len(lane.in_flight) for lane in self.lanes.values())


def open_outcomes(lanes: Mapping[str, Lane], capacity: int, blamed: set[int]) -> Mailbox[Done]:
    """Build the dispatcher's mailbox; an outcome that it died on is left to the spool's intents."""

    def lost(done: Done, _error: Exception) -> None:
        blamed.add(done.attempt.lease.seq)
        lane = lanes[done.attempt.lane]
        lane.in_flight.pop(done.attempt.id, None)
        lane.note_end()

    return Mailbox("dispatcher", capacity, lost)
