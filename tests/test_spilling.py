"""A route's order is a preference: a healthy primary is not passed by for a moment's wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

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


def limited(quota: dict[str, Any], **tables: Any) -> Any:
    """Return a configuration with a limited primary and an unlimited secondary."""
    return make_config(
        {"primary": simulated(quota=quota), "secondary": simulated()},
        **tables,
    )


async def test_a_batch_of_two_seconds_worth_stays_with_the_primary(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with open_store() as store:
        async with running(limited({"per_s": 50}), store) as gateway:
            await submit(gateway, 100)
            await wait_for_states(gateway, sent=100)
            by_secondary = provider(gateway, "secondary").calls

    assert 0 == by_secondary
    assert trio.current_time() <= 2.5


async def test_poisson_arrivals_well_below_the_quota_stay_with_the_primary(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gaps = random.Random(1)
    with open_store() as store:
        async with running(limited({"per_s": 50}), store) as gateway:
            for number in range(200):
                await trio.sleep(gaps.expovariate(10.0))
                await gateway.door.submit(letter(str(number)))
            await wait_for_states(gateway, sent=200)
            by_secondary = provider(gateway, "secondary").calls

    assert 0 == by_secondary


async def test_what_has_waited_for_long_enough_goes_by_the_next_lane(
    autojump_clock: trio.testing.MockClock,
) -> None:
    streams = {"mail": {"spill_after_s": 3.0}}
    with open_store() as store:
        config = limited({"per_s": 2, "burst": 1}, streams=streams)
        async with running(config, store) as gateway:
            await submit(gateway, 100)
            await wait_for_states(gateway, sent=100)
            took_s, by_primary = trio.current_time(), provider(gateway, "primary").calls

    assert 6 <= by_primary <= 8
    assert 3.0 <= took_s <= 3.5


@pytest.mark.parametrize("tables", [{}, {"streams": {"otp": {}}}], ids=["default", "named"])
async def test_otp_does_not_wait(
    autojump_clock: trio.testing.MockClock, tables: dict[str, Any]
) -> None:
    with open_store() as store:
        async with running(limited({"per_s": 2, "burst": 1}, **tables), store) as gateway:
            await submit(gateway, 20, stream="otp")
            await wait_for_states(gateway, sent=20)
            took_s = trio.current_time()

    assert took_s <= 0.5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda gateway: gateway.lanes["primary"].pause(),
        lambda gateway: setattr(provider(gateway, "primary").behaviour, "is_refusing", True),
    ],
    ids=["paused", "refusing"],
)
async def test_nobody_waits_for_a_lane_that_is_not_well(
    autojump_clock: trio.testing.MockClock, spoil: Callable[[Any], None]
) -> None:
    with open_store() as store:
        async with running(limited({"per_s": 50}), store) as gateway:
            spoil(gateway)
            await submit(gateway, 40)
            await wait_for_states(gateway, sent=40)
            took_s = trio.current_time()

    assert took_s <= 0.5


async def test_nobody_waits_for_a_quota_that_is_used_up_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with open_store() as store:
        async with running(limited({"per_day": 5}), store) as gateway:
            await submit(gateway, 30)
            await wait_for_states(gateway, sent=30)
            took_s, by_primary = trio.current_time(), provider(gateway, "primary").calls

    assert 5 == by_primary
    assert took_s <= 0.5


async def test_a_backlog_uses_every_lane(autojump_clock: trio.testing.MockClock) -> None:
    config = limited({"per_s": 50})
    with open_store() as store:
        async with running(config, store) as gateway:
            for lane in gateway.lanes.values():
                lane.pause()
            await submit(gateway, 1500)
            await trio.sleep(10.0)
            began_s = trio.current_time()
            for lane in gateway.lanes.values():
                lane.resume()
            await wait_for_states(gateway, sent=1500)
            took_s = trio.current_time() - began_s

    assert took_s <= 2.0
