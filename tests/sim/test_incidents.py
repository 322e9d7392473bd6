"""Crashes and operations: what may be named, and when it happens."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

import mailactors
from mailactors.dispatch.attempt import Attempt, Done
from mailactors.sim.scenario.incidents import (
    ACTORS,
    LANE_ACTORS,
    POINTS,
    ClockFault,
    Crash,
    Operation,
    crash_times,
    offset_s,
)
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.wiring import build
from tests.gateways import make_config, make_ports, open_store

SOURCES = sorted(Path(mailactors.__file__).parent.rglob("*.py"))
_POINT = re.compile(r'faults\.point\(\s*(f?)"([^"]+)"\s*\)')


def test_points_are_those_of_the_production_code() -> None:
    found: set[str] = set()
    calls = 0
    for path in SOURCES:
        text = path.read_text()
        if path.parent.name == "sim":
            continue
        calls += len(re.findall(r"faults\.point\(", text))
        for is_formatted, name in _POINT.findall(text):
            if is_formatted:  # named after the item: `limiter.attempt`
                actor = name.partition(".")[0]
                found |= {f"{actor}.{kind.__name__.lower()}" for kind in (Attempt, Done)}
            else:
                found.add(name)
            calls -= 1

    assert 0 == calls, "a fault point whose name this test cannot read"
    assert found == set(POINTS)
    assert len(POINTS) == len(set(POINTS))


def test_actors_are_the_children_of_the_supervisor() -> None:
    with open_store() as store:
        gateway = build(make_config(), make_ports(), store)
        names = [each.name for each in gateway.supervisor.statistics()]

    lanes = {f"{kind}:{provider}" for kind in LANE_ACTORS for provider in gateway.lanes}
    assert set(names) == {*ACTORS, *lanes}


def test_crash_that_is_repeated_comes_at_random() -> None:
    crash = Crash(at_s=100, what="process", every_s=30.5)

    times = list(crash_times(crash, 0, KeyedEntropy(1), 3700.0))

    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 100 == times[0]
    assert times[-1] < 3700
    assert 30.5 == pytest.approx(sum(gaps) / len(gaps), rel=0.2)
    assert min(gaps) >= 1.0
    assert max(gaps) <= 60.0
    assert max(gaps) > 45
    assert times == list(crash_times(crash, 0, KeyedEntropy(1), 3700.0))
    assert times != list(crash_times(crash, 1, KeyedEntropy(1), 3700.0))
    until = crash.model_copy(update={"until_s": 1000.0})
    assert [t for t in times if t < 1000] == list(crash_times(until, 0, KeyedEntropy(1), 3700.0))


def test_crash_that_is_not_repeated_comes_once() -> None:
    crash = Crash(at_s=100, what="process:provider.sent")

    assert [100.0] == list(crash_times(crash, 0, KeyedEntropy(1), 3700.0))


@pytest.mark.parametrize(
    ("what", "actor", "lane", "point", "between"),
    [
        ("process", None, None, None, False),
        ("process:between-commits", None, None, None, True),
        ("process:provider.sent", None, None, "provider.sent", False),
        ("actor:spool", "spool", None, None, False),
        ("actor:breaker:primary", "breaker:primary", "primary", None, False),
    ],
)
def test_crash_names_what_dies(
    what: str, actor: str | None, lane: str | None, point: str | None, between: bool
) -> None:
    crash = Crash(at_s=1, what=what)

    assert (actor, lane, point, between) == (
        crash.actor,
        crash.lane,
        crash.point,
        crash.is_between_commits,
    )


@pytest.mark.parametrize(
    ("what", "verb", "provider", "share"),
    [
        ("reload", "reload", None, None),
        ("pause:primary", "pause", "primary", None),
        ("resume:primary", "resume", "primary", None),
        ("reset:primary", "reset", "primary", None),
        ("cancel:1%", "cancel", None, 0.01),
    ],
)
def test_operation_names_what_is_done(
    what: str, verb: str, provider: str | None, share: float | None
) -> None:
    operation = Operation(at_s=1, what=what)

    assert (verb, provider, share) == (
        operation.verb,
        operation.provider,
        operation.cancel_share,
    )


def test_offsets_of_the_clock_add_up() -> None:
    faults = (
        ClockFault(kind="clock", at_s=10, step_s=-100),
        ClockFault(kind="clock", at_s=20, drift_per_s=0.5, for_s=10),
        ClockFault(kind="clock", at_s=100, drift_per_s=1),
    )

    seen = [offset_s(faults, at_s) for at_s in (9.9, 10, 20, 24, 30, 99, 110)]

    assert [0, -100, -100, -98, -95, -95, -85] == seen
