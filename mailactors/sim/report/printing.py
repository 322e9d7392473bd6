"""The results on a terminal: a table, a chart of each run, what failed and how to replay it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import rich.box
import rich.console
import rich.markup
import rich.table

from mailactors.sim.report.plot import BLOCKS, PLAIN, plot_lines
from mailactors.sim.report.report import Bound, CrashedRun, Report, Result, loss_bounds
from mailactors.sim.scenario.policies import DEFAULT, LOOPS

CHARTS_MAX: Final = 4
"""Charts are printed for at most so many runs."""
COLUMNS: Final = ("arrived", "p50", "p99", "dup", "tries", "recovery")
CAPTION: Final = (
    "arrived: of accepted messages. p50, p99: from submission to a provider's acceptance."
    " dup: duplicates, of these undeclared. tries: attempts per message. recovery: from a"
    " fault's end until its backlog was gone, the longest; during: it was gone while the fault"
    " lasted. oracle: bounds, where as many are delivered."
)
QUICK: Final = (
    "quick: a tenth of the traffic. Quotas and vendors' limits are those of the full size, so what"
    " is short of room there is not short here; limits of latency, attempts and rates were not"
    " checked."
)


def print_results(console: rich.console.Console, results: Sequence[Result]) -> None:
    """Print everything."""
    reports = [each for each in results if isinstance(each, Report)]
    if any(report.is_quick for report in reports):
        console.print(QUICK, highlight=False)
    if reports:
        console.print(_table(reports), CAPTION, sep="\n", style=None, highlight=False)
    if 0 < len(reports) <= CHARTS_MAX:
        for report in reports:
            _print_chart(console, report)
    oracles: dict[tuple[str, int], Report] = {}
    for report in reports:
        _print_report(console, report, is_first=oracles.setdefault(report.run, report) is report)
    for each in results:
        if isinstance(each, CrashedRun):
            detail = rich.markup.escape(f"{each.task.name} ({each.task.policy}): {each.why}")
            console.print(f"[red]died[/] {detail}", highlight=False)
    _print_bounds(console, reports)
    _print_unreached(console, reports)


def verdict_of(report: Report) -> tuple[str, bool | None]:
    """Return a run's verdict, and whether it passed; None for a loop, which cannot fail."""
    if report.policy in LOOPS:
        return "to compare", None
    return ("passed", True) if report.has_passed else ("FAILED", False)


def _table(reports: Sequence[Report]) -> rich.table.Table:
    policies = dict.fromkeys(report.policy for report in reports)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("run", overflow="fold")
    table.add_column("policy" if len(policies) > 1 else "seed", no_wrap=True)
    for title in COLUMNS:
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    seen: tuple[str, int] | None = None
    for number, report in enumerate(reports):
        run, following = report.run, reports[number + 1 : number + 2]
        first = report.title if run != seen else ""
        second = f"{report.seed}"
        if len(policies) > 1:
            second = Path(report.policy).name
            first += f", {report.seed}" if first else ""
        seen = run
        word, has_passed = verdict_of(report)
        mark = "" if has_passed is None else f"[{'green' if has_passed else 'red'}]{word}[/]"
        names = (rich.markup.escape(first), rich.markup.escape(second))
        table.add_row(*names, *_cells(report), mark)
        if report.oracle is not None and not (following and following[0].run == run):
            names = ("", "oracle") if len(policies) > 1 else ("oracle", "")
            table.add_row(*names, *_bound_cells(report.oracle), style="dim")
    return table


def shown(value: float | None, form: str = ",.2f") -> str:
    return "-" if value is None else f"{value:{form}}"


def duration(value: float | None) -> str:
    """Return a time in the two units that matter.

    >>> duration(0.386), duration(12.34), duration(1329.4), duration(7500.0), duration(180000.0)
    ('0.39 s', '12.3 s', '22 min 9 s', '2 h 5 min', '2 d 2 h')
    >>> duration(59.96), duration(3599.7), duration(7200.0)
    ('1 min', '1 h', '2 h')
    """
    if value is None:
        return "-"
    if value < 59.95:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    if (seconds := round(value)) < 3600:
        return _two_units(seconds, 60, "min", "s")
    if value < 86400:
        return _two_units(round(value / 60), 60, "h", "min")
    return _two_units(round(value / 3600), 24, "d", "h")


def _two_units(count: int, size: int, large: str, small: str) -> str:
    rest = f" {count % size} {small}" if count % size else ""
    return f"{count // size} {large}{rest}"


def recovery_words(report: Report) -> str:
    """Return how long the backlog lasted after its fault."""
    return duration(report.recovery_s) if report.recovery == "after" else report.recovery


def percent(share: float | None) -> str:
    """Return a share in percent; only 1 is shown as 100%.

    >>> percent(1.0), percent(0.999999), percent(0.5)
    ('100%', '99.99%', '50.00%')
    """
    if share is None:
        return "-"
    return "100%" if share == 1 else f"{int(share * 10_000) / 100:.2f}%"


