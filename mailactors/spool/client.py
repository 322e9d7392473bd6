"""The spool as other rooms use it: questions to a view of its own, commands to the writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import trio

from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.ports import Executor
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.spool.actor import SpoolSignals, Write
from mailactors.spool.port import Command, Questions, Result, SpoolError

T = TypeVar("T")

ANSWER_WITHIN_S: Final = 10.0


class SpoolClient:
    """Reads what is committed, and sends commands to the writer, which publishes `signals`.

    Questions run on threads of their own: a slow one never delays a commit, and each sees
    everything that was committed before it.

    Args:
        readers: views, each with the executor that alone uses it. A question takes a free one,
            and waits its turn while there is none.
    """

    def __init__(
        self,
        mailbox: Mailbox[Write],
        signals: SpoolSignals,
        readers: Iterable[tuple[Questions, Executor]],
    ) -> None:
        self.mailbox = mailbox
        self.signals = signals
        self._free = list(readers)
        self._turn = trio.Semaphore(len(self._free))

    async def read(self, question: Callable[[Questions], T]) -> T:
        """Return what `question` finds, such as `lambda spool: spool.ledger()`."""
        async with self._turn:
            reader = self._free.pop()  # the latest one, whose cache is warm
            try:
                view, executor = reader
                return await executor.run(lambda: question(view))
            finally:
                self._free.append(reader)

    async def count_attempts(self, provider: str, since: float, bucket_s: float) -> dict[int, int]:
        """Return a provider's intents since a time (UTC), by floor(started_at / bucket_s)."""
        return await self.read(lambda spool: spool.attempt_counts(provider, since, bucket_s))

    async def ask(self, command: Command) -> Result:
        """Return a command's result once it is durable; withdraw it at the deadline.

        Raises: SpoolError, when it is not known to be durable: commands are idempotent, ask again.
        """
        reply: Reply[Result] = Reply()
        try:
            self.send_nowait(command, reply)
            return await reply.wait(ANSWER_WITHIN_S)
        except (MailboxFullError, ActorCrashedError, DeadlineError) as error:
            reply.fail(error)
            raise SpoolError(f"the spool did not answer: {error}") from None

    async def send(
        self, command: Command, on_done: Callable[[], None] | None = None
    ) -> Reply[Result]:
        """Send a command, waiting for room in the mailbox but not for the result.

        `on_done` is called once, when the result is there; it must not block.
        """
        reply: Reply[Result] = Reply(on_done)
        await self.mailbox.put(Write(command, reply))
        return reply

    def send_nowait(self, command: Command, reply: Reply[Result]) -> None:
        """Send a command whose result goes to `reply`.

        Raises: MailboxFullError, when the writer is too far behind.
        """
        self.mailbox.put_nowait(Write(command, reply))

    def stand_by(self, stream: str, command: Command, on_done: Callable[[], None]) -> Reply[Result]:
        """Have a claim executed in the commit that brings the stream's next message.

        It replaces the one that stood by.
        """
        reply: Reply[Result] = Reply(on_done)
        self.signals.standing[stream] = Write(command, reply)
        return reply
