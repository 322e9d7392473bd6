"""A tenth of a scenario's traffic, for an answer in seconds."""

from __future__ import annotations

from typing import Final

from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.tables import Expect

QUICK_SHARE: Final = 0.1


def quick_of(scenario: Scenario) -> Scenario:
    """Return the scenario with a tenth of its traffic, and what can still be expected of it.

    Times, faults, quotas and the vendors' limits stay, so that what is short of room at full size
    is not short here. Limits of latency, attempts and rates are left out: they are for full size.
    """
    traffic, expect = scenario.traffic, scenario.expect
    less: dict[str, object] = {
        "rate_per_s": traffic.rate_per_s * QUICK_SHARE,
        "bursts": tuple(
            burst.model_copy(update={"rate_per_s": burst.rate_per_s * QUICK_SHARE})
            for burst in traffic.bursts
        ),
    }
    if (day := traffic.diurnal) is not None:
        low_per_s = day.low_per_s * QUICK_SHARE
        less["diurnal"] = day.model_copy(update={"low_per_s": low_per_s})
    kept = Expect(
        delivered_min=expect.delivered_min,
        undeclared_duplicates_max=expect.undeclared_duplicates_max,
        unfinished_max=expect.unfinished_max,
    )
    return scenario.model_copy(update={"traffic": traffic.model_copy(update=less), "expect": kept})
