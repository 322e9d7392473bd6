"""What is deferred, made due by hand: the whole gateway in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mailactors.dispatch.flush import flush_deferred
from mailactors.dispatch.lane import BreakerState
from mailactors.model.message import Address
from mailactors.model.outcome import Deferred, Reason, Scope
from mailactors.wiring import Gateway
from tests.gateways import (
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    submit,
    wait_for_states,
)

BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))
AGES = Deferred(Scope.RECIPIENT, Reason("again in 999999 hours", 450), 999_999 * 3600.0)
FULL = Deferred(Scope.DOMAIN, Reason("not now", 421))
ONE = {"only": simulated()}


async def flush(gateway: Gateway, by: str = "") -> int:
    streams = gateway.config.streams
    return await flush_deferred(gateway.spool, gateway.ports.clock, streams, by)


def refusing(gateway: Gateway, is_refusing: bool) -> None:
    for name in gateway.lanes:
        provider(gateway, name).behaviour.is_refusing = is_refusing


async def test_after_an_outage_a_reset_and_a_flush_send_at_once_what_waited(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(ONE), store) as gateway:
            refusing(gateway, True)
            await submit(gateway, 50)
            await trio.sleep(3600)
            refusing(gateway, False)
            for reply in gateway.lanes["only"].reset():
                await reply.wait(5)
            assert gateway.lanes["only"].breaker_status.value.state is BreakerState.CLOSED
            await flush(gateway)  # of those that the dice left deferred; the others are leased
            await wait_for_states(gateway, within_s=10, sent=50)


async def test_a_flush_is_paced_by_the_quota(autojump_clock: MockClock) -> None:
    config = make_config({"only": simulated(quota={"per_s": 5})})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "only").behaviour.script.extend([AGES] * 50)
            await submit(gateway, 50)
            await wait_for_states(gateway, deferred=50)
            began_s = trio.current_time()
            assert await flush(gateway) == 50
            await wait_for_states(gateway, within_s=15, sent=50)

            assert trio.current_time() - began_s > 8


@pytest.mark.parametrize(("life_s", "within_s"), [(86400.0, 4100), (600.0, 560)])
async def test_what_a_vendor_asks_for_outlives_no_message(
    life_s: float, within_s: float, autojump_clock: MockClock
) -> None:
    config = make_config(ONE, streams={"mail": {"expires_after_s": life_s}})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "only").behaviour.script.append(AGES)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)
            await wait_for_states(gateway, within_s=within_s, sent=1)


async def test_a_flush_lifts_what_a_vendor_asked_for(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(ONE), store) as gateway:
            provider(gateway, "only").behaviour.script.append(AGES)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)
            await flush(gateway)
            await wait_for_states(gateway, within_s=2, sent=1)


async def test_a_flush_sends_nothing_before_its_time(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(ONE), store) as gateway:
            later: dict[str, Any] = {"send_at": gateway.ports.clock.wall_time() + 3600}
            await gateway.door.submit(letter(**later))

            assert await flush(gateway) == 0
            await trio.sleep(60)
            assert provider(gateway, "only").calls == 0


async def test_a_flush_lifts_the_rest_of_a_domain_that_deferred_everything(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(ONE), store) as gateway:
            behaviour = provider(gateway, "only").behaviour
            behaviour.script.extend([FULL] * 400)
            to = (Address("bob@slow.example"),)
            for n in range(100):
                await gateway.door.submit(letter(str(n), to=to))
            await trio.sleep(600)
            behaviour.script.clear()
            await flush(gateway)
            await wait_for_states(gateway, within_s=10, sent=100)


async def test_a_flush_may_be_of_one_provider(autojump_clock: MockClock) -> None:
    config = make_config({"primary": simulated(), "secondary": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(AGES)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)

            assert [0, 1] == [await flush(gateway, by) for by in ("secondary", "primary")]
            await wait_for_states(gateway, within_s=2, sent=1)
