"""The provider actor of a lane: connects, records the intent, sends, and reports the outcome.

Owns the sessions in use. An attempt cannot crash it: an exception is that attempt's outcome.
Between the two steps of the provider port it makes the intent durable, and without a durable
intent no byte of the message goes out.

Where a session stands ready, the actor asks for the intent itself, for all attempts of a turn one
after another, so that they share a commit; each then goes to a task that waits for work. Any other
attempt has a task of its own, which connects first.

A successor finds its predecessor's attempts in `Lane.underway`: those that were sending may have
been accepted and are uncertain; the rest were certainly not sent.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
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
    Refusal,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.model.secrets import Secrets
from mailactors.providers.port import Mail, Session
from mailactors.runtime.deadlines import deadlines
from mailactors.runtime.mailbox import MailboxFullError
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import DeadlineError, Reply
from mailactors.runtime.shortage import Shortages, is_shortage, os_words
from mailactors.runtime.supervisor import describe
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Intend, IntendAgain, Intended, Result

INTENT_WITHIN_S: Final = 60.0
"""How long to wait for the intent to be durable; past it nothing is sent (a full or slow disk)."""

SHORT_WAIT_S: Final = 1.0
"""How long a lane rests when this process lacks a descriptor, memory, a thread or a port."""


class Ready(msgspec.Struct, frozen=True):
    """An attempt with its session, and the slot for the answer to its intent."""

    attempt: Attempt
    session: Session
    intended: Reply[Result]


class ProviderActor:
    """One loop over attempts, and tasks that make them: at most as many as the lane has slots."""

    def __init__(
        self,
        lane: Lane,
        spool: SpoolClient,
        ports: Ports,
        shortages: Shortages | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self._lane = lane
        self._secrets = secrets or Secrets()
        self._shortages = shortages or Shortages(ports.clock, ports.journal)
        self._spool = spool
        self._clock = ports.clock
        self._faults = ports.faults
        self._journal = ports.journal
        self._work, self._works = trio.open_memory_channel[Ready](math.inf)
        """Attempts whose intent has its answer; no more than the lane has slots."""
        self._ready = self._workers = 0
        """Attempts that went this way and have no end yet; tasks that make them."""
        self._held: dict[str, Session] = {}
        """Sessions of attempts that wait for their intents, by attempt."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Report the attempts that a predecessor left, then make those that come in."""
        for attempt in list(self._lane.underway.values()):
            self._report(attempt, outcome_of_lost(attempt))
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._relieve)
                while True:
                    await self._lane.provider_mailbox.wait()
                    for item in self._lane.provider_mailbox.take():
                        assert isinstance(item, Attempt)
                        self._faults.point("provider.attempt")
                        self._begin(item, nursery)
        finally:
            with trio.CancelScope(shield=True):  # nothing was sent in them
                while self._held:
                    await self._held.popitem()[1].aclose()

    def _begin(self, attempt: Attempt, nursery: trio.Nursery) -> None:
        self._lane.underway[attempt.id] = attempt
        attempt.began_s = self._clock.now_s()
        attempt.stage = Stage.CONNECTING
        session = self._lane.provider.take_ready()
        if session is None or not self._intend_at_once(attempt, session):
            nursery.start_soon(self._attempt, attempt, partial(self._try, attempt, session))
        elif self._ready > self._workers:
            self._workers += 1
            nursery.start_soon(self._serve)

    async def _relieve(self) -> None:
        """Give back idle sessions when this process lacks something: others may need it."""
        while True:
            await self._shortages.met.wait()
            await self._lane.provider.release()
            await trio.sleep(SHORT_WAIT_S)

    async def _serve(self) -> None:
        """Make one attempt after another; each had its session before its intent."""
        async for ready in self._works:
            await self._attempt(ready.attempt, partial(self._try_ready, ready))
            self._ready -= 1

    async def _attempt(self, attempt: Attempt, make: Callable[[], Awaitable[Outcome]]) -> None:
        """Make one attempt; whatever happens, exactly one outcome is reported."""
        try:
            outcome = await make()
        except Exception as error:  # an attempt's fault is its outcome
            self._secrets.learn(self._lane.provider.secrets)
            self._journal.note(
                "attempt.fault",
                level="error",
                id=attempt.lease.id,
                provider=self._lane.name,
                error=self._secrets.text(describe(error)),
            )
            outcome = outcome_of_fault(attempt, error)
        self._report(attempt, outcome)

    async def _try(self, attempt: Attempt, session: Session | None) -> Outcome:
        """Connect, unless there is a session, make the intent durable, and send."""
        connected = session or await self._connect(attempt)
        if isinstance(connected, Deferred | Rejected | NotAttempted):
            return connected
        attempt.stage = Stage.INTENDING
        self._held[attempt.id] = connected
        try:
            reply = await self._spool.send(intent_of(attempt))
            intended = await reply.wait(INTENT_WITHIN_S)
        except MailactorsError:
            await self._held.pop(attempt.id).aclose()
            return NotAttempted(Why.SPOOL)
        return await self._send(attempt, self._held.pop(attempt.id), intended)

    async def _connect(self, attempt: Attempt) -> Session | Refusal | NotAttempted:
        with trio.move_on_after(max(0.0, self._left_s(attempt))) as scope:
            session = await self._lane.provider.connect()
        return NotAttempted(Why.EXPIRED) if scope.cancelled_caught else session

    def _intend_at_once(self, attempt: Attempt, session: Session) -> bool:
        """Ask for the intent, and have the attempt made when it is there; False if nothing was."""

        def pass_on() -> None:
            self._work.send_nowait(ready)

        ready = Ready(attempt, session, Reply(pass_on))
        try:
            self._spool.send_nowait(intent_of(attempt), ready.intended)
        except MailboxFullError:
            return False  # a task of its own waits for room
        attempt.stage = Stage.INTENDING
        self._held[attempt.id] = session
        deadlines().limit(ready.intended, INTENT_WITHIN_S, partial(_fail_late, ready.intended))
        self._ready += 1
        return True

    async def _try_ready(self, ready: Ready) -> Outcome:
        del self._held[ready.attempt.id]
        try:
            intended = ready.intended.result()
        except MailactorsError:
            await ready.session.aclose()
            return NotAttempted(Why.SPOOL)
        return await self._send(ready.attempt, ready.session, intended)

    async def _send(self, attempt: Attempt, session: Session, intended: Result) -> Outcome:
        """Send under the intent, or give the session back unused."""
        if not isinstance(intended, Intended):
            await session.aclose()
            return NotAttempted(Why.WITHDRAWN)
        attempt.recipients = intended.recipients
        try:
            mail = mail_of(attempt, intended, self._clock.now_s() + self._left_s(attempt))
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

    def _left_s(self, attempt: Attempt) -> float:
        return attempt.expires_at - self._clock.wall_time()

    def _report(self, attempt: Attempt, outcome: Outcome) -> None:
        """Pass on what the provider said: from here on, without our secrets."""
        self._secrets.learn(self._lane.provider.secrets)
        outcome = self._secrets.outcome(outcome)
        if isinstance(outcome, NotAttempted) and outcome.why is Why.RESOURCES:
            self._shortages.note(self._lane.name, outcome.text)
            self._lane.short_until_s = self._clock.now_s() + SHORT_WAIT_S
            outcome = msgspec.structs.replace(outcome, until_s=self._lane.short_until_s)
        del self._lane.underway[attempt.id]
        self._lane.breaker_mailbox.put_nowait(Done(attempt, outcome, self._clock.now_s()))


def _fail_late(intended: Reply[Result]) -> None:
    intended.fail(DeadlineError(f"no answer within {INTENT_WITHIN_S:g} s"))


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
