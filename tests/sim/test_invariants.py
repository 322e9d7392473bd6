"""Each invariant catches the defect that is planted for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from mailactors.dispatch import breaker, dispatcher, limiter, provider, retry
from mailactors.dispatch.attempt import Attempt
from mailactors.dispatch.lane import BreakerState, Lane
from mailactors.dispatch.quota import Quota
from mailactors.dispatch.routing import Waiting
from mailactors.intake.door import Door
from mailactors.intake.registry import RegistryActor, Submit
from mailactors.intake.submission import Submission
from mailactors.model.message import Address, Content, Envelope
from mailactors.model.outcome import Deferred, Outcome, Scope, Uncertain
from mailactors.providers.port import Mail
from mailactors.sim.run.observed import ObservedStore
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.vendor.call import Call
from mailactors.sim.vendor.client import VendorClient
from mailactors.sim.vendor.vendor import Vendor
from mailactors.sim.world.world import HashingJournal
from mailactors.spool.port import (
    Accept,
    Command,
    Expire,
    Expired,
    IdempotencyKey,
    Intend,
    Lease,
    Receipt,
    Recover,
    Result,
)
from mailactors.spool.store import commands, deliver, upkeep
from mailactors.wiring import Gateway
from tests.sim.makers import fault, run, small

pytestmark = pytest.mark.slow

DOWN = small(providers={"primary": fault("refuse", 3, 10), "secondary": {}})
QUIET = small(duration_s=5)


def invariants(scenario: Scenario) -> set[str]:
    return {violation.invariant for violation in run(scenario).violations}


@pytest.mark.parametrize("scenario", [DOWN, QUIET])
def test_no_violation_without_a_defect(scenario: Scenario) -> None:
    assert set() == invariants(scenario)


def test_receipt_without_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(_self: RegistryActor, submit: Submit) -> None:
        assert isinstance(submit.accept, Accept)
        submit.reply.resolve(Receipt(1, submit.accept.message.id, "", "", 0.0, False))

    monkeypatch.setattr(RegistryActor, "_handle", handle)

    assert "nothing accepted is lost" in invariants(QUIET)


def test_key_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(10_000))

    def key(_self: Door, _submission: Submission, now: float) -> IdempotencyKey:
        return IdempotencyKey("", str(next(count)), "", now + 60.0)

    monkeypatch.setattr(Door, "_key", key)

    assert "same key, one message" in invariants(small(traffic={"duplicate_submissions": 0.5}))


def test_uncertain_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = retry.decide_next

    def careless(
        lease: Any, recipients: Any, lane: str, outcome: Outcome, *rest: Any, **named: Any
    ) -> Any:
        if isinstance(outcome, Uncertain):
            outcome = Deferred(Scope.PROVIDER, outcome.reason)
        return decide(lease, recipients, lane, outcome, *rest, **named)

    monkeypatch.setattr(dispatcher, "decide_next", careless)
    plan = fault("ambiguous", 0, 20, rate=0.2, accepted=0.5)

    assert "no undeclared duplicate" in invariants(
        small(providers={"primary": plan, "secondary": {}})
    )


def after_commits(monkeypatch: pytest.MonkeyPatch, count: int, harm: str) -> None:
    """Let a statement change the spool behind everyone's back after so many commits."""
    commits = iter(range(1, 1_000_000))
    apply = ObservedStore.apply

    def harmed(self: ObservedStore, commands: Sequence[Command], now: float) -> list[Result]:
        results = apply(self, commands, now)
        if next(commits) == count:
            self._db.execute(harm)
        return results

    monkeypatch.setattr(ObservedStore, "apply", harmed)


def test_delivery_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    after_commits(monkeypatch, 200, "DELETE FROM deliveries WHERE seq = 5")

    assert "the ledger balances" in invariants(QUIET) | invariants(small())


def test_sent_that_is_ready_again(monkeypatch: pytest.MonkeyPatch) -> None:
    harm = "UPDATE deliveries SET state = 'ready' WHERE seq = 5"
    after_commits(monkeypatch, 200, harm)

    assert "one final state" in invariants(small())


