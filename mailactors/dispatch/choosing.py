"""Which lane a waiting message takes now, and when that may change. Decides; sends nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.queue import NO_ROOM, PASSED_OVER, Choice
from mailactors.dispatch.routing import (
    Waiting,
    choose_lane,
    next_choice_s,
    within_reach,
)
from mailactors.dispatch.subjects import subjects_of
from mailactors.model.message import domain_of
from mailactors.spool.port import Lease

SHARED_PASSES: Final = 4
"""Messages that share nothing with whoever was refused as too fast, one subject, two, or more."""


class Chooser:
    """Applies the routing's rules to the lanes as they are now."""

    def __init__(self, lanes: Lanes, waiting: Waiting) -> None:
        self._lanes = lanes
        self._waiting = waiting
        self._shared_max = SHARED_PASSES - 1
        """How many suspect subjects a message may have in this pass."""

    def passes(self) -> Iterator[int]:
        """Yield once for each pass over what waits; choose by it meanwhile.

        Where a lane has refused someone as too fast, messages go first that share nothing with it,
        then those that share little: another one gets the next permit if there is any.
        """
        is_suspicious = any(lane.subjects for lane in self._lanes.values())
        for self._shared_max in range(SHARED_PASSES if is_suspicious else 1):
            yield self._shared_max
        self._shared_max = SHARED_PASSES - 1

    def choose(self, lease: Lease, lanes: Sequence[str], now_s: float) -> Choice | None:
        """Return the lane that takes a message now, or None."""
        reach = within_reach(lanes, self._lanes, self._spills_at_s(lease), now_s)
        choice = choose_lane(reach, self._route(lease), self._lanes, now_s)
        if choice is not None and not choice.is_panic:
            roomy = self._roomy(lease, reach)
            if choice.lane not in roomy:
                choice = choose_lane(roomy, self._route(lease), self._lanes, now_s) or NO_ROOM
        if choice is None or choice is NO_ROOM or self._may_go(lease, choice.lane, now_s):
            return choice
        return PASSED_OVER

    def _roomy(self, lease: Lease, lanes: Sequence[str]) -> Sequence[str]:
        """Return the lanes of which a message's domains do not have too many slots."""
        domains = {domain_of(address) for _, address in lease.recipients}
        return [name for name in lanes if self._lanes[name].has_room_for(domains)]

    def _may_go(self, lease: Lease, lane: str, now_s: float) -> bool:
        known = self._lanes[lane].subjects
        if not known or self._shared_max == SHARED_PASSES - 1:
            return True
        subjects = subjects_of((address for _, address in lease.recipients), lease.sender)
        return known.shared(subjects, now_s) <= self._shared_max

    def next_s(self, lease: Lease, lanes: Sequence[str], now_s: float) -> float:
        """Return when `choose` may answer differently without any news, or inf."""
        spills_at_s = self._spills_at_s(lease)
        reach = within_reach(lanes, self._lanes, spills_at_s, now_s)
        times = [spills_at_s] if len(reach) < len(lanes) else []
        roomy = self._roomy(lease, reach)
        for name in reach:
            at_s = next_choice_s((name,), self._route(lease), self._lanes, now_s)
            if at_s > now_s or name in roomy:  # else it waits for an attempt's end, which is news
                times.append(at_s)
        return min(times, default=float("inf"))

    def _route(self, lease: Lease) -> Sequence[str]:
        return self._lanes.plan(lease.stream).route

    def _spills_at_s(self, lease: Lease) -> float:
        return self._waiting.since_s(lease) + self._lanes.plan(lease.stream).patience_s
