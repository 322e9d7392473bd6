"""How many attempts may be in flight at a provider at once. Plain functions.

The limit lies between a floor and the lane's slots. A success in time raises it, but only while it
is in use, and from nothing to the ceiling in no less than `RAMP_S`. A failure lowers it by as much,
so that it grows while more than half succeed. A slow answer halves it, for more attempts in flight
only make a provider slower. When the breaker opens it falls to the floor, so that a recovered
provider is loaded gradually.

Source: additive increase and multiplicative decrease, Chiu and Jain, 1989; feedback of 1/N both
ways for failures, and its end at the first cohort, after Postfix's SCHEDULER_README.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mailactors.dispatch.lane import NEVER_S
from mailactors.model.outcome import Verdict

FLOOR: Final = 4
"""What a failing provider may always have in flight, and a recovered one begins with."""
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
    """Return a limit between floor and ceiling; a lane with few slots has these as its floor."""
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
    """Raise the limit after a success, unless less than half of it was in use.

    `in_flight` includes the attempt that succeeded.
    """
    if 2 * in_flight < state.limit:
        return
    step = min(1.0 / state.limit, state.ceiling / RAMP_S * (now_s - state.raised_s))
    state.limit = min(float(state.ceiling), state.limit + step)
    state.raised_s = now_s


def shrink(state: Concurrency) -> None:
    """Lower the limit after a failure that came in time."""
    state.limit = max(float(state.floor), state.limit - 1.0 / state.limit)


def cut(state: Concurrency, began_s: float, now_s: float) -> None:
    """Cut the limit after a slow answer, unless its attempt began before the last cut."""
    if began_s <= state.cut_s:
        return
    state.limit = max(float(state.floor), state.limit * CUT)
    state.cut_s = now_s


def collapse(state: Concurrency, now_s: float) -> None:
    """Lower the limit to the floor, for the breaker opened."""
    state.limit, state.raised_s = float(state.floor), now_s