def test_open_breaker_that_lets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(*_: Any) -> None:
        return None

    def go_down(self: limiter.LimiterActor, attempt: Attempt) -> None:
        self._lane.breaker_mailbox.put_nowait(attempt)

    monkeypatch.setattr(breaker, "decide_admit", admit)
    monkeypatch.setattr(limiter.LimiterActor, "_go_down", go_down)
    monkeypatch.setattr(Lane, "opens_at_s", lambda _self: 0.0)

    assert "an open breaker sends nothing" in invariants(DOWN)


def test_too_many_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "probes_free", lambda *_: 100)
    providers = {"primary": {"latency_s": {"median": 2.0}, **fault("refuse", 3, 4)}}

    assert "half open, few probes" in invariants(small(rate_per_s=20, providers=providers))


@pytest.mark.parametrize("quota", [{"per_minute": 60}, {"per_s": 5}])
def test_quota_over_admitted(quota: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    true_state = limiter.new_state
    config = {"providers": {"primary": {"quota": quota}}}
    scenario = small(config=config)
    honest = invariants(scenario)

    def generous(quota: Quota) -> limiter.Limiter:
        state = true_state(quota)
        state.interval_s *= 0.9
        for window in state.windows:
            window.count_max += 5
        return state

    monkeypatch.setattr(limiter, "new_state", generous)

    assert set() == honest
    assert "quotas hold in every window" in invariants(scenario)


def test_retry_after_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "asked_wait_s", lambda _outcome: 0.0)

    scenario = small(providers={"primary": {"quota": {"per_s": 3}}, "secondary": {}})

    assert "never before Retry-After" in invariants(scenario)


def test_send_without_an_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reckless(self: provider.ProviderActor, attempt: Attempt, _make: Any) -> None:
        session: Any = await self._lane.provider.connect()
        number, address = attempt.lease.seq - 1, "a@sender.example"
        content = Content(Address(address), subject=str(number))
        envelope = Envelope(address, ("b@example.com",))
        self._report(attempt, await session.send(Mail("", "", 0.0, envelope, content)))

    monkeypatch.setattr(provider.ProviderActor, "_attempt", reckless)
    monkeypatch.setattr(VendorClient, "take_ready", lambda _client: None)

    assert "no send without an intent" in invariants(QUIET)


