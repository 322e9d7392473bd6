"""One run from beginning to end, whatever its policy; what each process of many does."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mailactors.sim.oracle.oracle import ask_oracle
from mailactors.sim.report.report import Report, with_oracle
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.loops import LOOPS, run_loop
from mailactors.sim.run.workers import Task


def perform(task: Task, tell: Callable[[int], None]) -> Report:
    """Make a run, and put the oracle's figures beside it."""
    scenario, config = task.scenario, task.config
    if task.policy in LOOPS:
        report = run_loop(task.policy, task.path, scenario, config, task.seed, tell)
    else:

        def progress(_now_s: float, accepted: int) -> None:
            tell(accepted)

        made = run_scenario(task.path, scenario, config, task.seed, progress=progress)
        report = msgspec.structs.replace(made, policy=task.policy)
    return with_oracle(report, scenario.expect, ask_oracle(scenario, config, task.seed))
