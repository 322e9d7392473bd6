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
    Reason,
    Refusal,
    Rejected,
    Scope,
)
from mailactors.providers.port import Mail
from mailactors.providers.smtp.classify import decide_outcome
from mailactors.providers.smtp.protocol import SmtpState
from mailactors.providers.smtp.transport import Connection, LostError
from mailactors.providers.smtp.wire import UnsendableError, check_message, stuff_dots

if TYPE_CHECKING:
    from mailactors.providers.smtp.provider import SmtpProvider


class SmtpSession:
    """One attempt's hold on a connection."""

    def __init__(self, provider: SmtpProvider, connection: Connection, *, is_reused: bool) -> None:
        self._provider = provider
        self._connection = connection
        self._is_reused = is_reused

    async def send(self, mail: Mail) -> Outcome:
        """Send, give the connection back, and return what became of the message."""
        try:
            message = await self._rendered(mail)
            outcome = await self._attempt(mail, message)
            if outcome is None:
                outcome = await self._attempt_anew(mail, message)
        except (UnsendableError, UnrenderableError) as error:
            outcome = Rejected(Scope.MESSAGE, Reason(str(error)))
        except BaseException:
            await self._connection.aclose()
            raise
        with trio.CancelScope(shield=True):  # what is known must not be lost over a farewell
            await self._provider.give_back(self._connection)
        return outcome

    async def aclose(self) -> None:
        """Give the connection back unused."""
        await self._provider.give_back(self._connection)

    async def _rendered(self, mail: Mail) -> bytes:
        executor = self._provider.executor
        if executor is None or mail.content.size < mime.LARGE_OCTETS:
            return render(mail)
        return await executor.run(partial(render, mail))

    async def _attempt(self, mail: Mail, message: bytes) -> Outcome | None:
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
        transaction, lost = client.transaction, None
        try:
            await self._connection.exchange()
            if client.state is SmtpState.BODY:
                await self._connection.send_message(stuff_dots(message))
        except LostError as error:
            lost = error.phase, error.reason
        is_idle_timeout = transaction.mail is not None and transaction.mail.code == 421
        if self._is_reused and (transaction.mail is None or (is_idle_timeout and lost is None)):
            return None
        others = self._provider.others_get_through
        outcome = decide_outcome(transaction, lost, others_get_through=others)
        self._provider.learn(outcome, self._connection)
        if left and not isinstance(outcome, NotAttempted):
            outcome = msgspec.structs.replace(outcome, refused=outcome.refused | left)
        return outcome

    async def _attempt_anew(self, mail: Mail, message: bytes) -> Outcome:
        fresh = await self._provider.open()
        if not isinstance(fresh, Connection):
            return fresh
        self._connection, self._is_reused = fresh, False
        outcome = await self._attempt(mail, message)
        assert outcome is not None, "a new connection is not retried"
        return outcome


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
    check_message(message)
    return message