def test_accepted_but_never_out(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Vendor.finish

    def lying(self: Vendor, call: Call, at_s: float) -> None:
        if call.number != 7:
            finish(self, call, at_s)

    monkeypatch.setattr(Vendor, "finish", lying)

    assert "sent means sent" in invariants(QUIET)


def test_outcome_that_gets_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    report: Callable[..., None] = provider.ProviderActor._report

    def forgetful(self: provider.ProviderActor, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.lease.seq == 5:
            del self._lane.underway[attempt.id]
        else:
            report(self, attempt, outcome)

    monkeypatch.setattr(provider.ProviderActor, "_report", forgetful)

    assert {"nothing is left in flight"} <= invariants(small(duration_s=5, horizon_s=30))


def test_actor_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(breaker, "decide_end", stumble)

    assert {"no actor dies by itself"} == invariants(QUIET)


def test_violation_comes_with_the_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    send = VendorClient.send

    async def twice(self: VendorClient, mail: Mail) -> Outcome:
        await send(self, mail)
        return await send(self, mail)

    monkeypatch.setattr(VendorClient, "send", twice)

    violation = run(QUIET).violations[0]

    assert "no undeclared duplicate" == violation.invariant
    assert violation.number >= 0
    assert any("accepted" in line for line in violation.timeline)


def test_session_is_given_back_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    intent_of = provider.intent_of

    def withdrawing(attempt: Attempt) -> Any:
        intent = intent_of(attempt)
        return msgspec.structs.replace(intent, epoch=-1) if intent.seq == 5 else intent

    monkeypatch.setattr(provider, "intent_of", withdrawing)

    report = run(small(duration_s=5, horizon_s=20))

    assert report.accepted - 1 == report.delivered
    assert {"final or held at the end"} == {each.invariant for each in report.violations}
    assert 1.0 > (report.attempts_per_message or 1.0)


def test_send_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    down = {"primary": fault("refuse", 0, 15)}
    config = {"streams": {"transactional": {"expires_after_s": 10}}}
    scenario = small(duration_s=5, providers=down, config=config)
    honest = invariants(scenario)

    def intend(db: Any, command: Intend, now: float) -> Result:
        return deliver.intend(db, command, now - 3600)

    def expire(_db: Any, _command: Expire, _now: float) -> Result:
        return Expired((), (), None)

    blind = {**commands.RULES} | {Intend: intend, Expire: expire}
    monkeypatch.setattr(commands, "RULES", blind)

    assert set() == honest
    assert "no send after the deadline" in invariants(scenario)


def test_message_that_nobody_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    push = Waiting.push

    def forgetful(self: Waiting, lease: Lease, lanes: tuple[str, ...], **more: Any) -> None:
        if lease.seq != 5:
            push(self, lease, lanes, **more)

    monkeypatch.setattr(Waiting, "push", forgetful)

    found = run(small(duration_s=5, horizon_s=60)).violations

    assert [("final or held at the end", 4)] == [(each.invariant, each.number) for each in found]


def test_message_that_waits_at_the_horizon() -> None:
    down = {"primary": fault("refuse", 3, 1e6)}
    expect = {"unfinished_max": 1000}
    scenario = small(duration_s=5, horizon_s=10, providers=down)
    allowed = small(duration_s=5, horizon_s=10, providers=down, expect=expect)

    assert {"final or held at the end"} == invariants(scenario)
    assert set() == invariants(allowed)


@pytest.mark.parametrize("for_s", [41.0, 81.0, 200.0])
def test_paused_provider_whose_slots_fill_at_once(for_s: float) -> None:
    """Thirty-two messages get their slots together, and connect in any order."""
    operations = [
        {"at_s": 90, "what": "pause:primary"},
        {"at_s": 90 + for_s, "what": "resume:primary"},
    ]
    crashes = [{"at_s": 120, "what": "actor:limiter:primary"}]
    plan: dict[str, Any] = {"primary": {}}
    scenario = small(
        duration_s=300, rate_per_s=1, providers=plan, operations=operations, crashes=crashes
    )

    assert [set()] * 5 == [judges_of(scenario, seed) for seed in range(1, 6)]


@pytest.mark.parametrize("for_s", [2.0, 10.0, 100.0])
def test_delivery_event_and_outcome_in_one_commit(for_s: float) -> None:
    plan = {
        "latency_s": {"median": 1.5, "sigma": 0.4},
        "delivery_events": {"delay_median_s": 1},
    }
    pause = {"kind": "pause", "at_s": 10, "for_s": for_s}
    scenario = small(duration_s=15, rate_per_s=4, providers={"primary": plan}, faults=[pause])

    assert [set()] * 5 == [judges_of(scenario, seed) for seed in range(1, 6)]


QUEUE = {"kind": "capacity", "at_s": 5, "for_s": 20, "per_s": 0.2, "keeps_abandoned": True}
STALL = {"kind": "stall", "at_s": 5, "for_s": 20, "rate": 0.5}


@pytest.mark.parametrize(
    "fault",
    [
        *(
            {"kind": "slow", "at_s": 5, "for_s": 20, "latency_s": s}
            for s in (61, 70, 100, 170, 900)
        ),
        QUEUE,
        STALL,
    ],
    ids=["slow61", "slow70", "slow100", "slow170", "slow900", "queue", "stall"],
)
@pytest.mark.parametrize("search_lag_s", [0, 2, 60])
def test_vendor_that_accepts_after_we_hung_up(fault: dict[str, Any], search_lag_s: int) -> None:
    """A look-up that finds nothing proves nothing before the vendor can have finished."""
    plan = {"search_lag_s": search_lag_s, "faults": [fault]}
    providers = {"primary": plan, "secondary": {}}

    found = run(small(duration_s=30, rate_per_s=2, horizon_s=6000, providers=providers))

    assert () == found.violations
    assert 0 == found.undeclared_duplicates


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_queue_across_a_step_of_the_clock(step_s: float) -> None:
    """Who waits longer is a matter of the monotonic clock."""
    clock = {"kind": "clock", "at_s": 20, "step_s": step_s}
    down = {"primary": fault("refuse", 15, 10)}
    scenario = small(duration_s=40, providers=down, faults=[clock], expect={"unfinished_max": 999})

    assert set() == invariants(scenario)


def test_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    push = Waiting.push

    def backwards(self: Waiting, lease: Lease, lanes: tuple[str, ...], **_: Any) -> None:
        push(self, msgspec.structs.replace(lease, due_at=-lease.due_at), lanes, is_first=True)

    providers = {"primary": {"quota": {"per_s": 3}}}
    config = {"providers": {"primary": {"quota": {"per_s": 2}}}}
    scenario = small(duration_s=60, rate_per_s=10, providers=providers, config=config)
    honest = invariants(scenario)
    monkeypatch.setattr(Waiting, "push", backwards)

    assert set() == honest
    assert "first come, first served" in invariants(scenario)


def test_probe_that_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    end = breaker.decide_end

    def forgetful(state: breaker.Breaker, settings: Any, *rest: Any, **named: Any) -> None:
        probes = set(state.probes_out)
        end(state, settings, *rest, **named)
        if state.state is BreakerState.HALF_OPEN:
            state.probes_out |= probes

    monkeypatch.setattr(breaker, "decide_end", forgetful)
    quick = {"latency_s": {"median": 0.01}, **fault("refuse", 3, 4)}
    scenario = small(providers={"primary": quick, "secondary": {}})

    assert "permits are back at rest" in invariants(scenario)


def test_panic_without_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    note = HashingJournal.note

    def discreet(self: HashingJournal, event: str, /, **facts: Any) -> None:
        if event != "attempt.panic":
            note(self, event, **facts)

    plan = fault("errors", 2, 20, rate=0.7)
    scenario = small(duration_s=20, providers={"primary": plan})
    honest = run(scenario)
    monkeypatch.setattr(HashingJournal, "note", discreet)

    assert () == honest.violations
    assert honest.panics > 0
    assert "an open breaker sends nothing" in invariants(scenario)


def test_stop_that_leaves_mail_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Gateway.stop

    async def hasty(self: Gateway) -> None:
        await stop(self)
        self.dispatcher.mailbox.put_nowait(Any)  # type: ignore[arg-type]  # any item will do

    monkeypatch.setattr(Gateway, "stop", hasty)

    assert "nothing is left over" in invariants(QUIET)


def test_uncertain_one_that_is_ready_again_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic mistake: what a dead process was sending is simply sent again."""
    recover = upkeep.recover

    def careless(db: Any, command: Recover, now: float) -> Result:
        db.run("UPDATE deliveries SET state = 'leased' WHERE state = 'sending'")
        return recover(db, command, now)

    monkeypatch.setattr(commands, "RULES", with_recover(careless))
    crashes = [{"at_s": 3.0, "what": "process", "every_s": 4.0}]
    scenario = small(rate_per_s=20, crashes=crashes)

    assert any("no undeclared duplicate" in judges_of(scenario, seed) for seed in range(50))


def with_recover(recover: Any) -> dict[type[Any], Any]:
    table: dict[type[Any], Any] = {**commands.RULES}
    return table | {Recover: recover}


def judges_of(scenario: Scenario, seed: int) -> set[str]:
    return {violation.invariant for violation in run(scenario, seed).violations}


def test_message_that_a_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = upkeep.recover

    def forgetful(db: Any, command: Recover, now: float) -> Result:
        db.run("DELETE FROM deliveries WHERE state = 'leased'")
        return recover(db, command, now)

    monkeypatch.setattr(commands, "RULES", with_recover(forgetful))
    crashes = [{"at_s": 3.0, "what": "process:provider.attempt", "every_s": 3.0}]

    found = invariants(small(crashes=crashes))

    assert found & {"the ledger balances", "nothing accepted is lost"}