def delivered_words(report: Report) -> str:
    """Return how many messages arrived, and how many providers accepted if those are more."""
    words = f"{report.delivered:,} of {report.accepted:,}"
    if report.accepted_by_provider == report.delivered:
        return words
    return f"{words} (providers accepted {report.accepted_by_provider:,})"


def _cells(report: Report) -> tuple[str, ...]:
    return (
        percent(report.delivered_rate),
        duration(report.p50_s),
        duration(report.p99_s),
        f"{report.duplicates}, {report.undeclared_duplicates}",
        shown(report.attempts_per_message, ".3f"),
        recovery_words(report),
    )


def _bound_cells(bound: Bound) -> tuple[str, ...]:
    return (
        percent(bound.delivered_rate),
        duration(bound.p50_s),
        duration(bound.p99_s),
        "0, 0",
        shown(bound.attempts_per_message, ".3f"),
    )


def _print_chart(console: rich.console.Console, report: Report) -> None:
    if report.record is None:
        return
    is_plain = not (console.encoding or "").lower().startswith("utf")
    console.print(f"\n[bold]{rich.markup.escape(_name(report))}[/]", highlight=False)
    for line in plot_lines(report.record.series, console.width, PLAIN if is_plain else BLOCKS):
        console.print(line, no_wrap=True, overflow="crop")


def _print_report(console: rich.console.Console, report: Report, *, is_first: bool) -> None:
    """Print a run's figures, expectations and violations; a loop has no expectations."""
    delivered = f"{delivered_words(report)} messages delivered"
    rate = f"{report.messages_per_wall_s:,.0f} messages a second of real time"
    if report.decision_us is not None:
        rate += f", decisions within {report.decision_us.p99 / 1000:,.2f} ms (p99)"
    name = rich.markup.escape(_name(report))
    peaks = ", ".join(f"{peak:,} ({at})" for at, peak in report.peak_attempts_per_s.items())
    console.print(
        f"\n{name}: {delivered}, {rate}",
        rich.markup.escape(f"backlog at most {report.backlog_max:,}, attempts a second {peaks}"),
        f"hash {report.hash}",
        sep="\n",
    )
    if report.oracle is not None and is_first:
        console.print(*_oracle_lines(report), sep="\n")
    if report.policy in LOOPS:
        return
    for each in report.expectations:
        mark = "[green]ok  [/]" if each.ok else "[red]MISS[/]"
        value = "not measured" if each.value is None else f"{each.value:g}"
        console.print(f"{mark} {name}: {each.name}: {value} (limit {each.limit:g})")
    for violation in report.violations:
        detail = rich.markup.escape(f"{violation.invariant}: {violation.detail}")
        console.print(
            f"[red]violation[/] {name} at {duration(violation.at_s)} ({violation.at_s:.3f} s):"
            f" {detail}",
            *(rich.markup.escape(f"  {line}") for line in violation.timeline),
            sep="\n",
        )
    if not report.has_passed:
        console.print(f"replay: {rich.markup.escape(replay_command(report))}", soft_wrap=True)


def _oracle_lines(report: Report) -> Iterable[str]:
    assert report.oracle is not None
    for title, bound in (("knows all", report.oracle), ("knows rates", report.oracle.by_rates)):
        yield (
            f"oracle that {title}: {bound.delivered:,} delivered,"
            f" p50 {duration(bound.p50_s)}, p99 {duration(bound.p99_s)},"
            f" {shown(bound.attempts_per_message, '.3f')} attempts a message"
        )


def _print_bounds(console: rich.console.Console, reports: Sequence[Report]) -> None:
    """Print what the runs of each scenario and policy together prove about lost messages."""
    if reports:
        console.print()
    for each in loss_bounds(reports):
        of = "" if each.policy == DEFAULT else f" ({Path(each.policy).name})"
        name = rich.markup.escape(f"{Path(each.scenario).stem}{of}")
        plural = "s" if each.seeds > 1 else ""
        console.print(f"{name}, {each.seeds} seed{plural}: {each.words}")


def _print_unreached(console: rich.console.Console, reports: Sequence[Report]) -> None:
    """Name the fault points of the code that no run passed, which are therefore not covered."""
    hits: Counter[str] = Counter()
    for report in reports:
        hits.update(report.fault_points)
    if unreached := [point for point, count in sorted(hits.items()) if not count]:
        words = f"fault points that no run passed: {', '.join(unreached)}"
        console.print(words, markup=False, highlight=False)


def _name(report: Report) -> str:
    of = "" if report.policy == DEFAULT else f", {Path(report.policy).name}"
    return f"{report.title}, seed {report.seed}{', quick' if report.is_quick else ''}{of}"


def replay_command(report: Report) -> str:
    """Return the command that runs this again."""
    words = ["mailactors", "simulate", report.scenario, "--seed", str(report.seed)]
    if report.is_quick:
        words.append("--quick")
    if report.policy in LOOPS:
        words += ["--compare", report.policy]
    elif report.policy != DEFAULT:
        words += ["--config", report.policy]
    return shlex.join(words)
