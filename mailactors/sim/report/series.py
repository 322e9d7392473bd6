"""A run as counts per step of time, and its worst messages.

The series are made at the end, from the ground truth and the events of breakers, so that they cost
nothing during the run.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from mailactors.runtime.ports import Clock
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import GatewayFault
from mailactors.sim.world.truth import Truth
from mailactors.spool.port import Event

POINTS_MAX: Final = 2000
"""Steps of a run at most: as many as a wide screen has columns."""
STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
WORST_MAX: Final = 20
LOST_MAX: Final = 10
"""Lost messages among the worst; more only if there are too few slow ones."""
STORY_LINES_MAX: Final = 60
CLOSED: Final = "closed"


class BreakerMove(msgspec.Struct, frozen=True):
    """A provider's breaker changed its state."""

    at_s: float
    gate: str


class FaultSpan(msgspec.Struct, frozen=True):
    """The time of a fault, and the providers that had it; none: the gateway itself."""

    at_s: float
    end_s: float
    what: str
    providers: tuple[str, ...] = ()


class Series(msgspec.Struct, frozen=True):
    """Counts for each step of time from 0 on, some of them by provider."""

    step_s: int
    arrivals: tuple[int, ...]
    """Messages that were submitted for the first time."""
    acceptances: tuple[int, ...]
    """Messages that a provider accepted for the first time."""
    backlog: tuple[int, ...]
    """At the end of the step: submitted, and accepted by no provider."""
    attempts: dict[str, tuple[int, ...]]
    sent: dict[str, tuple[int, ...]]
    """Messages that this provider sent on, duplicates included."""
    gates: dict[str, tuple[BreakerMove, ...]]
    """The breakers' changes, by provider; empty if the policy has no breakers."""
    shades: tuple[FaultSpan, ...]

    @property
    def end_s(self) -> float:
        """Where the last step ends."""
        return float(self.step_s * len(self.arrivals))


class WorstMessage(msgspec.Struct, frozen=True):
    """A lost or slow message. `latency_s` is None if it never arrived."""

    number: int
    submitted_s: float
    latency_s: float | None
    lines: tuple[str, ...]


class Record(msgspec.Struct, frozen=True):
    """What the page shows of a run besides its figures."""

    story: str
    series: Series
    worst: tuple[WorstMessage, ...]


