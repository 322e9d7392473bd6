"""Alarms: they ring once, at the time that they were last set to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
import trio.testing

from mailactors.runtime.ports import SystemClock
from mailactors.runtime.timer import Timer


@contextlib.asynccontextmanager
async def kept() -> AsyncIterator[tuple[Timer, list[float]]]:
    rung: list[float] = []
    alarm = Timer(lambda: rung.append(trio.current_time()), SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        await trio.testing.wait_all_tasks_blocked()
        yield alarm, rung
        nursery.cancel_scope.cancel()


async def test_an_alarm_rings_once(autojump_clock: trio.testing.MockClock) -> None:
    async with kept() as (alarm, rung):
        alarm.set(3.0)
        await trio.sleep(100)

    assert rung == [3.0]


async def test_an_alarm_that_is_put_off_rings_later_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with kept() as (alarm, rung):
        alarm.set(3.0)
        await trio.sleep(2)
        alarm.set(9.0)
        await trio.sleep(100)

    assert rung == [9.0]


async def test_an_alarm_that_is_set_sooner_rings_sooner_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with kept() as (alarm, rung):
        alarm.set(9.0)
        await trio.sleep(2)
        alarm.set(3.0)
        await trio.sleep(100)

    assert rung == [3.0]


async def test_an_alarm_for_a_time_that_has_passed_rings_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with kept() as (alarm, rung):
        await trio.sleep(5)
        alarm.set(3.0)
        await trio.sleep(1)

    assert rung == [5.0]


async def test_an_alarm_that_is_set_to_never_is_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with kept() as (alarm, rung):
        alarm.set(3.0)
        alarm.set(float("inf"))
        await trio.sleep(100)

    assert rung == []


async def test_an_alarm_may_be_set_before_it_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rung: list[float] = []
    alarm = Timer(lambda: rung.append(trio.current_time()), SystemClock())
    alarm.set(3.0)

    with trio.move_on_after(10):
        await alarm.run()

    assert rung == [3.0]
