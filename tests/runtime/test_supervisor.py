"""Supervision: order, restarts with mailboxes intact, limits, and giving up."""

from collections import deque

import pytest
import trio
import trio.testing

from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import SilentJournal, SystemClock
from mailactors.runtime.supervisor import (
    Child,
    InjectedCrashError,
    Restarts,
    RestartsExhaustedError,
    Supervisor,
    describe,
    may_restart,
)


class Worker:
    """Handles numbers; dies of negative ones."""

    def __init__(self, mailbox: Mailbox[int], handled: list[int]) -> None:
        self.mailbox = mailbox
        self.handled = handled

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await self.mailbox.wait()
            for item in self.mailbox.take():
                if item < 0:
                    raise ValueError(f"cannot digest {item}")
                self.handled.append(item)


class Marker:
    """Says when it starts and stops."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        self.log.append(f"+{self.name}")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.log.append(f"-{self.name}")


def supervise(*children: Child) -> Supervisor:
    return Supervisor(children, SystemClock(), SilentJournal())


def worker_child(
    restarts: Restarts | None = None, fatal: tuple[type[Exception], ...] = ()
) -> tuple[Child, Mailbox[int], list[int], list[int]]:
    lost: list[int] = []
    handled: list[int] = []
    mailbox = Mailbox[int]("worker", 100, lambda item, _error: lost.append(item))
    child = Child(
        "worker",
        lambda: Worker(mailbox, handled),
        (mailbox,),
        restarts or Restarts(5, 30.0),
        fatal,
    )
    return child, mailbox, handled, lost


async def running(supervisor: Supervisor, nursery: trio.Nursery) -> None:
    await nursery.start(lambda task_status: supervisor.run(task_status=task_status))


async def test_children_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []

    def child(name: str) -> Child:
        return Child(name, lambda: Marker(name, log))

    supervisor = supervise(child("a"), child("b"), child("c"))

    async with trio.open_nursery() as nursery:
        await running(supervisor, nursery)
        await supervisor.stop()

    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_a_crashed_child_comes_back_and_handles_the_rest() -> None:
    child, mailbox, handled, lost = worker_child()
    supervisor = supervise(child)
    for item in (1, -1, 2):
        mailbox.put_nowait(item)

    async with trio.open_nursery() as nursery:
        await running(supervisor, nursery)
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.stop()

    assert (handled, lost) == ([1, 2], [-1])
    assert supervisor.statistics()[0].crash_count == 1


async def test_too_many_crashes_end_everything() -> None:
    child, mailbox, handled, lost = worker_child(Restarts(2, 30.0))
    for item in (-1, -2, -3, 4):
        mailbox.put_nowait(item)

    with pytest.RaisesGroup(RestartsExhaustedError, flatten_subgroups=True) as caught:
        await supervise(child).run()

    assert "worker crashed more than 2 times in 30 s" in describe(caught.value)
    assert (handled, lost) == ([], [-1, -2, -3])


async def test_crashes_long_ago_are_forgiven(autojump_clock: trio.testing.MockClock) -> None:
    child, mailbox, handled, _lost = worker_child(Restarts(1, 30.0))
    supervisor = supervise(child)

    async with trio.open_nursery() as nursery:
        await running(supervisor, nursery)
        for item in (-1, -2, 3):
            mailbox.put_nowait(item)
            await trio.sleep(40)
        await supervisor.stop()

    assert handled == [3]


async def test_a_fatal_error_is_not_retried() -> None:
    child, mailbox, _handled, lost = worker_child(fatal=(ValueError,))
    mailbox.put_nowait(-1)

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        await supervise(child).run()

    assert lost == []  # nobody was told that it is over: the process is


class BadStart:
    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("address in use")


async def test_a_failure_of_the_first_start_is_raised() -> None:
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        await supervise(Child("server", BadStart, restarts=Restarts(1000, 60.0))).run()


async def test_restarts_are_spaced_by_the_crashes_in_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts: list[float] = []

    class Flaky:
        async def run(self, task_status: trio.TaskStatus[None]) -> None:
            starts.append(trio.current_time())
            task_status.started()
            if len(starts) < 4:
                raise ValueError
            await trio.sleep_forever()

    supervisor = supervise(Child("server", Flaky, restarts=Restarts(1000, 60.0, delay_s=0.5)))

    async with trio.open_nursery() as nursery:
        await running(supervisor, nursery)
        await trio.sleep(10)
        await supervisor.stop()

    assert starts == [0.0, 0.5, 1.5, 3.0]


async def test_an_injected_crash_is_a_crash_like_any_other() -> None:
    child, mailbox, handled, _lost = worker_child()
    supervisor = supervise(child)

    async with trio.open_nursery() as nursery:
        await running(supervisor, nursery)
        supervisor.crash("worker")
        await trio.testing.wait_all_tasks_blocked()
        mailbox.put_nowait(1)
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.stop()

    assert handled == [1]
    assert supervisor.statistics()[0].crash_count == 1


async def test_a_child_that_ends_by_itself_has_crashed() -> None:
    class Ends:
        async def run(self, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()

    with pytest.RaisesGroup(RestartsExhaustedError, flatten_subgroups=True):
        await supervise(Child("ends", Ends, restarts=Restarts(1, 1.0))).run()


def test_crashing_an_unknown_child_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        supervise().crash("nobody")


def test_the_limit_counts_within_its_window_only() -> None:
    crashes_at: deque[float] = deque()

    allowed = [may_restart(crashes_at, Restarts(2, 10.0), now_s) for now_s in (0, 1, 2, 11.5)]

    assert allowed == [True, True, False, True]


def test_groups_are_described_by_their_leaves() -> None:
    error = ExceptionGroup("x", [ValueError("a"), ExceptionGroup("y", [InjectedCrashError("b")])])

    assert describe(error) == "ValueError: a; InjectedCrashError: b"
