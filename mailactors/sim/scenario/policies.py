"""What a run is made of: a scenario, a policy and a seed. Loops are policies to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mailactors.config import Config
from mailactors.sim.scenario.file import Scenario

DEFAULT: Final = "default"
"""The policy that is used if none is named."""


class Loop(msgspec.Struct, frozen=True):
    """A policy without a spool: rounds over providers, with a doubling pause between them."""

    providers_max: int | None
    """How many providers of the route, from its beginning; None: all."""
    rounds: int
    base_s: float
    cap_s: float

    def pause_s(self, round_: int) -> float:
        """Return the pause after a round, counted from 1.

        >>> [Loop(1, 5, 1.0, 60.0).pause_s(n) for n in (1, 2, 3, 4, 9)]
        [1.0, 2.0, 4.0, 8.0, 60.0]
        """
        return float(min(self.cap_s, self.base_s * 2.0 ** (round_ - 1)))


LOOPS: Final[dict[str, Loop]] = {
    "naive": Loop(providers_max=1, rounds=5, base_s=1.0, cap_s=60.0),
    "retry": Loop(providers_max=1, rounds=20, base_s=1.0, cap_s=300.0),
    "fallback": Loop(providers_max=None, rounds=5, base_s=1.0, cap_s=60.0),
}
"""By name: five attempts with one provider within fifteen seconds; twenty within an hour; five
rounds over all providers."""


@dataclass(frozen=True)
class Task:
    """One run to be made."""

    path: str
    scenario: Scenario
    config: Config
    seed: int
    policy: str
    is_quick: bool = False
    """Whether the scenario is a tenth of its file's traffic."""

    @property
    def name(self) -> str:
        """The run's name for people."""
        plain = f"{Path(self.path).stem}, seed {self.seed}{', quick' if self.is_quick else ''}"
        return plain if self.policy == DEFAULT else f"{plain}, {Path(self.policy).name}"
