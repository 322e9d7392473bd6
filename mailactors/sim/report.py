"""What a run came to: figures, expectations beside them, and violations. Plain values."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mailactors.sim.judges import Violation
from mailactors.sim.scenario import Expect, Scenario
from mailactors.sim.truth import Truth, quantile

BEARABLE_S: Final = 2.0
"""Recovered: no more is under way than comes in within this time."""
BEARABLE_MIN: Final = 10.0


class Expectation(msgspec.Struct, frozen=True):
    """One line of `[expect]` beside its figure; a figure that there is none of has failed."""

    name: str
    limit: float
    value: float | None
    ok: bool


class Report(msgspec.Struct, frozen=True):
    """One run. What was not measured is None."""

    scenario: str
    seed: int
    hash: str
    submitted: int
    refused: int
    """Times that a client was told to come again."""
    given_up: int
    """Messages that their client gave up: they were never accepted."""
    accepted: int
    delivered: int
    delivered_rate: float | None
    p50_s: float | None
    p99_s: float | None
    duplicates: int
    undeclared_duplicates: int
    attempts_per_message: float | None
    peak_attempts_per_s: dict[str, int]
    recovery_s: float | None
    breaker_moves: int
    panics: int
    ended_s: float
    violations: tuple[Violation, ...]
    expectations: tuple[Expectation, ...]
    policy: str = "default"
    oracle: None = None
    decision_us: None = None
    wall_s: float = 0.0
    messages_per_wall_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether everything held."""
        return not self.violations and all(each.ok for each in self.expectations)


def figures_of(scenario: Scenario, truth: Truth, risks: dict[int, int]) -> dict[str, Any]:
    """Return the figures that the truth gives."""
    accepted, latencies_s = len(truth.accepted), truth.latencies_s()
    undeclared = (
        max(0, len(times) - 1 - risks.get(number, 0)) for number, times in truth.arrivals.items()
    )
    fault_end_s = scenario.last_fault_end_s
    bearable = max(BEARABLE_MIN, BEARABLE_S * scenario.traffic.rate_per_s)
    return {
        "submitted": len(truth.submitted_s),
        "refused": truth.refused,
        "given_up": truth.given_up,
        "accepted": accepted,
        "delivered": truth.delivered,
        "delivered_rate": truth.delivered / accepted if accepted else None,
        "p50_s": rounded(quantile(latencies_s, 0.5)),
        "p99_s": rounded(quantile(latencies_s, 0.99)),
        "duplicates": truth.duplicates,
        "undeclared_duplicates": sum(undeclared),
        "attempts_per_message": rounded(truth.attempts / accepted) if accepted else None,
        "peak_attempts_per_s": {name: peak.highest for name, peak in truth.peaks.items()},
        "recovery_s": None
        if fault_end_s is None
        else rounded(truth.recovery_s(fault_end_s, bearable)),
    }


def rounded(value: float | None) -> float | None:
    """Cut a figure to what means something."""
    return None if value is None else round(value, 4)


def expectations_of(expect: Expect, figures: dict[str, Any]) -> tuple[Expectation, ...]:
    """Hold the figures against what must hold."""
    found: list[Expectation] = []

    def at_most(name: str, limit: float | None, value: float | None) -> None:
        if limit is not None:
            found.append(Expectation(name, limit, value, value is not None and value <= limit))

    if expect.delivered_min is not None:
        rate = figures["delivered_rate"]
        is_ok = rate is not None and rate >= expect.delivered_min
        found.append(Expectation("delivered_min", expect.delivered_min, rate, is_ok))
    at_most("within.p50_s", expect.within.p50_s, figures["p50_s"])
    at_most("within.p99_s", expect.within.p99_s, figures["p99_s"])
    at_most("duplicates_max", expect.duplicates_max, figures["duplicates"])
    undeclared = figures["undeclared_duplicates"]
    at_most("undeclared_duplicates_max", expect.undeclared_duplicates_max, undeclared)
    attempts = figures["attempts_per_message"]
    at_most("attempts_per_message_max", expect.attempts_per_message_max, attempts)
    for name, limit in expect.peak_attempts_per_s.items():
        at_most(f"peak_attempts_per_s.{name}", limit, figures["peak_attempts_per_s"][name])
    at_most("recovery_s_max", expect.recovery_s_max, figures["recovery_s"])
    return tuple(found)
