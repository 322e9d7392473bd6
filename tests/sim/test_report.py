"""What the figures are held to, and what many runs prove together."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mailactors.sim.report.report import (
    Bound,
    Oracle,
    expectations_of,
    failure_rate_max,
    gap_of,
)
from mailactors.sim.scenario.tables import Expect

FIGURES: dict[str, Any] = {
    "accepted": 100,
    "delivered": 90,
    "delivered_rate": 0.9,
    "p50_s": 0.2,
    "p99_s": 3.0,
    "p999_s": None,
    "duplicates": 0,
    "undeclared_duplicates": 0,
    "attempts_per_message": 1.5,
    "peak_attempts_per_s": {"primary": 20},
    "recovery_s": 7.0,
    "p99_s_by_domain": {"small.example": 0.9, "big.example": None},
}


def oracle(delivered: int = 100, p99_s: float | None = 1.5) -> Oracle:
    bound = Bound(delivered, delivered / 100, 0.1, p99_s, p99_s, 1.0)
    return Oracle(
        delivered, delivered / 100, 0.1, p99_s, p99_s, 1.0, by_rates=bound, expected=delivered
    )


def held(expect: dict[str, Any], beside: Oracle | None = None) -> dict[str, bool]:
    found = expectations_of(Expect.model_validate(expect), FIGURES, beside)
    return {each.name: each.ok for each in found if each.name != "undeclared_duplicates_max"}


@pytest.mark.parametrize(
    ("failed", "count"), [(0, 1), (0, 30_000), (1, 10), (7, 72_000), (499, 1000), (999, 1000)]
)
def test_bound_is_the_rate_at_which_so_few_failures_are_one_in_twenty(
    failed: int, count: int
) -> None:
    rate = failure_rate_max(failed, count)

    logs = (
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(rate)
        + (count - k) * math.log1p(-rate)
        for k in range(failed + 1)
    )
    assert failed / count < rate < 1
    assert 0.05 == pytest.approx(math.fsum(map(math.exp, logs)), rel=1e-6)


def test_when_all_failed_nothing_is_proven() -> None:
    assert 1.0 == failure_rate_max(3, 3)


def test_deliveries_are_compared_with_the_oracles() -> None:
    assert {"delivered_min": False} == held({"delivered_min": 0.95})
    assert {"delivered_min": True} == held({"delivered_min": 0.95}, oracle(delivered=92))
    assert {"delivered_min": True} == held({"delivered_min": 1.0}, oracle(delivered=80))


def test_each_domain_has_its_own_limit() -> None:
    asked = {"p99_s_by_domain": {"small.example": 0.9, "big.example": 100}}

    assert held(asked) == {
        "p99_s_by_domain.small.example": True,
        "p99_s_by_domain.big.example": False,  # nothing arrived there
    }
    assert [False] == list(held({"p99_s_by_domain": {"small.example": 0.89}}).values())


def test_gap_is_a_factor_of_the_oracle() -> None:
    asked = {"oracle_gap": {"p50_max": 1.99, "p99_max": 2.0, "attempts_max": 1.5}}

    assert held(asked, oracle()) == {
        "oracle_gap.p50_max": False,
        "oracle_gap.p99_max": True,
        "oracle_gap.attempts_max": True,
    }


def test_a_figure_that_was_not_measured_fails() -> None:
    assert {"within.p999_s": False} == held({"within": {"p999_s": 100}})
    assert {"oracle_gap.p99_max": False} == held({"oracle_gap": {"p99_max": 9}})
    assert {"oracle_gap.p99_max": False} == held({"oracle_gap": {"p99_max": 9}}, oracle(p99_s=None))
    assert gap_of("p999_s", FIGURES, oracle()) is None
