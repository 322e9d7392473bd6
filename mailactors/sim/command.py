"""The `simulate` command: it reads scenario files and writes a table, JSON and a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import rich.console
import rich.progress

from mailactors.config import Config, ConfigError
from mailactors.sim.report.page import page_of
from mailactors.sim.report.printing import print_results, verdict_of
from mailactors.sim.report.report import Report, Result
from mailactors.sim.run.resume import FinishedRuns
from mailactors.sim.run.task import run_task
from mailactors.sim.run.workers import run_here, run_side_by_side
from mailactors.sim.scenario.file import (
    ScenarioError,
    gateway_config,
    load_scenario,
    scenario_schema,
)
from mailactors.sim.scenario.policies import DEFAULT, LOOPS, Task

PASSED: Final = 0
FAILED: Final = 1
BAD_FILE: Final = 2
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Options:
    """The command's arguments."""

    paths: Sequence[str]
    config: str | None = None
    """The policy, as a file of gateway configuration; None: the default policy."""
    seeds: Sequence[int] | None = None
    """None: each file's own seed."""
    policies: Sequence[str] = ()
    """Policies to compare: names of `LOOPS`, "default", or files of gateway configuration."""
    jobs: int = 1
    json_to: str | None = None
    html_to: str | None = None
    resume: str | None = None


class OptionError(ConfigError):
    """An argument is not usable."""


def find_files(paths: Iterable[str]) -> list[str]:
    """Return the files, and for a folder those in it. Raises: ScenarioError where it has none."""
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(str(each) for each in Path(path).glob("*.toml"))
        if not inside:
            raise ScenarioError(path, ["has no scenario in it: they end in .toml"])
        found += inside
    return found


def print_schema() -> None:
    """Print the JSON schema of a scenario file."""
    _print_json(msgspec.json.encode(scenario_schema()))


def simulate(options: Options) -> int:
    """Run every scenario with every policy and seed; return the exit code.

    All files are read before the first run.

    Raises: ConfigError (ScenarioError is one) for a file or a name that is not usable.
    """
    tasks = list(plan(options))
    _check_writable(options)
    finished = FinishedRuns(options.resume) if options.resume is not None else None
    console = rich.console.Console(stderr=options.json_to == "-")
    results, is_whole = _run_all(tasks, options.jobs, finished)
    print_results(console, results)
    reports = [each for each in results if isinstance(each, Report)]
    if options.json_to is not None:
        _write_json(options.json_to, reports)
    if options.html_to is not None:
        Path(options.html_to).write_text(page_of(reports), encoding="utf-8")
        console.print(f"page: {options.html_to}", markup=False, highlight=False)
    if not is_whole:
        console.print(f"interrupted: {len(results)} of {len(tasks)} runs were finished")
        return INTERRUPTED
    has_passed = all(
        isinstance(each, Report) and verdict_of(each)[1] is not False for each in results
    )
    return PASSED if has_passed else FAILED


def plan(options: Options) -> Iterator[Task]:
    """Yield each run: by scenario, then by seed, then by policy. Raises: ConfigError."""
    policies = options.policies or [options.config or DEFAULT]
    _check_policies(options)
    for path in find_files(options.paths):
        scenario = load_scenario(path)
        configs: dict[str, Config] = {}
        for policy in policies:
            own = None if policy in {DEFAULT, *LOOPS} else policy
            configs[policy] = gateway_config(path, scenario, own)
        for seed in options.seeds or [scenario.seed]:
            for policy, config in configs.items():
                yield Task(path, scenario, config, seed, policy)


def _check_policies(options: Options) -> None:
    if options.policies and options.config is not None:
        raise OptionError("--compare", [f"name {options.config} in the list, without --config"])
    for policy in options.policies:
        if policy not in {DEFAULT, *LOOPS} and not Path(policy).is_file():
            known = ", ".join((*LOOPS, DEFAULT))
            words = f"there is no policy and no file {policy!r}; there are {known}, and any FILE"
            raise OptionError("--compare", [words])


