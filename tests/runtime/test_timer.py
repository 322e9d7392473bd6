"""Timers call back once, at the time that they were last set to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
import trio.testing

from mailactors.runtime.ports import SystemClock
from mailactors.runtime.timer import Timer


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Timer, list[float]]]:
    calls: list[float] = []
    timer = Timer(lambda: calls.append(trio.current_time()), SystemClock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await trio.testing.wait_all_tasks_blocked()
        yield timer, calls
        nursery.cancel_scope.cancel()


async def test_a_timer_calls_back_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as (timer, calls):
        timer.set(3.0)
        await trio.sleep(100)

    assert calls == [3.0]


async def test_a_postponed_timer_calls_back_later_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as (timer, calls):
        timer.set(3.0)
        await trio.sleep(2)
        timer.set(9.0)
        await trio.sleep(100)

    assert calls == [9.0]


async def test_a_timer_that_is_set_earlier_calls_back_earlier_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as (timer, calls):
        timer.set(9.0)
        await trio.sleep(2)
        timer.set(3.0)
        await trio.sleep(100)

    assert calls == [3.0]


async def test_a_timer_for_a_past_time_calls_back_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as (timer, calls):
        await trio.sleep(5)
        timer.set(3.0)
        await trio.sleep(1)

    assert calls == [5.0]


async def test_a_timer_that_is_set_to_never_does_not_call_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as (timer, calls):
        timer.set(3.0)
        timer.set(float("inf"))
        await trio.sleep(100)

    assert calls == []


async def test_a_timer_may_be_set_before_it_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[float] = []
    timer = Timer(lambda: calls.append(trio.current_time()), SystemClock())
    timer.set(3.0)

    with trio.move_on_after(10):
        await timer.run()

    assert calls == [3.0]
