"""The provider actor of a lane: connects, records the intent, sends, and reports the outcome.

Owns the sessions in use. An attempt cannot crash it: an exception is that attempt's outcome.
Between the two steps of the provider port it makes the intent durable, and without a durable
intent no byte of the message goes out.

A successor finds its predecessor's attempts in `Lane.underway`: those that were sending may have
been accepted and are uncertain; the rest were certainly not sent.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import trio

from mailactors.dispatch.attempt import Attempt, Done, Stage
from mailactors.dispatch.lane import Lane
from mailactors.errors import MailactorsError
from mailactors.model.message import Envelope, unpack_content
from mailactors.model.outcome import (
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.port import Mail, Session
from mailactors.runtime.ports import Ports
from mailactors.runtime.shortage import Shortages, is_shortage, os_words
from mailactors.runtime.supervisor import describe
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Intend, IntendAgain, Intended

INTENT_WITHIN_S: Final = 60.0
"""How long to wait for the intent to be durable; past it nothing is sent (a full or slow disk)."""

SHORT_WAIT_S: Final = 1.0
"""How long a lane rests when this process lacks a descriptor, memory, a thread or a port."""


class ProviderActor:
    """One loop over attempts, and a task for each of them: as many as the lane has slots."""

    def __init__(
        self, lane: Lane, spool: SpoolClient, ports: Ports, shortages: Shortages | None = None
    ) -> None:
        self._lane = lane
        self._shortages = shortages or Shortages(ports.clock, ports.journal)
        self._spool = spool
        self._clock = ports.clock
        self._faults = ports.faults
        self._journal = ports.journal

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Report the attempts that a predecessor left, then make those that come in."""
        for attempt in list(self._lane.underway.values()):
            self._report(attempt, outcome_of_lost(attempt))
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relieve)
            while True:
                await self._lane.provider_mailbox.wait()
                for item in self._lane.provider_mailbox.take():
                    assert isinstance(item, Attempt)
                    self._faults.point("provider.attempt")
                    self._lane.underway[item.id] = item
                    item.began_s = self._clock.now_s()
                    item.stage = Stage.CONNECTING
                    nursery.start_soon(self._attempt, item)

    async def _relieve(self) -> None:
        """Give back idle sessions when this process lacks something: others may need it."""
        while True:
            await self._shortages.met.wait()
            await self._lane.provider.release()
            await trio.sleep(SHORT_WAIT_S)

    async def _attempt(self, attempt: Attempt) -> None:
        """Make one attempt; whatever happens, exactly one outcome is reported."""
        try:
            outcome = await self._try(attempt)
        except Exception as error:  # an attempt's fault is its outcome
            self._journal.note(
                "attempt.fault",
                level="error",
                id=attempt.lease.id,
                provider=self._lane.name,
                error=describe(error),
            )
            outcome = outcome_of_fault(attempt, error)
        self._report(attempt, outcome)

    async def _try(self, attempt: Attempt) -> Outcome:
        left_s = attempt.expires_at - self._clock.wall_time()
        deadline_s = self._clock.now_s() + left_s
        with trio.move_on_after(max(0.0, left_s)) as scope:
            session = await self._lane.provider.connect()
        if scope.cancelled_caught:
            return NotAttempted(Why.EXPIRED)
        if isinstance(session, Deferred | Rejected | NotAttempted):
            return session
        intended = await self._intend(attempt, session)
        if isinstance(intended, NotAttempted):
            return intended
        attempt.recipients = intended.recipients
        try:
            mail = mail_of(attempt, intended, deadline_s)
        except Exception:
            await session.aclose()
            raise
        if mail.is_partial and not self._lane.provider.capabilities.own_envelope:
            await session.aclose()
            return NotAttempted(Why.UNABLE)
        attempt.stage = Stage.SENDING
        attempt.sending_s = self._clock.now_s()
        self._faults.point("provider.intended")
        outcome = await session.send(mail)
        self._faults.point("provider.sent")
        return outcome

    async def _intend(self, attempt: Attempt, session: Session) -> Intended | NotAttempted:
        """Make the intent durable, or give the session back unused."""
        attempt.stage = Stage.INTENDING
        intended: Intended | NotAttempted = NotAttempted(Why.STOPPING)
        try:
            intended = await self._ask_to_intend(attempt)
        finally:
            if not isinstance(intended, Intended):
                with trio.CancelScope(shield=True):  # the actor may have died beside it
                    await session.aclose()
        return intended

    async def _ask_to_intend(self, attempt: Attempt) -> Intended | NotAttempted:
        try:
            reply = await self._spool.send(intent_of(attempt))
            intended = await reply.wait(INTENT_WITHIN_S)
        except MailactorsError:
            return NotAttempted(Why.SPOOL)
        return intended if isinstance(intended, Intended) else NotAttempted(Why.WITHDRAWN)

    def _report(self, attempt: Attempt, outcome: Outcome) -> None:
        if isinstance(outcome, NotAttempted) and outcome.why is Why.RESOURCES:
            self._shortages.note(self._lane.name, outcome.text)
            self._lane.short_until_s = self._clock.now_s() + SHORT_WAIT_S
            outcome = msgspec.structs.replace(outcome, until_s=self._lane.short_until_s)
        del self._lane.underway[attempt.id]
        self._lane.breaker_mailbox.put_nowait(Done(attempt, outcome, self._clock.now_s()))


def intent_of(attempt: Attempt) -> Intend | IntendAgain:
    """Return the command that makes the intent durable."""
    lease, doubt = attempt.lease, attempt.doubt
    if doubt is not None:
        again = (doubt.attempt_id, doubt.not_after)
        return IntendAgain(attempt.id, lease.seq, lease.epoch, attempt.lane, *again)
    ns = tuple(n for n, _ in lease.recipients)
    return Intend(attempt.id, lease.seq, ns, lease.epoch, attempt.lane)


def mail_of(attempt: Attempt, intended: Intended, deadline_s: float = math.inf) -> Mail:
    """Return what the provider needs for this attempt, which `deadline_s` (monotonic) ends."""
    return Mail(
        marker=attempt.lease.id,
        message_id=intended.message_id,
        date_s=intended.date_s,
        envelope=Envelope(intended.sender, tuple(address for _, address in intended.recipients)),
        content=unpack_content(intended.packed),
        is_partial=len(intended.recipients) < attempt.lease.recipients_total,
        deadline_s=deadline_s,
    )


def outcome_of_lost(attempt: Attempt) -> Outcome:
    """Say what is known of an attempt whose actor died."""
    if attempt.stage is Stage.SENDING:
        return Uncertain(Phase.UNKNOWN, Reason("the provider actor died while sending"))
    return NotAttempted(Why.STOPPING)  # not its fault: the guilty one was under the cursor


def outcome_of_fault(attempt: Attempt, error: Exception) -> Outcome:
    """Say what is known of an attempt that ended in an exception."""
    reason = Reason(f"our fault: {type(error).__name__}")
    if attempt.stage is Stage.SENDING:
        return Uncertain(Phase.UNKNOWN, reason)
    if is_shortage(error):
        return NotAttempted(Why.RESOURCES, text=os_words(error))
    return Deferred(Scope.PROVIDER, reason)
