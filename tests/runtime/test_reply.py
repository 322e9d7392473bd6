"""Reply slots and cells."""

import contextlib

import pytest
import trio
import trio.testing

from mailactors.runtime.cell import Cell
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply


async def test_every_waiter_gets_the_value(autojump_clock: trio.testing.MockClock) -> None:
    reply = Reply[int]()
    got: list[int] = []

    async def wait() -> None:
        got.append(await reply.wait(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(1)
        reply.resolve(7)

    assert got == [7, 7]


async def test_a_failure_is_raised_at_the_waiter() -> None:
    reply = Reply[int]()
    reply.fail(ActorCrashedError("gone"))

    with pytest.raises(ActorCrashedError, match="gone"):
        await reply.wait(1)


async def test_a_deadline_passes(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(DeadlineError, match="within 5 s"):
        await Reply[int]().wait(5)

    assert trio.current_time() == 5


async def test_each_waiter_has_a_deadline_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reply = Reply[int]()
    ended: list[tuple[float, float]] = []

    async def wait(within_s: float) -> None:
        with contextlib.suppress(DeadlineError):
            await reply.wait(within_s)
        ended.append((within_s, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 9)
        await trio.sleep(1)
        nursery.start_soon(wait, 2)
        nursery.start_soon(wait, 20)
        await trio.sleep(11)
        reply.resolve(1)

    assert ended == [(2, 3.0), (9, 9.0), (20, 12.0)]


async def test_waits_of_one_length_end_in_turn_whatever_was_answered_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replies = [Reply[int]() for _ in range(4)]
    late: list[tuple[int, float]] = []

    async def wait(number: int) -> None:
        try:
            await replies[number].wait(10)
        except DeadlineError:
            late.append((number, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for number, reply in enumerate(replies):
            nursery.start_soon(wait, number)
            await trio.sleep(1)
            if number in {0, 2}:
                reply.resolve(number)

    assert late == [(1, 11.0), (3, 13.0)]


async def test_a_wait_that_was_cancelled_takes_nothing_from_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reply = Reply[int]()
    got: list[int] = []

    async def wait() -> None:
        got.append(await reply.wait(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        with trio.move_on_after(1):
            await reply.wait(10)
        reply.resolve(7)

    assert got == [7]


async def test_the_first_answer_stands() -> None:
    reply = Reply[int]()
    reply.resolve(1)
    reply.fail(ActorCrashedError())
    reply.resolve(2)

    assert await reply.wait(1) == 1


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_follower_gets_what_the_leader_gets(is_late: bool) -> None:
    leader, follower = Reply[int](), Reply[int]()
    if is_late:
        leader.resolve(3)
        follower.follow(leader)
    else:
        follower.follow(leader)
        leader.resolve(3)

    assert follower.result() == 3


async def test_a_follower_fails_with_the_leader() -> None:
    leader, follower = Reply[int](), Reply[int]()
    follower.follow(leader)
    leader.fail(ActorCrashedError("gone"))

    with pytest.raises(ActorCrashedError):
        follower.result()


async def test_filling_calls_back_once() -> None:
    calls: list[int] = []
    reply = Reply[int](lambda: calls.append(1))

    reply.resolve(1)
    reply.resolve(2)

    assert calls == [1]


def test_a_cell_counts_changes_and_calls_its_listeners() -> None:
    cell = Cell("a")
    seen: list[str] = []
    cell.listen(lambda: seen.append(cell.value))

    cell.publish("b")
    cell.publish("b")
    cell.publish("c")

    assert (cell.value, cell.version, seen) == ("c", 2, ["b", "c"])


async def test_the_deadline_of_a_wait_that_was_cancelled_does_not_end_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reply = Reply[int]()
    with trio.move_on_after(1):
        await reply.wait(5)

    with pytest.raises(DeadlineError):
        await reply.wait(100)

    assert 101.0 == pytest.approx(trio.current_time())
