"""How many attempts may be in flight at a provider at once. Plain functions.

Between a floor and the lane's credits: what a provider serves in time adds to it, but only while
it is in use, and never faster than from nothing to the ceiling within `RAMP_S`; a failure takes
away as much as a success adds, so that it grows as long as more than half succeed; an answer that
is too slow halves it, for more in flight only makes it slower. When the breaker opens it falls to
the floor, from where a recovered provider is climbed up to, and not jumped upon.

Source: additive increase and multiplicative decrease, Chiu and Jain, 1989; feedback of 1/N both
ways for failures, and its end at the first cohort, after Postfix's SCHEDULER_README.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailactors.dispatch.lane import NEVER_S
from mailactors.model.outcome import Verdict

FLOOR: Final = 4
"""What a sick provider may always have in flight, and a recovered one begins with."""
RAMP_S: Final = 15.0
"""From nothing to the ceiling takes at least this long: a third of the time that a backlog of
half an hour then takes to drain at the ceiling."""
CUT: Final = 0.5
"""What is left after a slow answer."""


@dataclass
class Concurrency:
    """A limit on attempts in flight. Times are monotonic."""

    ceiling: int
    floor: int
    limit: float
    raised_s: float = NEVER_S
    cut_s: float = NEVER_S

    @property
    def whole(self) -> int:
        """The limit as a number of attempts."""
        return int(self.limit)


def new_concurrency(ceiling: int, floor: int, limit: int) -> Concurrency:
    """Return a limit between floor and ceiling; a lane with few credits has that as its floor."""
    floor = min(ceiling, max(floor, FLOOR))
    return Concurrency(ceiling, floor, float(min(ceiling, max(floor, limit))))


def judge_end(
    state: Concurrency,
    verdict: Verdict,
    is_slow: bool,
    in_flight: int,
    began_s: float,
    now_s: float,
) -> None:
    """Learn from an attempt's end; `in_flight` includes it."""
    if is_slow:
        cut(state, began_s, now_s)
    elif verdict is Verdict.SUCCESS:
        grow(state, in_flight, now_s)
    else:
        shrink(state)


def grow(state: Concurrency, in_flight: int, now_s: float) -> None:
    """Take in a success; one that found less than half of the limit in use proves nothing.

    `in_flight` includes the attempt that succeeded.
    """
    if 2 * in_flight < state.limit:
        return
    step = min(1.0 / state.limit, state.ceiling / RAMP_S * (now_s - state.raised_s))
    state.limit = min(float(state.ceiling), state.limit + step)
    state.raised_s = now_s


def shrink(state: Concurrency) -> None:
    """Take in a failure that came in time."""
    state.limit = max(float(state.floor), state.limit - 1.0 / state.limit)


def cut(state: Concurrency, began_s: float, now_s: float) -> None:
    """Take in a slow answer; what was under way at the last cut says nothing about it."""
    if began_s <= state.cut_s:
        return
    state.limit = max(float(state.floor), state.limit * CUT)
    state.cut_s = now_s


def collapse(state: Concurrency, now_s: float) -> None:
    """Fall to the floor: the provider is not to be asked for now."""
    state.limit, state.raised_s = float(state.floor), now_s
