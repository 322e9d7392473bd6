"""A wall clock that is wrong for a while, or for good: the whole gateway in virtual time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mailactors.model.outcome import Accepted, Deferred, Outcome, Phase, Reason, Scope, Uncertain
from mailactors.observe.alarms import AlarmKind
from mailactors.providers.port import Mail
from mailactors.runtime.belief import BELIEVED_AFTER_S
from mailactors.wiring import Gateway
from tests.gateways import (
    EPOCH_S,
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

HOUR_S, DAY_S = 3600.0, 86400.0
GREY = Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 300.0)
LOST = Uncertain(Phase.FINAL, Reason("the connection was lost"))
ONE = {"only": simulated()}
LASTING_S = BELIEVED_AFTER_S + 30


class SetClock(VirtualClock):
    """A wall clock that somebody sets."""

    ahead_s = 0.0

    def wall_time(self) -> float:
        return super().wall_time() + self.ahead_s


def alarms(gateway: Gateway) -> list[str]:
    journal = gateway.ports.journal
    assert isinstance(journal, NotingJournal)
    return [f"{each['kind']}: {each['detail']}" for each in journal.named("watchdog.alarm")]


def until(gateway: Gateway, at_s: float) -> None:
    """Let the only provider greylist everything until a time."""

    def answer(_mail: Mail) -> Outcome:
        return GREY if trio.current_time() < at_s else Accepted("42")

    provider(gateway, "only").behaviour.script.extend([answer] * 10_000)


@pytest.mark.parametrize("step_s", [DAY_S, 400 * DAY_S])
@pytest.mark.parametrize("for_s", [4.0, 300.0])
async def test_nothing_expires_by_a_clock_that_has_just_jumped(
    step_s: float, for_s: float, autojump_clock: MockClock
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    config = make_config(ONE, streams={"mail": {"expires_after_s": HOUR_S}})
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            until(gateway, 500.0)
            receipts = await submit(gateway, 20)
            await wait_for_states(gateway, deferred=20)
            clock.ahead_s = step_s
            await trio.sleep(for_s)
            replays = await submit(gateway, 20)
            clock.ahead_s = 0.0

            assert [each.id for each in receipts] == [each.id for each in replays]
            await wait_for_states(gateway, within_s=900, sent=20)
            assert alarms(gateway) == [
                f"{AlarmKind.CLOCK_JUMPED}: it was set {step_s:,.0f} s ahead, not believed yet"
            ]
            await trio.sleep(120)
            assert [] == gateway.watch.alarms()


@pytest.mark.parametrize("for_s", [60.0, LASTING_S, HOUR_S])
async def test_retries_are_not_where_a_clock_put_them_that_was_an_hour_ahead(
    for_s: float, autojump_clock: MockClock
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    with open_store() as store:
        async with running(make_config(ONE), store, ports) as gateway:
            clock.ahead_s = HOUR_S
            await trio.sleep(for_s)
            until(gateway, trio.current_time() + 60)
            await submit(gateway, 5)
            await trio.sleep(30)
            clock.ahead_s = 0.0
            await wait_for_states(gateway, within_s=LASTING_S + 400, sent=5)


async def test_nor_are_they_after_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    clock = SetClock()
    clock.ahead_s = HOUR_S
    ports = dataclasses.replace(make_ports(), clock=clock)
    with open_store(tmp_path / "spool.db") as store:
        async with running(make_config(ONE), store, ports) as gateway:
            until(gateway, 1000.0)
            await submit(gateway, 5)
            await wait_for_states(gateway, deferred=5)
            at = EPOCH_S + 2 * HOUR_S
            await gateway.door.submit(letter("later", send_at=at))
    clock.ahead_s = 0.0
    with open_store(tmp_path / "spool.db") as store:
        async with running(make_config(ONE), store, ports) as gateway:
            await wait_for_states(gateway, within_s=400, sent=5, ready=1)
            assert trio.current_time() < 400
            await wait_for_states(gateway, within_s=2 * HOUR_S, sent=6)

            assert 2 * HOUR_S <= trio.current_time() < 2 * HOUR_S + 5


@pytest.mark.parametrize("step_s", [-DAY_S, -HOUR_S])
async def test_a_clock_that_is_set_back_delays_nothing_and_is_an_alarm(
    step_s: float, autojump_clock: MockClock
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    with open_store() as store:
        async with running(make_config(ONE), store, ports) as gateway:
            until(gateway, 1500.0)
            await submit(gateway, 20)
            await wait_for_states(gateway, deferred=20)
            clock.ahead_s = step_s
            await trio.sleep(60)

            assert alarms(gateway) == [
                f"{AlarmKind.CLOCK_JUMPED}: it was set {-step_s:,.0f} s back, not believed yet"
            ]
            await wait_for_states(gateway, within_s=1900, sent=20)
            assert [] == gateway.watch.alarms()
            assert 1 == len(alarms(gateway))


async def test_a_clock_that_is_believed_moves_what_is_scheduled(
    autojump_clock: MockClock,
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    with open_store() as store:
        async with running(make_config(ONE), store, ports) as gateway:
            at = gateway.ports.clock.wall_time() + 2 * HOUR_S
            await gateway.door.submit(letter(send_at=at))
            clock.ahead_s = HOUR_S
            await wait_for_states(gateway, within_s=HOUR_S + 5, sent=1)

            assert HOUR_S - 5 < trio.current_time() < HOUR_S + 5


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
async def test_what_is_uncertain_is_settled_as_if_nobody_had_set_the_clock(
    step_s: float, autojump_clock: MockClock
) -> None:
    clock = SetClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    config = make_config(
        {"primary": simulated(delivery_events=True), "secondary": simulated()},
        streams={"mail": {"uncertain_wait_s": 1200, "expires_after_s": 4 * HOUR_S}},
    )
    with open_store() as store:
        async with running(config, store, ports) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            clock.ahead_s = step_s
            await trio.sleep(4 if step_s > 0 else LASTING_S)
            assert states(await status(gateway, "1")) == ["uncertain"]
            clock.ahead_s = min(0.0, step_s)
            await wait_for_states(gateway, within_s=1300, sent=1)

            assert 1190 < trio.current_time() < 2000