class EventLog:
    """Records from the journal when breakers change and processes die."""

    NOTED: Final = ("breaker.moved", "world.process_died")
    """The journal's events that it listens to."""

    def __init__(self, clock: Clock, *, has_breakers: bool = True) -> None:
        self.has_breakers = has_breakers
        self.moves: list[tuple[float, str, str]] = []
        """(time, provider, state), oldest first."""
        self.deaths_s: list[float] = []
        self._clock = clock

    def on_event(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "breaker.moved":
            self.moves.append((self._clock.now_s(), facts["provider"], facts["after"]))
        elif event == "world.process_died":
            now_s = self._clock.now_s()
            self.deaths_s.append(now_s)
            # The next process's breakers begin closed.
            last = {name: gate for _, name, gate in self.moves}
            self.moves += [(now_s, name, CLOSED) for name, gate in last.items() if gate != CLOSED]


def worst_messages(
    truth: Truth, story_of: Callable[[int], tuple[str, ...]]
) -> tuple[WorstMessage, ...]:
    """Return the messages that never arrived, then the slowest ones, each with its timeline."""
    lost = [number for number in truth.accepted if number not in truth.arrivals]
    arrived = ((number, at_s) for number, at_s in taken_s(truth) if number in truth.arrivals)
    slow = heapq.nsmallest(WORST_MAX, ((truth.submitted_s[n] - at_s, n) for n, at_s in arrived))
    lost_count = max(WORST_MAX - len(slow), min(len(lost), LOST_MAX))
    found: list[tuple[int, float | None]] = [(number, None) for number in lost[:lost_count]]
    found += [(number, round(-minus_s, 4)) for minus_s, number in slow[: WORST_MAX - len(found)]]
    return tuple(
        WorstMessage(n, round(truth.submitted_s[n], 3), late_s, story_of(n)[:STORY_LINES_MAX])
        for n, late_s in found
    )


def taken_s(truth: Truth) -> Iterator[tuple[int, float]]:
    """Yield when a provider first took over each message that any did, in order."""
    return ((number, truth.taken.first_s(number) or 0.0) for number in truth.taken)


def series_of(scenario: Scenario, truth: Truth, events: EventLog) -> Series:
    """Count what happened in each step, from the first second to the last event."""
    first_s = array("d", (at_s for _, at_s in taken_s(truth)))
    guarded = truth.providers if events.has_breakers else ()
    gates: dict[str, list[BreakerMove]] = {name: [] for name in guarded}
    for at_s, name, gate in events.moves:
        gates.setdefault(name, []).append(BreakerMove(round(at_s, 3), gate))
    died = (
        FaultSpan(round(at_s, 3), round(at_s, 3) + 1.0, "process died") for at_s in events.deaths_s
    )
    shades = [*fault_spans(scenario), *died]
    ends_s = [scenario.duration_s, *(shade.end_s for shade in shades)]
    happened = (truth.submitted_s, first_s, *truth.attempted_s.values(), *truth.arrived_s.values())
    ends_s += [max(times, default=0.0) for times in happened]
    ends_s += [at_s for at_s, _, _ in events.moves[-1:]]
    end_s = max(each for each in ends_s if each < math.inf)
    step_s = step_for(end_s)
    count = int(end_s // step_s) + 1

    def counted(times: Iterable[float]) -> tuple[int, ...]:
        counts = [0] * count
        for at_s in times:
            counts[int(at_s // step_s)] += 1
        return tuple(counts)

    arrivals = counted(truth.submitted_s[number] for number in truth.accepted)
    acceptances = counted(first_s)
    return Series(
        step_s,
        arrivals,
        acceptances,
        _backlog(arrivals, acceptances),
        {name: counted(truth.attempted_s[name]) for name in truth.providers},
        {name: counted(truth.arrived_s[name]) for name in truth.providers},
        {name: tuple(found) for name, found in gates.items()},
        tuple(msgspec.structs.replace(each, end_s=min(each.end_s, end_s)) for each in shades),
    )


def _backlog(arrivals: Iterable[int], acceptances: Iterable[int]) -> tuple[int, ...]:
    found, waiting = [], 0
    for come, gone in zip(arrivals, acceptances, strict=True):
        waiting += come - gone
        found.append(max(0, waiting))
    return tuple(found)


def step_for(end_s: float, points_max: int = POINTS_MAX) -> int:
    """Return the shortest round step that gives at most `points_max` steps.

    >>> step_for(3599.0), step_for(3700.0), step_for(60.0), step_for(9e7)
    (2, 2, 1, 46800)
    """
    for step_s in STEPS_S:
        if end_s / step_s + 1 <= points_max:
            return step_s
    return STEPS_S[-1] * math.ceil((end_s + STEPS_S[-1]) / STEPS_S[-1] / points_max)


def coarser(series: Series, points_max: int) -> Series:
    """Return the same with at most `points_max` steps: counts are added, backlogs maximised."""
    factor = math.ceil(len(series.arrivals) / points_max)
    if factor <= 1:
        return series

    def merged(counts: tuple[int, ...], how: Callable[[Iterable[int]], int]) -> tuple[int, ...]:
        return tuple(how(counts[at : at + factor]) for at in range(0, len(counts), factor))

    return msgspec.structs.replace(
        series,
        step_s=series.step_s * factor,
        arrivals=merged(series.arrivals, sum),
        acceptances=merged(series.acceptances, sum),
        backlog=merged(series.backlog, max),
        attempts={name: merged(each, sum) for name, each in series.attempts.items()},
        sent={name: merged(each, sum) for name, each in series.sent.items()},
    )


def fault_spans(scenario: Scenario) -> tuple[FaultSpan, ...]:
    """Return the times of a scenario's faults, those of the gateway included, earliest first."""
    found: dict[tuple[float, float, str], list[str]] = {}
    for name in scenario.providers:
        for fault in scenario.timeline(name):
            key = (fault.at_s, fault.end_s, str(getattr(fault, "kind", "fault")))
            found.setdefault(key, []).append(name)
    ours: list[GatewayFault] = [*scenario.spool_faults, *scenario.clock_faults, *scenario.pauses]
    for own in ours:
        what = " ".join(filter(None, [own.kind, getattr(own, "what", "")]))
        found.setdefault((own.at_s, max(own.end_s, own.at_s + 1.0), what), [])
    for operation in scenario.operations:
        found.setdefault((operation.at_s, operation.at_s + 1.0, operation.what), [])
    return tuple(
        FaultSpan(at_s, end_s, what, tuple(dict.fromkeys(names)))
        for (at_s, end_s, what), names in sorted(found.items())
    )


def story_lines(events: Iterable[Event], begun_at: float) -> tuple[str, ...]:
    """Return a message's events as lines; `begun_at` is the run's start, UTC."""
    return tuple(
        f"{event.at - begun_at:.3f} s  {event.kind}  {_words(event.facts)}".rstrip()
        for event in events
    )


def _words(facts: Mapping[str, Any]) -> str:
    found = []
    for name, value in facts.items():
        if value not in (None, "", False):
            found.append(f"{name}: {msgspec.json.encode(value).decode()}")
    return ", ".join(found)
