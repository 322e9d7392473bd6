"""The page: what it says without scripts, and what a real browser draws of it."""

from __future__ import annotations

import hashlib
import html.parser
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mailactors.sim.report.page import page_of
from mailactors.sim.report.report import Bound, Expectation, Oracle, Report, Violation
from mailactors.sim.report.series import BreakerMove, FaultSpan, Record, Series, WorstMessage
from tests.chromium import PROGRAM, Tab, browsing
from tests.sim.test_workers import PLAIN

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
SECONDS = 3600
ASSETS = resources.files("mailactors.sim.report") / "assets"


def series_of(seconds: int, name: str = "primary") -> Series:
    ones = tuple(20 + second % 7 for second in range(seconds))
    return Series(
        1,
        ones,
        ones,
        tuple(second % 50 for second in range(seconds)),
        {name: ones, "secondary": ones},
        {name: ones, "secondary": ones},
        {
            name: (BreakerMove(seconds / 4, "open"), BreakerMove(seconds / 2, "closed")),
            "secondary": (),
        },
        (
            FaultSpan(seconds / 4, seconds / 3, EVIL if name == EVIL else "refuse", (name,)),
            FaultSpan(seconds / 2, seconds / 2 + 1, "process died"),
        ),
    )


def report_of(name: str = "primary", story: str = "A test.", seconds: int = SECONDS) -> Report:
    bound = Bound(100, 1.0, 0.1, 0.2, 0.3, 1.0)
    worst = (
        WorstMessage(17, 3.5, None, (f"4.000 s  attempt  {story}",)),
        WorstMessage(4, 1.0, 61.25, ("1.000 s  accepted",)),
    )
    return msgspec.structs.replace(
        PLAIN,
        scenario=f"folder/{story if story == EVIL else 'outage'}.toml",
        seed=7,
        hash="0123abcd",
        accepted=100,
        accepted_by_provider=100,
        delivered=99,
        delivered_rate=0.99,
        p50_s=0.1,
        p99_s=61.25,
        p99_s_by_domain={},
        peak_attempts_per_s={name: 27},
        expectations=(
            Expectation("delivered_min", 1.0, 0.99, False),
            Expectation("within.p50_s", 1.0, 0.1, True),
        ),
        violations=(Violation("no undeclared duplicate", 12.5, story, 4, ("a line", story)),),
        oracle=Oracle(100, 1.0, 0.1, 0.2, 0.3, 1.0, by_rates=bound),
        record=Record(story, series_of(seconds, name), worst),
    )


