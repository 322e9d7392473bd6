"""How far many runs are, and how long the rest takes: a bar, or lines without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import rich.console
import rich.progress

from mailactors.sim.report.printing import duration, verdict_of
from mailactors.sim.report.report import Report, Result
from mailactors.sim.scenario.policies import Task

LINE_EVERY_S: Final = 10.0
"""Without a terminal: how often a line is printed, after the first second."""
FIRST_LINE_S: Final = 1.0


def time_left(elapsed_s: float, done: float, total: float) -> str:
    """Return how long the rest takes at the pace until now, in words.

    >>> time_left(3.0, 100, 1000), time_left(0.5, 0, 1000), time_left(9.0, 1000, 1000)
    ('about 27 s left', 'time left is not known yet', 'finishing')
    """
    if done >= total:
        return "finishing"
    if done <= 0:
        return "time left is not known yet"
    left_s = max(1.0, elapsed_s * (total - done) / done)
    words = f"{left_s:.0f} s" if left_s < 59.5 else duration(left_s)
    return f"about {words} left"


class Bar:
    """One progress bar over all runs, in messages."""

    def __init__(
        self,
        tasks: Sequence[Task],
        console: rich.console.Console | None = None,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._tasks = tasks
        self._expected = [task.scenario.messages_expected for task in tasks]
        self._done = [0.0] * len(tasks)
        self._ended = 0
        self.bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.fields[ended]} of {task.fields[runs]} runs"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[messages]:,} messages"),
            rich.progress.TextColumn("{task.fields[left]}"),
            rich.progress.TextColumn("{task.description}"),
            console=console or rich.console.Console(stderr=True),
            transient=True,
            get_time=now_s,
        )
        self._now_s = self.bars.get_time
        self._begun_s = self._now_s()
        self._next_line_s = self._begun_s + FIRST_LINE_S
        self._bar = self.bars.add_task(
            tasks[0].name if tasks else "",
            total=sum(self._expected),
            left=self._left(),
            runs=len(tasks),
            ended=0,
            messages=0,
        )
        messages = f"about {sum(self._expected):,.0f} messages"
        self._print(f"{len(tasks)} run{'s' if len(tasks) != 1 else ''}, {messages}")

    def progress(self, place: int, accepted: int) -> None:
        """Note how many messages a run has accepted."""
        self._done[place] = min(float(accepted), self._expected[place])
        self._show(place)
        if self._now_s() >= self._next_line_s:
            self._next_line_s = self._now_s() + LINE_EVERY_S
            share = sum(self._done) / max(1.0, sum(self._expected))
            self._print(f"{self._tasks[place].name}: {share:.0%} of all, {self._left()}")

    def found(self, place: int) -> None:
        """Show that a run was resumed; it does not count for the pace."""
        self._ended += 1
        self._done[place] = self._expected[place] = 0.0
        self.bars.update(self._bar, total=sum(self._expected))
        self._show(place)

    def ended(self, place: int, result: Result) -> None:
        """Show that a run has ended."""
        self._ended += 1
        self._done[place] = self._expected[place]
        self._show(place)
        word = verdict_of(result)[0] if isinstance(result, Report) else "DIED"
        self._print(f"{self._ended} of {len(self._tasks)} runs: {self._tasks[place].name}: {word}")

    def _print(self, line: str) -> None:
        if not self.bars.console.is_terminal:
            self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        done, total = sum(self._done), sum(self._expected)
        return time_left(self._now_s() - self._begun_s, done, total)

    def _show(self, place: int) -> None:
        self.bars.update(
            self._bar,
            completed=sum(self._done),
            description=self._tasks[place].name,
            ended=self._ended,
            messages=int(sum(self._done)),
            left=self._left(),
        )
