"""The `simulate` command: files in, a table, JSON and an exit code out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

from mailactors.config import Config
from mailactors.sim.report import Report
from mailactors.sim.runner import run_scenario
from mailactors.sim.scenario import Scenario, ScenarioError, gateway_config, load_scenario

GOOD: Final = 0
FAILED: Final = 1
BAD_FILE: Final = 2
INTERRUPTED: Final = 130
Plan = tuple[str, Scenario, Config]


def find_files(paths: Iterable[str]) -> list[str]:
    """Return the files themselves, and of each folder the `.toml` files in it, by name.

    Raises: ScenarioError for a folder without any.
    """
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


def simulate(
    paths: Sequence[str],
    config: str | None = None,
    seeds: Sequence[int] | None = None,
    json_to: str | None = None,
) -> int:
    """Run every scenario with every seed, one after the other; return the exit code.

    All files are read before the first one runs. Without `seeds` each file's own is taken.

    Raises: ConfigError (ScenarioError is one) for a file that is not usable.
    """
    plans: list[Plan] = []
    for path in find_files(paths):
        scenario = load_scenario(path)
        plans.append((path, scenario, gateway_config(path, scenario, config)))
    console = rich.console.Console(stderr=json_to == "-")
    reports, is_whole = _run_all(plans, seeds, console)
    _print(console, reports, config)
    if json_to is not None:
        _write_json(json_to, reports)
    if not is_whole:
        return INTERRUPTED
    return GOOD if all(report.is_good for report in reports) else FAILED


def _run_all(
    plans: list[Plan], seeds: Sequence[int] | None, console: rich.console.Console
) -> tuple[list[Report], bool]:
    """Return the reports, and whether all could be made: Ctrl-C leaves those that were."""
    reports: list[Report] = []
    is_whole = True
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[accepted]:,} messages"),
        rich.progress.TimeRemainingColumn(),
    )
    bars = rich.progress.Progress(
        *columns, console=rich.console.Console(stderr=True), transient=True
    )
    runs = [(plan, seed) for plan in plans for seed in seeds or [plan[1].seed]]
    total_s = sum(plan[1].duration_s for plan, _ in runs)
    with bars:
        bar = bars.add_task("simulating", total=total_s, accepted=0)
        done_s = 0.0
        try:
            for (path, scenario, config), seed in runs:
                bars.update(bar, description=f"{Path(path).stem}, seed {seed}")

                def tell(now_s: float, accepted: int, *, to_s: float = scenario.duration_s) -> None:
                    bars.update(bar, completed=done_s + min(now_s, to_s), accepted=accepted)  # noqa: B023

                reports.append(run_scenario(path, scenario, config, seed, progress=tell))
                done_s += scenario.duration_s
        except* KeyboardInterrupt:
            is_whole = False
    return reports, is_whole


def _write_json(to: str, reports: list[Report]) -> None:
    text = msgspec.json.format(msgspec.json.encode(reports), indent=2) + b"\n"
    if to == "-":
        rich.console.Console().out(text.decode(), end="", highlight=False)
    else:
        Path(to).write_bytes(text)


def _print(console: rich.console.Console, reports: list[Report], config: str | None) -> None:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        caption="p50, p99: seconds until a provider accepted; twice: messages that went out again,"
        " undeclared ones; tries: attempts a message; peak: a second, by provider; back: seconds"
        " until recovered",
    )
    for title in ("scenario", "seed", "delivered", "p50", "p99", "twice", "tries", "peak"):
        table.add_column(title, overflow="fold", no_wrap=title == "scenario")
    table.add_column("back", overflow="fold")
    table.add_column("", no_wrap=True)
    for report in reports:
        table.add_row(*_cells(report))
    console.print(table)
    for report in reports:
        _print_expectations(console, report)
        for violation in report.violations:
            console.print(
                f"[red]violation[/] {_name(report)} at {violation.at_s:.3f} s:"
                f" {rich.markup.escape(f'{violation.judge}: {violation.detail}')}",
                *(rich.markup.escape(f"  {line}") for line in violation.timeline),
                sep="\n",
            )
        if not report.is_good:
            console.print(f"replay: {rich.markup.escape(replay_command(report, config))}")


def _print_expectations(console: rich.console.Console, report: Report) -> None:
    rate = f"{report.messages_per_wall_s:,.0f} messages a second of real time"
    delivered = f"{report.delivered:,} of {report.accepted:,} messages delivered"
    console.print(f"\n{_name(report)} {delivered}, {rate}", f"hash {report.hash}", sep="\n")
    for each in report.expectations:
        mark = "[green]ok  [/]" if each.ok else "[red]MISS[/]"
        value = "not measured" if each.value is None else f"{each.value:g}"
        console.print(f"{mark} {_name(report)} {each.name}: {value} (limit {each.limit:g})")


def _cells(report: Report) -> list[str]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:,.2f}"

    tries = report.attempts_per_message
    peaks = "/".join(str(peak) for peak in report.peak_attempts_per_s.values())
    return [
        Path(report.scenario).stem,
        str(report.seed),
        "-" if report.delivered_rate is None else f"{report.delivered_rate:.2%}",
        shown(report.p50_s),
        shown(report.p99_s),
        f"{report.duplicates}, {report.undeclared_duplicates}",
        "-" if tries is None else f"{tries:.3f}",
        peaks,
        shown(report.recovery_s),
        "[green]good[/]" if report.is_good else "[red]FAILED[/]",
    ]


def _name(report: Report) -> str:
    return f"{Path(report.scenario).stem}, seed {report.seed}:"


def replay_command(report: Report, config: str | None) -> str:
    """Return the command that runs this again."""
    given = f" --config {config}" if config else ""
    return f"mailactors simulate {report.scenario} --seed {report.seed}{given}"
