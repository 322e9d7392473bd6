"""Progress and time left, from the first second, with a terminal and without."""

from __future__ import annotations

import io

import pytest
import rich.console

from mailactors.sim.report.progress import FIRST_LINE_S, LINE_EVERY_S, Bar, time_left
from mailactors.sim.scenario.file import gateway_config
from mailactors.sim.scenario.policies import DEFAULT, Task
from tests.sim.makers import small
from tests.sim.test_workers import PLAIN

SCENARIO = small(duration_s=100.0, rate_per_s=10.0)
TASKS = [
    Task("a.toml", SCENARIO, gateway_config("a.toml", SCENARIO, None), seed, DEFAULT)
    for seed in (1, 2)
]


class Watched:
    """A bar at a time that is given."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.now_s = 100.0
        self.said = io.StringIO()
        console = rich.console.Console(file=self.said, width=120, force_terminal=is_terminal)
        self.bar = Bar(TASKS, console, lambda: self.now_s)

    def lines(self) -> list[str]:
        return self.said.getvalue().splitlines()


def test_without_a_terminal_the_first_second_has_a_line_with_the_time_left() -> None:
    watched = Watched()
    watched.now_s += FIRST_LINE_S
    watched.bar.progress(0, 100)

    assert [
        "2 runs, about 2,000 messages",
        "a, seed 1: 5% of all, about 19 s left",
    ] == watched.lines()


def test_lines_are_rare() -> None:
    watched = Watched()
    for step in range(1, 1001):
        watched.now_s = 100.0 + step * 0.05
        watched.bar.progress(0, step)

    assert 2 + 50 // LINE_EVERY_S >= len(watched.lines()) >= 50 // LINE_EVERY_S
    assert "a, seed 1: 41% of all, about 59 s left" == watched.lines()[-1]


def test_an_end_says_how_it_ended() -> None:
    watched = Watched()
    watched.bar.ended(1, PLAIN)

    assert ["2 runs, about 2,000 messages", "1 of 2 runs: a, seed 2: passed"] == watched.lines()


def test_a_terminal_shows_the_time_left_in_the_bar() -> None:
    watched = Watched(is_terminal=True)
    watched.now_s += 1
    watched.bar.progress(0, 500)
    watched.bar.bars.refresh()

    watched.bar.bars.console.print(watched.bar.bars.get_renderable())
    assert "0 of 2 runs" in watched.said.getvalue()
    assert "about 3 s left" in watched.said.getvalue()


@pytest.mark.parametrize(
    ("done", "total", "words"),
    [
        (0, 100, "time left is not known yet"),
        (1, 101, "about 16 min 40 s left"),
        (100, 101, "about 1 s left"),
        (101, 101, "finishing"),
        (0, 0, "finishing"),
    ],
)
def test_time_left_is_at_the_pace_until_now(done: float, total: float, words: str) -> None:
    assert words == time_left(10.0, done, total)
