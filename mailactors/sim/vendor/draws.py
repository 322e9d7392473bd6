"""A provider's dice: what it rolls for an attempt belongs to (seed, provider, message, attempt).

So every policy that is tried on the same seed meets the same weather, whatever it did before, and
an all-knowing scheduler can look at the dice beforehand.
"""

from __future__ import annotations

import enum
import math
import statistics
from typing import Final

from mailactors.sim.scenario.tables import Latency
from mailactors.sim.world.world import KeyedEntropy

_NORMAL: Final = statistics.NormalDist()
_EDGE: Final = 3e-5
"""Log-normal values are cut at four sigma."""


class Die(enum.IntEnum):
    """What each of the eight numbers of an attempt decides."""

    LATENCY = 0
    BODY = 1
    """How much of the latency has passed when the whole body is there."""
    ERRORS = 2
    STALL = 3
    AMBIGUOUS = 4
    GARBAGE = 5
    LIE = 6
    ACCEPTED = 7
    """Of what was lost or answered with garbage: whether it went out."""


class RareDie(enum.IntEnum):
    """The same for what is seldom rolled. Where a refusal lasts, the attempt is 0."""

    REJECT = 0
    FALSE = 1
    DOMAIN = 2
    SHAPE = 3
    """How garbage looks, and how a connection is dropped."""
    EVENT = 4


class Chance:
    """The dice of one provider."""

    def __init__(self, entropy: KeyedEntropy, provider: str) -> None:
        self.attempt = entropy.table(provider)
        """By message and attempt; see `Die`."""
        self.rare = entropy.table(f"{provider} rare")
        """By message and attempt; see `RareDie`."""


def log_normal(median: float, sigma: float, draw: float) -> float:
    """Return a log-normal value.

    >>> log_normal(0.15, 0.4, 0.5)
    0.15
    """
    draw = min(max(draw, _EDGE), 1 - _EDGE)
    return median * math.exp(sigma * _NORMAL.inv_cdf(draw))


def latency_of(latency: Latency, dice: tuple[float, ...]) -> float:
    """Return how long a provider takes to answer an attempt in fair weather."""
    return log_normal(latency.median, latency.sigma, dice[Die.LATENCY])
