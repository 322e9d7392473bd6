"""Runs in several processes: order, deaths, and an end at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mailactors.sim.report.report import CrashedRun, Report, Result
from mailactors.sim.run.workers import run_here, run_side_by_side
from mailactors.sim.scenario.file import gateway_config
from mailactors.sim.scenario.policies import Task
from tests.sim.makers import small

SCENARIO = small()
CONFIG = gateway_config("test", SCENARIO, None)
PLAIN = Report(
    scenario="test",
    seed=0,
    hash="",
    submitted=0,
    refused=0,
    given_up=0,
    accepted=0,
    accepted_by_provider=0,
    delivered=0,
    delivered_rate=None,
    p50_s=None,
    p99_s=None,
    p99_s_by_domain={},
    duplicates=0,
    undeclared_duplicates=0,
    attempts_per_message=None,
    peak_attempts_per_s={},
    recovery_s=None,
    breaker_moves=0,
    panics=0,
    starts=1,
    fault_points={},
    ended_s=0.0,
    violations=(),
    expectations=(),
)


def tasks_of(*seeds: int, path: Path = Path("folder/test.toml")) -> list[Task]:
    return [Task(str(path), SCENARIO, CONFIG, seed, "default") for seed in seeds]


def answer(task: Task, tell: Callable[[int], None]) -> Report:
    """Answer with the seed; misbehave for some. The first waits at a gate, if there is one."""
    tell(task.seed)
    match task.seed:
        case 13:
            os._exit(7)
        case 14:
            os.kill(os.getpid(), signal.SIGKILL)
        case 15:
            raise ValueError("a bug")
        case 16:
            os.kill(os.getpid(), signal.SIGINT)
        case 1 if Path(task.path).is_fifo():
            with open(task.path, "rb") as gate:
                gate.read(1)
        case _:
            pass
    return msgspec.structs.replace(PLAIN, seed=task.seed, hash=str(os.getpid()))


class Heard:
    """What was said meanwhile."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.results: dict[int, Result] = {}
        self.progress_calls: list[tuple[int, int]] = []

    def finished(self, place: int, result: Result) -> None:
        self.order.append(place)
        self.results[place] = result

    def progress(self, place: int, accepted: int) -> None:
        self.progress_calls.append((place, accepted))

    def ended(self) -> list[object]:
        """Return seeds of reports, and why runs died, by place."""
        return [
            each.seed if isinstance(each, Report) else each.why.splitlines()[-1]
            for _, each in sorted(self.results.items())
        ]


@pytest.mark.slow
def test_every_run_is_made_once_in_any_order(tmp_path: Path) -> None:
    heard = Heard()
    path = tmp_path / "gate"
    os.mkfifo(path)

    with open(path, "r+b", buffering=0) as gate:

        def finished(place: int, result: Result) -> None:
            heard.finished(place, result)
            if place == 3:
                gate.write(b"!")  # the first goes on when the last has ended

        tasks = tasks_of(1, 2, 3, 4, path=path)
        is_whole = run_side_by_side(tasks, 2, answer, heard.progress, finished)

    assert is_whole
    assert [1, 2, 3, 4] == heard.ended()
    assert [1, 2, 3, 0] == heard.order
    assert [(0, 1), (1, 2), (2, 3), (3, 4)] == sorted(heard.progress_calls)
    processes = {each.hash for each in heard.results.values() if isinstance(each, Report)}
    assert 2 == len(processes - {str(os.getpid())})


@pytest.mark.slow
def test_a_process_that_dies_costs_its_run_only() -> None:
    heard = Heard()

    is_whole = run_side_by_side(
        tasks_of(13, 2, 14, 15, 5), 2, answer, heard.progress, heard.finished
    )

    assert is_whole
    assert [
        "its process died: exit code 7",
        2,
        "its process died: killed by SIGKILL",
        "ValueError: a bug",
        5,
    ] == heard.ended()
    died = heard.results[0]
    assert isinstance(died, CrashedRun)
    assert "test, seed 13" == died.task.name


def test_a_bug_costs_its_run_only_in_this_process_too() -> None:
    heard = Heard()

    is_whole = run_here(tasks_of(2, 15, 5), answer, heard.progress, heard.finished)

    assert is_whole
    assert [2, "ValueError: a bug", 5] == heard.ended()


def interrupt(task: Task, tell: Callable[[int], None]) -> Report:
    if task.seed == 2:
        raise KeyboardInterrupt
    return answer(task, tell)


def test_interrupted_here_keeps_what_was_finished() -> None:
    heard = Heard()

    is_whole = run_here(tasks_of(4, 2, 5), interrupt, heard.progress, heard.finished)

    assert not is_whole
    assert [4] == heard.ended()


def wait_for_ever(task: Task, tell: Callable[[int], None]) -> Report:
    tell(os.getpid())
    if task.seed == 0:
        return PLAIN
    threading.Event().wait(60)
    return PLAIN


@pytest.mark.slow
def test_interrupted_side_by_side_ends_every_process() -> None:
    heard = Heard()

    def progress(place: int, pid: int) -> None:
        heard.progress(place, pid)
        if place == 2:
            raise KeyboardInterrupt

    is_whole = run_side_by_side(tasks_of(1, 0, 3), 2, wait_for_ever, progress, heard.finished)

    assert not is_whole
    assert [1] == heard.order
    for _, pid in heard.progress_calls:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_ctrl_c_interrupts_the_parent_only() -> None:
    heard = Heard()

    run_side_by_side(tasks_of(16, 2), 2, answer, heard.progress, heard.finished)

    assert [16, 2] == heard.ended()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_leaves_no_process(tmp_path: Path) -> None:
    scenario = tmp_path / "long.toml"
    scenario.write_text(
        textwrap.dedent(
            """
            story = "long"
            duration_s = 1e6
            [traffic]
            rate_per_s = 1
            [providers.primary]
            """
        )
    )
    command = [sys.executable, "-m", "mailactors", "simulate", str(scenario), "--seeds", "1-3"]
    with subprocess.Popen(
        [*command, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 40
        # Two, and a process of multiprocessing's own.
        while len(_children(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        children = _children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        out, err = process.communicate(timeout=40)

    assert 130 == process.returncode
    assert "interrupted: 0 of 3 runs were finished" in out
    assert "Traceback" not in err
    assert len(children) == 3
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if _is_alive(pid)]


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may still be a zombie."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
