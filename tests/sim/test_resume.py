"""The file of finished runs: what is known again, and what a cut does to it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mailactors.sim.report.report import Report
from mailactors.sim.run import resume
from mailactors.sim.run.resume import FinishedRuns, ResumeError
from mailactors.sim.scenario.file import gateway_config
from mailactors.sim.scenario.policies import Task
from tests.sim.makers import small
from tests.sim.test_workers import PLAIN


def task_of(seed: int = 1, *, policy: str = "default", rate_per_s: float = 10.0) -> Task:
    scenario = small(rate_per_s=rate_per_s)
    return Task("a.toml", scenario, gateway_config("a.toml", scenario, None), seed, policy)


def report_of(task: Task, accepted: int = 5) -> Report:
    return msgspec.structs.replace(
        PLAIN, scenario=task.path, seed=task.seed, policy=task.policy, accepted=accepted
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "runs.jsonl")


def test_a_finished_run_is_found(path: str) -> None:
    FinishedRuns(path).add(task_of(), report_of(task_of()))

    assert report_of(task_of()) == FinishedRuns(path).find(task_of())


@pytest.mark.parametrize(
    "other",
    [task_of(2), task_of(policy="naive"), task_of(rate_per_s=11.0)],
    ids=["seed", "policy", "scenario"],
)
def test_another_run_is_not(other: Task, path: str) -> None:
    FinishedRuns(path).add(task_of(), report_of(task_of()))

    assert FinishedRuns(path).find(other) is None


def test_another_configuration_is_another_run(path: str) -> None:
    task = task_of()
    FinishedRuns(path).add(task, report_of(task))
    stream = task.config.streams["otp"].model_copy(update={"expires_after_s": 7.0})
    config = task.config.model_copy(update={"streams": {**task.config.streams, "otp": stream}})

    other = Task(task.path, task.scenario, config, task.seed, task.policy)

    assert FinishedRuns(path).find(other) is None


def test_other_code_makes_another_run(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FinishedRuns(path).add(task_of(), report_of(task_of()))

    monkeypatch.setattr(resume, "code_digest", lambda: "another")

    assert FinishedRuns(path).find(task_of()) is None


def test_half_a_line_is_made_good(path: str) -> None:
    finished = FinishedRuns(path)
    finished.add(task_of(1), report_of(task_of(1)))
    finished.add(task_of(2), report_of(task_of(2)))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-40])

    again = FinishedRuns(path)
    assert again.find(task_of(1)) is not None
    assert again.find(task_of(2)) is None
    again.add(task_of(2), report_of(task_of(2)))
    again.add(task_of(3), report_of(task_of(3)))

    assert whole == Path(path).read_bytes()[: len(whole)]
    assert all(FinishedRuns(path).find(task_of(seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize("kept", [1, 5, 30])
def test_half_of_the_first_line_is_made_good(kept: int, path: str) -> None:
    FinishedRuns(path).add(task_of(), report_of(task_of()))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:kept])

    FinishedRuns(path).add(task_of(), report_of(task_of()))

    assert whole == Path(path).read_bytes()


def test_a_last_line_without_its_end_gets_one(path: str) -> None:
    FinishedRuns(path).add(task_of(), report_of(task_of()))
    Path(path).write_bytes(Path(path).read_bytes().removesuffix(b"\n"))

    FinishedRuns(path).add(task_of(2), report_of(task_of(2)))

    assert all(FinishedRuns(path).find(task_of(seed)) for seed in (1, 2))


@pytest.mark.parametrize("text", ["[]\n", "story = 'x'\n", '{"inputs": 1}\n', '{"a": 1}'])
def test_a_file_of_something_else_is_left_alone(text: str, path: str) -> None:
    Path(path).write_text(text)

    with pytest.raises(ResumeError, match="line 1: is no finished run"):
        FinishedRuns(path)
    assert text == Path(path).read_text()
