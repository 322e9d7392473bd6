"""Mailboxes: bounds, batches, and what survives an actor."""

from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mailactors.runtime.mailbox import Mailbox, MailboxFullError


def open_mailbox(capacity: int = 10, batch_max: int = 256) -> tuple[Mailbox[int], list[int]]:
    lost: list[int] = []
    return Mailbox("m", capacity, lambda item, _error: lost.append(item), batch_max), lost


async def test_items_come_out_in_the_order_they_went_in() -> None:
    mailbox, _ = open_mailbox()
    for item in (1, 2, 3):
        mailbox.put_nowait(item)

    await mailbox.wait()

    assert list(mailbox.take()) == [1, 2, 3]


async def test_a_full_mailbox_refuses_at_once() -> None:
    mailbox, _ = open_mailbox(capacity=2)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)

    with pytest.raises(MailboxFullError, match="m: 2 items"):
        mailbox.put_nowait(3)


async def test_drained_items_count_against_the_bound_until_they_are_handled() -> None:
    mailbox, _ = open_mailbox(capacity=2)
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    await mailbox.wait()
    taking = mailbox.take()
    next(taking)

    with pytest.raises(MailboxFullError):
        mailbox.put_nowait(3)
    next(taking)
    mailbox.put_nowait(3)

    assert mailbox.waiting == 2


