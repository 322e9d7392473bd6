"""Trio under a simulation: the seed orders ready tasks, and time jumps when none is ready.

The only file that touches Trio's private parts: the switch and the random generator of its
scheduler, so that a seed always gives the same run; and three costs that a simulation need not
pay, a third of its time.
"""

from __future__ import annotations

import contextlib
import heapq
import importlib
import math
import random
from collections.abc import Awaitable, Callable, Iterator, MutableSequence
from types import ModuleType
from typing import Any, Final, TypeVar

import msgspec
import trio

from mailactors.errors import MailactorsError

T = TypeVar("T")

SCHEDULER: Final = "trio._core._run"
SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
RANDOM: Final = "_r"
CONTEXT: Final = "GLOBAL_RUN_CONTEXT"
POLL_EVERY: Final = 256
"""Turns of Trio's loop between two checks for a signal such as Ctrl-C: some milliseconds."""
RUNNER: Final = ("io_manager.process_events", "instruments", "runq", "deadlines._heap")
"""The attributes of Trio's runner that a simulation needs."""


class SchedulingError(MailactorsError):
    """This version of Trio lacks a private attribute that a simulation needs."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"trio {trio.__version__} has no {SCHEDULER}.{name}: simulations would not repeat;"
            " use a version of Trio that is known to work"
        )


def scheduler() -> ModuleType:
    """Return Trio's module with the switch and the random generator.

    Raises: SchedulingError when either is missing, since runs would not repeat.
    """
    module = importlib.import_module(SCHEDULER)
    names = vars(module)
    if not isinstance(names.get(SWITCH), bool):
        raise SchedulingError(SWITCH)
    if not isinstance(names.get(RANDOM), random.Random):
        raise SchedulingError(RANDOM)
    return module


def present_runner() -> Any:
    """Return Trio's current runner. Raises: SchedulingError when it lacks an attribute."""
    runner = getattr(getattr(scheduler(), CONTEXT, None), "runner", None)
    for path in RUNNER:
        found = runner
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is None:
            raise SchedulingError(f"{CONTEXT}.runner.{path}")
    return runner


class _Shuffler(random.Random):
    """Trio's random generator, which draws nothing for a batch of one task."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if len(x) > 1:
            super().shuffle(x)


@contextlib.contextmanager
def seeded_scheduling(seed: int) -> Iterator[None]:
    """Let Trio order ready tasks by this seed; restore its own state at the end.

    Tasks that become ready at the same time are sorted by age and then shuffled, so that the order
    of equal deadlines, which Trio takes from addresses, does not matter.
    """
    module = scheduler()
    before = {name: vars(module)[name] for name in (SWITCH, RANDOM)}
    setattr(module, SWITCH, True)
    setattr(module, RANDOM, _Shuffler(seed))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def run_seeded(main: Callable[[], Awaitable[T]], clock: JumpingClock, seed: int) -> T:
    """Run Trio in virtual time; the seed orders the tasks that are ready."""

    async def with_clock() -> T:
        clock.attach(present_runner())
        return await main()

    with seeded_scheduling(seed):
        return trio.run(with_clock, clock=clock)


class _Turns:
    """Replaces Trio's I/O manager, since a simulation has no sockets to poll."""

    def __init__(self, runner: Any) -> None:
        self.is_single = False
        """Whether exactly one task was ready when this turn of the loop began."""
        self._runner = runner
        self._inner = runner.io_manager
        self._count = 0
        self.process_events = self._inner.process_events

    def get_events(self, timeout_s: float) -> Any:
        """Return I/O events; poll rarely when Trio would not wait for them."""
        self._count += 1
        deadlines = self._runner.deadlines._heap
        is_due = bool(deadlines) and deadlines[0][0] <= self._runner.clock.current_time()
        self.is_single = not is_due and len(self._runner.runq) == 1
        if timeout_s > 0 or self._count % POLL_EVERY == 0:
            return self._inner.get_events(timeout_s)
        return ()

    def is_idle_until(self, at_s: float) -> bool:
        """Whether only the current task has anything to do until after this time.

        A turn that began with one task has no other; tasks that it woke since are in the queue,
        and its new timers are among the deadlines.
        """
        runner = self._runner
        return self.is_single and not runner.runq and runner.deadlines.next_deadline() > at_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Sleeper(msgspec.Struct):
    """A sleeping task; None after it was cancelled."""

    task: trio.lowlevel.Task | None


class JumpingClock(trio.abc.Clock):
    """Virtual time: it jumps to the next deadline whenever no task is ready.

    It does what `trio.testing.MockClock(autojump_threshold=0)` does, in one turn of the loop
    instead of two: Trio asks how long to sleep only when no task is ready, and a simulation, which
    has no sockets and no threads, then has nothing else to wait for.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, _Sleeper]] = []
        """A heap of (time, order of requests, sleeper)."""
        self._count = 0
        self._turns: _Turns | None = None

    def attach(self, runner: Any) -> None:
        """Attach to a run of Trio, which then polls rarely and calls no instruments."""
        runner.io_manager = self._turns = _Turns(runner)
        runner.instruments = {}

    def start_clock(self) -> None:
        """Do nothing: virtual time starts at 0."""

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to the deadline; without one, let Trio wait for its own start or end."""
        sleepers = self._sleepers
        while sleepers and sleepers[0][2].task is None:
            heapq.heappop(sleepers)
        if sleepers:
            deadline = min(deadline, sleepers[0][0])
        if math.isinf(deadline):
            return deadline
        self._now_s = max(self._now_s, deadline)
        while sleepers and sleepers[0][0] <= self._now_s:
            task = heapq.heappop(sleepers)[2].task
            if task is not None:
                trio.lowlevel.reschedule(task)
        return 0.0

    async def sleep_until(self, at_s: float, *, shield: bool = False) -> None:
        """Sleep without a cancel scope of its own; with `shield`, not cancellable at all."""
        if shield and self._passes(at_s):
            return
        self._count += 1
        sleeper = _Sleeper(trio.lowlevel.current_task())
        heapq.heappush(self._sleepers, (at_s, self._count, sleeper))

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            if shield:
                return trio.lowlevel.Abort.FAILED
            sleeper.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _passes(self, at_s: float) -> bool:
        """Let time pass without a turn of the loop, if no other task would run meanwhile."""
        sleepers, turns = self._sleepers, self._turns
        if turns is None or (sleepers and sleepers[0][0] <= at_s) or not turns.is_idle_until(at_s):
            return False
        self._now_s = max(self._now_s, at_s)
        return True

    def leap(self, for_s: float) -> None:
        """Let time pass in which no task runs: everything due meanwhile is due at once."""
        self._now_s += for_s


async def sleep_until(at_s: float, *, shield: bool = False) -> None:
    """Sleep by the simulation's clock, at a fifth of the cost of `trio.sleep_until`."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, JumpingClock)
    await clock.sleep_until(at_s, shield=shield)


async def sleep(for_s: float, *, shield: bool = False) -> None:
    """Sleep by the simulation's clock, at a fifth of the cost of `trio.sleep`."""
    await sleep_until(trio.lowlevel.current_clock().current_time() + for_s, shield=shield)
