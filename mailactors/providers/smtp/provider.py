"""The `smtp` provider: the pool of connections, and one attempt after another on them.

Owns the idle connections. Never keeps a message, never retries one: the single exception is a
pooled connection that turns out dead before it answered MAIL, which says nothing about anybody.
"""

from __future__ import annotations

import ssl
from collections import deque
from typing import Final

import trio

from mailactors.model import mime
from mailactors.model.headers import UnrenderableError
from mailactors.model.outcome import (
    Deferred,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
)
from mailactors.providers.port import Capabilities, LookUpFailed, LookUpResult, Mail
from mailactors.providers.smtp.classify import classify, decide_outcome
from mailactors.providers.smtp.protocol import SmtpState, Verb
from mailactors.providers.smtp.settings import SmtpSettings
from mailactors.providers.smtp.transport import Connection, LostError
from mailactors.providers.smtp.wire import (
    UnsendableError,
    check_message,
    stuff_dots,
)
from mailactors.runtime.ports import Clock, Connector

TRUSTED_IDLE_S: Final = 1.0
"""A connection that was in use so lately is not asked whether it lives: at MAIL it will show."""


class SmtpProvider:
    """One relay, with its idle connections, the newest used first."""

    def __init__(
        self, name: str, settings: SmtpSettings, clock: Clock, connector: Connector
    ) -> None:
        self.name = name
        self._settings = settings
        self._clock = clock
        self._connector = connector
        self._idle: deque[tuple[float, Connection]] = deque()
        self._is_closing = False
        self._tls = (
            None if settings.tls == "none" else ssl.create_default_context(cafile=settings.ca_file)
        )

    @property
    def capabilities(self) -> Capabilities:
        """As the settings say."""
        return self._settings.capabilities

    async def connect(self) -> SmtpSession | Refusal:
        """Return a session on an idle connection that still lives, or on a new one."""
        while self._idle:
            idle_since_s, connection = self._idle.pop()
            idle_s = self._clock.now_s() - idle_since_s
            is_old = idle_s > self._settings.idle_s
            if not is_old and (idle_s < TRUSTED_IDLE_S or not await self._is_stale(connection)):
                return SmtpSession(self, connection, is_reused=True)
            await connection.aclose()
        connection_or_refusal = await self.open()
        if isinstance(connection_or_refusal, Connection):
            return SmtpSession(self, connection_or_refusal, is_reused=False)
        return connection_or_refusal

    async def look_up(self, marker: str) -> LookUpResult:
        """SMTP has no such question."""
        await trio.lowlevel.checkpoint()
        return LookUpFailed(Reason("a relay cannot be asked what it accepted"))

    async def aclose(self) -> None:
        """Take leave on every idle connection, all at once; sessions given back later close too."""
        self._is_closing = True
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self._idle.pop()[1].quit)

    def statistics(self) -> dict[str, int]:
        """Return what is worth showing: the connections that wait for work."""
        return {"idle_connections_count": len(self._idle)}

    async def open(self) -> Connection | Refusal:
        """Return a new connection, greeted, under TLS and logged in as the settings say."""
        connection = None
        try:
            connection = await self._dial()
            refusal = await self._introduce(connection)
        except LostError as lost:
            refusal = Deferred(Scope.PROVIDER, lost.reason)
        except BaseException:
            if connection is not None:
                await connection.aclose()
            raise
        if refusal is None:
            assert connection is not None
            return connection
        if connection is not None:
            await connection.quit()
        return refusal

    async def give_back(self, connection: Connection) -> None:
        """Take a connection that nobody uses any more: keep it or take leave."""
        is_spent = connection.messages_count >= self._settings.messages_per_connection_max
        if not connection.is_open:
            return
        if self._is_closing or is_spent or connection.client.state is not SmtpState.READY:
            await connection.leave()
        else:
            self._idle.append((self._clock.now_s(), connection))

    async def _is_stale(self, connection: Connection) -> bool:
        try:
            return await connection.is_stale()
        except BaseException:
            await connection.aclose()
            raise

    async def _dial(self) -> Connection:
        host, port = self._settings.host, self._settings.port
        try:
            with trio.fail_after(self._settings.connect_timeout_s):
                stream = await self._connector.open_tcp(host, port)
        except trio.TooSlowError:
            timeout_s = self._settings.connect_timeout_s
            raise LostError(Phase.CONNECT, f"no connection within {timeout_s:g} s") from None
        except (OSError, UnicodeError) as error:
            raise LostError(Phase.CONNECT, str(error) or type(error).__name__) from None
        return Connection(
            stream,
            self._settings.hello_name,
            connect_timeout_s=self._settings.connect_timeout_s,
            command_timeout_s=self._settings.command_timeout_s,
        )

    async def _introduce(self, connection: Connection) -> Refusal | None:
        """Greeting, TLS, hello and login; None when the server is ready for mail."""
        client = connection.client
        if self._settings.tls == "implicit":
            await self._shake_hands(connection)
        await connection.exchange()
        if not client.reply.is_positive:
            return classify(Verb.GREETING, client.reply)
        if (refusal := await self._hello(connection)) is not None:
            return refusal
        if self._settings.tls == "starttls":
            refusal = await self._start_tls(connection)
        return refusal or await self._log_in(connection)

    async def _hello(self, connection: Connection) -> Refusal | None:
        connection.client.hello()
        await connection.exchange()
        is_ready = connection.client.state is SmtpState.READY
        return None if is_ready else classify(Verb.EHLO, connection.client.reply)

    async def _start_tls(self, connection: Connection) -> Refusal | None:
        client = connection.client
        if not client.extensions.starttls:
            text = "tls: the server does not offer STARTTLS, which is required here"
            return Deferred(Scope.PROVIDER, Reason(text))
        client.starttls()
        await connection.exchange()
        if client.state is not SmtpState.HANDSHAKE:
            return classify(Verb.STARTTLS, client.reply)
        await self._shake_hands(connection)
        client.tls_established()
        return await self._hello(connection)

    async def _shake_hands(self, connection: Connection) -> None:
        assert self._tls is not None
        await connection.start_tls(self._tls, self._settings.host)

    async def _log_in(self, connection: Connection) -> Refusal | None:
        username, password = self._settings.username, self._settings.password
        if username is None or password is None:
            return None
        try:
            connection.client.authenticate(username, password.get_secret_value())
        except UnsendableError as error:
            return Rejected(Scope.PROVIDER, Reason(f"auth: {error}"))
        await connection.exchange()
        reply = connection.client.reply
        return None if reply.is_positive else classify(Verb.AUTH, reply)


