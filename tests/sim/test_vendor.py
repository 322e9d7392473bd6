"""Each kind of fault: what a client of the vendor sees, and what is true."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.port import Found, LookUpFailed, NotFound
from mailactors.sim.scenario.faults import Auth
from mailactors.sim.vendor.client import ANSWER_WITHIN_S, CONNECT_WITHIN_S, client_of
from mailactors.sim.vendor.vendor import Vendor
from mailactors.sim.world.world import EPOCH_S
from tests.sim.vendors import FLAT, NAME, Rig, fault, mail, with_vendor


def shares(outcomes: list[Outcome], kind: type[Any]) -> float:
    return sum(isinstance(each, kind) for each in outcomes) / len(outcomes)


# Without faults


def test_message_is_accepted_and_goes_out() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert Accepted("primary-0-1") == outcome
        assert {0: [0.1]} == rig.arrivals
        assert [0.1] == rig.truth.arrived_s[NAME].tolist()
        assert [0.0] == rig.truth.attempted_s[NAME].tolist()
        assert [("began", NAME), ("sending", NAME, 0), ("arrived", NAME, 0)] == rig.observer.calls

    with_vendor(body)


def test_session_that_is_given_back_was_no_attempt() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        session: Any = await rig.client.connect()
        await session.aclose()

        assert 1 == rig.truth.attempts
        assert [0.0] == rig.truth.attempted_s[NAME].tolist()
        assert ("unused", NAME, pytest.approx(0.1)) == rig.observer.calls[-1]

    with_vendor(body)


def test_session_that_sends_nothing_was_no_attempt() -> None:
    async def body(rig: Rig) -> None:
        session: Any = await rig.client.connect()
        outcome = await session.send(msgspec.structs.replace(mail(0), deadline_s=-1.0))

        assert isinstance(outcome, NotAttempted)
        assert Why.EXPIRED is outcome.why
        assert 0 == rig.truth.attempts
        assert ("unused", NAME, 0.0) == rig.observer.calls[-1]

    with_vendor(body, {"wire": "smtp"})


def test_latency_is_log_normal() -> None:
    async def body(rig: Rig) -> None:
        await rig.send_many(400)
        took_s = sorted(rig.took_s.values())

        assert 0.2 == pytest.approx(took_s[200], rel=0.1)
        assert 0.2 * 2.718**0.5 == pytest.approx(took_s[336], rel=0.15)  # one sigma up

    with_vendor(body, {"latency_s": {"median": 0.2, "sigma": 0.5}})


def test_chance_belongs_to_message_and_attempt() -> None:
    plan = {"latency_s": {"median": 0.2, "sigma": 0.5}, **fault("errors", rate=0.5)}

    async def forwards(rig: Rig) -> list[Any]:
        return [(await rig.send(n), round(rig.took_s[n], 9)) for n in range(20)]

    async def backwards(rig: Rig) -> list[Any]:
        await rig.send(99)
        return [(await rig.send(n), round(rig.took_s[n], 9)) for n in reversed(range(20))]

    assert with_vendor(forwards, plan) == list(reversed(with_vendor(backwards, plan)))
    assert with_vendor(forwards, plan) != with_vendor(forwards, plan, seed=2)


# No connection


@pytest.mark.parametrize(
    ("plan", "words", "took_s"),
    [
        (fault("refuse"), "connect: connection refused", 0.001),
        (fault("flap", period_s=10, duty=0.5), "connect: connection refused", 0.001),
        (fault("dns", answer="nxdomain"), "connect: Name or service not known", 0.001),
        (fault("dns", answer="servfail"), "Temporary failure in name resolution", 0.001),
        (fault("dns", answer="slow"), "no connection in time", CONNECT_WITHIN_S),
        (fault("tls", why="expired"), "expired (not after 2027-01-15 08:00:00 UTC)", 0.001),
        (fault("tls", why="name"), "certificate is not valid for 'primary'", 0.001),
    ],
)
def test_there_is_no_connection(plan: dict[str, Any], words: str, took_s: float) -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Deferred)
        assert Scope.PROVIDER is outcome.scope
        assert words in outcome.reason.text
        assert took_s == pytest.approx(rig.took_s[0])
        assert {} == rig.arrivals
        assert 1 == rig.truth.attempts
        await trio.sleep_until(1000.0)
        assert Accepted("primary-1-1") == await rig.send(1)

    with_vendor(body, plan)


def test_date_of_the_certificate_is_when_the_fault_begins() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Accepted)
        await trio.sleep_until(3600.0)
        assert "not after 2027-01-15 09:00:00" in str(await rig.send(1))

    with_vendor(body, fault("tls", at_s=3600, why="expired"))


def test_flap_comes_and_goes() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(20, gap_s=1.0)

        down = [isinstance(each, Deferred) for each in outcomes]
        assert ([True] * 3 + [False] * 7) * 2 == down

    with_vendor(body, fault("flap", period_s=10, duty=0.3))


# Refusals


@pytest.mark.parametrize(
    ("code", "kind", "scope"),
    [
        (503, Deferred, Scope.PROVIDER),
        (421, Deferred, Scope.PROVIDER),
        (454, Deferred, Scope.PROVIDER),
        (429, Deferred, Scope.PROVIDER),
        (401, Rejected, Scope.PROVIDER),
        (403, Rejected, Scope.PROVIDER),
        (535, Rejected, Scope.PROVIDER),
        (422, Rejected, Scope.MESSAGE),
        (554, Rejected, Scope.MESSAGE),
        (500, Uncertain, None),
        (502, Uncertain, None),
        (504, Uncertain, None),
        (408, Uncertain, None),
        (418, Uncertain, None),
    ],
)
def test_errors_have_the_outcomes_of_the_adapters(
    code: int, kind: type[Any], scope: Scope | None
) -> None:
    async def body(rig: Rig) -> None:
        outcome: Any = await rig.send(0)

        assert isinstance(outcome, kind)
        assert code == outcome.reason.code
        assert scope is getattr(outcome, "scope", None)
        assert (code == 429) == getattr(outcome, "throttled", False)
        assert {} == rig.arrivals
        assert 0 not in rig.truth.taken

    with_vendor(body, fault("errors", rate=1.0, code=code))


def test_errors_carry_their_enhanced_code_and_meet_a_share() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(500)

        refused: list[Any] = [each for each in outcomes if isinstance(each, Deferred)]
        assert 0.3 == pytest.approx(len(refused) / 500, abs=0.05)
        assert {"4.3.2"} == {each.reason.enhanced for each in refused}
        assert 500 - len(refused) == len(rig.arrivals)

    with_vendor(body, fault("errors", rate=0.3, code=451, enhanced="4.3.2"))


def test_quota_answers_with_retry_after() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(5)

        late = outcomes[3:] if isinstance(outcomes[0], Accepted) else []
        served = [each for each in outcomes if isinstance(each, Accepted)]
        throttled: list[Any] = [each for each in outcomes if isinstance(each, Deferred)]
        assert (3, 2) == (len(served), len(throttled)), late
        assert [(True, 60.0, 429)] * 2 == [
            (each.throttled, each.retry_after_s, each.reason.code) for each in throttled
        ]
        assert 2 == rig.observer.calls.count(("throttled", NAME, 60.0))
        await trio.sleep(61.0)
        assert isinstance(await rig.send(9), Accepted)

    with_vendor(body, {"quota": {"per_minute": 3}})


def test_throttle_lowers_the_quota_for_its_time() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(5)
        assert 2 == sum(isinstance(each, Accepted) for each in outcomes)
        assert {7.0} == {each.retry_after_s for each in outcomes if isinstance(each, Deferred)}
        await trio.sleep_until(10.0)
        later = await rig.send_many(5, first=5)
        assert 5 == sum(isinstance(each, Accepted) for each in later)

    with_vendor(body, fault("throttle", for_s=10, per_s=2, retry_after_s=7))


def test_credentials_are_bad_until_the_end() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Rejected)
        assert (Scope.PROVIDER, 401) == (outcome.scope, outcome.reason.code)
        assert {} == rig.arrivals
        rig.vendor.reloaded()
        assert isinstance(await rig.send(1), Rejected)
        await trio.sleep_until(100.0)
        assert isinstance(await rig.send(2), Accepted)

    with_vendor(body, fault("auth", for_s=100))


def test_credentials_are_bad_until_a_reload() -> None:
    async def body(rig: Rig) -> None:
        rig.vendor.reloaded()  # too early: they go bad later
        await trio.sleep_until(5000.0)
        assert isinstance(await rig.send(0), Rejected)
        rig.vendor.reloaded()
        assert isinstance(await rig.send(1), Accepted)

    with_vendor(body, fault("auth", at_s=10, for_s=None, until="reload"))


def test_reload_that_is_late_leaves_credentials_bad() -> None:
    async def body(rig: Rig) -> None:
        waiting = Auth.model_validate({"kind": "auth", "at_s": 10, "until": "reload"})
        planned = waiting.model_copy(update={"for_s": 20.0})
        vendor = Vendor(NAME, rig.vendor.plan, (planned,), rig.world, rig.truth)
        rig.client = client_of(vendor, rig.observer)

        await trio.sleep_until(50.0)
        assert isinstance(await rig.send(0), Rejected)
        vendor.reloaded()
        assert isinstance(await rig.send(1), Accepted)

    with_vendor(body)


@pytest.mark.parametrize(
    ("scope", "expected", "code"),
    [("recipient", Scope.RECIPIENT, "5.1.1"), ("message", Scope.MESSAGE, "5.6.0")],
)
def test_rejection_lasts_and_may_be_wrong(scope: str, expected: Scope, code: str) -> None:
    async def body(rig: Rig) -> None:
        first = await rig.send_many(300)
        again = await rig.send_many(300)

        rejected = [n for n, each in enumerate(first) if isinstance(each, Rejected)]
        assert rejected == [n for n, each in enumerate(again) if isinstance(each, Rejected)]
        assert 0.4 == pytest.approx(len(rejected) / 300, abs=0.08)
        one: Any = first[rejected[0]]
        assert (expected, code) == (one.scope, one.reason.enhanced)
        assert (scope == "recipient") == ("ann@example.com" in one.refused)
        assert rejected == sorted(rig.truth.rejected)
        assert not set(rejected) & set(rig.arrivals)
        wrong = sum(rig.truth.rejected.values()) / len(rejected)
        assert 0.25 == pytest.approx(wrong, abs=0.12)

    with_vendor(body, fault("reject", rate=0.4, scope=scope, false_share=0.25))


@pytest.mark.parametrize(("code", "scope"), [(421, Scope.DOMAIN), (451, Scope.RECIPIENT)])
def test_domain_is_deferred_and_others_are_not(code: int, scope: Scope) -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0, recipient="ann@Big.example")

        assert isinstance(outcome, Deferred)
        assert (scope, code) == (outcome.scope, outcome.reason.code)
        assert isinstance(await rig.send(1, recipient="ann@small.example"), Accepted)
        assert [1] == list(rig.arrivals)

    with_vendor(body, fault("defer_domain", domain="BIG.example", code=code))


def test_domain_is_deferred_for_a_share() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(300)

        assert 0.5 == pytest.approx(shares(outcomes, Deferred), abs=0.08)
        again = [await rig.send(7) for _ in range(50)]
        assert 0.5 == pytest.approx(shares(again, Deferred), abs=0.25)

    with_vendor(body, fault("defer_domain", domain="example.com", rate=0.5))


# Late, or never


def test_slow_answer_is_right() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Accepted)
        assert 29.0 == pytest.approx(rig.took_s[0])
        assert {0: [29.0]} == rig.arrivals

    with_vendor(body, fault("slow", latency_s=29))


def test_answer_that_is_too_slow_leaves_a_doubt_and_goes_out() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Uncertain)
        assert Phase.FINAL is outcome.phase
        assert ANSWER_WITHIN_S == pytest.approx(rig.took_s[0])
        assert {} == rig.arrivals
        await trio.sleep_until(91.0)
        assert {0: [90.0]} == rig.arrivals

    with_vendor(body, fault("slow", latency_s=90))


def test_stalled_message_goes_out_without_an_answer() -> None:
    async def body(rig: Rig) -> None:
        outcome = await rig.send(0)

        assert isinstance(outcome, Uncertain)
        assert ANSWER_WITHIN_S == pytest.approx(rig.took_s[0])
        assert {0: [0.1]} == rig.arrivals

    with_vendor(body, fault("stall", rate=1.0))


@pytest.mark.slow
def test_connection_that_drops_after_the_body() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(400)

        lost = [n for n, each in enumerate(outcomes) if isinstance(each, Uncertain)]
        assert 0.5 == pytest.approx(len(lost) / 400, abs=0.07)
        out = sum(n in rig.arrivals for n in lost)
        assert 0.25 == pytest.approx(out / len(lost), abs=0.08)
        assert 400 - len(lost) == sum(n in rig.arrivals for n in range(400)) - out

    with_vendor(body, fault("ambiguous", rate=0.5, accepted=0.25))


def test_garbage_leaves_a_doubt() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(200)

        assert 1.0 == shares(outcomes, Uncertain)
        assert "garbage" in str(outcomes[0])
        assert 0.5 == pytest.approx(len(rig.arrivals) / 200, abs=0.12)

    with_vendor(body, fault("garbage", rate=1.0))


def test_capacity_serves_in_order() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(10)

        assert 1.0 == shares(outcomes, Accepted)
        waits = sorted(rig.took_s.values())
        assert [0.1 + 0.5 * turn for turn in range(10)] == pytest.approx(waits)

    with_vendor(body, fault("capacity", per_s=2))


@pytest.mark.parametrize("keeps", [True, False])
def test_client_that_hangs_up_in_the_queue(keeps: bool) -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(100)

        assert 60 == sum(isinstance(each, Accepted) for each in outcomes)
        assert 40 == sum(isinstance(each, Uncertain) for each in outcomes)
        await trio.sleep_until(150.0)
        assert (100 if keeps else 60) == len(rig.arrivals)

    with_vendor(body, fault("capacity", per_s=1, keeps_abandoned=keeps))


def test_abandoned_messages_take_the_turns_of_others() -> None:
    async def body(rig: Rig) -> float:
        await rig.send_many(100)
        await rig.send(100)
        return rig.took_s[100]

    plain = with_vendor(body, fault("capacity", per_s=1))
    assert 0.1 == pytest.approx(plain)
    kept = with_vendor(body, fault("capacity", per_s=1, keeps_abandoned=True))
    assert 40.0 < kept < 41.0


# Lies


def test_lie_is_accepted_by_the_provider_and_not_delivered() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.accepted.setdefault(0, "0" * 31 + "1")

        assert isinstance(await rig.send(0), Accepted)
        await trio.sleep(50_000.0)
        assert {} == rig.arrivals
        assert (0, 1) == (rig.truth.delivered, rig.truth.accepted_by_provider)
        assert 0 in rig.truth.taken

    with_vendor(body, fault("lie", then="drop"))


def test_lie_that_is_delivered_late() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.accepted.setdefault(0, "0" * 31 + "1")
        rig.truth.submit(0.0)

        assert isinstance(await rig.send(0), Accepted)
        assert 0 == rig.truth.delivered
        await trio.sleep_until(7201.0)
        assert {0: [7200.1]} == rig.arrivals
        assert 1 == rig.truth.delivered
        assert [0.1] == pytest.approx(rig.truth.latencies_s(rig.truth.taken))

    with_vendor(body, fault("lie", then={"delay_s": 7200}))


def test_what_is_left_at_the_end_arrives_at_its_time() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        rig.world.finish()
        assert {0: [7200.1]} == rig.arrivals
        assert 0.1 == pytest.approx(trio.current_time())
        await trio.sleep(1.0)
        assert [] == rig.evidence  # no process serves

    with_vendor(body, {**fault("lie", then={"delay_s": 7200}), **EVENTS})


EVENTS = {"delivery_events": {"delay_median_s": 5, "delay_sigma": 0}}


def test_lie_that_bounces_is_reported_later() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await trio.sleep_until(300.0)
        assert [] == rig.evidence
        await trio.sleep_until(301.0)
        (event,) = rig.evidence
        assert ("bounced", mail(0).marker, NAME) == (event.kind, event.marker, event.provider)
        assert "ann@example.com" == event.recipient
        assert EPOCH_S + 300.1 == pytest.approx(event.at, abs=1e-3)
        assert {} == rig.arrivals

    with_vendor(body, {**fault("lie", then={"bounce_after_s": 300}), **EVENTS})


def test_lie_meets_a_share() -> None:
    async def body(rig: Rig) -> None:
        outcomes = await rig.send_many(300)

        assert 1.0 == shares(outcomes, Accepted)
        assert 0.8 == pytest.approx(len(rig.arrivals) / 300, abs=0.06)

    with_vendor(body, fault("lie", rate=0.2, then="drop"))


def test_delivery_is_reported_after_a_delay() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await trio.sleep_until(5.0)
        assert [] == rig.evidence
        await trio.sleep_until(5.2)
        assert ["delivered"] == [event.kind for event in rig.evidence]

    with_vendor(body, EVENTS)


# Keys and questions

KEYED = {"idempotency_window_s": 100}


def test_repetition_with_the_same_key_gets_the_same_answer() -> None:
    async def body(rig: Rig) -> None:
        first = await rig.send(0)
        second = await rig.send(0)

        assert first == second == Accepted("primary-0-1")
        assert {0: [0.1]} == rig.arrivals
        assert 100 == rig.client.capabilities.idempotency_window_s
        await trio.sleep_until(101.0)
        assert Accepted("primary-0-3") == await rig.send(0)
        assert 2 == len(rig.arrivals[0])
        assert 1 == rig.truth.duplicates

    with_vendor(body, KEYED)


def test_without_keys_a_repetition_is_a_duplicate() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await rig.send(0)
        assert 1 == rig.truth.duplicates

    with_vendor(body)


def test_key_with_another_payload_is_refused() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        outcome = await rig.send(0, text="Other.\n")

        assert isinstance(outcome, Rejected)
        assert Scope.MESSAGE is outcome.scope
        assert "409" in outcome.reason.text
        assert {0: [0.1]} == rig.arrivals

    with_vendor(body, KEYED)


def test_refusal_comes_before_the_key() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await trio.sleep_until(10.0)
        assert isinstance(await rig.send(0, text="Other.\n"), Deferred)

    with_vendor(body, {**KEYED, **fault("errors", at_s=10, rate=1.0)})


def test_what_was_refused_is_no_repetition() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Deferred)
        assert isinstance(await rig.send(0), Deferred)
        await trio.sleep_until(50.0)
        assert Accepted("primary-0-3") == await rig.send(0)

    with_vendor(body, {**KEYED, **fault("errors", for_s=50, rate=1.0)})


def test_doubt_is_settled_by_the_key() -> None:
    async def body(rig: Rig) -> None:
        assert isinstance(await rig.send(0), Uncertain)
        await trio.sleep_until(70.0)
        assert Accepted("primary-0-1") == await rig.send(0)
        assert {0: [0.1]} == rig.arrivals

    with_vendor(body, {**KEYED, **fault("stall", for_s=10, rate=1.0)})


def test_key_of_a_request_in_progress() -> None:
    async def body(rig: Rig) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.send, 0)
            await trio.sleep(1.0)
            session: Any = await rig.client.connect()
            outcome = await session.send(mail(0))
            assert isinstance(outcome, Uncertain)
            assert 409 == outcome.reason.code
        assert {0: [5.0]} == rig.arrivals
        assert Accepted("primary-0-1") == rig.sent[0]

    with_vendor(body, {**KEYED, **fault("slow", latency_s=5)})


SEARCH = {"search_lag_s": 60}


def test_look_up_finds_after_its_lag() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        marker = mail(0).marker

        assert 60 == rig.client.capabilities.look_up_lag_s
        assert isinstance(await rig.client.look_up(marker), NotFound)
        await trio.sleep_until(61.0)
        assert Found("primary-0-1") == await rig.client.look_up(marker)
        assert isinstance(await rig.client.look_up(mail(1).marker), NotFound)
        assert 1 == rig.truth.attempts

    with_vendor(body, SEARCH)


def test_look_up_finds_what_the_vendor_lied_about() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await trio.sleep_until(61.0)
        assert isinstance(await rig.client.look_up(mail(0).marker), Found)

    with_vendor(body, {**SEARCH, **fault("lie", for_s=10, then="drop")})


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (fault("refuse"), "connection refused"),
        (fault("dns", answer="slow"), "no connection in time"),
        (fault("tls", why="name"), "certificate"),
        (fault("auth"), "credentials"),
        (fault("errors", rate=1.0), "simulated error"),
        (fault("stall", rate=1.0), "no answer in time"),
        (fault("slow", latency_s=31), "no answer in time"),
        (fault("ambiguous", rate=1.0, accepted=1.0), "connection lost"),
        (fault("garbage", rate=1.0), "garbage"),
    ],
)
def test_look_up_meets_the_same_faults(plan: dict[str, Any], words: str) -> None:
    async def body(rig: Rig) -> None:
        found = await rig.client.look_up("0" * 32)

        assert isinstance(found, LookUpFailed)
        assert words in found.reason.text

    with_vendor(body, {**SEARCH, **plan})


# Death


def test_call_that_dies_before_the_body_is_there_leaves_nothing() -> None:
    async def body(rig: Rig) -> None:
        for number in range(200):
            await rig.die(number, after_s=0.05)
        await trio.sleep(10.0)
        # Half way through, every second body has arrived.
        assert 0.5 == pytest.approx(len(rig.arrivals) / 200, abs=0.1)
        assert all(len(times) == 1 for times in rig.arrivals.values())

    with_vendor(body)


@pytest.mark.parametrize(
    ("plan", "out_s"),
    [(fault("slow", latency_s=5), 5.0), (fault("stall", rate=1.0), 0.1)],
    ids=["slow", "stall"],
)
def test_call_that_dies_after_the_body_goes_out_at_its_time(
    plan: dict[str, Any], out_s: float
) -> None:
    async def body(rig: Rig) -> None:
        await rig.die(0, after_s=1.0)
        await trio.sleep_until(30.0)
        assert {0: [out_s]} == rig.arrivals
        assert {} == rig.sent
        assert ("arrived", NAME, 0) == rig.observer.calls[-1]

    with_vendor(body, plan)


@pytest.mark.parametrize("keeps", [True, False])
def test_call_that_dies_in_the_queue(keeps: bool) -> None:
    async def body(rig: Rig) -> None:
        await rig.send_many(1)
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(rig.die, number, 1.5)
        await trio.sleep_until(30.0)
        assert (6 if keeps else 2) == len(rig.arrivals)

    with_vendor(body, fault("capacity", per_s=1, keeps_abandoned=keeps))


def test_vendor_outlives_the_process() -> None:
    async def body(rig: Rig) -> None:
        await rig.send(0)
        await rig.send(0)
        rig.client = client_of(rig.vendor, rig.observer)

        assert Accepted("primary-0-1") == await rig.send(0)
        assert isinstance(await rig.send(1), Deferred)
        assert {0: [0.1]} == rig.arrivals

    with_vendor(body, {**KEYED, "quota": {"per_minute": 3}})


# Poison


def test_poison_that_every_provider_refuses() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.poison[1] = "refused_everywhere"

        assert isinstance(await rig.send(0), Accepted)
        outcome = await rig.send(1)
        assert isinstance(outcome, Rejected)
        assert Scope.MESSAGE is outcome.scope
        assert {} == rig.truth.rejected

    with_vendor(body)


def test_poison_that_hangs_is_bounded_by_the_adapter() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.poison[1] = "hang_worker"

        assert isinstance(await rig.send(1), Uncertain)
        assert ANSWER_WITHIN_S == pytest.approx(rig.took_s[1])
        await trio.sleep(1000.0)
        assert {} == rig.arrivals

    with_vendor(body)


def test_poison_that_crashes_actors_is_like_any_other_to_a_vendor() -> None:
    async def body(rig: Rig) -> None:
        rig.truth.poison[1] = "crash_actor"
        assert isinstance(await rig.send(1), Accepted)

    with_vendor(body)


# Several at once


def test_faults_overlap_and_end() -> None:
    faults = [
        {"kind": "slow", "at_s": 0, "for_s": 20, "latency_s": 2},
        {"kind": "errors", "at_s": 10, "for_s": 20, "rate": 1.0},
    ]

    async def body(rig: Rig) -> None:
        seen = []
        for number, at_s in enumerate([0, 9, 11, 25, 40]):
            await trio.sleep_until(at_s)
            outcome = await rig.send(number)
            seen.append((isinstance(outcome, Accepted), round(rig.took_s[number], 3)))
        assert [(True, 2.0), (True, 2.0), (False, 2.0), (False, 0.1), (True, 0.1)] == seen

    with_vendor(body, {**FLAT, "faults": faults})
