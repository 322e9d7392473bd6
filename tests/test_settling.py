"""Uncertain outcomes, settled by evidence: the whole gateway in virtual time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mailactors.config import Config
from mailactors.dispatch import settler, settling
from mailactors.dispatch.settling import DoubtAction
from mailactors.model.message import Address
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
)
from mailactors.providers.port import Provider
from mailactors.providers.simulated import SimulatedProvider, SimulatedSettings
from mailactors.runtime.belief import BELIEVED_AFTER_S
from mailactors.runtime.ports import Ports
from mailactors.spool.port import Doubt, Event, RecordDeliveryEvent, Suppress
from mailactors.wiring import Gateway, build
from tests.gateways import (
    EPOCH_S,
    CrashPlan,
    NotingJournal,
    VirtualClock,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    simulated,
    states,
    status,
    submit,
    wait_for_states,
)

LOST = Uncertain(Phase.FINAL, Reason("no answer"))
"""It was accepted, but the answer is lost."""
VANISHED = Uncertain(Phase.UNKNOWN, Reason("no answer"))
"""It was not accepted, but the gateway cannot know."""
BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))
TWO = (Address("a@example.com"), Address("b@example.com"))


def keyed(window_s: float = 3600.0, **settings: Any) -> dict[str, Any]:
    return simulated(idempotency_window_s=window_s, **settings)


def asked(lag_s: float = 20.0, **settings: Any) -> dict[str, Any]:
    return simulated(look_up_lag_s=lag_s, **settings)


def one(first: dict[str, Any], **tables: Any) -> Config:
    return make_config({"primary": first, "secondary": simulated()}, **tables)


def stream(**settings: Any) -> dict[str, Any]:
    return {"streams": {"mail": settings}}


async def timeline(gateway: Gateway, seq: int = 1) -> tuple[Event, ...]:
    return await gateway.spool.read(lambda spool: spool.timeline(seq))


async def last_rule(gateway: Gateway, seq: int = 1) -> str:
    found = [event.facts["rule"] for event in await timeline(gateway, seq) if event.facts]
    rule: str = found[-1]
    return rule


async def risks(gateway: Gateway) -> int:
    return (await gateway.spool.read(lambda spool: spool.ledger())).declared_risks


def copies(gateway: Gateway) -> int:
    return sum(len(provider(gateway, name).received) for name in gateway.lanes)


async def until_asked(vendor: SimulatedProvider, count: int) -> None:
    """Wait until a vendor was asked so often."""
    with trio.fail_after(600):
        while True:
            if vendor.look_ups >= count:
                return
            await trio.sleep(0.1)


# By key


@pytest.mark.parametrize("first", [LOST, VANISHED])
async def test_a_lost_message_is_repeated_by_its_key_and_arrives_once(
    first: Outcome, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(one(keyed()), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(first)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await wait_for_states(gateway, within_s=5, sent=1)
            message = await status(gateway, "1")
            event = (await timeline(gateway))[-1]

            assert ("primary", 2, 0) == (
                message.deliveries[0].provider,
                message.attempts,
                message.declared_risks,
            )
            assert copies(gateway) == 1
            assert ("key", "accepted") == (event.facts["kind"], event.facts["outcome"])
            assert event.facts["provider_message_id"].startswith("primary-")
            assert provider(gateway, "secondary").calls == 0


@pytest.mark.parametrize(
    "answer",
    [
        BUSY,
        Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 300.0),
        Rejected(Scope.MESSAGE, Reason("too large", 552)),
        Rejected(Scope.RECIPIENT, Reason("no such user", 550)),
        VANISHED,
    ],
)
async def test_whatever_else_a_repetition_is_told_the_first_attempt_stays_uncertain(
    answer: Outcome, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(one(keyed(), **stream(uncertain_wait_s=600)), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([LOST, answer, answer])
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            seen = set()
            while (message := await status(gateway, "1")).attempts < 3:
                seen |= set(states(message))
                await trio.sleep(0.005)
            await wait_for_states(gateway, within_s=30, sent=1)
            tried = [event for event in await timeline(gateway) if event.kind == "attempt"]

            assert seen == {"uncertain", "sending"}
            assert [1, 2, 3] == [event.facts["repeats"] for event in tried[1:]]
            assert (1, 0) == (copies(gateway), await risks(gateway))
            assert provider(gateway, "secondary").calls == 0


@pytest.mark.slow
async def test_repetitions_become_rarer(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = one(keyed(), **stream(uncertain_wait_s=300))
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([VANISHED] * 7)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            at = [event.at for event in await timeline(gateway) if event.kind == "attempt"]
            waits = [after - before for before, after in itertools.pairwise(at)]

            assert len(waits) == 7
            # The first comes at a fixed time; from then on they double, within a quarter.
            assert all(after > 1.1 * before for before, after in itertools.pairwise(waits[1:]))


async def test_a_resend_does_not_wait_for_the_end_of_a_long_window(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(keyed(86_400)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            provider(gateway, "primary").behaviour.is_refusing = True
            await trio.sleep(58)
            assert states(await status(gateway, "1")) == ["uncertain"]
            await wait_for_states(gateway, within_s=5, sent=1)

            assert (await status(gateway, "1")).deliveries[0].provider == "secondary"
            assert await risks(gateway) == 1
            assert [("transactional", "primary", 1)] == store._db.execute(
                "SELECT * FROM risks"
            ).fetchall()


@pytest.mark.slow
async def test_a_stream_that_holds_is_repeated_until_the_window_ends(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        config = one(keyed(3600), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary").behaviour
            primary.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            primary.is_refusing = True
            await trio.sleep(600)
            assert states(await status(gateway, "1")) == ["uncertain"]
            primary.is_refusing = False
            await wait_for_states(gateway, within_s=400, sent=1)

            assert (1, 0) == (copies(gateway), await risks(gateway))


@pytest.mark.slow
async def test_after_the_window_nothing_is_repeated(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = one(keyed(100), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            primary.behaviour.is_refusing = True
            await wait_for_states(gateway, held=1)
            held_at_s = trio.current_time()
            primary.behaviour.is_refusing = False
            await trio.sleep(400)

            assert 85 < held_at_s < 92
            assert (1, 1) == (primary.calls, copies(gateway))


async def test_a_recipient_suppressed_meanwhile_gets_no_repeat(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = one(keyed(600), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await gateway.spool.ask(Suppress("bob@example.com", "asked", "test"))
            await wait_for_states(gateway, within_s=70, held=1)

            assert provider(gateway, "primary").calls == 1


async def test_one_recipient_of_two_that_is_suppressed_stops_the_repetition(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        config = one(keyed(600), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter(to=TWO))
            await wait_for_states(gateway, uncertain=2)
            await gateway.spool.ask(Suppress("b@example.com", "asked", "test"))
            await wait_for_states(gateway, within_s=70, held=2)

            assert provider(gateway, "primary").calls == 1


@pytest.mark.slow
async def test_past_its_deadline_nothing_is_repeated(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(one(keyed(), **stream(uncertain_wait_s=900)), store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(VANISHED)
            await gateway.door.submit(letter(expires_in_s=30))
            await wait_for_states(gateway, uncertain=1)
            primary.behaviour.is_refusing = True
            await wait_for_states(gateway, within_s=31, held=1)
            primary.behaviour.is_refusing = False
            await trio.sleep(400)

            assert states(await status(gateway, "1")) == ["held"]
            assert primary.calls == 1
            assert "deadline" in await last_rule(gateway)


async def test_a_vendor_that_refuses_some_in_its_answer_is_believed(
    autojump_clock: MockClock,
) -> None:
    gone = Rejected(Scope.RECIPIENT, Reason("no such user", 550))
    mixed = Accepted("42", refused={"b@example.com": gone})
    with open_store() as store:
        async with running(one(keyed()), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([VANISHED, mixed])
            await gateway.door.submit(letter(to=TWO))
            await wait_for_states(gateway, within_s=30, sent=1, bounced=1)

            assert states(await status(gateway, "1")) == ["sent", "bounced"]


async def test_what_a_repetition_left_open_is_not_repeated_with_fewer(
    autojump_clock: MockClock,
) -> None:
    busy = Deferred(Scope.RECIPIENT, Reason("busy", 450))
    mixed = Accepted("42", refused={"b@example.com": busy})
    with open_store() as store:
        async with running(one(keyed()), store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.extend([VANISHED, mixed])
            await gateway.door.submit(letter(to=TWO))
            await wait_for_states(gateway, within_s=30, sent=1, uncertain=1)
            await trio.sleep(50)
            assert primary.calls == 2
            await wait_for_states(gateway, within_s=20, sent=2)

            assert await risks(gateway) == 1


# By look-up


async def test_what_a_look_up_finds_is_sent(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(one(asked(20.0)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await trio.sleep(19)
            assert provider(gateway, "primary").look_ups == 0
            await wait_for_states(gateway, within_s=3, sent=1)
            event = (await timeline(gateway))[-1]

            assert ("resolved", "look-up", "primary", "primary-1", 1) == (
                event.kind,
                *(event.facts[name] for name in ("kind", "provider", "provider_message_id")),
                event.facts["looks"],
            )
            assert (1, 0) == (copies(gateway), await risks(gateway))


async def test_two_look_ups_that_find_nothing_let_it_go_again_without_a_risk(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(asked(20.0)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=50, sent=1)
            ended_s = trio.current_time()
            events = await timeline(gateway)
            looks = [event.at - EPOCH_S for event in events if event.facts.get("kind") == "look-up"]

            assert 40 <= ended_s < 43
            assert provider(gateway, "primary").look_ups == 2
            assert looks[1] - looks[0] >= 20
            assert (1, 0) == (copies(gateway), await risks(gateway))
            assert "two look-ups found nothing: not accepted" in [
                event.facts.get("rule") for event in events
            ]


async def test_nothing_is_sent_again_before_the_second_look_up_came_back(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        config = one(asked(20.0), **stream(uncertain_wait_s=5))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await until_asked(primary, 1)
            primary.behaviour.latency_s = 25.0
            await until_asked(primary, 2)
            await trio.sleep(24)
            assert states(await status(gateway, "1")) == ["uncertain"]
            assert provider(gateway, "secondary").calls == 0
            primary.behaviour.latency_s = 0.01
            await wait_for_states(gateway, within_s=5, sent=1)

            assert await risks(gateway) == 0


async def test_a_vendor_that_answers_no_look_up_leaves_it_to_the_preference(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(asked(20.0)), store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(LOST)
            primary.behaviour.is_mute = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await trio.sleep(78)
            assert states(await status(gateway, "1")) == ["uncertain"]
            await wait_for_states(gateway, within_s=35, sent=1)
            tried = [event.facts for event in await timeline(gateway) if event.kind == "asked"]

            assert await risks(gateway) == 1
            assert "no answer within 30 s" in tried[0]["rule"]
            assert (1, 0) == (primary.look_ups - 1, primary.look_ups - len(tried))


async def test_the_wait_counts_from_the_last_look_up_that_was_answered(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        config = one(asked(20.0), **stream(uncertain_wait_s=100))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await until_asked(primary, 1)
            await trio.sleep(1)
            answered_s = trio.current_time()
            primary.behaviour.is_refusing = True
            await trio.sleep(98)
            assert states(await status(gateway, "1")) == ["uncertain"]
            await wait_for_states(gateway, within_s=5, sent=1)

            assert 98 < trio.current_time() - answered_s < 105
            assert await risks(gateway) == 1


@pytest.mark.slow
async def test_a_held_message_is_looked_up_until_it_is_found(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = one(asked(20.0), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(LOST)
            primary.behaviour.is_mute = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, held=1)
            primary.behaviour.is_mute = False
            await trio.sleep(1200)
            await wait_for_states(gateway, within_s=10, sent=1)

            assert (1, 0) == (copies(gateway), await risks(gateway))


@pytest.mark.slow
async def test_what_is_held_is_never_sent_by_itself(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = one(asked(20.0), **stream(on_uncertain="hold"))
        async with running(config, store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(VANISHED)
            primary.behaviour.is_mute = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, held=1)
            primary.behaviour.is_mute = False
            await trio.sleep(3_000)

            assert states(await status(gateway, "1")) == ["held"]
            assert 3 < primary.look_ups < 9
            assert (1, 0) == (primary.calls, copies(gateway))


async def test_past_the_deadline_it_is_held_and_proof_lets_it_expire(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(asked(20.0)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter(expires_in_s=30))
            await wait_for_states(gateway, within_s=33, held=1)
            await wait_for_states(gateway, within_s=4000, expired=1)

            assert (0, 0) == (copies(gateway), await risks(gateway))


async def test_a_marker_that_another_recipient_left_there_proves_nothing(
    autojump_clock: MockClock,
) -> None:
    """The first is accepted, the second deferred; then the second's own attempt is lost."""
    later = Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 60.0)
    mixed = Accepted("42", refused={"b@example.com": later})
    with open_store() as store:
        async with running(one(asked(20.0)), store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.extend([mixed, VANISHED])
            await gateway.door.submit(letter(to=TWO))
            await wait_for_states(gateway, sent=1, uncertain=1)
            await wait_for_states(gateway, sent=2)

            assert await risks(gateway) == 1
            secondary = provider(gateway, "secondary")
            assert [("a@example.com",), ("b@example.com",)] == [
                who for _, who in (*primary.received, *secondary.received)
            ]


async def test_two_recipients_lost_at_two_providers_are_settled_apart(
    autojump_clock: MockClock,
) -> None:
    elsewhere = Uncertain(Phase.UNKNOWN, Reason("?"), refused={"b@example.com": BUSY})
    config = make_config({"primary": asked(20.0), "secondary": asked(10.0), "third": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(elsewhere)
            provider(gateway, "secondary").behaviour.script.append(LOST)
            await gateway.door.submit(letter(to=TWO))
            await wait_for_states(gateway, uncertain=2)
            message = await status(gateway, "1")
            assert ["primary", "secondary"] == [each.provider for each in message.deliveries]
            await wait_for_states(gateway, within_s=120, sent=2)

            found = [e.facts["provider"] for e in await timeline(gateway) if e.kind == "resolved"]
            assert sorted(found) == ["primary", "secondary"]
            assert (2, 0) == (copies(gateway), await risks(gateway))


@pytest.mark.slow
async def test_a_provider_without_answers_delays_no_other_providers_doubts(
    autojump_clock: MockClock,
) -> None:
    config = make_config(
        {"mute": asked(20.0), "primary": asked(20.0), "secondary": simulated()},
        streams={"sick": {"route": ["mute", "secondary"]}, "well": {"route": ["primary"]}},
    )
    with open_store() as store:
        async with running(config, store) as gateway:
            mute = provider(gateway, "mute").behaviour
            mute.is_mute = True
            mute.script.extend([LOST] * 300)
            await submit(gateway, 300, stream="sick")
            await trio.sleep(10)
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter("other", stream="well"))
            await trio.sleep(25)

            assert states(await status(gateway, "other")) == ["sent"]
            assert provider(gateway, "mute").look_ups <= 40
            await wait_for_states(gateway, within_s=300, sent=301)


class SetClock(VirtualClock):
    """A wall clock that somebody sets."""

    ahead_s = 0.0

    def wall_time(self) -> float:
        return super().wall_time() + self.ahead_s


@pytest.mark.parametrize("step_s", [600.0, -600.0])
@pytest.mark.parametrize("first", [asked(20.0), keyed(600.0)])
async def test_a_clock_that_was_set_long_ago_delays_and_risks_nothing(
    first: dict[str, Any], step_s: float, autojump_clock: MockClock
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    with open_store() as store:
        async with running(one(first), store, ports) as gateway:
            await trio.sleep(1)
            clock.ahead_s = step_s
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter("0"))
            await trio.sleep(BELIEVED_AFTER_S + 700)
            provider(gateway, "primary").behaviour.script.append(VANISHED)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1, sent=1)
            await wait_for_states(gateway, within_s=50, sent=2)

            assert (await status(gateway, "1")).declared_risks == 0


# By events


async def report(
    gateway: Gateway, kind: Any, who: str = "bob@example.com", by: str = "primary"
) -> None:
    message = await status(gateway, "1")
    await gateway.record_delivery_event(RecordDeliveryEvent(message.id, by, who, kind, EPOCH_S))


@pytest.mark.parametrize(("kind", "expected"), [("delivered", "sent"), ("bounced", "bounced")])
@pytest.mark.parametrize("preference", ["resend", "hold"])
async def test_a_delivery_event_settles(
    kind: str, expected: str, preference: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(**stream(on_uncertain=preference)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            if preference == "hold":
                await wait_for_states(gateway, held=1)
            for _ in range(2):
                await report(gateway, kind)
            await trio.sleep(100)
            kinds = [event.kind for event in await timeline(gateway)]

            assert states(await status(gateway, "1")) == [expected]
            assert (kinds.count("resolved"), await risks(gateway)) == (
                1 + (preference == "hold"),
                0,
            )
            assert provider(gateway, "secondary").calls == 0


async def test_an_event_of_another_provider_or_address_tells_nothing(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(**stream(on_uncertain="hold")), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, held=1)
            before = await timeline(gateway)
            await report(gateway, "delivered", by="secondary")
            await report(gateway, "delivered", who="eve@example.com")
            await gateway.record_delivery_event(
                RecordDeliveryEvent("none", "primary", "bob@example.com", "bounced", EPOCH_S)
            )

            assert states(await status(gateway, "1")) == ["held"]
            assert before == await timeline(gateway)


async def test_an_event_about_what_was_sent_is_kept_as_evidence(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            for kind in ("bounced", "bounced", "delivered"):
                await report(gateway, kind)
            (kept,) = store._db.execute("SELECT evidence FROM deliveries").fetchall()

            assert states(await status(gateway, "1")) == ["sent"]
            assert (str(kept[0]).count("bounced"), str(kept[0]).count("delivered")) == (1, 1)
            assert [e.kind for e in await timeline(gateway)].count("evidence") == 2


async def test_an_event_that_comes_during_a_repetition_counts_when_that_is_lost(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(keyed(latency_s=5.0)), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([LOST, VANISHED])
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await wait_for_states(gateway, sending=1)
            await report(gateway, "delivered")
            await wait_for_states(gateway, within_s=12, sent=1)

            assert provider(gateway, "primary").calls == 2


async def test_an_event_that_comes_while_another_provider_fails_stops_the_next(
    autojump_clock: MockClock,
) -> None:
    slow = make_config(
        {"primary": simulated(), "secondary": simulated(latency_s=5.0), "tertiary": simulated()}
    )
    with open_store() as store:
        async with running(slow, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            provider(gateway, "secondary").behaviour.script.append(BUSY)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            await wait_for_states(gateway, sending=1)
            await report(gateway, "delivered")
            await wait_for_states(gateway, sent=1)
            await trio.sleep(100)

            assert (await status(gateway, "1")).deliveries[0].provider == "primary"
            assert copies(gateway) == 1
            assert provider(gateway, "tertiary").calls == 0


async def test_an_event_stops_what_waits_to_be_sent_again(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            for lane in list(gateway.lanes.values())[1:]:
                lane.pause()
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            gateway.lanes["primary"].pause()
            await wait_for_states(gateway, leased=1)
            await report(gateway, "delivered")
            for lane in gateway.lanes.values():
                lane.resume()
            await trio.sleep(100)

            assert states(await status(gateway, "1")) == ["sent"]
            assert copies(gateway) == 1


# Crashes


@contextlib.asynccontextmanager
async def process(
    path: Path,
    config: Config,
    vendors: dict[str, SimulatedProvider],
    faults: CrashPlan | None = None,
) -> AsyncIterator[tuple[Gateway, Callable[[], None]]]:
    """Run a gateway that dies as a process does, by the function given. Vendors outlive it."""

    def make(name: str, settings: Any, ports: Ports) -> Provider:
        if name not in vendors:
            assert isinstance(settings, SimulatedSettings)
            vendors[name] = SimulatedProvider(name, settings, ports.clock, ports.entropy)
        return vendors[name]

    with open_store(path) as store:
        gateway = build(config, make_ports(faults), store, make)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            yield gateway, nursery.cancel_scope.cancel
            nursery.cancel_scope.cancel()


WAYS = {
    "by key": (keyed(), LOST, 1, 0),
    "by key, not accepted": (keyed(), VANISHED, 1, 0),
    "found": (asked(20.0), LOST, 1, 0),
    "not found": (asked(20.0), VANISHED, 1, 0),
    "resend": (simulated(), LOST, 2, 1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "at_s", [0.05, 0.5, 1.02, 1.05, 10.0, 20.02, 20.5, 30.0, 39.9, 40.5, 59.0, 60.5, 61.05]
)
async def test_a_restart_in_the_middle_forgets_nothing(
    at_s: float, way: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    first, outcome, copies_expected, risks_expected = WAYS[way]
    vendors: dict[str, SimulatedProvider] = {}
    path = tmp_path / "spool.db"
    async with process(path, one(first), vendors) as (gateway, kill):
        provider(gateway, "primary").behaviour.script.append(outcome)
        await gateway.door.submit(letter())
        await trio.sleep(at_s)
        kill()
    async with process(path, one(first), vendors) as (gateway, kill):
        await wait_for_states(gateway, within_s=200, sent=1)
        risks_declared = await risks(gateway)
        kill()

    arrived = sum(len(vendor.received) for vendor in vendors.values())
    assert arrived - 1 <= risks_declared
    assert (copies_expected, risks_expected) == (arrived, risks_declared)


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_on_its_way_at_a_kill_is_settled_as_well(
    way: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    first, _, _, risks_expected = WAYS[way]
    vendors: dict[str, SimulatedProvider] = {}
    path, config = tmp_path / "spool.db", one({**first, "latency_s": 0.5})
    async with process(path, config, vendors) as (gateway, kill):
        await gateway.door.submit(letter())
        await wait_for_states(gateway, sending=1)
        kill()
    async with process(path, config, vendors) as (gateway, kill):
        await wait_for_states(gateway, within_s=200, sent=1)
        risks_declared = await risks(gateway)
        kill()

    assert (1, risks_expected) == (sum(len(v.received) for v in vendors.values()), risks_declared)


async def test_what_a_look_up_found_out_is_not_asked_again_after_a_restart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    vendors: dict[str, SimulatedProvider] = {}
    path, config = tmp_path / "spool.db", one(asked(100.0))
    async with process(path, config, vendors) as (gateway, kill):
        provider(gateway, "primary").behaviour.script.append(VANISHED)
        await gateway.door.submit(letter())
        await trio.sleep(110)
        kill()
    assert vendors["primary"].look_ups == 1
    async with process(path, config, vendors) as (gateway, kill):
        await wait_for_states(gateway, within_s=110, sent=1)
        kill()

    assert vendors["primary"].look_ups == 2
    # Nobody watched the clock between the newest row, the first look-up's, and the new process.
    assert 210 <= trio.current_time() < 215


POINTS = {
    "settler__doubt": 2,
    "settler__looked": 2,
    "settler__outcome": 2,
    "dispatcher__outcome": 1,
    "limiter__attempt": 2,
    "breaker__done": 2,
    "provider__attempt": 2,
    "provider__intended": 2,
    "provider__sent": 2,
    "spool__commit": 3,
    "spool__committed": 3,
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", WAYS)
async def test_an_actor_that_dies_in_the_middle_loses_and_repeats_nothing(
    way: str, point: str, autojump_clock: MockClock
) -> None:
    first, outcome, *_ = WAYS[way]
    plan = CrashPlan()
    with open_store() as store:
        async with running(one(first), store, make_ports(plan)) as gateway:
            provider(gateway, "primary").behaviour.script.append(outcome)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            plan.times[point.replace("__", ".")] = POINTS[point]
            await wait_for_states(gateway, within_s=400, sent=1)

            assert copies(gateway) - 1 <= await risks(gateway)
            assert gateway.lanes.in_flight == []


@pytest.mark.parametrize("actor", ["settler", "dispatcher", "provider:primary", "spool"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("every_s", [0.013, 7.0])
async def test_actors_that_die_again_and_again_lose_and_repeat_nothing(
    every_s: float, way: str, actor: str, autojump_clock: MockClock
) -> None:
    first, outcome, *_ = WAYS[way]
    with open_store() as store:
        async with running(one(first), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(outcome)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            for _ in range(5):
                gateway.supervisor.crash(actor)
                await trio.sleep(every_s)
            await wait_for_states(gateway, within_s=400, sent=1)

            assert copies(gateway) - 1 <= await risks(gateway)
            assert gateway.lanes.in_flight == []


async def test_a_doubt_that_we_fail_at_does_not_stop_the_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = settling.decide_doubt

    def failing(doubt: Doubt, *rest: Any) -> DoubtAction:
        if doubt.seq == 1:
            raise ZeroDivisionError
        return decide(doubt, *rest)

    monkeypatch.setattr(settler, "decide_doubt", failing)
    with open_store() as store:
        async with running(one(keyed()), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([LOST, LOST, LOST])
            await submit(gateway, 3)
            await wait_for_states(gateway, within_s=60, sent=2, uncertain=1)

            assert isinstance(gateway.ports.journal, NotingJournal)
            assert gateway.ports.journal.named("settler.fault")
            assert [] == gateway.ports.journal.named("actor.crashed")
            monkeypatch.setattr(settler, "decide_doubt", decide)
            await wait_for_states(gateway, within_s=600, sent=3)


# Without evidence


@pytest.mark.parametrize(
    ("first", "settings", "within_s", "expected"),
    [
        (LOST, {"on_uncertain": "resend"}, 2, "sent"),
        (LOST, {"on_uncertain": "resend", "failover": "after_retries"}, 2, "sent"),
        (VANISHED, {"on_uncertain": "resend", "expires_after_s": 30}, 2, "sent"),
        (LOST, {"on_uncertain": "hold"}, 2, "held"),
    ],
)
async def test_where_no_evidence_can_come_the_preference_decides_at_once(
    first: Outcome,
    settings: dict[str, Any],
    within_s: float,
    expected: str,
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(simulated(), **stream(**settings)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(first)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=within_s, **{expected: 1})

            assert int(expected == "sent") == await risks(gateway)


async def test_where_delivery_events_may_come_they_are_waited_for(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(simulated(delivery_events=True)), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=2, uncertain=1)
            await trio.sleep(57)
            assert states(await status(gateway, "1")) == ["uncertain"]
            await wait_for_states(gateway, within_s=5, sent=1)


async def test_lanes_that_all_lose_their_answers_repeat_it_ever_more_rarely(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(one(simulated()), store) as gateway:
            for lane in gateway.lanes:
                provider(gateway, lane).behaviour.script.extend([LOST] * 100)
            await gateway.door.submit(letter())
            await trio.sleep(60)
            in_a_minute = copies(gateway)
            await trio.sleep(3540)
            in_an_hour = copies(gateway)

            assert 2 <= in_a_minute <= 12
            assert in_a_minute < in_an_hour <= 60
            assert 0 <= 1 + await risks(gateway) - in_an_hour <= 1  # one may wait


async def test_what_was_on_its_way_when_the_process_died_is_decided_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    config = one(simulated(latency_s=60.0))
    with open_store(tmp_path / "spool.db") as store:
        gateway = build(config, make_ports(), store)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sending=1)
            nursery.cancel_scope.cancel()
    with open_store(tmp_path / "spool.db") as store:
        async with running(config, store) as gateway:
            await wait_for_states(gateway, within_s=3, sent=1)

            assert (1, 1) == (provider(gateway, "secondary").calls, await risks(gateway))
