"""The `simulate` command: it reads scenario files and writes a table, JSON and a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import rich.console

from mailactors.config import Config, ConfigError
from mailactors.sim.report.page import page_of
from mailactors.sim.report.printing import duration, print_results, verdict_of
from mailactors.sim.report.progress import Bar
from mailactors.sim.report.report import Report, Result
from mailactors.sim.report.series import fault_spans
from mailactors.sim.run.quick import quick_of
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
    """Policies to compare: names of `LOOPS`, "default", or files of gateway configuration; `config`
    is one more."""
    jobs: int = 1
    json_to: str | None = None
    html_to: str | None = None
    resume: str | None = None
    is_quick: bool = False
    """Run a tenth of the traffic."""


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
    for note in dict.fromkeys(note for task in tasks for note in late_faults(task)):
        rich.console.Console(stderr=True).print(f"note: {note}", markup=False, highlight=False)
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
    own = [options.config] if options.config is not None else []
    policies = [*options.policies, *own] or [DEFAULT]
    _check_policies(options)
    for path in find_files(options.paths):
        scenario = load_scenario(path)
        if options.is_quick:
            scenario = quick_of(scenario)
        configs: dict[str, Config] = {}
        for policy in policies:
            file = {DEFAULT: None, **dict.fromkeys(LOOPS, options.config)}.get(policy, policy)
            configs[policy] = gateway_config(path, scenario, file)
        for seed in options.seeds or [scenario.seed]:
            for policy, config in configs.items():
                yield Task(path, scenario, config, seed, policy, options.is_quick)


def late_faults(task: Task) -> Iterator[str]:
    """Yield a line for each fault that begins when no more traffic comes."""
    end_s = task.scenario.duration_s
    by_hand = {(each.at_s, each.what) for each in task.scenario.operations}
    for span in fault_spans(task.scenario):
        if span.at_s >= end_s and (span.at_s, span.what) not in by_hand:
            whose = f" of {', '.join(span.providers)}" if span.providers else ""
            yield (
                f"{Path(task.path).stem}: the fault {span.what}{whose} begins at"
                f" {duration(span.at_s)}, after the traffic ({duration(end_s)}): it meets only"
                " what still waits then"
            )


def _check_policies(options: Options) -> None:
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


def _run_all(
    tasks: list[Task], jobs: int, finished: FinishedRuns | None
) -> tuple[list[Result], bool]:
    """Return the results in the order of the tasks, and whether none was interrupted."""
    results: dict[int, Result] = {}
    bar = Bar(tasks)
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
