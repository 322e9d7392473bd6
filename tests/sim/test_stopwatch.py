"""Decisions in real time: each failure's own, and nothing of it in the journal."""

from __future__ import annotations

from typing import Any

import pytest

from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.stopwatch import Stopwatch
from mailactors.sim.scenario.file import gateway_config
from tests.sim.makers import fault, run, small

FAILING = {"primary": fault("errors", rate=0.5), "secondary": fault("refuse")}


class HandClock:
    """A virtual clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def wall_time(self) -> float:
        return self.at_s


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The real time, as its only item."""
    now = [100.0]
    monkeypatch.setattr("mailactors.runtime.ports.time.time", lambda: now[0])
    return now


def test_each_decision_is_measured_from_its_own_failure(real: list[float]) -> None:
    virtual = HandClock()
    stopwatch = Stopwatch(virtual)
    virtual.at_s = 5.0
    stopwatch.failed("primary")
    real[0] += 0.001
    stopwatch.failed("secondary")
    real[0] += 0.002

    stopwatch.decided("secondary", 5.0)
    stopwatch.decided("primary", 5.0)

    times = stopwatch.times()
    assert times is not None
    assert times.p50 == pytest.approx(2000, abs=1)
    assert times.p99 == pytest.approx(3000, abs=1)


def test_a_failure_that_was_never_decided_on_is_passed_over(real: list[float]) -> None:
    virtual = HandClock()
    stopwatch = Stopwatch(virtual)
    for virtual.at_s in (1.0, 2.0):
        stopwatch.failed("primary")
        real[0] += 0.5

    stopwatch.decided("primary", 2.0)
    stopwatch.decided("primary", 3.0)

    times = stopwatch.times()
    assert times is not None
    assert times.p50 == times.p999 == pytest.approx(500_000, abs=1)


def test_no_times_without_a_decision() -> None:
    assert run(small(duration_s=5)).decision_us is None


@pytest.mark.slow
def test_every_failure_of_a_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[tuple[str, float]] = []
    measured: list[Stopwatch] = []
    inner = Stopwatch.decided

    def decide(self: Stopwatch, provider: str, ended_s: float) -> None:
        decided.append((provider, ended_s))
        measured.append(self)
        inner(self, provider, ended_s)

    monkeypatch.setattr(Stopwatch, "decided", decide)

    report = run(small(providers=FAILING))

    assert {"primary", "secondary"} == {provider for provider, _ in decided}
    assert len(decided) == len(measured[0]._taken_s) > 5
    assert report.decision_us is not None
    assert 0 < report.decision_us.p50 <= report.decision_us.p99 <= report.decision_us.p999


@pytest.mark.slow
def test_real_time_is_not_in_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = small(providers=FAILING)
    config = gateway_config("test", scenario, None)

    def hashed(**more: Any) -> str:
        return run_scenario("test", scenario, config, 1, **more).hash

    slow = hashed(progress=lambda _accepted: sum(range(20_000)))
    monkeypatch.setattr(Stopwatch, "failed", lambda _self, _provider: None)
    monkeypatch.setattr(Stopwatch, "observe", lambda _self, _gateway: None)

    assert slow == hashed()
