"""One attempt at a relay: a hold on a connection, a transaction on it, and what became of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from mailactors.model import mime
from mailactors.model.headers import UnrenderableError
from mailactors.model.message import Envelope
from mailactors.model.outcome import (
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Why,
)
from mailactors.providers.port import Mail
from mailactors.providers.smtp.budget import Patience
from mailactors.providers.smtp.classify import decide_outcome
from mailactors.providers.smtp.protocol import SmtpState
from mailactors.providers.smtp.transport import Connection, LostError
from mailactors.providers.smtp.wire import UnsendableError, check_message, stuff_dots
from mailactors.runtime.shortage import is_shortage, os_words

if TYPE_CHECKING:
    from mailactors.providers.smtp.provider import SmtpProvider


class NoRoomError(Exception):
    """This process has no memory or thread to render a message; nothing of it was said."""


class SmtpSession:
    """One attempt's hold on a connection."""

    def __init__(
        self,
        provider: SmtpProvider,
        connection: Connection,
        *,
        is_reused: bool,
        spent_s: float = 0.0,
    ) -> None:
        self._provider = provider
        self._connection = connection
        self._is_reused = is_reused
        self._spent_s = spent_s
        """How long it took to connect; the attempt has so much less time."""

    async def send(self, mail: Mail) -> Outcome:
        """Send, give the connection back, and return what became of the message."""
        try:
            message = await self._rendered(mail)
            patience = self._provider.patience(len(message), self._spent_s, mail.deadline_s)
            outcome = await self._attempt(mail, message, patience)
            if outcome is None:
                outcome = await self._attempt_anew(mail, message, patience)
        except (UnsendableError, UnrenderableError) as error:
            outcome = Rejected(Scope.MESSAGE, Reason(str(error)))
        except NoRoomError as error:
            outcome = NotAttempted(Why.RESOURCES, text=str(error))
        except BaseException:
            await self._connection.aclose()
            raise
        if not self._provider.keep(self._connection):
            with trio.CancelScope(shield=True):  # what is known must not be lost over a farewell
                await self._connection.leave()
        return outcome

    async def aclose(self) -> None:
        """Give the connection back unused."""
        if not self._provider.keep(self._connection):
            await self._connection.leave()

    async def _rendered(self, mail: Mail) -> bytes:
        executor = self._provider.executor
        try:
            if executor is None or mail.content.size < mime.LARGE_OCTETS:
                return render(mail)
            return await executor.run(partial(render, mail))
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            raise NoRoomError(f"rendering: {os_words(error)}") from error

    async def _attempt(self, mail: Mail, message: bytes, patience: Patience) -> Outcome | None:
        """Run one transaction; None if a reused connection was dead before it answered MAIL."""
        client = self._connection.client
        self._connection.messages_count += 1
        smtputf8, recipients, left = choose_recipients(mail, client.extensions.smtputf8)
        client.mail(
            mail.envelope.sender,
            recipients,
            octets=len(message),
            eight_bit=not message.isascii(),
            smtputf8=smtputf8,
        )
        transaction, lost, is_ours = client.transaction, None, False
        try:
            is_given_up = await self._converse(message, patience)
        except LostError as error:
            lost, is_given_up = (error.phase, error.reason), False
            is_ours = error.is_ours
        if is_given_up:
            lost = give_up(self._connection.phase, patience)
        is_idle_timeout = transaction.mail is not None and transaction.mail.code == 421
        is_dead = transaction.mail is None or (is_idle_timeout and lost is None)
        if self._is_reused and is_dead and not is_given_up:
            return None
        sender = mail.envelope.sender
        outcome = decide_outcome(
            transaction,
            lost,
            others_get_through=self._provider.others_get_through,
            is_sender_known=self._provider.is_known(sender),
        )
        if transaction.final is not None:
            pass  # the relay has spoken
        elif is_given_up and patience.ends_at_deadline:
            outcome = without_blame(outcome, Why.EXPIRED)
        elif is_ours:
            outcome = without_blame(outcome, Why.RESOURCES)
        self._provider.learn(outcome, self._connection, sender)
        if left and not isinstance(outcome, NotAttempted):
            outcome = msgspec.structs.replace(outcome, refused=outcome.refused | left)
        return outcome

    async def _converse(self, message: bytes, patience: Patience) -> bool:
        """Say envelope, body and dot; return whether it was given up before the dot."""
        connection = self._connection
        with connection.attempt(patience) as limit:
            await connection.exchange()
            if connection.client.state is SmtpState.BODY:
                await connection.send_message(stuff_dots(message), patience, limit)
        return limit.is_given_up

    async def _attempt_anew(self, mail: Mail, message: bytes, patience: Patience) -> Outcome:
        with trio.move_on_after(patience.left_s) as scope:
            fresh = await self._provider.open()
        if scope.cancelled_caught:
            late = Deferred(Scope.PROVIDER, give_up(Phase.CONNECT, patience)[1])
            return without_blame(late, Why.EXPIRED) if patience.ends_at_deadline else late
        if not isinstance(fresh, Connection):
            return fresh
        self._connection, self._is_reused = fresh, False
        outcome = await self._attempt(mail, message, patience)
        assert outcome is not None, "a new connection is not retried"
        return outcome


def give_up(phase: Phase, patience: Patience) -> tuple[Phase, Reason]:
    """Return where an attempt ended that took too long, and why."""
    text = f"the message was not sent within {patience.budget_s:.0f} s"
    if patience.ends_at_deadline:
        text = "the message's deadline passed before it was sent"
    return phase, Reason(f"{phase.value}: {text}")


def without_blame(outcome: Outcome, why: Why) -> Outcome:
    """Return the outcome of an attempt that ended for a reason of ours, before the final dot.

    It says nothing of the relay. What the relay said of recipients stands.
    """
    if not isinstance(outcome, Deferred) or outcome.scope is not Scope.PROVIDER:
        return outcome
    if outcome.refused:
        return msgspec.structs.replace(outcome, scope=Scope.MESSAGE)
    return NotAttempted(why, text=outcome.reason.text)


def choose_recipients(
    mail: Mail, offers_smtputf8: bool
) -> tuple[bool, tuple[str, ...], dict[str, Refusal]]:
    """Say who is in the transaction, whether it needs SMTPUTF8, and what becomes of the rest.

    Where only hidden recipients need SMTPUTF8, as a Bcc does that no header names, the others go
    without it: their own servers may not have it, and would bounce what asks for it.

    Source: RFC 6531 §3.2, §3.5
    """
    sender, recipients = mail.envelope.sender, mail.envelope.recipients
    plain = tuple(r for r in recipients if r.rpartition("@")[0].isascii())
    needs = mime.needs_smtputf8(mail.content, Envelope(sender, plain))
    if needs or not plain or len(plain) == len(recipients):
        return needs or not plain, recipients, {}
    refusal: Refusal = (
        Deferred(Scope.RECIPIENT, Reason("waits for a transaction with SMTPUTF8"), at_once=True)
        if offers_smtputf8
        else Rejected(Scope.MESSAGE, Reason("the server does not offer SMTPUTF8"))
    )
    return False, plain, dict.fromkeys((r for r in recipients if r not in plain), refusal)


def render(mail: Mail) -> bytes:
    """Return the message of an attempt, before dot-stuffing.

    Raises: UnrenderableError, UnsendableError.
    """
    message = mime.render(
        mail.content, message_id=mail.message_id, date_s=mail.date_s, marker=mail.marker
    )
    if mail.content.raw is not None:
        check_message(message)  # what we write ourselves has no such lines
    return message