class Reader(html.parser.HTMLParser):
    """What is in a page, as a browser would see it without scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def said(self) -> str:
        """All text, in one."""
        return " ".join(self.texts)


def test_all_figures_are_there_without_scripts() -> None:
    page = Reader(page_of([report_of()]))

    for words in (
        *("outage, seed 7, default:", "99.00%", "99 of 100", "1 min 1 s", "oracle 0.20 s"),
        *("delivered_min", "missed", "passed", "no undeclared duplicate", "message 4, at 12.500 s"),
        *("message 17: never arrived", "message 4: 1 min 1 s, submitted at", "1.000 s  accepted"),
        *("mailactors simulate folder/outage.toml --seed 7", "0123abcd", "1 of 1 failed"),
        *("The charts need JavaScript", "1 of 100 messages not delivered"),
    ):
        assert words in page.said


def test_whatever_comes_from_data_is_text() -> None:
    plain, evil = (Reader(page_of([report_of(name, name)])) for name in ("primary", EVIL))

    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in evil.tags]
    assert EVIL in evil.said


def test_data_cannot_end_its_script() -> None:
    text = page_of([report_of(EVIL, EVIL)])

    (data,) = re.findall(r'<script type="application/json" id="runs">(.*?)</script>', text, re.S)
    (run,) = json.loads(data)
    assert "<" not in data
    assert [EVIL, "secondary"] == list(run["attempts"])


def test_nothing_but_the_pages_own_text_may_run() -> None:
    text = page_of([report_of(EVIL, EVIL)])
    (policy,) = (
        attributes["content"]
        for _, attributes in Reader(text).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )

    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy.replace("http-equiv", "")
    assert not [
        tag
        for tag, attributes in Reader(text).tags
        if {"src", "href"} & attributes.keys() and tag != "a"
    ]


def test_an_hour_of_seconds_is_small() -> None:
    text = page_of([report_of()])

    assert len(text) < 400_000
    assert max(map(len, _arrivals(text))) <= 2000


def test_many_runs_share_the_points() -> None:
    text = page_of([report_of()] * 100)

    assert len(text) < 6_000_000
    assert {True} == {240 <= len(each) <= 400 for each in _arrivals(text)}


def test_a_run_without_a_record_has_its_tables() -> None:
    text = page_of([msgspec.structs.replace(report_of(), record=None)])

    assert "delivered_min" in text
    assert "data-run=" not in text


def _arrivals(text: str) -> list[list[int]]:
    (data,) = re.findall(r'<script type="application/json" id="runs">(.*?)</script>', text, re.S)
    return [run["arrivals"] for run in json.loads(data)]


@pytest.mark.parametrize("name", ["uPlot.iife.min.js", "uPlot.min.css"])
def test_vendored_files_are_unchanged_and_attributed(name: str) -> None:
    digest = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()

    assert f"| `{name}` | {digest} |" in (ASSETS / "README.md").read_text()
    assert "The MIT License (MIT)" in (ASSETS / "uPlot.LICENSE").read_text()
    assert "Leon Sorokin" in (ASSETS / "uPlot.LICENSE").read_text()


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed")
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def evil_page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(page_of([report_of(EVIL, EVIL), report_of()]), encoding="utf-8")
    return path


INK = {"flow": "--went", "backlog": "--waits", "breakers": "--open"}
INK |= {"attempts": "--p2", "sent": "--p2"}
"""A colour that is in each chart only if its data are drawn."""
DRAWN = """
(() => {
  const [number, ink] = %s, found = {};
  for (const [chart, name] of Object.entries(ink)) {
    const canvas = document.querySelector(`#run-${number} [data-chart=${chart}] canvas`);
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const wanted = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    found[chart] = 0;
    for (let at = 0; at < data.length; at += 4)
      if (wanted.every((value, index) => Math.abs(data[at + index] - value) < 8)) found[chart] += 1;
  }
  return found;
})()
"""


def show(tab: Tab, path: Path, number: int, **more: Any) -> None:
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(path, **more)
    tab.run(f"document.getElementById('run-{number}').scrollIntoView()")
    tab.wait_for(f"document.getElementById('run-{number}').dataset.drawn === '5'")
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("number", [0, 1])
def test_every_chart_is_drawn_and_nothing_is_asked_for(
    number: int, dark: bool, tab: Tab, evil_page: Path
) -> None:
    show(tab, evil_page, number, dark=dark)

    drawn = tab.run(DRAWN % json.dumps([number, INK]))
    assert INK.keys() == drawn.keys()
    assert min(drawn.values()) > 200, drawn
    assert [evil_page.as_uri()] == tab.requests
    assert [] == tab.complaints
    assert "owned" not in tab.run("document.title").partition(":")[0].replace(EVIL, "")
    assert 0 == tab.run("document.querySelectorAll('img').length")


@pytest.mark.slow
def test_every_chart_is_drawn_at_once_whether_it_is_in_view_or_not(
    tab: Tab, tmp_path: Path
) -> None:
    path = tmp_path / "many.html"
    path.write_text(page_of([report_of()] * 12), encoding="utf-8")
    tab.open(path, height=200)

    # Nothing was scrolled: as in print, and in a picture of a browser without a window.
    assert ["5"] * 12 == tab.run(
        "[...document.querySelectorAll('section[data-run]')].map((each) => each.dataset.drawn)"
    )
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    drawn = tab.run(DRAWN % json.dumps([11, INK]))
    assert INK.keys() == drawn.keys()
    assert min(drawn.values()) > 200, drawn


@pytest.mark.slow
def test_legends_have_values_without_a_cursor(tab: Tab, evil_page: Path) -> None:
    show(tab, evil_page, 1)

    legends = tab.run(
        "[...document.querySelectorAll('#run-1 .chart:not(.lanes) .u-legend')]"
        ".map((each) => [...each.querySelectorAll('.u-series')].filter((row) => row.offsetHeight)"
        ".map((row) => [...row.children].map((cell) => cell.innerText).join(': ')))"
    )
    assert [
        ["submitted: at most 25.5/s", "accepted by a provider: at most 25.5/s"],
        ["backlog: at most 49"],
        ["primary: at most 25.5/s", "secondary: at most 25.5/s"],
        ["primary: at most 25.5/s", "secondary: at most 25.5/s"],
    ] == legends


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1200])
def test_no_element_overflows(width: int, tab: Tab, evil_page: Path) -> None:
    show(tab, evil_page, 1, width=width)

    assert tab.run("document.documentElement.scrollWidth") <= width


RANGES = "uPlot.sync('run-1').plots.map((each) => [each.scales.x.min, each.scales.x.max])"


@pytest.mark.slow
def test_a_drag_zooms_every_chart_and_a_double_click_resets(tab: Tab, evil_page: Path) -> None:
    show(tab, evil_page, 1)
    whole = tab.run(RANGES)
    tab.run("document.querySelector('#run-1 [data-chart=flow]').scrollIntoView()")
    x, y, width, height = tab.run(
        "(() => { const box = document.querySelector('#run-1 [data-chart=flow] .u-over')"
        ".getBoundingClientRect(); return [box.x, box.y, box.width, box.height] })()"
    )

    tab.drag(x + width / 4, x + width / 2, y + height / 2)
    tab.wait_for(
        f"JSON.stringify({RANGES}) !== {json.dumps(json.dumps(whole, separators=(',', ':')))}"
    )
    zoomed = tab.run(RANGES)
    tab.double_click(x + width / 3, y + height / 2)
    tab.wait_for(f"{RANGES}[0][1] > {SECONDS - 10}")

    assert 5 == len(zoomed)
    for low, high in zoomed:
        assert low == pytest.approx(SECONDS / 4, abs=SECONDS / 50)
        assert high == pytest.approx(SECONDS / 2, abs=SECONDS / 50)
    assert whole == tab.run(RANGES)
    assert [] == tab.complaints


@pytest.mark.slow
def test_the_replay_command_is_copied(tab: Tab, evil_page: Path) -> None:
    show(tab, evil_page, 1)
    tab.run("document.querySelector('#run-1 button[data-copy]').click()")

    assert tab.run("getSelection().toString()") == "mailactors simulate folder/outage.toml --seed 7"


@pytest.mark.slow
def test_a_page_without_scripts_is_whole(tab: Tab, evil_page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.requests.clear()
    try:
        tab.call("Page.navigate", url=evil_page.as_uri())
        tab.wait_for("document.readyState === 'complete'")
        said = tab.run("document.body.innerText")
        drawn = tab.run("document.querySelectorAll('canvas').length")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)

    assert 0 == drawn
    assert "The charts need JavaScript" in said
    assert "never arrived" in said
    assert "delivered_min" in said
    assert [evil_page.as_uri()] == tab.requests
