"""The oracle against cases whose answer is known, and against every policy there is."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest

from mailactors.sim.oracle.oracle import beaten, oracle_bounds
from mailactors.sim.oracle.planned import planned_messages
from mailactors.sim.oracle.providers import KnownProvider, Server
from mailactors.sim.report.report import Oracle, Report
from mailactors.sim.run.gateway import run_scenario
from mailactors.sim.run.loops import run_loop
from mailactors.sim.scenario.file import Scenario, gateway_config
from mailactors.sim.vendor.draws import latency_of
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.truth import quantile
from tests.sim.makers import LIBRARY, NAMES, fault, run, shortened, small

LATENCY = {"latency_s": {"median": 0.2, "sigma": 0.0}}
"""Every answer takes 0.2 s, as far as floats go."""
ROUNDING = 1e-4


def ask(scenario: Scenario, seed: int = 1) -> Oracle:
    return oracle_bounds(scenario, gateway_config("test", scenario, None), seed)


def alone(**plan: Any) -> dict[str, Any]:
    return {"providers": {"primary": {**LATENCY, **plan}}}


def waits(scenario: Scenario, seed: int = 1) -> list[float]:
    """Return when messages are submitted."""
    config = gateway_config("test", scenario, None)
    return [each.at_s for each in planned_messages(scenario, config, KeyedEntropy(seed))]


def test_without_faults_the_oracle_takes_the_fastest_answer() -> None:
    scenario = small(providers={"primary": {}, "secondary": {}})
    entropy = KeyedEntropy(1)
    providers = [KnownProvider(n, plan, (), entropy) for n, plan in scenario.providers.items()]
    fastest = sorted(
        min(
            latency_of(provider.plan.latency_s, provider.draws.attempt(number, 1))
            for provider in providers
        )
        for number in range(len(waits(scenario)))
    )

    found = ask(scenario)

    assert quantile(fastest, 0.5) == pytest.approx(found.p50_s, abs=ROUNDING)
    assert quantile(fastest, 0.99) == pytest.approx(found.p99_s, abs=ROUNDING)
    assert (len(fastest), 1.0, 1.0) == (
        found.delivered,
        found.delivered_rate,
        found.attempts_per_message,
    )


def test_an_outage_is_waited_for_and_no_longer() -> None:
    scenario = small(**alone(faults=[{"kind": "refuse", "at_s": 5, "for_s": 10}]))
    known = sorted((15.0 - at_s if 5 <= at_s < 15 else 0.0) + 0.2 for at_s in waits(scenario))

    found = ask(scenario)

    assert quantile(known, 0.5) == pytest.approx(found.p50_s, abs=ROUNDING)
    assert quantile(known, 0.99) == pytest.approx(found.p99_s, abs=ROUNDING)
    assert 1.0 == found.by_rates.attempts_per_message


def test_another_provider_is_taken_meanwhile() -> None:
    down = [{"kind": "refuse", "at_s": 5, "for_s": 10}]
    scenario = small(providers={"primary": {**LATENCY, "faults": down}, "secondary": LATENCY})

    assert 0.2 == pytest.approx(ask(scenario).p999_s, abs=ROUNDING)


def test_what_is_down_and_up_is_waited_for_by_its_period() -> None:
    flap = {"kind": "flap", "at_s": 0, "for_s": 100, "period_s": 10, "duty": 0.5}
    scenario = small(**alone(faults=[flap]))
    known = sorted(max(0.0, 5.0 - at_s % 10) + 0.2 for at_s in waits(scenario))

    assert quantile(known, 0.99) == pytest.approx(ask(scenario).p99_s, abs=ROUNDING)


def test_a_slow_answer_is_waited_for_or_outwaited() -> None:
    slow = {"kind": "slow", "at_s": 0, "for_s": 10, "latency_s": 8}
    scenario = small(duration_s=10, **alone(faults=[slow]))
    known = sorted(min(8.0, 10.2 - at_s) for at_s in waits(scenario))

    found = ask(scenario)

    assert quantile(known, 0.5) == pytest.approx(found.p50_s, abs=ROUNDING)
    assert quantile(known, 0.99) == pytest.approx(found.p99_s, abs=ROUNDING)


def test_failed_attempts_are_spent_where_that_is_faster_than_waiting() -> None:
    errors = {"kind": "errors", "at_s": 0, "for_s": 1000, "rate": 0.5}
    scenario = small(**alone(faults=[errors]))

    found = ask(scenario)

    # One in two needs one attempt, one in four two, and so on: each takes 0.2 s.
    assert found.p50_s in {0.2, 0.4}
    assert found.p99_s == pytest.approx(0.2 * 7, abs=0.41)
    assert 1.0 == found.attempts_per_message
    assert 2.0 == pytest.approx(found.by_rates.attempts_per_message)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([{"kind": "errors", "rate": 0.6}], 2.5),
        ([{"kind": "ambiguous", "rate": 0.5, "accepted": 0.6}], 1.25),
        ([{"kind": "errors", "rate": 0.5}, {"kind": "garbage", "rate": 0.5}], 1 / 0.375),
        ([{"kind": "defer_domain", "domain": "example.com", "rate": 0.2}], 1.25),
        ([{"kind": "defer_domain", "domain": "other.example", "rate": 0.2}], 1.0),
        ([{"kind": "stall", "rate": 0.5}], 1.0),
    ],
)
def test_scheduler_by_rates_needs_the_expected_attempts(
    kinds: list[dict[str, Any]], expected: float
) -> None:
    faults = [{"at_s": 0, "for_s": 10_000, **kind} for kind in kinds]

    domains = {"example.com": 1.0, "other.example": 1e-9}
    found = ask(small(**alone(faults=faults), traffic={"recipient_domains": domains}))

    assert expected == pytest.approx(found.by_rates.attempts_per_message, abs=1e-3)


def test_scheduler_by_rates_goes_where_the_odds_are_best() -> None:
    bad, worse = ({"kind": "errors", "at_s": 0, "for_s": 1e4, "rate": rate} for rate in (0.2, 0.5))
    scenario = small(
        providers={"a": {**LATENCY, "faults": [worse]}, "b": {**LATENCY, "faults": [bad]}}
    )

    assert 1.25 == pytest.approx(ask(scenario).by_rates.attempts_per_message)


def test_quotas_bound_the_waits() -> None:
    # 20/s for 10 s against 10/s: of 200, half must wait; the last one waits 10 s.
    scenario = small(duration_s=10, rate_per_s=20, **alone(quota={"per_s": 10}))
    count = len(waits(scenario))

    found = ask(scenario)

    # In time L, 10 * (10 + L) can be served within L of their submission, and not one more.
    assert found.p99_s == pytest.approx(0.99 * count / 10 - 10 + 0.2, rel=0.15)
    assert found.p50_s == pytest.approx(0.2, abs=0.25)
    assert count == found.delivered


def test_capacity_bounds_the_waits_alike() -> None:
    capacity = {"kind": "capacity", "at_s": 0, "for_s": 1000, "per_s": 10}
    by_quota, by_capacity = (
        ask(small(duration_s=10, rate_per_s=20, **alone(**plan)))
        for plan in ({"quota": {"per_s": 10}}, {"faults": [capacity]})
    )

    assert by_quota.p99_s is not None
    assert by_quota.p99_s == pytest.approx(by_capacity.p99_s or math.nan, rel=0.1)


def test_a_queued_message_keeps_its_turn_when_the_next_stretch_begins() -> None:
    lines = [
        {"kind": "capacity", "at_s": 0, "for_s": 10, "per_s": 1},
        {"kind": "capacity", "at_s": 10, "for_s": 10, "per_s": 2},
    ]
    scenario = small(**alone(faults=lines))
    provider = KnownProvider(
        "primary", scenario.providers["primary"], scenario.timeline("primary"), KeyedEntropy(1)
    )
    server = Server(provider)
    turns = []
    for _ in range(15):
        turns.append(server.next_s(5.0))
        server.serve()

    # Six turns of the first line, then of both as they come: 1 a second and 2 a second.
    assert [5, 6, 7, 8, 9, 10, 10, 10.5, 11, 11, 11.5, 12, 12, 12.5, 13] == sorted(turns)


def test_windows_hold_at_every_start() -> None:
    scenario = small(**alone(quota={"per_s": 3, "per_minute": 20}))
    server = Server(KnownProvider("primary", scenario.providers["primary"], (), KeyedEntropy(1)))
    starts: list[float] = []
    for _ in range(50):
        starts.append(server.next_s(0.1))
        server.serve()

    assert starts[:4] == [0.1, 0.1, 0.1, 1.1]
    for count, length_s in ((3, 1.0), (20, 60.0)):
        gaps = [late - early for early, late in zip(starts, starts[count:], strict=False)]
        assert min(gaps) == pytest.approx(length_s, abs=1e-9)


def test_undeliverable_messages_are_not_expected() -> None:
    traffic = {"poison": {"count": 3, "kind": "refused_everywhere"}}
    reject = {"kind": "reject", "at_s": 0, "for_s": 1e4, "rate": 1.0, "scope": "message"}
    wrong = {**reject, "false_share": 1.0}

    poison = small(traffic=traffic)
    assert len(waits(poison)) - 3 == ask(poison).delivered
    assert 0 == ask(small(**alone(faults=[reject]))).delivered
    assert 0 == ask(small(**alone(faults=[wrong]))).delivered
    beside = {"primary": {"faults": [wrong]}, "secondary": {}}
    assert len(waits(small(providers=beside))) == ask(small(providers=beside)).delivered


@pytest.mark.parametrize(("then", "share"), [("drop", 0.0), ({"delay_s": 5.0}, 1.0)])
def test_a_lie_delivers_nothing_a_delay_does(then: Any, share: float) -> None:
    lie = {"kind": "lie", "at_s": 0, "for_s": 1e4, "rate": 1.0, "then": then}

    assert share == ask(small(**alone(faults=[lie]))).delivered_rate


def test_nothing_is_delivered_after_the_deadline() -> None:
    down = {"kind": "refuse", "at_s": 0, "for_s": 1000}
    config = {"streams": {"transactional": {"expires_after_s": 990}}}
    scenario = small(**alone(faults=[down]), config=config, horizon_s=5000)

    found = ask(scenario)

    late = sum(at_s >= 10 for at_s in waits(scenario))
    assert late == found.delivered


def test_fewer_messages_are_held_against_the_quickest() -> None:
    down = [{"kind": "refuse", "at_s": 5, "for_s": 10}]
    scenario = small(**alone(faults=down))
    config = gateway_config("test", scenario, None)
    known = sorted((15.0 - at_s if 5 <= at_s < 15 else 0.0) + 0.2 for at_s in waits(scenario))

    for delivered in (1, len(known) // 2, len(known) - 1, len(known), len(known) + 1):
        found = oracle_bounds(scenario, config, 1, delivered)

        assert min(delivered, len(known)) == found.delivered
        assert quantile(known[:delivered], 0.99) == pytest.approx(found.p99_s, abs=ROUNDING)


def test_fewer_messages_wait_less_for_a_quota() -> None:
    scenario = small(duration_s=10, rate_per_s=20, **alone(quota={"per_s": 10}))
    config = gateway_config("test", scenario, None)
    p99_s = [oracle_bounds(scenario, config, 1, n).p99_s or math.nan for n in (90, 150, 190)]

    assert p99_s[0] == pytest.approx(0.2, abs=0.05)
    assert sorted(p99_s) == p99_s
    assert p99_s[2] > 5.0


@pytest.mark.slow
@pytest.mark.parametrize("for_s", [20.0, 30.0])
def test_a_policy_that_gives_up_early_is_above_no_bound_for_as_many(for_s: float) -> None:
    raw = tomllib.loads((LIBRARY / "own-limit.toml").read_text())
    raw |= {"duration_s": 60, "faults": [{**raw["faults"][0], "at_s": 20, "for_s": for_s}]}
    scenario = Scenario.model_validate(raw)
    config = gateway_config("test", scenario, None)

    gives_up = run_loop("naive", "test", scenario, config, 1, lambda _accepted: None)
    everything = oracle_bounds(scenario, config, 1)
    as_many = oracle_bounds(scenario, config, 1, gives_up.delivered)

    assert gives_up.delivered == as_many.delivered < everything.delivered
    assert (as_many.p999_s or math.inf) < (everything.p999_s or 0.0)
    assert [] == beaten(gives_up, as_many)


MESSAGES = 200.0
UNMATCHED = {
    # Vendors that lie: only the oracle knows which answers are true.
    "accepts-then-loses",
    # So short a run is all restarts: clients give up before a process serves.
    "crash-loop",
}
"""Where no policy delivers as much, so that only deliveries are compared."""
HARD: dict[str, dict[str, Any]] = {
    "brownout-of-both": {
        "faults": [
            {
                "kind": "errors",
                "rate": 0.6,
                "at_s": 2,
                "for_s": 12,
                "providers": ["primary", "secondary"],
            }
        ]
    },
    "caps": {
        "providers": {"primary": {"quota": {"per_s": 6}}, "secondary": {"quota": {"per_s": 5}}}
    },
    "mixed": {
        "providers": {
            "primary": fault("flap", for_s=12, period_s=3, duty=0.5),
            "secondary": fault("ambiguous", for_s=12, rate=0.4, accepted=0.5),
        }
    },
}


def beats(report: Report, oracle: Oracle) -> list[str]:
    """Return the figures in which a run, or the scheduler that knows rates, is too good."""
    found = beaten(report, oracle)
    for name in ("p50_s", "p99_s", "p999_s", "attempts_per_message"):
        if getattr(oracle.by_rates, name) < getattr(oracle, name):
            found.append(f"by_rates.{name}")
    return found


def scenarios() -> dict[str, Scenario]:
    library = {name: shortened(name, MESSAGES) for name in NAMES}
    return {**library, **{name: small(**tables) for name, tables in HARD.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *HARD])
def test_no_policy_beats_it(name: str) -> None:
    scenario = scenarios()[name]
    config = gateway_config("test", scenario, None)
    oracle = oracle_bounds(scenario, config, 3)

    runs = [
        run_loop(each, "test", scenario, config, 3, lambda _accepted: None)
        for each in ("naive", "fallback")
    ]
    runs.append(run_scenario("test", scenario, config, 3))

    found = {
        each.policy: beats(each, oracle_bounds(scenario, config, 3, each.delivered))
        for each in runs
    }

    assert {each.policy: [] for each in runs} == found
    assert name in UNMATCHED or any(each.delivered == oracle.delivered for each in runs)


EXPIRES = {"streams": {"transactional": {"expires_after_s": 30}}}
FULL_DISK = {"kind": "spool", "what": "enospc", "at_s": 0, "for_s": 12}
SURPRISES: dict[str, dict[str, Any]] = {
    "pooled-tls": {
        "providers": {"primary": {"wire": "smtp", **fault("tls", 5, 10, why="expired")}}
    },
    "pooled-dns": {
        "providers": {"primary": {"wire": "smtp", **fault("dns", 5, 10, answer="servfail")}}
    },
    "late-acceptance": {
        "providers": {"primary": fault("refuse", 0, 38)},
        "faults": [FULL_DISK],
        "config": EXPIRES,
    },
    "clock-set-back": {
        "providers": {"primary": fault("refuse", 1, 60)},
        "faults": [{"kind": "clock", "at_s": 10, "step_s": -100.0}],
        "config": EXPIRES,
    },
    "liars": {
        "providers": {
            "primary": fault("lie", 0, 1e4, rate=0.5, then="drop"),
            "secondary": fault("refuse", 0, 15),
        }
    },
    "refused-by-one": {
        "providers": {
            "primary": fault("reject", 0, 10, rate=0.5, scope="message"),
            "secondary": {},
        }
    },
    "re-rolled": {
        "providers": {"primary": fault("errors", 0, 15, rate=0.95)},
        "crashes": [{"at_s": 2.0, "what": "process", "every_s": 3.0}],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURPRISES)
def test_no_run_is_above_the_bound_where_chance_is_kinder_than_it_looks(name: str) -> None:
    scenario = small(rate_per_s=3, **SURPRISES[name])
    config = gateway_config("test", scenario, None)

    found = {
        seed: beaten(report, oracle_bounds(scenario, config, seed, report.delivered))
        for seed in range(1, 6)
        for report in (run(scenario, seed),)
    }

    assert [] == [each for each in found.items() if each[1]]
