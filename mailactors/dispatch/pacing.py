"""A pace learnt from a provider's refusals as too fast. Plain functions.

A limit is a property of the provider, not of the message that met it. All refusals of attempts
that were in flight when the first of them came are one lesson. What the provider served in the
second before is the rate that it allows; another lesson at a pace that was kept cuts that pace. A
pace is kept for a while, longer the more often the same limit was met, and then climbs slowly, so
that a lifted limit is found at the cost of an occasional refusal.

Source: additive increase and multiplicative decrease, Chiu and Jain, 1989; the memory of where it
was refused is that of CUBIC, RFC 9438.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from mailactors.dispatch.lane import LearntPace

HORIZON_S: Final = 1.0
"""The time over which what was served is counted. A longer quota closes the limiter by its
Retry-After, and what was served in the second before is its upper bound."""
SHARE: Final = 0.95
"""Of what was served: even spacing then leaves 5 % of a second for messages that arrive late."""
CUTS: Final = (0.95, 0.95, 0.9, 0.9, 0.8, 0.7)
"""Factors of the pace at each lesson in a row; the last one also for all later ones."""
OTHER_QUOTA: Final = 0.8
OTHER_QUOTA_MISSED_MIN: Final = 2.0
"""Below this share of the pace kept, and so many fewer, what was served means another quota."""
PACE_MIN_PER_S: Final = 0.2
"""A provider that serves nothing is tried every five seconds, unless its Retry-After is longer."""
PATIENCE_S: Final = 10.0
"""How long a first pace is kept: it may be a poor estimate. Doubles when confirmed."""
PATIENCE_PER_WAIT: Final = 120.0
"""Patience grows to this many times what a refusal costs: probing then wastes 1 % of the time."""
PATIENCE_MAX_S: Final = 3600.0
CLIMB: Final = 1.02
"""Per second, as far as the limit that is remembered, and a quarter beyond it."""
CLIMB_BEYOND: Final = 1.1
"""Per second past that: the old limit does not hold any more."""
NEAR: Final = 1.25
"""A refusal below this many times the remembered limit confirms it."""
FORGET_S: Final = 600.0
"""A pace that climbed for so long without a refusal is forgotten: there is no limit any more."""
SERVED_MAX: Final = 1000
"""Permits that are remembered as served; at higher rates they span less than a second."""


@dataclass
class Lesson:
    """Refusals that are not yet learnt from, while answers to other attempts are outstanding."""

    refused_s: float
    """When the latest refused attempt got its permit."""
    first_refusal_s: float
    """When the first refusal came; attempts permitted before it belong to this lesson."""
    wait_s: float
    """For how long the provider asked to be left alone."""


@dataclass
class PacingState:
    """What is remembered for pacing. Times are monotonic; without a refusal there is no pace."""

    learnt: LearntPace | None = None
    lesson: Lesson | None = None
    served_s: deque[float] = field(default_factory=lambda: deque(maxlen=SERVED_MAX))
    """When the attempts that were not refused as too fast got their permits."""


def note_served(state: PacingState, permit_s: float) -> None:
    """Remember an attempt that was not refused as too fast, whatever its outcome."""
    state.served_s.append(permit_s)


def note_refused(state: PacingState, permit_s: float, wait_s: float, now_s: float) -> None:
    """Count a refusal as too fast; one of an attempt before the latest lesson teaches nothing."""
    if state.lesson is not None:
        state.lesson.refused_s = max(state.lesson.refused_s, permit_s)
        state.lesson.wait_s = max(state.lesson.wait_s, wait_s)
    elif state.learnt is None or permit_s > state.learnt.first_refusal_s:
        state.lesson = Lesson(permit_s, now_s, wait_s)


def learn(state: PacingState, now_s: float) -> bool:
    """Learn from a lesson once the provider may be asked again; return whether there was one.

    By then nearly all answers are in, so that what was served can be counted.
    """
    lesson = state.lesson
    if lesson is None:
        return False
    served_per_s = served_rate(state.served_s, lesson.refused_s)
    state.learnt = decide_pace(state.learnt, lesson, served_per_s, now_s)
    state.lesson = None
    return True


def served_rate(served_s: deque[float], until_s: float) -> float:
    """Return how many of those permits a second were given within the horizon that ends so.

    >>> served_rate(deque([0.0, 1.1, 1.2, 1.3, 2.05]), 2.0)
    3.0
    """
    since_s = until_s - HORIZON_S
    if len(served_s) == served_s.maxlen:
        since_s = max(since_s, min(*served_s, until_s - 0.001))
    count = sum(1 for permit_s in served_s if since_s < permit_s <= until_s)
    return count / (until_s - since_s)


def decide_pace(
    learnt: LearntPace | None, lesson: Lesson, served_per_s: float, now_s: float
) -> LearntPace:
    """Say which pace follows a lesson, and for how long it is kept."""
    patience_max_s = min(PATIENCE_MAX_S, PATIENCE_PER_WAIT * max(HORIZON_S, lesson.wait_s))
    kept_per_s = math.inf if learnt is None else rate_at(learnt, lesson.refused_s)
    if learnt is None or is_other_quota(served_per_s, kept_per_s):
        per_s = max(PACE_MIN_PER_S, SHARE * served_per_s)
        limit_per_s = max(PACE_MIN_PER_S, served_per_s)
        return LearntPace(per_s, limit_per_s, lesson.first_refusal_s, now_s, PATIENCE_S)
    is_again = lesson.refused_s < learnt.since_s + learnt.patience_s
    lessons = learnt.lessons + 1 if is_again else 0
    per_s = max(PACE_MIN_PER_S, kept_per_s * CUTS[min(lessons, len(CUTS) - 1)])
    if is_again:
        patience_s = learnt.patience_s
    elif kept_per_s <= NEAR * learnt.limit_per_s:
        patience_s = min(patience_max_s, 2.0 * learnt.patience_s)
    else:
        patience_s = PATIENCE_S
    return LearntPace(per_s, kept_per_s, lesson.first_refusal_s, now_s, patience_s, lessons)


def is_other_quota(served_per_s: float, kept_per_s: float) -> bool:
    """Whether so little was served at a pace that another limit must be in force."""
    missed = HORIZON_S * (kept_per_s - served_per_s)
    return served_per_s < OTHER_QUOTA * kept_per_s and missed >= OTHER_QUOTA_MISSED_MIN


def rate_at(learnt: LearntPace, now_s: float) -> float:
    """Return the pace at a time: as learnt, then climbing. Infinite when it is forgotten.

    >>> learnt = LearntPace(9.5, 10.0, first_refusal_s=0.0, since_s=1.0, patience_s=10.0)
    >>> [round(rate_at(learnt, at_s), 2) for at_s in (5.0, 11.0, 13.0, 30.0, 60.0, 1000.0)]
    [9.5, 9.5, 9.88, 20.4, 356.05, inf]
    """
    climbed_s = now_s - learnt.since_s - learnt.patience_s
    if climbed_s <= 0:
        return learnt.per_s
    if climbed_s > FORGET_S:
        return math.inf
    beyond = max(1.0, NEAR * learnt.limit_per_s / learnt.per_s)
    slow_s = min(climbed_s, math.log(beyond) / math.log(CLIMB))
    growth = slow_s * math.log(CLIMB) + (climbed_s - slow_s) * math.log(CLIMB_BEYOND)
    return learnt.per_s * math.exp(growth)


def interval_at(state: PacingState, now_s: float) -> float:
    """Return the time between permits that the learnt pace asks for, 0 for none."""
    return 0.0 if state.learnt is None else 1.0 / rate_at(state.learnt, now_s)


def forget(state: PacingState) -> None:
    """Forget the pace and what it was learnt from."""
    state.learnt = state.lesson = None


def is_forgotten(state: PacingState, now_s: float) -> bool:
    """Whether the learnt pace has climbed for so long that it is forgotten."""
    return state.learnt is not None and math.isinf(rate_at(state.learnt, now_s))


def is_notable(before: LearntPace | None, after: LearntPace | None) -> bool:
    """Whether a change of pace is for the journal: it began, ended, or moved by over a tenth."""
    if before is None or after is None:
        return before is not after
    return abs(after.per_s - before.per_s) > 0.1 * before.per_s