async def test_put_waits_for_room(autojump_clock: trio.testing.MockClock) -> None:
    mailbox, _ = open_mailbox(capacity=1)
    mailbox.put_nowait(1)
    got: list[int] = []

    async def receive() -> None:
        await trio.sleep(5)
        while len(got) < 2:
            await mailbox.wait()
            got.extend(mailbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await mailbox.put(2)
        sent_at_s = trio.current_time()

    assert sent_at_s == 5
    assert got == [1, 2]


async def test_a_batch_is_bounded() -> None:
    mailbox, _ = open_mailbox(batch_max=2)
    for item in (1, 2, 3):
        mailbox.put_nowait(item)

    await mailbox.wait()
    first = list(mailbox.take())
    await mailbox.wait()

    assert (first, list(mailbox.take())) == ([1, 2], [3])


async def test_many_nudges_wake_once_and_bring_nothing() -> None:
    mailbox, _ = open_mailbox()
    mailbox.nudge()
    mailbox.nudge()

    await mailbox.wait()
    items = list(mailbox.take())
    with trio.move_on_after(0) as scope:
        await mailbox.wait()

    assert items == []
    assert scope.cancelled_caught


async def test_a_crash_loses_only_the_item_under_the_cursor() -> None:
    mailbox, lost = open_mailbox()
    for item in (1, 2, 3):
        mailbox.put_nowait(item)
    await mailbox.wait()
    taking = mailbox.take()
    next(taking)
    next(taking)

    mailbox.crash(ValueError())
    await mailbox.wait()

    assert lost == [2]
    assert list(mailbox.take()) == [3]
    assert mailbox.statistics().crashed == 1


async def test_a_crash_between_items_loses_none() -> None:
    mailbox, lost = open_mailbox()
    mailbox.put_nowait(1)
    await mailbox.wait()

    mailbox.crash(ValueError())

    assert lost == []
    assert list(mailbox.take()) == [1]


async def test_a_group_that_crashed_comes_back_one_by_one_and_only_the_guilty_is_lost() -> None:
    mailbox, lost = open_mailbox()
    for item in (1, 2, 3):
        mailbox.put_nowait(item)
    await mailbox.wait()
    assert mailbox.group() == [1, 2, 3]

    mailbox.crash(ValueError())
    handled = []
    for _ in range(3):
        (item,) = mailbox.group()
        if item == 2:
            mailbox.crash(ValueError())
        else:
            mailbox.done()
            handled.append(item)

    assert (handled, lost) == ([1, 3], [2])
    assert mailbox.waiting == 0


async def test_after_the_suspects_groups_are_whole_again() -> None:
    mailbox, _ = open_mailbox()
    mailbox.put_nowait(1)
    mailbox.put_nowait(2)
    await mailbox.wait()
    mailbox.group()
    mailbox.crash(ValueError())
    for _ in range(2):
        mailbox.group()
        mailbox.done()
    mailbox.put_nowait(3)
    mailbox.put_nowait(4)
    await mailbox.wait()

    assert mailbox.group() == [3, 4]


async def test_wait_empty_returns_when_everything_is_handled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mailbox, _ = open_mailbox()
    mailbox.put_nowait(1)

    async def receive() -> None:
        await trio.sleep(3)
        await mailbox.wait()
        list(mailbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await mailbox.wait_empty()

    assert trio.current_time() == 3


async def test_a_wait_that_is_cancelled_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mailbox, _ = open_mailbox()
    with trio.move_on_after(1):
        await mailbox.wait()
    mailbox.put_nowait(1)

    with trio.fail_after(1):
        await mailbox.wait()

    assert list(mailbox.take()) == [1]


async def test_a_wait_that_is_cancelled_as_an_item_arrives_loses_nothing() -> None:
    mailbox, _ = open_mailbox()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.wait)
            await trio.testing.wait_all_tasks_blocked()
            mailbox.put_nowait(1)
            scope.cancel()

    await mailbox.wait()

    assert list(mailbox.take()) == [1]


async def test_an_item_handed_to_a_sleeping_receiver_counts_against_the_bound() -> None:
    mailbox, _ = open_mailbox(capacity=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put_nowait(1)

        with pytest.raises(MailboxFullError):
            mailbox.put_nowait(2)

    assert mailbox.waiting == 1
    assert list(mailbox.take()) == [1]


async def test_an_item_and_nudges_for_a_sleeping_receiver_wake_it_once() -> None:
    mailbox, _ = open_mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.nudge()
        mailbox.put_nowait(1)
        mailbox.nudge()

    assert list(mailbox.take()) == [1]
    with trio.move_on_after(0) as scope:
        await mailbox.wait()
    assert scope.cancelled_caught


async def test_a_nudge_that_a_cancelled_receiver_got_is_not_left_behind() -> None:
    mailbox, _ = open_mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.nudge()
        nursery.cancel_scope.cancel()
    mailbox.put_nowait(1)
    await mailbox.wait()

    assert list(mailbox.take()) == [1]


async def test_redelivered_items_come_before_those_that_arrived_meanwhile() -> None:
    mailbox, _ = open_mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait)
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put_nowait(1)
        mailbox.put_nowait(2)
    mailbox.group()
    mailbox.put_nowait(3)

    mailbox.crash(ValueError())

    assert [*mailbox.take()] == [1, 2, 3]


async def test_the_bound_may_change_while_items_wait() -> None:
    mailbox, _ = open_mailbox(capacity=1)
    mailbox.put_nowait(1)

    mailbox.capacity = 2
    mailbox.put_nowait(2)
    mailbox.capacity = 1
    with pytest.raises(MailboxFullError, match="m: 1 items"):
        mailbox.put_nowait(3)

    assert list(mailbox.take()) == [1, 2]


async def test_a_receiver_that_never_sleeps_can_be_cancelled() -> None:
    mailbox, _ = open_mailbox()
    mailbox.put_nowait(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.wait()

    assert scope.cancelled_caught


async def test_a_nudge_while_something_is_handled_is_not_forgotten() -> None:
    mailbox, _ = open_mailbox()
    mailbox.put_nowait(1)
    await mailbox.wait()
    for _ in mailbox.take():
        mailbox.nudge()

    with trio.fail_after(1):
        await mailbox.wait()

    assert list(mailbox.take()) == []


@given(st.lists(st.sampled_from(["put", "nudge", "group", "done", "crash", "cancel"])))
def test_every_item_is_handled_or_reported_once_and_none_twice(steps: list[str]) -> None:
    """Against a model: what waits in order, of which the first few are under the cursor."""

    async def play() -> None:
        mailbox, lost = open_mailbox(capacity=5, batch_max=3)
        waiting: deque[int] = deque()
        handled: list[int] = []
        for number, step in enumerate(steps):
            under = list(mailbox.under_cursor)
            if step == "put" and mailbox.waiting < mailbox.capacity:
                mailbox.put_nowait(number)
                waiting.append(number)
            elif step == "nudge":
                mailbox.nudge()
            elif step == "group" and not under:
                with trio.move_on_after(0):
                    await mailbox.wait()
                assert mailbox.group() == list(waiting)[: len(mailbox.under_cursor)]
            elif step == "done":
                mailbox.done()
                handled += [waiting.popleft() for _ in under]
            elif step == "crash":
                mailbox.crash(ValueError())
                if len(under) == 1:
                    assert lost.pop() == waiting.popleft()
            elif step == "cancel" and not waiting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mailbox.wait)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
            assert mailbox.waiting == len(waiting)
        assert lost == []
        assert mailbox.statistics().handled == len(handled)

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
