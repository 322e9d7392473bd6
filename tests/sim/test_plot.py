"""The picture on a terminal: what it shows, and that it fits."""

from __future__ import annotations

import pytest

from mailactors.sim.report.plot import BLOCKS, PLAIN, Characters, plot_lines
from mailactors.sim.report.series import BreakerMove, FaultSpan, Series

LONG = 3600


def series_of(count: int) -> Series:
    middle = (0,) * (count // 2) + (9,) * (count - count // 2)
    return Series(
        1,
        (20,) * count,
        middle,
        tuple(range(count)),
        {},
        {},
        {
            "primary": (BreakerMove(count / 4, "open"), BreakerMove(count / 2, "closed")),
            "secondary": (),
        },
        (FaultSpan(count / 4, count / 2, "refuse", ("primary",)),),
    )


def picture(count: int, width: int, characters: Characters = BLOCKS) -> dict[str, str]:
    lines = [line.plain for line in plot_lines(series_of(count), width, characters)]
    return {line[:12].strip(): line[12:] for line in lines}


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("count", [3, 100, LONG])
def test_no_line_is_longer_than_the_terminal(count: int, width: int) -> None:
    lines = plot_lines(series_of(count), width)

    assert max(len(line.plain) for line in lines) <= width
    assert 7 == len(lines)


def test_breaker_is_drawn_open_while_it_is_open() -> None:
    lines = picture(LONG, 80)

    gates = lines["primary"][:54]
    assert gates[:13] == "─" * 13
    assert gates[14:27] == "█" * 13
    assert gates[28:] == "─" * 26
    assert "opened 1x" in lines["primary"]
    assert "─" * 54 == lines["secondary"].rstrip()


def test_faults_are_drawn_at_their_times() -> None:
    lines = picture(LONG, 80)

    assert range(13, 27) == range(lines["faults"].index("━"), lines["faults"].rindex("━") + 1)
    assert lines["faults"].endswith("refuse")


def test_rates_share_a_scale_and_are_labelled_with_their_maximum() -> None:
    lines = picture(LONG, 80)

    assert "█" * 54 == lines["arrivals"][:54]
    assert " " * 27 + "▄" * 27 == lines["sent"][:54]
    assert lines["arrivals"].endswith("≤ 20/s")
    assert lines["backlog"].endswith("≤ 3,599")


def test_plain_terminals_get_plain_characters() -> None:
    lines = picture(LONG, 80, PLAIN)

    assert "".join(lines.values()).isascii()
    assert "#" * 13 in lines["primary"]


def test_a_short_opening_is_seen() -> None:
    moves = (BreakerMove(1810.0, "open"), BreakerMove(1810.5, "closed"))
    series = Series(1, (1,) * LONG, (1,) * LONG, (0,) * LONG, {}, {}, {"primary": moves}, ())

    lines = plot_lines(series, 80)

    assert 1 == lines[3].plain.count("█")