class SmtpSession:
    """One attempt's hold on a connection."""

    def __init__(self, provider: SmtpProvider, connection: Connection, *, is_reused: bool) -> None:
        self._provider = provider
        self._connection = connection
        self._is_reused = is_reused

    async def send(self, mail: Mail) -> Outcome:
        """Send, give the connection back, and return what became of the message."""
        try:
            message = self._render(mail)
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

    def _render(self, mail: Mail) -> bytes:
        message = mime.render(
            mail.content, message_id=mail.message_id, date_s=mail.date_s, marker=mail.marker
        )
        check_message(message)
        return message

    async def _attempt(self, mail: Mail, message: bytes) -> Outcome | None:
        """Run one transaction; None if a reused connection was dead before it answered MAIL."""
        client = self._connection.client
        self._connection.messages_count += 1
        client.mail(
            mail.envelope.sender,
            mail.envelope.recipients,
            octets=len(message),
            eight_bit=not message.isascii(),
            smtputf8=mime.needs_smtputf8(mail.content, mail.envelope),
        )
        transaction = client.transaction
        try:
            await self._connection.exchange()
            if client.state is SmtpState.BODY:
                await self._connection.send_message(stuff_dots(message))
        except LostError as lost:
            if self._is_reused and transaction.mail is None:
                return None
            return decide_outcome(transaction, (lost.phase, lost.reason))
        is_idle_timeout = transaction.mail is not None and transaction.mail.code == 421
        if self._is_reused and (is_idle_timeout or transaction.mail is None):
            return None
        return decide_outcome(transaction)

    async def _attempt_anew(self, mail: Mail, message: bytes) -> Outcome:
        fresh = await self._provider.open()
        if not isinstance(fresh, Connection):
            return fresh
        self._connection, self._is_reused = fresh, False
        outcome = await self._attempt(mail, message)
        assert outcome is not None, "a new connection is not retried"
        return outcome
