"""One SMTP connection on Trio: the protocol, the stream under it, and a timeout for each phase.

Owns the stream. Turns every network error into `LostError` with the phase that it interrupted;
never decides what that means for a message. An interrupted exchange, cancellation included, closes
the stream at once: the state of its conversation is unknown, so it cannot be used again.

Source: RFC 5321 §4.5.3.2 (timeouts); RFC 3207 (STARTTLS), RFC 8314 §3.3 (implicit TLS).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from mailactors.model.outcome import Phase, Reason
from mailactors.providers.smtp.budget import Limit, Patience
from mailactors.providers.smtp.protocol import SmtpClient, SmtpState
from mailactors.providers.smtp.replies import GarbageError, clean_text
from mailactors.providers.smtp.verbs import Verb
from mailactors.providers.smtp.wire import TERMINATOR
from mailactors.runtime.plain import RECEIVE_OCTETS, PlainSocket
from mailactors.runtime.shortage import is_shortage, os_words

STALE_LOOK_S: Final = 0.001
"""How long to read what a server sent while its connection was idle."""
LEAVE_WITHIN_S: Final = 0.1
"""A QUIT that does not fit into the socket at once is not sent."""
DATA_TIMEOUT_S: Final = 120.0
"""For the answer to DATA (RFC 5321 §4.5.3.2.4)."""
DOT_TIMEOUT_S: Final = 180.0
"""For the write of the final dot (§4.5.3.2.5)."""
FINAL_TIMEOUT_S: Final = 600.0
"""For the answer to the final dot (§4.5.3.2.6): giving up sooner would make duplicates."""
QUIT_TIMEOUT_S: Final = 2.0
"""For the answer to QUIT, which is not needed."""
LAST_WORDS_TIMEOUT_S: Final = 1.0
"""For reading what the server sent before it closed; that has arrived already."""

AT_ONCE_OCTETS_MAX: Final = 65536
"""A message of this size and less is written with its dot at once, where that is safe."""

PHASES: Final = {
    Verb.GREETING: Phase.GREETING,
    Verb.EHLO: Phase.HELLO,
    Verb.HELO: Phase.HELLO,
    Verb.STARTTLS: Phase.TLS,
    Verb.AUTH: Phase.AUTH,
    Verb.RSET: Phase.ENVELOPE,
    Verb.MAIL: Phase.ENVELOPE,
    Verb.RCPT: Phase.ENVELOPE,
    Verb.DATA: Phase.ENVELOPE,
    Verb.LONE_DOT: Phase.ENVELOPE,
    Verb.FINAL: Phase.FINAL,
    Verb.QUIT: Phase.UNKNOWN,
}

_FAULTS: Final = (GarbageError, trio.BrokenResourceError, trio.ClosedResourceError)
_AWAITING: Final = {verb: f"answer to {verb.value}" for verb in Verb}

_PHASE_OF: Final = {
    SmtpState.GREETING: Phase.GREETING,
    SmtpState.IDLE: Phase.HELLO,
    SmtpState.HELLO: Phase.HELLO,
    SmtpState.STARTTLS: Phase.TLS,
    SmtpState.HANDSHAKE: Phase.TLS,
    SmtpState.AUTH: Phase.AUTH,
    SmtpState.READY: Phase.AUTH,
    SmtpState.ENVELOPE: Phase.ENVELOPE,
    SmtpState.BODY: Phase.BODY,
    SmtpState.FINAL: Phase.FINAL,
    SmtpState.QUIT: Phase.UNKNOWN,
    SmtpState.CLOSED: Phase.UNKNOWN,
}


class LostError(Exception):
    """The connection is lost: in which `phase`, and the `reason`.

    `is_ours`: for want of something that this process could not get.
    """

    def __init__(self, phase: Phase, text: str, *, is_ours: bool = False) -> None:
        super().__init__(text)
        self.phase = phase
        self.is_ours = is_ours
        self.reason = Reason(f"{phase.value}: {clean_text(text)}")


class Connection:
    """A stream with an SMTP client on it; `is_open` until it is closed or lost."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        hello_name: str,
        *,
        connect_timeout_s: float,
        command_timeout_s: float,
        pipelines: bool = True,
    ) -> None:
        self.client = SmtpClient(hello_name, pipelines=pipelines)
        self.is_open = True
        self.is_silent = False
        """The server did not answer in time."""
        self.messages_count = 0
        self._stream = stream
        self._plain = PlainSocket.under(stream)
        self._limit: Limit | None = None
        """Of the attempt that goes on."""
        self._connect_timeout_s = connect_timeout_s
        self._timeouts_s = dict.fromkeys(Verb, connect_timeout_s)
        self._timeouts_s |= dict.fromkeys((Verb.MAIL, Verb.RCPT, Verb.RSET), command_timeout_s)
        self._timeouts_s |= {
            Verb.DATA: DATA_TIMEOUT_S,
            Verb.FINAL: FINAL_TIMEOUT_S,
            Verb.LONE_DOT: FINAL_TIMEOUT_S,
            Verb.QUIT: QUIT_TIMEOUT_S,
        }

    @property
    def phase(self) -> Phase:
        """How far the conversation has come."""
        return _PHASE_OF[self.client.state]

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS on the stream and check the server's name against `host`.

        Raises: LostError; its reason names what is wrong with a certificate.
        """
        tls = trio.SSLStream(self._stream, context, server_hostname=host)
        async with self._guard():
            self._stream, self._plain = tls, None
            with self._losing(Phase.TLS, self._connect_timeout_s, "TLS handshake"):
                try:
                    await tls.do_handshake()
                except trio.BrokenResourceError as error:
                    raise LostError(Phase.TLS, _describe_tls(error)) from None

    @contextmanager
    def attempt(self, patience: Patience) -> Iterator[Limit]:
        """Let one limit end all waits of an attempt, and say whether it was given up.

        Raises: LostError, when an answer did not come in time.
        """
        self._limit = limit = Limit(patience)
        try:
            with limit.scope:
                yield limit
        finally:
            self._limit = None
        limit.is_given_up &= limit.scope.cancelled_caught
        if limit.scope.cancelled_caught and not limit.is_given_up:
            self.is_silent = True
            raise LostError(self.phase, _too_late(*limit.awaiting))

    async def exchange(self) -> None:
        """Write the pending commands, and read until every one is answered.

        Raises: LostError
        """
        async with self._guard():
            while (verb := self.client.awaited) is not None:
                if self._limit is None:
                    with self._losing(PHASES[verb], self._timeouts_s[verb], _AWAITING[verb]):
                        await self._ask()
                else:
                    self._limit.wait(_AWAITING[verb], self._timeouts_s[verb])
                    try:
                        await self._ask()
                    except _FAULTS as error:
                        raise _lost(PHASES[verb], error) from None
            if self.client.state is SmtpState.CLOSED:
                await self.aclose()

    async def _ask(self) -> None:
        await self._write()
        await self._hear_one()

    async def send_message(self, stuffed: bytes, patience: Patience, limit: Limit) -> None:
        """Write a message, dots stuffed, and the final dot, and read the answer.

        What the server says before the dot is read: a refusal ends the message, and anything else,
        an early 250 too, is no answer to it.

        Raises: LostError, with Phase.FINAL if the dot may have left.
        """
        async with self._guard():
            taken, lost = self._write_at_once(stuffed, limit)
            if lost is None and taken < len(stuffed):
                limit.relax()
                lost = await self._write_body(stuffed[taken:], patience)
            if lost is not None:
                limit.relax()
                if self.client.state is SmtpState.BODY:
                    await self._hear_last_words()
                raise lost
            if taken <= len(stuffed) and limit.is_over:
                await trio.lowlevel.checkpoint()  # which ends it here, before the dot
            limit.pass_dot()
            if taken < len(stuffed) + len(TERMINATOR):
                limit.relax()
                await self._end_dot(max(0, taken - len(stuffed)))
            else:
                self.client.end_of_message(len(TERMINATOR))
        await self.exchange()

    def _write_at_once(self, stuffed: bytes, limit: Limit) -> tuple[int, LostError | None]:
        """Write a small message with its dot; return how much was taken, or why it must not go on.

        Only a plain socket says how much that was, so that "lost before the dot" stays certain.
        """
        is_fit = self._plain is not None and len(stuffed) <= AT_ONCE_OCTETS_MAX
        if not is_fit or limit.is_over or not self.client.is_quiet:
            return 0, None
        assert self._plain is not None
        try:
            said = self._plain.read_now()
            if said is None:
                return self._plain.write_now(stuffed + TERMINATOR), None
            self._hear(said)
        except _FAULTS as error:
            return 0, _lost(Phase.BODY, error)
        return 0, LostError(Phase.BODY, "the server answered before the message was sent")

    async def _end_dot(self, taken: int) -> None:
        """Write what is left of the final dot.

        Where the kernel does not say how much of a write it took, the dot has one of its own: only
        that makes "lost before the dot" certain. It costs one small packet, and no wait.
        """
        self.client.end_of_message(taken)
        lost: LostError | None = None
        try:
            with self._losing(Phase.FINAL, DOT_TIMEOUT_S, "write of the final dot"):
                await self._write()
        except LostError as error:
            lost = error
        if lost is not None:
            await self._hear_last_words()
            raise lost

    async def is_stale(self) -> bool:
        """Return whether an idle connection has ended, or the server has sent something unasked."""
        if not self.is_open or not self.client.is_quiet:
            return True
        try:
            if self._plain is not None:
                return self._plain.read_now() is not None
            # A deadline of now would expire before the socket is read. Cancelling is harmless.
            with trio.move_on_after(STALE_LOOK_S):
                await self._stream.receive_some(RECEIVE_OCTETS)
                return True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        return False

    async def quit(self) -> None:
        """Send QUIT, wait briefly for its answer, and close; raises for no fault of the server."""
        try:
            if self.is_open and self.client.state in (SmtpState.READY, SmtpState.IDLE):
                self.client.quit()
                await self.exchange()
        except LostError:
            pass
        finally:
            await self.aclose()

    async def leave(self) -> None:
        """Send QUIT and close without waiting for the answer: an outcome waits to be returned."""
        if self.is_open and self.client.state is SmtpState.READY:
            self.client.quit()
            with contextlib.suppress(LostError), trio.move_on_after(LEAVE_WITHIN_S):
                await self._write()
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once, without QUIT."""
        self.is_open = False
        await trio.aclose_forcefully(self._stream)

    async def _write_body(self, stuffed: bytes, patience: Patience) -> LostError | None:
        """Write all but the dot, and listen meanwhile. Return why it must not go on, if so."""
        lost: LostError | None = None

        async def listen() -> None:
            nonlocal lost
            try:
                await self._hear_one()
                lost = LostError(Phase.BODY, "the server answered before the message was sent")
            except _FAULTS as error:
                lost = _lost(Phase.BODY, error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            try:
                await self._write_windows(memoryview(stuffed), patience)
                await trio.lowlevel.checkpoint()  # so that what is there is read before the dot
            except LostError as error:
                lost = lost or error
            nursery.cancel_scope.cancel()
        if lost is None and not self.client.is_quiet:
            lost = LostError(Phase.BODY, "the server began to answer before the message was sent")
        return lost

    async def _write_windows(self, left: memoryview, patience: Patience) -> None:
        """Write at a pace that is not below the least."""
        while left:
            window = left[: patience.window_octets]
            window_s = patience.window_s(len(window), len(left))
            with self._losing(Phase.BODY, window_s, f"write of {len(window)} octets"):
                await self._send(window)
            left = left[len(window) :]

    async def _write(self) -> None:
        if outgoing := self.client.take_outgoing():
            await self._send(outgoing)

    async def _send(self, data: bytes | memoryview) -> None:
        await (self._plain.write(data) if self._plain else self._stream.send_all(data))

    async def _hear_one(self) -> None:
        heard = self.client.replies_count
        while self.client.replies_count == heard:
            if self._plain is not None:
                self._hear(await self._plain.read())
            else:
                self._hear(bytes(await self._stream.receive_some(RECEIVE_OCTETS)))

    def _hear(self, said: bytes) -> None:
        if not said:
            raise trio.BrokenResourceError("the server closed the connection")
        self.client.feed(said)

    async def _hear_last_words(self) -> None:
        """Read a refusal that came before the whole message was written, if there is one.

        A server may refuse early and close; its answer says more than our write error. The client
        keeps it as `transaction.final`, which takes precedence over the lost connection.
        """
        with trio.move_on_after(LAST_WORDS_TIMEOUT_S):
            try:
                await self._hear_one()
            except (trio.BrokenResourceError, trio.ClosedResourceError, GarbageError):
                return

    @asynccontextmanager
    async def _guard(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self.aclose()
            raise

    @contextmanager
    def _losing(self, phase: Phase, timeout_s: float, what: str) -> Iterator[None]:
        """Turn errors into LostError, and end what takes too long."""
        try:
            with trio.fail_after(timeout_s):
                yield
        except trio.TooSlowError:
            self.is_silent = True
            raise LostError(phase, _too_late(what, timeout_s)) from None
        except _FAULTS as error:
            raise _lost(phase, error) from None


def _lost(phase: Phase, error: Exception) -> LostError:
    if isinstance(error, GarbageError):
        return LostError(phase, f"garbage: {error}")
    return LostError(phase, f"connection lost ({os_words(error)})", is_ours=is_shortage(error))


def _too_late(what: str, timeout_s: float) -> str:
    return f"no {what} within {timeout_s:g} s"


def _describe_tls(error: BaseException) -> str:
    cause = error.__cause__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return f"TLS handshake failed ({os_words(error)})"
    return f"the certificate is not to be trusted: {cause.verify_message}"
