"""The `smtp` provider: the pool of connections, and one attempt after another on them.

Owns the idle connections. Never keeps a message, never retries one: the single exception is a
pooled connection that turns out dead before it answered MAIL, which says nothing about anybody.
"""

from __future__ import annotations

import math
import re
import ssl
from collections import deque
from typing import Final

import trio

from mailactors.model.outcome import (
    Accepted,
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
from mailactors.providers.port import Capabilities, LookUpFailed, LookUpResult
from mailactors.providers.smtp.budget import Patience, budget_s, window_octets
from mailactors.providers.smtp.classify import classify
from mailactors.providers.smtp.protocol import SmtpState
from mailactors.providers.smtp.session import SmtpSession
from mailactors.providers.smtp.settings import SmtpSettings
from mailactors.providers.smtp.token import TokenError, TokenSource
from mailactors.providers.smtp.transaction import Transaction
from mailactors.providers.smtp.transport import Connection, LostError
from mailactors.providers.smtp.verbs import Verb
from mailactors.providers.smtp.wire import XOAUTH2, UnsendableError
from mailactors.runtime.ports import Clock, Connector, Executor
from mailactors.runtime.shortage import is_shortage, os_words

TRUSTED_IDLE_S: Final = 1.0
"""A connection that was in use so lately is not asked whether it lives: at MAIL it will show."""
ACCEPTED_WITHIN_S: Final = 60.0
REFUSED_IN_A_ROW: Final = 3
"""Others get through while a message was taken so lately, and fewer were refused since then.
A sender of whom nothing was ever taken is counted once: it says nothing of the others."""
KNOWN_FOR_S: Final = 3600.0
"""A sender whose mail was taken so lately and is refused now may have lost that for a while."""
SENDERS_MAX: Final = 1000
"""Senders that are known; the one whose mail was taken the longest ago is evicted."""
OTHER_MECHANISM: Final = (502, 504, 534, 538)
"""What servers say of an AUTH mechanism that they offer and do not have (RFC 4954 §4, §6)."""
BAD_CREDENTIALS: Final = 535
_OURS: Final = (Scope.MESSAGE, Scope.PROVIDER)
_NO_PIPELINING: Final = re.compile(r"pipelin|synchroni[sz]ation|time(d)? ?out|time limit", re.I)


class SmtpProvider:
    """One relay, with its idle connections, the newest used first."""

    def __init__(
        self,
        name: str,
        settings: SmtpSettings,
        clock: Clock,
        connector: Connector,
        executor: Executor | None = None,
    ) -> None:
        self.name = name
        self.executor = executor
        """Where large messages are rendered; None: in place, as in virtual time."""
        self._settings = settings
        self._clock = clock
        self._connector = connector
        self._idle: deque[tuple[float, Connection]] = deque()
        self._is_closing = False
        self.pipelines = True
        """False once a server that offers PIPELINING was found not to read what it is sent."""
        self._accepted_s = -math.inf
        self._refused_in_a_row = 0
        self._refused_unknown: set[str] = set()
        self._known: dict[str, float] = {}
        """When mail of a sender was taken last, the latest at the end."""
        self._tokens = TokenSource(settings.token_command) if settings.token_command else None
        self._tls = (
            None if settings.tls == "none" else ssl.create_default_context(cafile=settings.ca_file)
        )

    @property
    def capabilities(self) -> Capabilities:
        """As the settings say."""
        return self._settings.capabilities

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, and the tokens that were used lately."""
        password = self._settings.password
        tokens = () if self._tokens is None else self._tokens.used
        return (*tokens, *([password.get_secret_value()] if password else ()))

    async def connect(self) -> SmtpSession | Refusal | NotAttempted:
        """Return a session on an idle connection that still lives, or on a new one."""
        while self._idle:
            idle_since_s, connection = self._idle.pop()
            idle_s = self._clock.now_s() - idle_since_s
            is_old = idle_s > self._settings.idle_s
            if not is_old and (idle_s < TRUSTED_IDLE_S or not await self._is_stale(connection)):
                return SmtpSession(self, connection, is_reused=True)
            await connection.aclose()
        began_s = self._clock.now_s()
        connection_or_refusal = await self.open()
        if isinstance(connection_or_refusal, Connection):
            spent_s = self._clock.now_s() - began_s
            return SmtpSession(self, connection_or_refusal, is_reused=False, spent_s=spent_s)
        return connection_or_refusal

    def take_ready(self) -> SmtpSession | None:
        """Return a session on the newest idle connection, if that was in use a moment ago."""
        if self._idle and self._clock.now_s() - self._idle[-1][0] < TRUSTED_IDLE_S:
            return SmtpSession(self, self._idle.pop()[1], is_reused=True)
        return None

    async def look_up(self, marker: str) -> LookUpResult:
        """SMTP has no such question."""
        await trio.lowlevel.checkpoint()
        return LookUpFailed(Reason("a relay cannot be asked what it accepted"))

    async def release(self) -> None:
        """Take leave on every idle connection without waiting for the answers."""
        while self._idle:
            await self._idle.popleft()[1].leave()

    async def aclose(self) -> None:
        """Take leave on every idle connection, all at once; sessions given back later close too."""
        self._is_closing = True
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self._idle.pop()[1].quit)

    def statistics(self) -> dict[str, int]:
        """Return what is worth showing: the connections that wait for work."""
        return {"idle_connections_count": len(self._idle)}

    def patience(self, octets: int, spent_s: float, deadline_s: float) -> Patience:
        """Return how long an attempt with so many octets may go on, `spent_s` of it being past."""
        settings = self._settings
        allowed_s = budget_s(settings.attempt_timeout_s, octets, settings.octets_per_s_min)
        return Patience(
            self._clock,
            allowed_s,
            self._clock.now_s() + allowed_s - spent_s,
            deadline_s,
            window_octets(settings.octets_per_s_min),
        )

    @property
    def others_get_through(self) -> bool:
        """Whether the relay takes messages now, so that it refuses neither us nor the account."""
        is_lately = self._clock.now_s() - self._accepted_s <= ACCEPTED_WITHIN_S
        return is_lately and self._refused_in_a_row < REFUSED_IN_A_ROW

    def is_known(self, sender: str) -> bool:
        """Whether mail of this sender was taken lately."""
        return self._clock.now_s() - self._known.get(sender, -math.inf) <= KNOWN_FOR_S

    def learn(self, outcome: Outcome, connection: Connection, sender: str) -> None:
        """Remember whether messages are taken, and whether PIPELINING can be relied on.

        A server that reads one command and drops the rest of its input goes silent, or complains.
        """
        if isinstance(outcome, Accepted):
            self._accepted_s, self._refused_in_a_row = self._clock.now_s(), 0
            self._refused_unknown.clear()
            self._known.pop(sender, None)
            self._known[sender] = self._accepted_s
            if len(self._known) > SENDERS_MAX:
                del self._known[next(iter(self._known))]
        elif isinstance(outcome, Deferred | Rejected) and outcome.scope in _OURS:
            self._refused_in_a_row += sender not in self._refused_unknown
            if not self.is_known(sender):
                self._refused_unknown.add(sender)
        client = connection.client
        if client.is_pipelining and (
            (connection.is_silent and client.has_unanswered_rcpt)
            or any(_NO_PIPELINING.search(text) for text in _refusals(client.transaction))
        ):
            self.pipelines = False

    async def open(self) -> Connection | Refusal | NotAttempted:
        """Return a new connection, greeted, under TLS and logged in as the settings say."""
        within_s = self._settings.attempt_timeout_s
        connection: Connection | None = None
        refusal: Refusal | NotAttempted | None = None
        try:
            with trio.fail_after(within_s):
                connection = await self._dial()
                refusal = await self._introduce(connection)
        except LostError as lost:
            refusal = Deferred(Scope.PROVIDER, lost.reason)
            if lost.is_ours:
                refusal = NotAttempted(Why.RESOURCES, text=lost.reason.text)
        except trio.TooSlowError:
            phase = Phase.CONNECT if connection is None else connection.phase
            text = f"{phase.value}: the relay was not ready for mail within {within_s:g} s"
            refusal = Deferred(Scope.PROVIDER, Reason(text))
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

    def keep(self, connection: Connection) -> bool:
        """Take a connection that nobody uses any more; False if it must take leave instead."""
        is_spent = connection.messages_count >= self._settings.messages_per_connection_max
        if not connection.is_open:
            return True
        if self._is_closing or is_spent or connection.client.state is not SmtpState.READY:
            return False
        self._idle.append((self._clock.now_s(), connection))
        return True

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
            raise LostError(Phase.CONNECT, os_words(error), is_ours=is_shortage(error)) from None
        return Connection(
            stream,
            self._settings.hello_name,
            connect_timeout_s=self._settings.connect_timeout_s,
            command_timeout_s=self._settings.command_timeout_s,
            pipelines=self.pipelines,
        )

    async def _introduce(self, connection: Connection) -> Refusal | NotAttempted | None:
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

    async def _log_in(self, connection: Connection) -> Refusal | NotAttempted | None:
        """Try the mechanisms that are offered, one after another, until one is known."""
        mechanisms, offered = self._settings.mechanisms, connection.client.extensions.auth
        if not mechanisms:
            return None
        refusal: Refusal = Rejected(
            Scope.PROVIDER,
            Reason(f"auth: the server offers neither AUTH {' nor AUTH '.join(mechanisms)}"),
        )
        for mechanism in (each for each in mechanisms if each in offered):
            try:
                await self._authenticate(connection, mechanism)
            except TokenError as error:
                if error.is_ours:
                    return NotAttempted(Why.RESOURCES, text=f"auth: {error}")
                return Deferred(Scope.PROVIDER, Reason(f"auth: {error}"))
            except UnsendableError as error:
                return Rejected(Scope.PROVIDER, Reason(f"auth: {error}"))
            reply = connection.client.reply
            if reply.is_positive:
                return None
            refusal = classify(Verb.AUTH, reply)
            if reply.code not in OTHER_MECHANISM:
                break
        return refusal

    async def _authenticate(self, connection: Connection, mechanism: str) -> None:
        """Make one attempt, or two where the first token is refused as one that has expired."""
        client, username = connection.client, self._settings.username or ""
        if mechanism != XOAUTH2:
            assert self._settings.password is not None
            client.authenticate(username, self._settings.password.get_secret_value(), mechanism)
            await connection.exchange()
            return
        assert self._tokens is not None
        token = await self._tokens.token()
        client.authenticate(username, token, mechanism)
        await connection.exchange()
        if client.reply.code == BAD_CREDENTIALS and connection.is_open:
            client.authenticate(username, await self._tokens.token(refused=token), mechanism)
            await connection.exchange()


def _refusals(transaction: Transaction) -> list[str]:
    heard = (transaction.mail, *transaction.answers.values(), transaction.data, transaction.closing)
    return [reply.text for reply in heard if reply is not None and reply.is_refusal]
