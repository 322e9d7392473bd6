"""A wall clock that is wrong when a process starts: the whole gateway in virtual time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mailactors.config import Config
from mailactors.model.outcome import Deferred, Phase, Reason, Scope, Uncertain
from mailactors.observe.alarms import AlarmKind
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
    wait_for_states,
)

HOUR_S = 3600.0
LOST = Uncertain(Phase.FINAL, Reason("the connection was lost"))
GREY = Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 30.0)
HOLDING = {"mail": {"on_uncertain": "hold", "expires_after_s": 8 * HOUR_S}}


class Machine:
    """A spool's file, and a wall clock that somebody sets while no process runs."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.clock = SetClock()
        self._path = folder / "spool.db"
        self._config = config

    @contextlib.asynccontextmanager
    async def process(
        self, *, set_by_s: float = 0.0, after_s: float = 0.0
    ) -> AsyncIterator[Gateway]:
        """Set the clock, let time pass, and run a gateway."""
        self.clock.ahead_s += set_by_s
        await trio.sleep(after_s)
        ports = dataclasses.replace(make_ports(), clock=self.clock)
        with open_store(self._path) as store:
            async with running(self._config, store, ports) as gateway:
                yield gateway


class SetClock(VirtualClock):
    """A wall clock that somebody sets."""

    ahead_s = 0.0

    def wall_time(self) -> float:
        return super().wall_time() + self.ahead_s


async def lose_one(gateway: Gateway) -> None:
    """Submit a message whose attempt is uncertain."""
    provider(gateway, "only").behaviour.script.append(LOST)
    await gateway.door.submit(letter())
    await wait_for_states(gateway, uncertain=1)


@pytest.mark.parametrize(
    ("set_by_s", "away_s"), [(-HOUR_S, 1.0), (-HOUR_S, 550.0), (-24 * HOUR_S, 300.0)]
)
async def test_a_key_is_not_repeated_by_a_clock_that_was_set_back(
    set_by_s: float, away_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    only = simulated(idempotency_window_s=600)
    machine = Machine(tmp_path, make_config({"only": only}, streams=HOLDING))
    async with machine.process() as gateway:
        await lose_one(gateway)
    for _ in range(2):  # the second process knows no more than the first
        async with machine.process(set_by_s=set_by_s, after_s=away_s) as gateway:
            provider(gateway, "only").behaviour.is_refusing = True
            await trio.sleep(max(5.0, 650 - trio.current_time()))
            provider(gateway, "only").behaviour.is_refusing = False
            await trio.sleep(BELIEVED_AFTER_S + 600)

            assert not provider(gateway, "only").received
            assert states(await status(gateway, "1")) == ["held"]
        set_by_s = 0.0


async def test_a_key_is_repeated_after_a_start_by_a_clock_that_is_right(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    only = simulated(idempotency_window_s=600)
    machine = Machine(tmp_path, make_config({"only": only}, streams=HOLDING))
    async with machine.process() as gateway:
        await lose_one(gateway)
    async with machine.process(after_s=300) as gateway:
        await wait_for_states(gateway, sent=1)

        assert 1 == len(provider(gateway, "only").received)


async def test_a_deadline_is_no_later_for_a_clock_that_was_set_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    streams = {"mail": {"expires_after_s": 500}}
    machine = Machine(tmp_path, make_config({"only": simulated()}, streams=streams))
    async with machine.process() as gateway:
        provider(gateway, "only").behaviour.script.extend([GREY] * 10)
        await gateway.door.submit(letter())
        await wait_for_states(gateway, deferred=1)
    async with machine.process(set_by_s=-HOUR_S) as gateway:
        provider(gateway, "only").behaviour.script.extend([GREY] * 1000)
        await wait_for_states(gateway, expired=1)

        assert 499 <= trio.current_time() < 520
        journal = gateway.ports.journal
        assert isinstance(journal, NotingJournal)
        assert [AlarmKind.CLOCK_JUMPED] == [
            each["kind"] for each in journal.named("watchdog.alarm")
        ]


async def test_content_is_remembered_no_longer_by_a_clock_that_was_set_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    machine = Machine(tmp_path, make_config({"only": simulated()}))
    async with machine.process() as gateway:
        first = await gateway.door.submit(letter(key=None, by_content=True))
        await wait_for_states(gateway, sent=1)
    async with machine.process(set_by_s=-HOUR_S) as gateway:
        again = await gateway.door.submit(letter(key=None, by_content=True))
        await trio.sleep(61)
        other = await gateway.door.submit(letter(key=None, by_content=True))

        assert first.id == again.id != other.id


async def test_a_clock_that_was_set_back_is_believed_at_last(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    machine = Machine(tmp_path, make_config({"only": simulated()}))
    async with machine.process() as gateway:
        await gateway.door.submit(letter())
        await wait_for_states(gateway, sent=1)
    async with machine.process(set_by_s=-HOUR_S) as gateway:
        before = gateway.ports.clock.wall_time()
        await trio.sleep(BELIEVED_AFTER_S + 30)
        after = gateway.ports.clock.wall_time()

        assert EPOCH_S <= before < EPOCH_S + 1
        assert EPOCH_S - HOUR_S <= after < EPOCH_S


async def test_no_lookup_counts_by_a_clock_that_was_set_ahead(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    only = simulated(look_up_lag_s=50)
    machine = Machine(tmp_path, make_config({"only": only}, streams=HOLDING))
    async with machine.process() as gateway:
        await lose_one(gateway)
    async with machine.process(set_by_s=HOUR_S, after_s=2) as gateway:
        await wait_for_states(gateway, sent=1)

        # Two that found nothing, the first a lag after the loss, the second a lag after the first.
        assert 100 <= trio.current_time() < 110
