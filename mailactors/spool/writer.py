"""Commands by hand: for whoever wants one command done and its answer, such as a route."""

from __future__ import annotations

from typing import Final

from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.spool.actor import Write
from mailactors.spool.port import Command, Result, SpoolError

ANSWER_WITHIN_S: Final = 10.0


class SpoolWriter:
    """Asks the spool's actor."""

    def __init__(self, mailbox: Mailbox[Write]) -> None:
        self._mailbox = mailbox

    async def ask(self, command: Command) -> Result:
        """Return a command's result once it is durable.

        What still waits after the deadline, for room on a disk say, is withdrawn: whoever was told
        of no answer may have thought better of it.

        Raises: SpoolError, when it is not known to be: commands are idempotent, so ask again.
        """
        reply: Reply[Result] = Reply()
        try:
            self._mailbox.put_nowait(Write(command, reply))
            return await reply.wait(ANSWER_WITHIN_S)
        except (MailboxFullError, ActorCrashedError, DeadlineError) as error:
            reply.fail(error)
            raise SpoolError(f"the spool did not answer: {error}") from None
