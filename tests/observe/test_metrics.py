"""Metrics: what a scrape sees of a gateway at work."""

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from mailactors.intake.submission import SubmissionRejectedError
from mailactors.model.message import Address
from mailactors.model.outcome import Deferred, Phase, Reason, Scope, Uncertain
from mailactors.observe.metrics import expose
from mailactors.wiring import Gateway
from tests.gateways import (
    EPOCH_S,
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    submit,
    wait_for_states,
)

LOST = Uncertain(Phase.FINAL, Reason("the connection was lost"))
BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))


async def scrape(gateway: Gateway) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and labels, as a Prometheus would read them."""
    text = (await expose(gateway)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_submissions_attempts_and_decisions_are_counted(autojump_clock: MockClock) -> None:
    config = make_config({"primary": simulated(), "secondary": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(BUSY)
            await submit(gateway, 3)
            await submit(gateway, 1)
            with pytest.raises(SubmissionRejectedError):
                await gateway.door.submit(letter("bad", to=(Address("nobody"),)))
            await wait_for_states(gateway, sent=3)
            seen = await scrape(gateway)

    def of(name: str, **labels: str) -> float:
        return seen[name, tuple(sorted(labels.items()))]

    assert 3 == of("mailactors_submissions_total", result="accepted")
    assert 1 == of("mailactors_submissions_total", result="replayed")
    assert 1 == of("mailactors_submissions_total", result="rejected")
    assert 1 == of("mailactors_attempts_total", provider="primary", outcome="deferred")
    assert 1 == of("mailactors_attempts_total", provider="secondary", outcome="accepted")
    assert 1 == of("mailactors_retry_decision_seconds_count")
    assert 1 == of("mailactors_retry_recorded_seconds_count")
    assert 1_000_000 == of("mailactors_limiter_permits", provider="primary")
    assert 0 == of("mailactors_limiter_next_permit_seconds", provider="primary")
    assert 0 == of("mailactors_ledger_imbalance")
    assert 1 == of("mailactors_breaker_state", provider="primary", state="closed")
    assert 0 == of("mailactors_breaker_state", provider="primary", state="open")
    assert 0 == of("mailactors_actor_crashes_total", actor="dispatcher")
    assert 0 < of("mailactors_commit_commands_count")


async def test_depth_and_age_of_what_waits_are_shown(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(streams={"otp": {}, "bulk": {}}), store) as gateway:
            for lane in gateway.lanes.values():
                lane.pause()
            await submit(gateway, 2, stream="bulk")
            await trio.sleep(30)
            seen = await scrape(gateway)

    assert 2 == seen["mailactors_pending", (("state", "queued"), ("stream", "bulk"))]
    assert 30 <= seen["mailactors_oldest_pending_seconds", (("stream", "bulk"),)] < 31
    leased = (("state", "queued"), ("stream", "bulk"))
    assert 30 <= seen["mailactors_oldest_in_state_seconds", leased] < 31
    assert 30 <= seen["mailactors_unmoved_in_state_seconds", leased] < 31
    assert 1 == seen["mailactors_paused", (("provider", "primary"),)]


async def test_what_is_scheduled_has_a_depth_and_no_age(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(streams={"otp": {}, "bulk": {}}), store) as gateway:
            for lane in gateway.lanes.values():
                lane.pause()
            await submit(gateway, 2, stream="bulk", send_at=EPOCH_S + 60.0)
            await trio.sleep(30)
            before = await scrape(gateway)
            await trio.sleep(40)
            after = await scrape(gateway)

    scheduled = (("state", "scheduled"), ("stream", "bulk"))
    assert 2 == before["mailactors_pending", scheduled]
    ages = ("oldest_pending", "oldest_in_state", "unmoved_in_state")
    assert not {name for name, _ in before} & {f"mailactors_{age}_seconds" for age in ages}
    queued = (("state", "queued"), ("stream", "bulk"))
    assert ("mailactors_pending", scheduled) not in after
    assert 10 <= after["mailactors_oldest_in_state_seconds", queued] < 11
    assert 9 <= after["mailactors_unmoved_in_state_seconds", queued] < 11
    assert 10 <= after["mailactors_oldest_pending_seconds", (("stream", "bulk"),)] < 11


async def test_risks_are_counted_by_stream_and_provider(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(streams={"otp": {}, "bulk": {}}), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([LOST] * 3)
            await submit(gateway, 3, stream="bulk")
            await wait_for_states(gateway, sent=3)
            seen = await scrape(gateway)

    of_primary = (("provider", "primary"), ("stream", "bulk"))
    assert 3 == seen["mailactors_declared_risks_total", ()]
    assert 3 == seen["mailactors_declared_risks_by_provider_total", of_primary]


async def test_an_imbalance_is_a_number(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await submit(gateway, 3)
            await wait_for_states(gateway, sent=3)
            store._db.execute("UPDATE sums SET value = 4 WHERE name = 'accepted'")
            seen = await scrape(gateway)

    assert 1 == seen["mailactors_ledger_imbalance", ()]


async def test_no_label_is_a_clients(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter("canary", to=(Address("canary@example.com"),)))
            await wait_for_states(gateway, sent=1)

            assert b"canary" not in await expose(gateway)


async def test_ends_and_the_time_of_attempts_are_counted(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await submit(gateway, 3)
            await wait_for_states(gateway, sent=3)
            text = (await expose(gateway)).decode()

    assert 'mailactors_deliveries_final_total{state="sent"} 3.0' in text
    assert 'mailactors_deliveries_final_total{state="bounced"} 0.0' in text
    assert 'mailactors_attempt_seconds_count{provider="primary"} 3.0' in text
    assert 'mailactors_attempt_seconds_count{provider="tertiary"} 0.0' in text
