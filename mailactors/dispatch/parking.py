"""Leased messages that wait in vain beside a free lane: they make room for those behind them.

The messages of a stream in memory are a window on its backlog. Where it is full of messages that a
free lane may not take, because that lane refused them or had them in this round, those behind them
would wait although the lane is idle. They are *parked*: released to the disk, due again later, all
but the oldest, which are there when a lane of theirs opens. Once such a lane is free and nothing in
memory may take it, what is parked is due again at once (`Parking.recalls`); a restart recalls it
all, for it does not know what was parked.

So is most of what is to a domain that is slow and has its slots, or that is refused as too fast
while nothing is served: it fills the window although its lanes are free. It is recalled once little
of it is left in memory.

Where no lane is free nothing else is parked: no other message could go out either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from mailactors.dispatch.claims import LOW_WATER, Claims
from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.routing import Waiting, next_choice_s, within_reach
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.spool.port import Flush, Flushed, Lease, Result

KEPT: Final = LOW_WATER // 2
"""Messages of a stream that stay in memory although they wait in vain, the oldest of each kind."""
SUSPECTS_KEPT: Final = 100
"""Suspects of a stream in memory: they go one at a time, and the rest is due again later."""
PARK_MIN_S: Final = 30.0
PARK_MAX_S: Final = 900.0
"""A lane that nobody knows to open sooner is looked at this rarely; its opening recalls at once."""
RECALL_LIMIT: Final = 500
"""Messages that are looked at in one recall."""


def park_time_s(opens_in_s: float) -> float:
    """Return for how long to park what waits for lanes that open in so many seconds, or inf.

    >>> [park_time_s(s) for s in (-5.0, 60.0, 7200.0, float("inf"))]
    [30.0, 60.0, 900.0, 900.0]
    """
    return min(PARK_MAX_S, max(PARK_MIN_S, opens_in_s))


def decide_parking(
    sizes: Mapping[tuple[str, ...], int], free: Set[str]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the lanes of which too many messages wait in vain, with how many of them to keep.

    Args:
        sizes: how many of a stream's messages in memory wait, by the lanes that may take them.
        free: lanes that would take a message now, but none of these.
    """
    if not free or sum(sizes.values()) < LOW_WATER:
        return
    stuck = [lanes for lanes in sizes if free.isdisjoint(lanes)]
    for lanes in stuck:
        keep = KEPT // len(stuck)
        if sizes[lanes] > keep:
            yield lanes, keep


@dataclass
class _Parked:
    """What is parked of a stream, and the pass that recalls it. `until` is UTC: all is due then."""

    until: float
    lanes: set[str] = field(default_factory=set)
    """Those that may take something of it."""
    later: set[str] = field(default_factory=set)
    """The same of what was parked during the pass: the next pass recalls it."""
    after: tuple[float, int, int] | None = None
    """How far the pass has come; None before it began."""
    recall: Reply[Result] | None = None
    is_crowd: bool = False
    """Some of it was parked although its lanes are free."""


class Parking:
    """What one dispatcher parks and recalls, by stream."""

    def __init__(self, waiting: Waiting, lanes: Lanes, claims: Claims) -> None:
        self._waiting = waiting
        self._lanes = lanes
        self._claims = claims
        self._streams: dict[str, _Parked] = {}

    def expect(self, streams: Iterable[str], now: float) -> None:
        """Note that anything of these streams may be parked, by a predecessor for example."""
        for name in streams:
            self._add(name, self._lanes.plan(name).route, now + PARK_MAX_S)

    def cut(self, now_s: float, now: float) -> Iterator[tuple[Lease, float]]:
        """Take out of memory what is to be parked, and yield it with its due time (UTC)."""
        for stream in self._claims:
            if self._waiting.count(stream) < LOW_WATER:
                continue
            plan, free = self._lanes.plan(stream), self._free(stream, now_s)
            for lanes, keep in decide_parking(self._waiting.sizes(stream), free):
                reach = within_reach(lanes, self._lanes, now_s + plan.patience_s, now_s)
                opens_s = next_choice_s(reach, plan.route, self._lanes, now_s)
                due_at = now + park_time_s(opens_s - now_s)
                self._add(stream, lanes, due_at)
                for lease in self._waiting.cut(stream, lanes, keep):
                    yield lease, due_at
            if self._waiting.count(stream) >= LOW_WATER:
                yield from self._cut_crowds(stream, now_s, now)

    def _cut_crowds(self, stream: str, now_s: float, now: float) -> Iterator[tuple[Lease, float]]:
        """Park most of what is to domains that every lane that works keeps waiting."""
        crowds = [
            (lanes, domains)
            for lanes, domains in self._waiting.crowds(stream)
            if self._is_kept_waiting(lanes, domains, now_s)
        ]
        due_at = now + PARK_MAX_S
        for lanes, domains in crowds:
            keep = max(1, KEPT // len(crowds))
            for lease in self._waiting.cut_crowd(stream, lanes, domains, keep):
                self._add(stream, lanes, due_at, is_crowd=True)
                yield lease, due_at

    def _is_kept_waiting(
        self, lanes: tuple[str, ...], domains: frozenset[str], now_s: float
    ) -> bool:
        well = [self._lanes[name] for name in lanes if self._lanes[name].is_well]
        return bool(well) and all(lane.keeps_waiting(domains, now_s) for lane in well)

    def recalls(self, now_s: float, now: float) -> Iterator[Flush]:
        """Yield the commands that make parked messages due which a free lane may take."""
        for stream, parked in list(self._streams.items()):
            due_at = self._claims.idle_until(stream, now)
            if due_at is None or parked.recall is not None:
                continue  # what is due, or was recalled, comes first
            if due_at > parked.until:
                del self._streams[stream]  # nothing waits on the disk for so short a time
            elif parked.is_crowd and self._waiting.count(stream) >= KEPT // 2:
                continue  # what is left in memory of the crowd comes first
            elif not parked.lanes.isdisjoint(self._free(stream, now_s)):
                yield Flush(stream, "", now, RECALL_LIMIT, parked.after, parked.until, True)

    def sent(self, recall: Flush, reply: Reply[Result]) -> None:
        """Remember a recall until its answer is there."""
        self._streams[recall.stream].recall = reply

    def read_replies(self) -> None:
        """Take in what recalls have found; what is recalled is claimed as anything that is due."""
        for stream, parked in list(self._streams.items()):
            if parked.recall is None or not parked.recall.is_done:
                continue
            reply, parked.recall = parked.recall, None
            with contextlib.suppress(ActorCrashedError):  # then it is asked again
                flushed = reply.result()
                assert isinstance(flushed, Flushed)
                parked.after = flushed.after
                if flushed.after is None:
                    parked.lanes, parked.later = parked.later, set()
                    if not parked.lanes:
                        del self._streams[stream]

    def _add(
        self, stream: str, lanes: Iterable[str], until: float, *, is_crowd: bool = False
    ) -> None:
        parked = self._streams.setdefault(stream, _Parked(until))
        parked.is_crowd |= is_crowd
        is_passing = parked.recall is not None or parked.after is not None
        (parked.later if is_passing else parked.lanes).update(lanes)
        parked.until = max(parked.until, until)

    def _free(self, stream: str, now_s: float) -> set[str]:
        """Return the lanes that would take a message, but none of those in memory."""
        route = self._lanes.plan(stream).route
        return {name for name in route if self._lanes[name].opens_at_s() <= now_s}
