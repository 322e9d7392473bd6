"""A swarm of small random scenarios: no violation, and no run above the oracle's bounds."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bench import swarm
from bench.swarm import Found, known_results, run_seed, scenario_of
from mailactors.sim.scenario.faults import KINDS

SEEDS = int(os.environ.get("SWARM_SEEDS", "40"))
"""How many; `SWARM_SEEDS=300 pytest tests/sim/test_swarm.py` runs more of the same, in minutes."""

RELOAD_AS_IT_DIES = 245
"""A process ends in the middle of a reload."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(1, SEEDS + 1), RELOAD_AS_IT_DIES])
def test_a_seed_shows_nothing_wrong(seed: int) -> None:
    found = run_seed(seed)

    assert [] == found.problems, f"replay: python -m bench.swarm --replay {seed}"


def test_the_seeds_meet_every_kind_of_fault() -> None:
    scenarios = [scenario_of(seed) for seed in range(1, 41)]

    timelines = [each.timeline(name) for each in scenarios for name in each.providers]
    met = {getattr(fault, "kind", "") for timeline in timelines for fault in timeline}
    own = {getattr(fault, "kind", "") for each in scenarios for fault in each.faults}

    assert set(KINDS) == set(swarm.FAULTS) == met
    assert {"spool", "clock", "pause"} == own
    assert any(each.crashes for each in scenarios)
    assert any(each.operations for each in scenarios)


def test_a_seed_is_one_scenario() -> None:
    assert scenario_of(7) == scenario_of(7) != scenario_of(8)


def test_an_interrupted_swarm_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def results(seeds: list[int], _processes: int) -> list[Found]:
        asked.extend(seeds)
        return [Found(seed, 1, 1, [], ["p50_s: 1 < 2"] if seed == 4 else []) for seed in seeds]

    monkeypatch.setattr(swarm, "results", results)
    to = tmp_path / "swarm.jsonl"
    bad = Found(2, 1, 1, ["one final state: twice"], [])
    to.write_bytes(msgspec.json.encode(bad) + b"\n" + b'{"seed":3,"acc')

    code = swarm.main(["--seeds", "4", "--to", str(to), "--processes", "1"])

    printed = capsys.readouterr().out
    assert (1, [1, 3, 4]) == (code, asked)
    assert {1, 2, 3, 4} == {each.seed for each in known_results(to)}
    assert "seed 2: one final state: twice" in printed
    assert "seed 4: beats the oracle: p50_s: 1 < 2" in printed
    assert "python -m bench.swarm --replay 4" in printed
