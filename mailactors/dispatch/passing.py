"""Why a lane does not take a message now, in words. Plain functions: they choose nothing.

`routing` and `choosing` decide; this names what they went by, for the timeline of what another
lane took (`passed_over`) and for whoever asks why a message waits (`lane_states`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from mailactors.dispatch.attempt import PassedOver
from mailactors.dispatch.lane import BreakerState, Lane
from mailactors.dispatch.retry import StreamPolicy
from mailactors.model.message import domain_of
from mailactors.spool.port import Lease, Progress

FOREVER_S: Final = math.inf
"""Until news: nobody knows a time."""
TRIED: Final = "tried in this round"
REFUSED: Final = "it refused the message"


class Closed(msgspec.Struct, frozen=True):
    """Why a lane takes nothing, and until when (monotonic; `FOREVER_S`: until there is news)."""

    why: str
    until_s: float = FOREVER_S
    is_breaker: bool = False


class LaneState(msgspec.Struct, frozen=True):
    """A lane of a message's route: why it does not take the message, or empty; until when (UTC)."""

    name: str
    why: str = ""
    until: float | None = None
    is_breaker: bool = False
    is_spent: bool = False
    """This message is not offered to it in this round, whatever its state."""


def closed_because(lane: Lane, now_s: float) -> Closed | None:
    """Return why a lane takes no message now, or None if it takes one."""
    if lane.opens_at_s() <= now_s:
        return None
    breaker = lane.breaker_status.value
    if lane.is_retired:
        return Closed("not configured any more")
    if lane.is_paused:
        return Closed("paused by an operator")
    match breaker.state:
        case BreakerState.DISABLED if breaker.until_s > now_s:
            return Closed("it refuses us as such", breaker.until_s, True)
        case BreakerState.OPEN if breaker.until_s > now_s:
            return Closed("breaker open", breaker.until_s, True)
        case BreakerState.OPEN | BreakerState.DISABLED if lane.offered:
            return Closed("breaker open, a probe under way", is_breaker=True)
        case BreakerState.HALF_OPEN if lane.offered >= breaker.probes_free:
            return Closed("breaker half open, its probes under way", is_breaker=True)
    return _closed_by_limits(lane, now_s)


def _closed_by_limits(lane: Lane, now_s: float) -> Closed:
    limiter = lane.limiter_status.value
    if now_s < lane.short_until_s:
        return Closed("this process lacks a resource for it", lane.short_until_s)
    if now_s < limiter.next_permit_s:
        why = "no permit left of its quota"
        if now_s < lane.asked_until_s:
            why = "it asked us to wait"
        elif limiter.learnt is not None:
            why = "no permit at the pace learnt of it"
        return Closed(why, limiter.next_permit_s)
    if len(lane.in_flight) >= min(lane.concurrency_max, lane.breaker_status.value.concurrency):
        return Closed("no free slot")
    if now_s < lane.blocked_until_s:
        return Closed("it refused an attempt a moment before", lane.blocked_until_s)
    return Closed("its permits are taken")


def passed_over(
    lease: Lease,
    chosen: str,
    plan: StreamPolicy,
    lanes: Mapping[str, Lane],
    now_s: float,
    now: float,
) -> tuple[PassedOver, ...]:
    """Return the lanes that a message's route names before the chosen one, and why each is not it.

    Args:
        now_s: monotonic; `now`: the same moment, UTC.
    """
    if chosen == plan.route[0]:  # nearly always
        return ()
    able = plan.carrying(len(lease.recipients), lease.recipients_total).route
    domains = {domain_of(address) for _, address in lease.recipients}

    def otherwise(lane: Lane) -> Closed:
        if chosen == lease.progress.prefer:
            return Closed(f"{chosen} deferred the recipient, and is asked again first")
        if not lane.has_room_for(domains):
            return Closed("no slot left for the recipient's domain")
        return Closed("it refused mail like this as too fast: other mail goes first")

    found = lane_states(plan.route, able, lease.progress, lanes, now_s, now, otherwise=otherwise)
    before = itertools.takewhile(lambda each: each.name != chosen, found)
    return tuple(PassedOver(each.name, each.why, each.until) for each in before)


def lane_states(
    route: Sequence[str],
    able: Sequence[str],
    progress: Progress,
    lanes: Mapping[str, Lane],
    now_s: float,
    now: float,
    *,
    in_panic: bool = False,
    otherwise: Callable[[Lane], Closed | None] = lambda _lane: None,
) -> tuple[LaneState, ...]:
    """Return the lanes of a route as they are now for a message.

    Args:
        able: those that can carry what is left of it.
        in_panic: no breaker of the route is closed, so that open ones are tried as well.
        otherwise: why not a lane that is open and not spent.
    """
    found = []
    for name in route:
        if spent := _spent(name, able, progress):
            found.append(LaneState(name, spent, is_spent=True))
        elif closed := closed_because(lanes[name], now_s) or otherwise(lanes[name]):
            until_s = closed.until_s
            if closed.is_breaker and in_panic:
                until_s = min(until_s, max(now_s, lanes[name].panics_at_s()))
            until = None if math.isinf(until_s) else round(now + until_s - now_s, 3)
            found.append(LaneState(name, closed.why, until, closed.is_breaker))
        else:
            found.append(LaneState(name))
    return tuple(found)


def _spent(name: str, able: Sequence[str], progress: Progress) -> str:
    """Return why a message is not offered to a lane in this round, as `retry.candidates` has it."""
    if name in progress.barred:
        return REFUSED
    if name not in able:
        return "it cannot send to some of the recipients only"
    left = [each for each in able if each not in progress.barred]
    has_untried = any(each not in progress.tried for each in left)
    return TRIED if name in progress.tried and has_untried else ""
