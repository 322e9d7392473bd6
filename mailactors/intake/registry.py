"""The idempotency registry: many submissions of one message become one.

Owns the submissions that are being accepted at this moment. A second one with the same key and
content joins the first instead of writing again. The authority is the spool's unique constraint on
keys; this actor is a cache in front of it, which forwards and never waits.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from mailactors.intake.submission import OverloadedError
from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.ports import Faults
from mailactors.runtime.reply import ActorCrashedError, Reply
from mailactors.runtime.supervisor import describe
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Accept, AcceptMany, Result

MAILBOX_CAPACITY: Final = 2048
RETRY_AFTER_S: Final = 1.0
PENDING_MAX: Final = 8192
"""Submissions remembered while they are being accepted; the oldest is dropped first."""


class Submit(msgspec.Struct, frozen=True):
    """Accept a message, or join the one with the same key that is being accepted.

    The registry joins single messages only; the spool finds duplicates among several at once.
    """

    accept: Accept | AcceptMany
    reply: Reply[Result]


class _Pending(msgspec.Struct, frozen=True):
    fingerprint: str
    reply: Reply[Result]


def open_registry() -> Mailbox[Submit]:
    """Build the registry's mailbox; a submission that the actor crashed on fails."""

    def lost(submit: Submit, error: Exception) -> None:
        submit.reply.fail(ActorCrashedError(describe(error)))

    return Mailbox("registry", MAILBOX_CAPACITY, lost)


class RegistryActor:
    """Forwards each new submission to the spool, and lets repeated ones wait for its answer."""

    def __init__(self, mailbox: Mailbox[Submit], spool: SpoolClient, faults: Faults) -> None:
        self._mailbox = mailbox
        self._spool = spool
        self._faults = faults
        self._pending: dict[tuple[str, str], _Pending] = {}

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Handle submissions until cancelled."""
        task_status.started()
        while True:
            await self._mailbox.wait()
            self._prune()
            for submit in self._mailbox.take():
                self._faults.point("registry.submit")
                self._handle(submit)

    def _handle(self, submit: Submit) -> None:
        if isinstance(submit.accept, AcceptMany):
            self._forward(submit)
            return
        key = submit.accept.key
        name = (key.scope, key.key)
        pending = self._pending.get(name)
        if pending is not None and pending.fingerprint == key.fingerprint:
            submit.reply.follow(pending.reply)
            return
        if self._forward(submit) and pending is None:
            self._pending[name] = _Pending(key.fingerprint, submit.reply)

    def _forward(self, submit: Submit) -> bool:
        """Send the command to the spool's writer; False, with the reply failed, if that is full."""
        try:
            self._spool.send_nowait(submit.accept, submit.reply)
        except MailboxFullError:
            submit.reply.fail(OverloadedError("the spool is behind", RETRY_AFTER_S))
            return False
        return True

    def _prune(self) -> None:
        """Drop what was answered: from then on the spool knows it."""
        self._pending = {k: each for k, each in self._pending.items() if not each.reply.is_done}
        while len(self._pending) > PENDING_MAX:
            del self._pending[next(iter(self._pending))]
