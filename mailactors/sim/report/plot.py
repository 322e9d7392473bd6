"""A run's chart on a terminal: lines of block characters over virtual time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

import rich.text

from mailactors.sim.report.series import CLOSED, BreakerMove, FaultSpan, Series

TITLE_COLUMNS: Final = 12
LABEL_COLUMNS: Final = 14
COLUMNS_MIN: Final = 20
SEVERITY: Final = (CLOSED, "half_open", "open", "disabled")
STYLES: Final = {"half_open": "yellow", "open": "red", "disabled": "magenta"}


@dataclass(frozen=True)
class Characters:
    """The characters of a chart."""

    bars: str
    gates: str
    """One for each state in `SEVERITY`."""
    fault: str
    at_most: str


BLOCKS: Final = Characters(" ▁▂▃▄▅▆▇█", "─▒█▓", "━", "≤")
PLAIN: Final = Characters(" .:-=+*%#", "-?#X", "=", "<=")
"""For terminals without UTF-8."""


def plot_lines(series: Series, width: int, characters: Characters = BLOCKS) -> list[rich.text.Text]:
    """Return a run's chart: arrivals, messages sent, backlog, breakers and faults.

    No line is longer than `width`, unless fewer than twenty columns would be left for time.
    """
    columns = min(len(series.arrivals), max(COLUMNS_MIN, width - TITLE_COLUMNS - LABEL_COLUMNS))
    column_s = series.end_s / columns
    came, sent = (folded(each, columns, fmean) for each in (series.arrivals, series.acceptances))
    backlog = folded(series.backlog, columns, max)
    top = max(*came, *sent, 1e-9)
    waiting = int(max(backlog))

    def line(title: str, picture: str, label: str, style: str = "") -> rich.text.Text:
        found = rich.text.Text(f"{_cut(title, TITLE_COLUMNS - 1):<{TITLE_COLUMNS}}", end="")
        found.append(picture, style or None)
        found.append(f"  {_cut(label, LABEL_COLUMNS - 2)}")
        return found

    def rate(counts: Sequence[float]) -> str:
        return f"{characters.at_most} {max(counts) / series.step_s:,.3g}/s"

    lines = [
        line("arrivals", spark(came, top, characters.bars), rate(came)),
        line("sent", spark(sent, top, characters.bars), rate(sent), "green"),
        line(
            "backlog",
            spark(backlog, max(waiting, 1), characters.bars),
            f"{characters.at_most} {waiting:,}",
            "cyan",
        ),
    ]
    for name, moves in series.gates.items():
        worst = worst_gates(moves, column_s, columns)
        opened = sum(move.gate not in {CLOSED, "half_open"} for move in moves)
        gates = line(name, "", f"opened {opened}x" if opened else "")
        picture = rich.text.Text()
        for level in worst:
            picture.append(characters.gates[level], STYLES.get(SEVERITY[level]))
        lines.append(gates[:TITLE_COLUMNS] + picture + gates[TITLE_COLUMNS:])
    if series.shades:
        kinds = ", ".join(dict.fromkeys(shade.what for shade in series.shades))
        lines.append(line("faults", bar(series.shades, column_s, columns, characters.fault), kinds))
    lines.append(
        line("", axis(series.end_s, columns), f"{characters.bars[-1]} = {column_s:,.3g} s")
    )
    return lines


def folded(
    counts: Sequence[int], columns: int, how: Callable[[Sequence[int]], float]
) -> list[float]:
    """Return one value for each column, made of the counts in it.

    >>> folded([1, 2, 3, 4, 5], 2, max)
    [2, 5]
    """
    bounds = [at * len(counts) // columns for at in range(columns + 1)]
    return [how(counts[start:end]) for start, end in pairwise(bounds)]


def spark(values: Iterable[float], top: float, bars: str) -> str:
    """Return a bar for each value; only 0 is blank.

    >>> spark([0, 0.1, 4, 8], 8, BLOCKS.bars)
    ' ▁▄█'
    """
    last = len(bars) - 1
    return "".join(bars[min(last, math.ceil(value / top * last))] for value in values)


def worst_gates(moves: Sequence[BreakerMove], step_s: float, columns: int) -> list[int]:
    """Return the worst breaker state of each column, as an index into `SEVERITY`.

    >>> states = {1.5: "open", 2.5: "half_open", 2.6: "closed"}
    >>> worst_gates([BreakerMove(*move) for move in states.items()], 1, 4)
    [0, 2, 2, 0]
    """
    found, level, left = [], 0, deque(moves)
    for column in range(columns):
        worst = level
        while left and left[0].at_s < step_s * (column + 1):
            level = SEVERITY.index(left.popleft().gate)
            worst = max(worst, level)
        found.append(worst)
    return found


def bar(shades: Iterable[FaultSpan], step_s: float, columns: int, character: str) -> str:
    """Return a row that marks the columns with an active fault."""
    found = [" "] * columns
    for shade in shades:
        end = min(columns, max(math.ceil(shade.end_s / step_s), int(shade.at_s // step_s) + 1))
        for column in range(int(shade.at_s // step_s), end):
            found[column] = character
    return "".join(found)


def axis(end_s: float, columns: int) -> str:
    """Return the time axis, with its start, its middle and its end.

    >>> axis(3600, 30)
    '0           30 min      60 min'
    """
    first, middle, last = "0", clock(end_s / 2), clock(end_s)
    left = " " * max(1, columns // 2 - len(middle) // 2 - len(first))
    text = f"{first}{left}{middle}"
    return f"{text}{last:>{max(len(last) + 1, columns - len(text))}}"


def clock(at_s: float) -> str:
    """Return a time in a fitting unit.

    >>> clock(90), clock(3600), clock(36000), clock(259200)
    ('90 s', '60 min', '10 h', '3 d')
    """
    for length_s, unit in ((172800, "d"), (7200, "h"), (120, "min")):
        if at_s >= length_s:
            return f"{at_s / {'d': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{at_s:.3g} s"


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}~"
