"""Each scenario of the library, shortened; and each kind of fault."""

from __future__ import annotations

from typing import Any

import pytest

from mailactors.sim.scenario import gateway_config, load_scenario
from tests.sim.makers import LIBRARY, NAMES, fault, run, shortened, small

FACTOR = 120.0
MISSED = {
    # The limiter learns when to come back, but not how fast it may go after that.
    "rate-caps": {"attempts_per_message_max"},
    # The calls that are in flight when it begins are more than one in a hundred here.
    "slow-loris": {"within.p99_s"},
    # The same few failures before the breaker opens, among a hundred times fewer messages.
    "primary-down": {"attempts_per_message_max"},
    # So short an outage is all panic; the expectation is about half an hour.
    "total-outage": {"attempts_per_message_max"},
}
"""What the policy does not reach, here or at all."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_variant_keeps_every_promise(name: str) -> None:
    report = run(shortened(name, FACTOR, rate_per_s=20.0))

    missed = {each.name for each in report.expectations if not each.ok}
    assert () == report.violations
    assert report.accepted == report.delivered == report.submitted > 500
    assert missed <= MISSED.get(name, set()), report.expectations


@pytest.mark.parametrize("name", NAMES)
def test_full_size_file_is_sound(name: str) -> None:
    path = str(LIBRARY / f"{name}.toml")
    scenario = load_scenario(path)

    gateway_config(path, scenario, None)

    assert 3600 == scenario.duration_s
    assert f"{name}.toml" in (LIBRARY / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (fault("refuse"), "breaker_moves"),
        (fault("errors", rate=1.0), "breaker_moves"),
        (fault("flap", period_s=2.0, duty=0.5), "attempts_per_message"),
        (fault("stall", rate=0.1), "duplicates"),
        (fault("ambiguous", rate=0.5, accepted=1.0), "duplicates"),
        (fault("throttle", per_s=2, retry_after_s=3.0), "attempts_per_message"),
        (fault("slow", latency_s=2.0), "p99_s"),
        ({"quota": {"per_minute": 50}}, "attempts_per_message"),
    ],
    ids=["refuse", "errors", "flap", "stall", "ambiguous", "throttle", "slow", "quota"],
)
def test_fault_is_felt_and_breaks_no_promise(plan: dict[str, Any], what: str) -> None:
    healthy = {"breaker_moves": 0, "attempts_per_message": 1.0, "duplicates": 0, "p99_s": 1.0}

    report = run(small(providers={"primary": plan, "secondary": {}}))

    assert () == report.violations
    assert report.accepted == report.delivered == report.submitted
    assert getattr(report, what) > healthy[what]
    assert 0 == report.undeclared_duplicates


@pytest.mark.slow
def test_clients_who_say_it_twice_get_one_message() -> None:
    report = run(small(traffic={"duplicate_submissions": 1.0}))

    assert () == report.violations
    assert report.submitted == report.accepted == report.delivered
    assert 0 == report.duplicates


@pytest.mark.slow
def test_a_burst_is_a_burst() -> None:
    burst = {"at_s": 5, "for_s": 5, "rate_per_s": 40}

    report = run(small(traffic={"bursts": [burst]}))

    assert report.submitted == pytest.approx(15 * 10 + 5 * 40, rel=0.15)


@pytest.mark.slow
def test_what_is_held_ends_a_run() -> None:
    plan = fault("ambiguous", rate=0.3, accepted=0.5)
    config = {"streams": {"transactional": {"on_uncertain": "hold"}}}
    scenario = small(providers={"primary": plan, "secondary": {}}, config=config)

    report = run(scenario.model_copy(update={"horizon_s": None}))

    assert () == report.violations
    assert 0 == report.duplicates
    assert report.delivered < report.accepted
    assert report.ended_s < 120


@pytest.mark.slow
def test_horizon_ends_what_would_not_end() -> None:
    plan = fault("refuse", at_s=0, for_s=1e9)

    report = run(small(duration_s=10, horizon_s=20, providers={"primary": plan}))

    assert 20.0 == pytest.approx(report.ended_s, abs=1.0)
    assert 0 == report.delivered
    assert () == report.violations
