"""Which lane a waiting message takes now, and when that may change. Decides; sends nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.routing import (
    Choice,
    Waiting,
    choose_lane,
    next_choice_s,
    within_reach,
)
from mailactors.spool.port import Lease


class Chooser:
    """Applies the routing's rules to the lanes as they are now."""

    def __init__(self, lanes: Lanes, waiting: Waiting) -> None:
        self._lanes = lanes
        self._waiting = waiting

    def choose(self, lease: Lease, lanes: Sequence[str], now_s: float) -> Choice | None:
        """Return the lane that takes a message now, or None."""
        reach = within_reach(lanes, self._lanes, self._spills_at_s(lease), now_s)
        return choose_lane(reach, self._route(lease), self._lanes, now_s)

    def next_s(self, lease: Lease, lanes: Sequence[str], now_s: float) -> float:
        """Return when `choose` may answer differently without any news, or inf."""
        spills_at_s = self._spills_at_s(lease)
        reach = within_reach(lanes, self._lanes, spills_at_s, now_s)
        at_s = next_choice_s(reach, self._route(lease), self._lanes, now_s)
        return min(at_s, spills_at_s) if len(reach) < len(lanes) else at_s

    def _route(self, lease: Lease) -> Sequence[str]:
        return self._lanes.plan(lease.stream).route

    def _spills_at_s(self, lease: Lease) -> float:
        return self._waiting.since_s(lease) + self._lanes.plan(lease.stream).patience_s
