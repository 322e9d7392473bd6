"""Each scenario of the library, shortened; and each kind of fault."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mailactors.model.outcome import Rejected, Scope
from mailactors.providers.smtp import classify as smtp_classify
from mailactors.providers.smtp.classify import classify
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.providers.smtp.verbs import Verb
from mailactors.sim.report.printing import delivered_words
from mailactors.sim.scenario.file import Scenario, gateway_config, load_scenario
from tests.sim.makers import LIBRARY, NAMES, fault, run, shortened, small

MESSAGES = 400
HELD_TO = {"duplicates_max", "undeclared_duplicates_max"}
"""What holds at any size; times and attempts of a file are about its full length."""
LOSSES = {"accepts-then-loses", "false-permanents", "operator", "poison"}
"""Stories in which something does not arrive: a lie, a false bounce, a person, poison."""
LIBRARY_OF_OTHERS = {
    *("primary-down", "total-outage", "brownout", "correlated-brownout", "slow-loris", "ambiguous"),
    *("rate-caps", "burst", "staggered", "crash-loop", "auth-revoked", "poison", "skewed-domain"),
    "dns-tls",
}
"""The scenarios that every policy is measured by: an hour at twenty messages a second."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_variant_violates_no_invariant(name: str) -> None:
    report = run(shortened(name, MESSAGES))

    missed = {each.name for each in report.expectations if not each.ok}
    assert () == report.violations
    assert set() == missed & HELD_TO, report.expectations
    assert 200 < report.accepted <= report.submitted
    assert report.delivered == report.accepted or name in LOSSES


@pytest.mark.parametrize("name", NAMES)
def test_full_size_file_is_sound(name: str) -> None:
    path = str(LIBRARY / f"{name}.toml")
    scenario = load_scenario(path)

    gateway_config(path, scenario, None)

    assert name not in LIBRARY_OF_OTHERS or (3600, 20) == (
        scenario.duration_s,
        scenario.traffic.rate_per_s,
    )
    assert f"{name}.toml" in (LIBRARY / "README.md").read_text()


def test_library_is_whole() -> None:
    assert set(NAMES) >= LIBRARY_OF_OTHERS
    assert len(NAMES) >= len(LIBRARY_OF_OTHERS) + 10
    on_smtp = [n for n in NAMES if 'wire = "smtp"' in (LIBRARY / f"{n}.toml").read_text()]
    assert len(on_smtp) >= 3


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
def test_fault_has_an_effect_and_violates_no_invariant(plan: dict[str, Any], what: str) -> None:
    healthy = {"breaker_moves": 0, "attempts_per_message": 1.0, "duplicates": 0, "p99_s": 1.0}

    report = run(small(providers={"primary": plan, "secondary": {}}))

    assert () == report.violations
    assert report.accepted == report.delivered == report.submitted
    assert getattr(report, what) > healthy[what]
    assert 0 == report.undeclared_duplicates


@pytest.mark.slow
def test_duplicate_submissions_are_one_message() -> None:
    report = run(small(traffic={"duplicate_submissions": 1.0}))

    assert () == report.violations
    assert report.submitted == report.accepted == report.delivered
    assert 0 == report.duplicates


@pytest.mark.slow
def test_times_are_counted_by_domain() -> None:
    defers = fault("defer_domain", at_s=0, for_s=15, domain="big.example", code=421)
    domains = {"big.example": 3, "small.example": 1}

    report = run(small(traffic={"recipient_domains": domains}, providers={"primary": defers}))

    assert list(domains) == list(report.p99_s_by_domain)
    assert (report.p99_s_by_domain["small.example"] or 99.0) < 1.0
    assert 10.0 < (report.p99_s_by_domain["big.example"] or 0.0)


