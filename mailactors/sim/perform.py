"""One run from beginning to end, whatever its policy; what each process of many does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from mailactors.sim.many import Task
from mailactors.sim.report import Report
from mailactors.sim.runner import run_scenario
from mailactors.sim.scenario import Scenario

LOOPS: Final[dict[str, object]] = {}
"""Policies that are no gateway, by name."""


def perform(task: Task, tell: Callable[[int], None]) -> Report:
    """Make a run, and put the oracle's figures beside it."""

    def progress(_now_s: float, accepted: int) -> None:
        tell(accepted)

    report = run_scenario(task.path, task.scenario, task.config, task.seed, progress=progress)
    return msgspec.structs.replace(report, policy=task.policy)


def expected_messages(scenario: Scenario) -> float:
    """Return about how many messages clients will submit."""
    traffic, end_s = scenario.traffic, scenario.duration_s
    rate = traffic.rate_per_s
    if traffic.diurnal is not None:
        rate = (traffic.diurnal.low_per_s + rate) / 2
    found = rate * end_s
    for burst in traffic.bursts:
        for_s = min(burst.at_s + burst.for_s, end_s) - burst.at_s
        found += (burst.rate_per_s - rate) * for_s
    return max(1.0, found)
