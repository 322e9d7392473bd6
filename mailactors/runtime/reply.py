"""Reply slots: one answer for many waiters; the actor that fills one never waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from mailactors.errors import MailactorsError
from mailactors.runtime.deadlines import deadlines

T = TypeVar("T")


class ActorCrashedError(MailactorsError):
    """The actor crashed while it handled this item; whether it took effect is not known."""


class DeadlineError(MailactorsError):
    """An answer did not come within its deadline."""


class Reply(Generic[T]):
    """A slot that is filled once, with a value or an exception.

    Filling it never blocks and wakes every waiter. Only the first filling counts, so a late answer
    after a crash report is ignored. `on_done` is called once, when the slot is filled: it wakes an
    actor that does other work meanwhile (`Mailbox.nudge`).
    """

    def __init__(self, on_done: Callable[[], None] | None = None) -> None:
        self.is_done = False
        """Whether there is an answer."""
        self._waiters: list[trio.lowlevel.Task] = []
        self._value: T | None = None
        self._error: Exception | None = None
        self._on_done = on_done
        self._followers: list[Reply[T]] = []

    def resolve(self, value: T) -> None:
        """Answer with a value."""
        if not self.is_done:
            self._value = value
            self._finish()

    def fail(self, error: Exception) -> None:
        """Answer with an exception, raised at every waiter."""
        if not self.is_done:
            self._error = error
            self._finish()

    def follow(self, other: Reply[T]) -> None:
        """Fill this slot with the answer of `other`, now or when it comes."""
        if other.is_done:
            self._copy(other)
        else:
            other._followers.append(self)

    def result(self) -> T:
        """Return the value or raise the error of a slot that is done."""
        assert self.is_done
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # resolved: the value is a T

    async def wait(self, within_s: float) -> T:
        """Wait for the answer.

        Raises: DeadlineError when it takes longer than `within_s`; what the slot was failed with.
        """
        if not self.is_done:
            await self._wait(within_s)
        if not self.is_done:
            raise DeadlineError(f"no answer within {within_s:g} s")
        return self.result()

    async def _wait(self, within_s: float) -> None:
        task = trio.lowlevel.current_task()
        is_cancelled = False

        def give_up() -> None:
            if task in self._waiters and not is_cancelled:
                self._waiters.remove(task)
                trio.lowlevel.reschedule(task)

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            nonlocal is_cancelled
            is_cancelled = True  # the same task may come again, and wait for longer
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        deadlines().limit(self, within_s, give_up)
        self._waiters.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _copy(self, other: Reply[T]) -> None:
        if other._error is not None:
            self.fail(other._error)
        else:
            self.resolve(other.result())

    def _finish(self) -> None:
        self.is_done = True
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            trio.lowlevel.reschedule(task)
        followers, self._followers = self._followers, []
        for follower in followers:
            follower._copy(self)
        if self._on_done is not None:
            self._on_done()