@pytest.mark.slow
def test_messages_that_a_provider_lost_are_reported_apart() -> None:
    lies = fault("lie", then="drop")

    report = run(small(providers={"primary": lies}))

    assert report.delivered < report.accepted_by_provider == report.accepted
    assert f"(providers accepted {report.accepted:,})" in delivered_words(report)
    assert "providers" not in delivered_words(run(small(duration_s=3)))


@pytest.mark.slow
def test_one_domain_has_its_times_as_well() -> None:
    expect = {"p99_s_by_domain": {"example.com": 5}}

    report = run(small(duration_s=3, expect=expect))

    assert {"example.com": report.p99_s} == report.p99_s_by_domain
    assert all(each.ok for each in report.expectations)


@pytest.mark.slow
def test_a_burst_is_a_burst() -> None:
    burst = {"at_s": 5, "for_s": 5, "rate_per_s": 40}

    report = run(small(traffic={"bursts": [burst]}))

    assert report.submitted == pytest.approx(15 * 10 + 5 * 40, rel=0.15)


@pytest.mark.slow
def test_a_pause_hides_no_latency() -> None:
    pause = {"kind": "pause", "at_s": 5, "for_s": 50}

    report = run(small(duration_s=60, faults=[pause], expect={"within": {"p99_s": 5}}))

    assert () == report.violations
    assert 45.0 < (report.p99_s or 0.0) < 52.0
    assert not report.has_passed


@pytest.mark.slow
def test_a_clock_set_back_puts_off_the_end() -> None:
    back = {"kind": "clock", "at_s": 5, "step_s": -600.0}
    config = {"streams": {"transactional": {"expires_after_s": 30}}}
    down = {"primary": fault("refuse", 0, 1e6)}
    scenario = small(duration_s=10, config=config, providers=down, faults=[back])

    report = run(scenario.model_copy(update={"horizon_s": None}))

    assert () == report.violations


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

    expect = {"unfinished_max": 1000}
    scenario = small(duration_s=10, horizon_s=20, providers={"primary": plan}, expect=expect)
    report = run(scenario)

    assert 20.0 == pytest.approx(report.ended_s, abs=1.0)
    assert 0 == report.delivered
    assert () == report.violations


@pytest.mark.slow
def test_own_shortage_is_no_attempt_and_moves_no_breaker() -> None:
    short = fault("short")

    report = run(small(providers={"primary": short, "secondary": {**short, "wire": "smtp"}}))

    assert () == report.violations
    assert report.accepted == report.delivered
    assert (0, 1.0) == (report.breaker_moves, report.attempts_per_message)
    assert (report.p99_s or 0.0) > 3.0


ACCOUNT_REPLIES = (
    "550 5.7.0 sending is suspended for this account",
    "550 5.7.1 your account has been suspended",
    "554 5.7.1 your account is disabled",
    "535 5.7.8 authentication credentials invalid",
)


def paused(verb: str, reply: str) -> Scenario:
    account = fault("auth", for_s=40.0, verb=verb, reply=reply)
    return small(
        duration_s=60.0, providers={"primary": {**account, "wire": "smtp"}, "secondary": {}}
    )


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("reply", ACCOUNT_REPLIES)
def test_a_refused_account_bounces_nothing_and_disables_the_lane(verb: str, reply: str) -> None:
    report = run(paused(verb, reply))

    assert () == report.violations
    assert report.accepted == report.delivered
    assert (report.attempts_per_message or 0.0) < 1.1


@pytest.mark.slow
def test_a_classifier_that_blames_recipients_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def blames(verb: Verb, reply: SmtpReply, *more: Any, **named: Any) -> Any:
        found = classify(verb, reply, *more, **named)
        is_account = isinstance(found, Rejected) and found.scope is Scope.PROVIDER
        return replace(found, scope=Scope.RECIPIENT) if is_account else found

    monkeypatch.setattr(smtp_classify, "classify", blames)

    report = run(paused("rcpt", ACCOUNT_REPLIES[0]))

    assert report.delivered < report.accepted
