"""One run from beginning to end, whatever its policy; what each worker process does."""

from __future__ import annotations

import msgspec

from mailactors.sim.oracle.oracle import oracle_bounds
from mailactors.sim.report.report import Report, with_oracle
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.loops import run_loop
from mailactors.sim.run.simulation import Progress
from mailactors.sim.scenario.policies import LOOPS, Task


def run_task(task: Task, progress: Progress) -> Report:
    """Make a run and add the oracle's figures."""
    scenario, config, seed = task.scenario, task.config, task.seed
    if task.policy in LOOPS:
        report = run_loop(task.policy, task.path, scenario, config, seed, progress)
    else:
        report = run_scenario(
            task.path, scenario, config, seed, policy=task.policy, progress=progress
        )
    report = msgspec.structs.replace(report, is_quick=task.is_quick)
    return with_oracle(report, scenario.expect, oracle_bounds(scenario, config, seed))
