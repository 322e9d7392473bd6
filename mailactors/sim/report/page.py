"""The results as one HTML page without external parts: figures, charts, violations, messages.

The tables are plain HTML and work without scripts; uPlot, which is in the page, draws the charts.
A content security policy forbids every request and every script but the page's own two. All text
from a file or a run is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from mailactors.sim.report.printing import (
    QUICK,
    delivered_words,
    duration,
    percent,
    recovery_words,
    replay_command,
    shown,
    verdict_of,
)
from mailactors.sim.report.report import Bound, Report, loss_bounds
from mailactors.sim.report.series import POINTS_MAX, Record, Series, WorstMessage, coarser

ASSETS: Final = "assets"
STYLES: Final = ("uPlot.min.css", "page.css")
SCRIPTS: Final = ("uPlot.iife.min.js", "page.js")
POINTS_OF_ALL_MAX: Final = 40_000
"""Steps of all runs together: about four megabytes."""
POINTS_MIN: Final = 240
KEY: Final = (
    ("closed", "closed"),
    ("half_open", "half open: probes only"),
    ("open", "open"),
    ("disabled", "disabled: refuses us as such"),
    ("fault", "fault"),
)


def page_of(reports: Sequence[Report]) -> str:
    """Return the page."""
    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    failed = sum(verdict_of(report)[1] is False for report in reports)
    verdict = "all passed" if not failed else f"{failed} of {len(reports)} failed"
    title = f"{_names(reports)}: {verdict}"
    points_max = max(POINTS_MIN, min(POINTS_MAX, POINTS_OF_ALL_MAX // max(1, len(reports))))
    data = [_data(report.record, points_max) for report in reports]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy_of(styles, scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_e(title)}</title>",
            *(f"<style>{style}</style>" for style in styles),
            "</head><body>",
            f'<h1>{_e(_names(reports))}</h1><p class="{_mark(not failed)}">{_e(verdict)}</p>',
            f"<p>{_e(QUICK)}</p>" if any(report.is_quick for report in reports) else "",
            _summary(reports),
            *_bounds(reports),
            *(_section(number, report) for number, report in enumerate(reports)),
            f'<script type="application/json" id="runs">{_json(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


def policy_of(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """Return the page's content security policy: its own styles and scripts, and no requests."""
    style, script = (" ".join(map(_hash, texts)) for texts in (styles, scripts))
    return (
        f"default-src 'none'; style-src {style}; script-src {script};"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return (resources.files("mailactors.sim.report") / ASSETS / name).read_text(encoding="utf-8")


def _e(text: object) -> str:
    return html.escape(str(text))


def _json(data: object) -> str:
    """Return JSON for a script element: every `<` is escaped, so that no tag can begin."""
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")


def _data(record: Record | None, points_max: int) -> dict[str, Any] | None:
    if record is None:
        return None
    series = coarser(record.series, points_max)
    found: dict[str, Any] = msgspec.to_builtins(series)
    return found


def _names(reports: Sequence[Report]) -> str:
    names = list(dict.fromkeys(report.title for report in reports))
    if len(names) > 3:
        return f"{len(names)} scenarios, {len(reports)} runs"
    return (
        ", ".join(names)
        if len(reports) <= len(names)
        else f"{', '.join(names)}, {len(reports)} runs"
    )


def _mark(has_passed: bool | None) -> str:
    return {True: "good", False: "bad", None: "soft"}[has_passed]


def _verdict(report: Report) -> str:
    word, has_passed = verdict_of(report)
    return f'<span class="{_mark(has_passed)}">{word.lower()}</span>'


def _table(titles: Sequence[tuple[str, bool]], rows: Iterable[str]) -> str:
    """Return a table. Each title comes with whether its column holds numbers."""
    head = "".join(
        f'<th scope="col"{_number(is_number)}>{_e(title)}</th>' for title, is_number in titles
    )
    return (
        f'<div class="scroll"><table class="facts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _row(first: str, cells: Iterable[tuple[str, bool]], kind: str = "") -> str:
    """Return a row of cells that are HTML already."""
    rest = "".join(f"<td{_number(is_number)}>{cell}</td>" for cell, is_number in cells)
    return f'<tr class="{kind}"><th scope="row">{first}</th>{rest}</tr>'


# The summary

_SUMMARY: Final = (
    *(("scenario", False), ("seed", True), ("policy", False), ("delivered", True)),
    *(("p50", True), ("p99", True), ("p99.9", True), ("duplicates", True)),
    *(("attempts", True), ("backlog", True), ("recovery", True)),
    ("", False),
)


def _summary(reports: Sequence[Report]) -> str:
    rows = []
    for number, report in enumerate(reports):
        duplicates = f"{report.duplicates:,}"
        if report.undeclared_duplicates:
            duplicates += f", {report.undeclared_duplicates:,} undeclared"
        link = f'<a href="#run-{number}">{_e(report.title)}</a>'
        cells = [
            (str(report.seed), True),
            (_e(Path(report.policy).name), False),
            *((cell, True) for cell in _bound_cells(report)),
            (duplicates, True),
            (shown(report.attempts_per_message, ",.3f"), True),
            (f"{report.backlog_max:,}", True),
            (recovery_words(report), True),
            (_verdict(report), False),
        ]
        rows.append(_row(link, cells))
        oracle, following = report.oracle, reports[number + 1 : number + 2]
        is_last = not following or following[0].run != report.run
        if oracle is not None and is_last:
            rows.append(_oracle_row("oracle", oracle))
            rows.append(_oracle_row("oracle by rates", oracle.by_rates))
    return _table(_SUMMARY, rows)


def _oracle_row(name: str, bound: Bound) -> str:
    cells = [
        *(("", False), (name, False)),
        *((cell, True) for cell in _bound_cells(bound)),
        ("0", True),
        (shown(bound.attempts_per_message, ",.3f"), True),
        *(("", True), ("", True), ("", False)),
    ]
    return _row("", cells, "oracle")


def _bound_cells(figures: Report | Bound) -> list[str]:
    times = (figures.p50_s, figures.p99_s, figures.p999_s)
    return [percent(figures.delivered_rate), *map(duration, times)]


def _bounds(reports: Sequence[Report]) -> Iterator[str]:
    for each in loss_bounds(reports):
        name = f"{Path(each.scenario).stem}, {Path(each.policy).name}"
        yield f'<p class="soft">{_e(name)}: {_e(each.words)}.</p>'


# A run


def _section(number: int, report: Report) -> str:
    record = report.record
    drawn = f' data-run="{number}"' if record is not None else ""
    story = "" if record is None else f"<p>{_e(record.story)}</p>"
    policy, size = _e(Path(report.policy).name), ", quick" if report.is_quick else ""
    return "\n".join(
        [
            f'<section id="run-{number}"{drawn}>',
            f"<h2>{_e(report.title)}, seed {report.seed}, {policy}{size}: {_verdict(report)}</h2>",
            story,
            f'<dl class="figures">{"".join(_figures(report))}</dl>',
            "" if record is None else _charts(record.series),
            *_expectations(report),
            *_violations(report),
            *([] if record is None else _worst(record.worst)),
            "<h3>Run it again</h3>",
            f'<div class="copy"><code>{_e(replay_command(report))}</code>',
            '<button type="button" data-copy hidden>copy</button></div>',
            f'<p class="soft">Journal <code>{_e(report.hash)}</code>: the same file, policy, seed'
            " and code give the same.</p>",
            "</section>",
        ]
    )


def _figures(report: Report) -> Iterator[str]:
    oracle, decided = report.oracle, report.decision_us

    def tile(title: str, value: str, note: str = "") -> str:
        small = f"<small>{_e(note)}</small>" if note else ""
        return f"<div><dt>{_e(title)}</dt><dd>{_e(value)}{small}</dd></div>"

    def late(title: str, name: str) -> str:
        best = "" if oracle is None else f"oracle {duration(getattr(oracle, name))}"
        return tile(title, duration(getattr(report, name)), best)

    yield tile("delivered", percent(report.delivered_rate), delivered_words(report))
    yield from (late("p50", "p50_s"), late("p99", "p99_s"), late("p99.9", "p999_s"))
    tries = [each and shown(each.attempts_per_message, ",.3f") for each in (report, oracle)]
    yield tile("attempts a message", tries[0] or "", f"oracle {tries[1]}" if oracle else "")
    undeclared = f"{report.undeclared_duplicates:,} of them undeclared"
    yield tile("duplicates", f"{report.duplicates:,}", undeclared)
    peaks = " / ".join(f"{peak:,}" for peak in report.peak_attempts_per_s.values())
    yield tile("peak attempts a second", peaks, " / ".join(report.peak_attempts_per_s))
    if report.recovery != "no fault":
        note = f"from a fault's end until the backlog was gone; at most {report.backlog_max:,}"
        yield tile("recovery", recovery_words(report), note)
    if decided is not None:
        note = f"p50 {decided.p50:,.0f}, p99.9 {decided.p999:,.0f}, in real time"
        yield tile("decision, p99", f"{decided.p99:,.0f} µs", note)
    rate = f"{report.messages_per_wall_s:,.0f} messages a second"
    yield tile("took", duration(report.wall_s), rate)


def _charts(series: Series) -> str:
    step = f"each point is {series.step_s:,} s" if series.step_s > 1 else "each point is a second"
    key = "".join(f'<li><i class="{kind}"></i>{_e(words)}</li>' for kind, words in KEY)
    charts = (
        ("flow", "Messages a second", ""),
        ("backlog", "Backlog: submitted, and accepted by no provider yet", ""),
        ("attempts", "Attempts a second, by provider", ""),
        ("sent", "Messages sent on a second, by provider", ""),
        ("breakers", "Breakers and faults", f'<ul class="key">{key}</ul>'),
    )
    drawn = "".join(
        f'<div class="chart{" lanes" if name == "breakers" else ""}" data-chart="{name}">'
        f"<b>{_e(title)}</b>{more}</div>"
        for name, title, more in charts
    )
    return (
        f'<h3>Over time</h3><p class="soft">Virtual time; {step}; faults are shaded. Drag to zoom,'
        " double-click to see all again. <noscript>The charts need JavaScript; all figures are in"
        f' the tables.</noscript></p><div class="charts">{drawn}</div>'
    )


def _expectations(report: Report) -> Iterator[str]:
    if not report.expectations or verdict_of(report)[1] is None:
        return
    yield "<h3>Expectations</h3>"
    rows = []
    for each in report.expectations:
        value = "not measured" if each.value is None else f"{each.value:g}"
        verdict = f'<span class="{_mark(each.ok)}">{"passed" if each.ok else "missed"}</span>'
        cells = [(value, True), (f"{each.limit:g}", True), (verdict, False)]
        rows.append(_row(_e(each.name), cells))
    yield _table((("", False), ("figure", True), ("limit", True), ("", False)), rows)


def _violations(report: Report) -> Iterator[str]:
    if not report.violations:
        return
    yield '<h3 class="bad">Violated invariants</h3>'
    for each in report.violations:
        whom = f"message {each.number}, " if each.number >= 0 else ""
        title = f"{whom}at {_at(each.at_s)}: {each.invariant}: {each.detail}"
        yield _fold(title, each.timeline, is_open=True)


def _worst(worst: Sequence[WorstMessage]) -> Iterator[str]:
    if not worst:
        return
    lost = sum(each.latency_s is None for each in worst)
    yield f"<h3>The {len(worst)} worst messages</h3>"
    if lost:
        yield f'<p class="soft">{lost} of these never arrived.</p>'
    for each in worst:
        what = "never arrived" if each.latency_s is None else duration(each.latency_s)
        title = f"message {each.number}: {what}, submitted at {_at(each.submitted_s)}"
        yield _fold(title, each.lines)


def _at(at_s: float) -> str:
    """Return a time for people, and as the lines of timelines have it."""
    exact = f"{at_s:,.3f} s"
    return exact if at_s < 60 else f"{duration(at_s)} ({exact})"


def _fold(title: str, lines: Sequence[str], *, is_open: bool = False) -> str:
    items = "".join(f"<li>{_e(line)}</li>" for line in lines) or "<li>no timeline</li>"
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{_e(title)}</summary><ol>{items}</ol></details>"
