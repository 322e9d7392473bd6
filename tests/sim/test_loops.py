"""Loops in memory: what they do, what they lose, and what goes out twice."""

from __future__ import annotations

from typing import Any

import pytest

from mailactors.sim.report.report import Report
from mailactors.sim.run.loops import run_loop
from mailactors.sim.scenario.file import Scenario, gateway_config
from mailactors.sim.scenario.policies import LOOPS
from tests.sim.makers import fault, run, small

pytestmark = pytest.mark.slow
REFUSES = fault("refuse", at_s=5, for_s=5)


def loop(policy: str, scenario: Scenario, seed: int = 1) -> Report:
    config = gateway_config("test", scenario, None)
    return run_loop(policy, "test", scenario, config, seed, lambda _accepted: None)


def down(at_s: float, for_s: float) -> dict[str, Any]:
    return fault("refuse", at_s=at_s, for_s=for_s)


@pytest.mark.parametrize("policy", LOOPS)
def test_without_faults_each_message_goes_out_once(policy: str) -> None:
    report = loop(policy, small())

    assert report.submitted == report.accepted == report.delivered > 100
    assert 1.0 == report.attempts_per_message
    assert 0 == report.duplicates
    assert policy == report.policy


def test_naive_gives_up_after_fifteen_seconds() -> None:
    scenario = small(duration_s=60, providers={"primary": down(10, 40), "secondary": {}})

    report = loop("naive", scenario)

    # Of the forty seconds' messages those of the last fifteen are still being tried.
    lost = report.accepted - report.delivered
    assert lost / report.accepted == pytest.approx(25 / 60, abs=0.05)
    assert report.record is not None
    assert 5 == len(report.record.worst[0].lines)
    assert 0 == report.peak_attempts_per_s["secondary"]


def test_retry_outlasts_an_outage_of_the_same_provider() -> None:
    scenario = small(duration_s=60, providers={"primary": down(10, 40), "secondary": {}})

    report = loop("retry", scenario)

    assert report.delivered == report.accepted
    assert 0 == report.peak_attempts_per_s["secondary"]


def test_fallback_tries_providers_in_order_and_in_rounds() -> None:
    one = loop("fallback", small(providers={"primary": down(0, 1000), "secondary": {}}))
    both = small(providers={"primary": down(0, 1000), "secondary": down(0, 1000)})

    assert 2.0 == one.attempts_per_message
    assert one.delivered == one.accepted
    assert 10.0 == loop("fallback", both).attempts_per_message


@pytest.mark.parametrize("policy", LOOPS)
def test_a_loop_repeats_after_a_timeout_and_duplicates(policy: str) -> None:
    stalls = {"kind": "stall", "at_s": 5, "for_s": 5, "rate": 0.2}
    scenario = small(providers={"primary": {"faults": [stalls]}, "secondary": {}})

    report = loop(policy, scenario)

    assert report.duplicates > 0
    assert report.duplicates == report.undeclared_duplicates
    assert not report.has_passed


def test_loops_send_no_keys() -> None:
    lost = {"kind": "ambiguous", "at_s": 0, "for_s": 100, "rate": 0.3, "accepted": 1.0}
    plan = {"faults": [lost], "idempotency_window_s": 86400}
    scenario = small(providers={"primary": plan, "secondary": {}})

    assert loop("naive", scenario).duplicates > 0
    assert 0 == run(scenario).undeclared_duplicates


def test_duplicate_submissions_are_sent_twice() -> None:
    report = loop("naive", small(traffic={"duplicate_submissions": 1.0}))

    assert report.accepted == report.duplicates


def test_a_process_that_dies_loses_its_messages() -> None:
    scenario = small(
        providers={"primary": down(5, 10), "secondary": {}},
        crashes=[{"at_s": 12, "what": "process"}],
    )

    report = loop("retry", scenario)

    lost = report.accepted - report.delivered
    assert lost == pytest.approx(70, abs=25)
    assert 2 == report.starts
    assert report.refused > 0
    assert report.record is not None
    assert "process died" in {shade.what for shade in report.record.series.shades}


def test_a_reload_restores_credentials_for_loops() -> None:
    auth = {"kind": "auth", "at_s": 5, "until": "reload"}
    plan = {"primary": {"faults": [auth]}, "secondary": {}}
    scenario = small(providers=plan, operations=[{"at_s": 15, "what": "reload"}])

    report = loop("retry", scenario)

    assert report.delivered == report.accepted
    assert report.attempts_per_message is not None
    assert report.attempts_per_message > 1.5


def test_the_horizon_ends_what_would_not_end() -> None:
    scenario = small(duration_s=10, horizon_s=30, providers={"primary": down(0, 1e6)})

    report = loop("retry", scenario)

    assert 30.0 == pytest.approx(report.ended_s, abs=0.01)
    assert 0 == report.delivered


def test_the_same_seed_is_the_same_run_with_the_gateways_faults() -> None:
    scenario = small(providers={"primary": REFUSES, "secondary": {}})

    first, again, other = (loop("fallback", scenario, seed) for seed in (1, 1, 2))

    assert first.hash == again.hash != other.hash
    gateway = run(scenario)
    assert gateway.record is not None
    assert first.record is not None
    assert gateway.record.series.arrivals[:15] == first.record.series.arrivals[:15]
    assert gateway.record.series.acceptances[:4] == first.record.series.acceptances[:4]


def test_on_a_real_wire_too() -> None:
    scenario = small(providers={"primary": {"wire": "smtp"}, "secondary": {}})

    report = loop("naive", scenario)

    assert report.accepted == report.delivered > 100
