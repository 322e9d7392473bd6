"""What happened per step of time, against a truth made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mailactors.sim.report.series import (
    BreakerMove,
    EventLog,
    FaultSpan,
    Series,
    coarser,
    series_of,
    step_for,
    story_lines,
    worst_messages,
)
from mailactors.sim.world.truth import Truth
from mailactors.spool.port import Event
from tests.sim.makers import fault, small


class HandClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def wall_time(self) -> float:
        return self.at_s


def truth_of(
    submitted_s: list[float], taken_s: dict[int, float], lost: tuple[int, ...] = ()
) -> Truth:
    truth = Truth(("primary", "secondary"))
    for number, at_s in enumerate(submitted_s):
        truth.submit(at_s)
        truth.accepted.setdefault(number, f"{number + 1:032x}")
    for number, at_s in taken_s.items():
        truth.attempt("primary", at_s)
        truth.take(number, at_s)
        if number not in lost:
            truth.arrive("primary", number, at_s)
    return truth


def test_counts_are_of_each_second() -> None:
    truth = truth_of([0.1, 0.9, 1.0, 2.5], {0: 0.5, 1: 2.0, 2: 3.9})
    truth.attempt("secondary", 3.0)

    series = series_of(small(duration_s=4), truth, EventLog(HandClock()))

    assert 1 == series.step_s
    assert (2, 1, 1, 0, 0) == series.arrivals
    assert (1, 0, 1, 1, 0) == series.acceptances
    assert (1, 2, 2, 1, 1) == series.backlog
    assert (0, 0, 0, 1, 0) == series.attempts["secondary"]
    assert (1, 0, 1, 1, 0) == series.sent["primary"]


def test_repetitions_are_sent_but_not_accepted_again() -> None:
    truth = truth_of([0.0], {0: 0.5})
    truth.take(0, 2.5)
    truth.arrive("secondary", 0, 2.5)

    series = series_of(small(duration_s=3), truth, EventLog(HandClock()))

    assert (1, 0, 0, 0) == series.acceptances
    assert (0, 0, 1, 0) == series.sent["secondary"]


def test_breakers_move_and_begin_closed_in_a_new_process() -> None:
    clock = HandClock()
    events = EventLog(clock)
    story: list[tuple[float, str, dict[str, Any]]] = [
        (1.0, "breaker.moved", {"provider": "primary", "before": "closed", "after": "open"}),
        (1.5, "attempt.done", {"provider": "primary"}),
        (2.0, "world.process_died", {"why": "killed"}),
    ]
    for clock.at_s, event, facts in story:
        events.on_event(event, facts)

    series = series_of(small(duration_s=5), truth_of([], {}), events)

    assert (BreakerMove(1.0, "open"), BreakerMove(2.0, "closed")) == series.gates["primary"]
    assert () == series.gates["secondary"]
    assert [FaultSpan(2.0, 3.0, "process died")] == list(series.shades)


def test_faults_and_operations_are_spans() -> None:
    scenario = small(
        duration_s=20,
        providers={"primary": fault("refuse"), "secondary": {}},
        faults=[
            {
                "kind": "errors",
                "rate": 1,
                "at_s": 1,
                "for_s": 2,
                "providers": ["primary", "secondary"],
            },
            {"kind": "spool", "what": "enospc", "at_s": 3, "for_s": 4},
        ],
        operations=[{"at_s": 9, "what": "reload"}],
    )

    series = series_of(scenario, truth_of([], {}), EventLog(HandClock()))

    assert [
        FaultSpan(1, 3, "errors", ("primary", "secondary")),
        FaultSpan(3, 7, "spool enospc"),
        FaultSpan(5, 10, "refuse", ("primary",)),
        FaultSpan(9, 10, "reload"),
    ] == list(series.shades)


def test_a_fault_without_end_ends_with_the_run() -> None:
    scenario = small(duration_s=20, providers={"primary": fault("refuse", for_s=1e9)})

    series = series_of(scenario, truth_of([0.0], {}), EventLog(HandClock()))

    assert len(series.arrivals) <= 2000


@pytest.mark.parametrize("end_s", [0.5, 1999.0, 2000.0, 3600.0, 86_400.0, 4e6, 9e7])
def test_no_run_has_more_points_than_asked_for(end_s: float) -> None:
    step_s = step_for(end_s, 2000)

    assert end_s // step_s + 1 <= 2000


def test_coarser_keeps_sums_and_the_highest_backlog() -> None:
    series = Series(
        1, (1, 2, 3, 4, 5), (0, 2, 3, 4, 5), (1, 1, 9, 1, 1), {"p": (1,) * 5}, {}, {}, ()
    )

    found = coarser(series, 2)

    assert (3, (6, 9), (5, 9), (9, 1)) == (
        found.step_s,
        found.arrivals,
        found.acceptances,
        found.backlog,
    )
    assert {"p": (3, 2)} == found.attempts
    assert series is coarser(series, 5)


def test_worst_are_the_lost_then_the_slowest() -> None:
    submitted = [float(number) for number in range(40)]
    taken = {number: number + 0.1 + (5.0 if number == 7 else 0.0) for number in range(38)}
    truth = truth_of(submitted, taken, lost=(3,))

    worst = worst_messages(truth, lambda number: (f"story {number}",))

    assert 20 == len(worst)
    assert [(3, None), (38, None), (39, None), (7, 5.1)] == [
        (each.number, each.latency_s) for each in worst[:4]
    ]
    assert ("story 7",) == worst[3].lines


def test_where_many_are_lost_some_of_the_slowest_are_shown_too() -> None:
    truth = truth_of([0.0] * 50, dict.fromkeys(range(15), 1.0))

    worst = worst_messages(truth, lambda _number: ())

    assert [None] * 10 + [1.0] * 10 == [each.latency_s for each in worst]


def test_timeline_counts_from_the_start_of_the_run() -> None:
    events = [Event(1, 105.25, "attempt", {"provider": "primary", "error": None, "round": 2})]

    assert ('5.250 s  attempt  provider: "primary", round: 2',) == story_lines(events, 100.0)