def _check_writable(options: Options) -> None:
    """Check the outputs before hours of runs. Raises: OptionError."""
    if options.html_to == "-":
        raise OptionError("--html", ["name a file: a page is not for a terminal"])
    for name, path in (
        ("--json", options.json_to),
        ("--html", options.html_to),
        ("--resume", options.resume),
    ):
        if path is None or (path == "-" and name == "--json"):
            continue
        if Path(path).is_dir():
            raise OptionError(name, [f"{path} is a folder: name a file in it"])
        if not Path(path).resolve().parent.is_dir():
            raise OptionError(name, [f"{path}: there is no such folder"])


class _Bar:
    """One progress bar over all runs, in messages; without a terminal, one line for each run."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._expected = [task.scenario.messages_expected for task in tasks]
        self._done = [0.0] * len(tasks)
        self._ended = 0
        self.bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.fields[ended]} of {task.fields[runs]} runs"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[messages]:,} messages"),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.description}"),
            console=rich.console.Console(stderr=True),
            transient=True,
        )
        total = sum(self._expected)
        self._bar = self.bars.add_task(
            "", total=total, rate="", runs=len(tasks), ended=0, messages=0
        )

    def progress(self, place: int, accepted: int) -> None:
        self._done[place] = min(float(accepted), self._expected[place])
        self._show(place)

    def found(self, place: int) -> None:
        """Show that a run was resumed; it does not count for the rate."""
        self._ended += 1
        self._done[place] = self._expected[place] = 0.0
        self.bars.update(self._bar, total=sum(self._expected))
        self._show(place)

    def ended(self, place: int, result: Result) -> None:
        self._ended += 1
        self._done[place] = self._expected[place]
        self._show(place)
        if not self.bars.console.is_terminal:
            word = verdict_of(result)[0] if isinstance(result, Report) else "DIED"
            line = f"{self._ended} of {len(self._tasks)} runs: {self._tasks[place].name}: {word}"
            self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, place: int) -> None:
        task, speed = self._tasks[place], self.bars.tasks[0].speed
        self.bars.update(
            self._bar,
            completed=sum(self._done),
            description=task.name,
            ended=self._ended,
            messages=int(sum(self._done)),
            rate=f"{speed:,.0f}/s" if speed else "",
        )


def _run_all(
    tasks: list[Task], jobs: int, finished: FinishedRuns | None
) -> tuple[list[Result], bool]:
    """Return the results in the order of the tasks, and whether none was interrupted."""
    results: dict[int, Result] = {}
    bar = _Bar(tasks)
    left: list[int] = []
    for place, task in enumerate(tasks):
        report = finished.find(task) if finished is not None else None
        if report is None:
            left.append(place)
        else:
            results[place] = report
            bar.found(place)

    def progress(number: int, accepted: int) -> None:
        bar.progress(left[number], accepted)

    def take(number: int, result: Result) -> None:
        place = left[number]
        results[place] = result
        bar.ended(place, result)
        if finished is not None and isinstance(result, Report):
            finished.add(tasks[place], result)

    with bar.bars:
        todo = [tasks[place] for place in left]
        if jobs > 1 and len(todo) > 1:
            is_whole = run_side_by_side(todo, jobs, run_task, progress, take)
        else:
            is_whole = run_here(todo, run_task, progress, take)
    return [results[place] for place in sorted(results)], is_whole


def _write_json(to: str, reports: Sequence[Report]) -> None:
    bare = [msgspec.to_builtins(each) for each in reports]
    for each in bare:
        del each["record"]
    text = msgspec.json.encode(bare)
    if to == "-":
        _print_json(text)
    else:
        Path(to).write_bytes(msgspec.json.format(text, indent=2) + b"\n")


def _print_json(text: bytes) -> None:
    words = msgspec.json.format(text, indent=2).decode()
    rich.console.Console().out(words, highlight=False)
