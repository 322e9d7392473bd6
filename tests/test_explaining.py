"""The timeline of what another provider took says why each one before it was passed over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio.testing

from mailactors.config import Config
from mailactors.dispatch.lane import BreakerState, BreakerStatus
from mailactors.observe.explain import explain, look
from mailactors.spool.port import Event, MessageStatus
from mailactors.wiring import Gateway
from tests.gateways import (
    EPOCH_S,
    letter,
    make_config,
    open_store,
    running,
    simulated,
    status,
    wait_for_states,
)

BOTH = {"primary": simulated(), "secondary": simulated()}
FAILING = {"primary": simulated(error_rate=1.0), "secondary": simulated()}
LIMITED = {"primary": simulated(quota={"per_s": 0.1}), "secondary": simulated()}


async def pause(gateway: Gateway) -> None:
    for reply in gateway.lanes["primary"].pause():
        await reply.wait(5.0)


async def open_breaker(gateway: Gateway) -> None:
    until_s = trio.current_time() + 5.0
    gateway.lanes["primary"].breaker_status.publish(BreakerStatus(BreakerState.OPEN, until_s))


async def use_the_permit(gateway: Gateway) -> None:
    await gateway.door.submit(letter("before"))
    await wait_for_states(gateway, sent=1)


async def nothing(_gateway: Gateway) -> None:
    pass


async def ask(gateway: Gateway, name: str) -> tuple[MessageStatus, tuple[Event, ...], str]:
    """Return a message, its timeline and the sentence on it."""
    message = await status(gateway, name)
    timeline = await gateway.spool.read(lambda spool: spool.timeline(message.seq))
    now_s = trio.current_time()
    here = look(message, gateway.lanes.plan(message.stream), gateway.lanes, now_s, EPOCH_S + now_s)
    return message, timeline, explain(message, timeline, here, EPOCH_S + now_s)


@pytest.mark.parametrize(
    ("providers", "prepare", "others", "expected"),
    [
        (BOTH, pause, 0, ("paused by an operator", None)),
        (BOTH, open_breaker, 0, ("breaker open", EPOCH_S + 5.0)),
        (LIMITED, use_the_permit, 1, ("no permit left of its quota", EPOCH_S + 10.0)),
        (FAILING, nothing, 0, ("tried in this round", None)),
    ],
    ids=["paused", "breaker", "quota", "failed"],
)
async def test_why_the_primary_was_passed_over_is_recorded(
    providers: dict[str, Any],
    prepare: Callable[[Gateway], Awaitable[None]],
    others: int,
    expected: tuple[str, float | None],
    autojump_clock: trio.testing.MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(providers), store) as gateway:
            await prepare(gateway)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1 + others)
            message, timeline, said = await ask(gateway, "1")

    (last,) = [each for each in timeline if each.facts.get("outcome") == "accepted"]
    (passed,) = last.facts["passed_over"]
    why, until = expected
    assert (passed["provider"], passed["why"]) == ("primary", why)
    assert passed["until"] == (None if until is None else pytest.approx(until, abs=0.5))
    assert message.deliveries[0].provider == "secondary"
    assert f"passed over: primary ({why}" in said


async def test_what_the_first_choice_takes_records_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(BOTH), store) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            _, timeline, said = await ask(gateway, "1")

    assert not any("passed_over" in each.facts for each in timeline)
    assert "passed over" not in said


async def test_what_waits_is_explained_by_its_lanes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    config: Config = make_config({"primary": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            await pause(gateway)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, leased=1)
            _, _, said = await ask(gateway, "1")

    assert said == "It is queued and waits for a provider: primary: paused by an operator."
