"""A stream's window on its backlog: what no free lane may take makes room for what one may."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mailactors.dispatch import parking
from mailactors.dispatch.claims import WINDOW
from mailactors.model.message import Address
from mailactors.model.outcome import Accepted, Deferred, Outcome, Reason, Rejected, Scope
from mailactors.observe.alarms import AlarmKind
from mailactors.providers.port import Mail
from mailactors.wiring import Gateway
from tests.gateways import (
    NotingJournal,
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    wait_for_states,
)

SPAM = "spam"
STUCK = 1_200
"""More than a window."""


def refuse_spam(mail: Mail) -> Outcome:
    if mail.content.subject == SPAM:
        return Rejected(Scope.MESSAGE, Reason("we take none of that", 550))
    return Accepted("42")


def config(**primary: Any) -> Any:
    return make_config({"primary": simulated(**primary), "secondary": simulated()})


async def submit_stuck(gateway: Gateway, count: int = STUCK) -> None:
    """Submit what the secondary refuses for good."""
    secondary = provider(gateway, "secondary").behaviour
    secondary.script.extend([refuse_spam] * (20 * STUCK))
    for n in range(count):
        await gateway.door.submit(letter(f"stuck-{n}", subject=SPAM))


async def submit_others(gateway: Gateway) -> None:
    for n in range(10):
        await gateway.door.submit(letter(f"other-{n}", to=(Address("ann@example.org"),)))


async def pending(gateway: Gateway) -> dict[str, int]:
    return (await gateway.spool.read(lambda spool: spool.pending_counts()))["transactional"]


async def sent_by_secondary(gateway: Gateway, count: int, within_s: float) -> None:
    with trio.fail_after(within_s):
        while True:
            ledger = await gateway.spool.read(lambda spool: spool.ledger())
            if ledger.states.get("sent", 0) >= count:
                return
            await trio.sleep(0.1)


@pytest.mark.slow
async def test_a_day_that_is_used_up_blocks_nothing_behind_it(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(config(quota={"per_day": 5}), store) as gateway:
            await submit_stuck(gateway)
            await trio.sleep(60)
            assert provider(gateway, "primary").calls == 5
            await submit_others(gateway)
            await sent_by_secondary(gateway, 15, within_s=10)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["paused", "dead", "disabled", "slow", "mute"])
async def test_a_lane_that_takes_nothing_blocks_nothing_behind_it(
    fault: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(config(), store) as gateway:
            lane, behaviour = gateway.lanes["primary"], provider(gateway, "primary").behaviour
            match fault:
                case "paused":
                    lane.pause()
                case "dead":
                    behaviour.is_refusing = True
                case "disabled":
                    behaviour.script.append(Rejected(Scope.PROVIDER, Reason("suspended", 535)))
                    await gateway.door.submit(letter("first"))
                    await trio.sleep(1)
                case "slow":
                    behaviour.latency_s = 7.0  # its breaker stays closed
                case "mute":
                    behaviour.latency_s = 3600.0
            await submit_stuck(gateway)
            await trio.sleep(30)
            before = (await gateway.spool.read(lambda spool: spool.ledger())).states.get("sent", 0)
            await submit_others(gateway)
            await sent_by_secondary(gateway, before + 10, within_s=15)


@pytest.mark.slow
async def test_what_was_parked_goes_out_as_soon_as_its_lane_opens(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(config(), store) as gateway:
            gateway.lanes["primary"].pause()
            await submit_stuck(gateway)
            await trio.sleep(100)
            ready = (await gateway.spool.read(lambda spool: spool.pending_counts()))[
                "transactional"
            ]
            assert ready["ready"] >= STUCK - WINDOW
            gateway.lanes["primary"].resume()
            await wait_for_states(gateway, within_s=20, sent=STUCK)


@pytest.mark.slow
async def test_what_was_parked_is_recalled_by_the_next_process(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(config(), store) as gateway:
            gateway.lanes["primary"].pause()
            await submit_stuck(gateway)
            await trio.sleep(100)
        async with running(config(), store) as gateway:
            await wait_for_states(gateway, within_s=20, sent=STUCK)


@pytest.mark.slow
async def test_a_stream_whose_lanes_are_all_shut_parks_nothing(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(config(), store) as gateway:
            for lane in gateway.lanes.values():
                lane.pause()
            for n in range(STUCK):
                await gateway.door.submit(letter(str(n)))
            await trio.sleep(100)
            leased = (await gateway.spool.read(lambda spool: spool.pending_counts()))[
                "transactional"
            ]
            assert leased["leased"] >= WINDOW // 2
            for lane in gateway.lanes.values():
                lane.resume()
            await wait_for_states(gateway, within_s=20, sent=STUCK)


@pytest.mark.slow
async def test_what_waits_beside_an_idle_lane_is_an_alarm(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "decide_parking", lambda _sizes, _free: ())
    with open_store() as store:
        async with running(config(), store) as gateway:
            gateway.lanes["primary"].pause()
            await submit_stuck(gateway)
            await submit_others(gateway)
            await trio.sleep(120)

            journal = gateway.ports.journal
            assert isinstance(journal, NotingJournal)
            alarms = journal.named("watchdog.alarm")
            assert {each["kind"] for each in alarms} == {AlarmKind.PASSED_BY.value}
            assert {each["detail"] for each in alarms} == {"provider secondary is idle"}
            assert all(each["age_s"] > 60 for each in alarms)


async def test_what_is_only_deferred_by_the_secondary_makes_room_as_well(
    autojump_clock: MockClock,
) -> None:
    busy = Deferred(Scope.PROVIDER, Reason("busy", 503))
    with open_store() as store:
        async with running(config(), store) as gateway:
            gateway.lanes["primary"].pause()
            provider(gateway, "secondary").behaviour.script.extend([busy] * 5)
            for n in range(5):
                await gateway.door.submit(letter(f"stuck-{n}"))
            await submit_others(gateway)
            await sent_by_secondary(gateway, 10, within_s=10)
