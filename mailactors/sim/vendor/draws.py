"""A provider's draws for an attempt: a function of (seed, provider, message, attempt).

Every policy that runs on the same seed therefore meets the same chance, whatever it did before,
and the oracle can read the draws in advance.
"""

from __future__ import annotations

import enum

from mailactors.sim.scenario.tables import Latency
from mailactors.sim.world.entropy import KeyedEntropy, log_normal


class Draw(enum.IntEnum):
    """What each of the eight draws of an attempt decides."""

    LATENCY = 0
    BODY = 1
    """The share of the latency after which the vendor has the whole body."""
    ERRORS = 2
    STALL = 3
    AMBIGUOUS = 4
    GARBAGE = 5
    LIE = 6
    ACCEPTED = 7
    """Whether a message goes out whose answer is lost or garbage."""


class RareDraw(enum.IntEnum):
    """The same for draws that are seldom needed. For a lasting refusal, the attempt is 0."""

    REJECT = 0
    FALSE = 1
    DOMAIN = 2
    SHAPE = 3
    """What garbage looks like, and how a connection is dropped."""
    EVENT = 4


class ProviderDraws:
    """The draws of one provider."""

    def __init__(self, entropy: KeyedEntropy, provider: str) -> None:
        self.attempt = entropy.table(provider)
        """By message and attempt; see `Draw`."""
        self.rare = entropy.table(f"{provider} rare")
        """By message and attempt; see `RareDraw`."""


def latency_of(latency: Latency, drawn: tuple[float, ...]) -> float:
    """Return how long a provider takes to answer an attempt without a fault, in seconds."""
    return log_normal(latency.median, latency.sigma, drawn[Draw.LATENCY])
