"""One SMTP connection on Trio: the protocol, the stream under it, and a timeout for each phase.

Owns the stream. Turns every network error into `LostError` with the phase that it interrupted;
never decides what that means for a message. An interrupted exchange, cancellation included, closes
the stream at once: the state of its conversation is unknown, so it cannot be used again.

Source: RFC 5321 §4.5.3.2 (timeouts); RFC 3207 (STARTTLS), RFC 8314 §3.3 (implicit TLS).
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from mailactors.model.outcome import Phase, Reason
from mailactors.providers.smtp.budget import Patience
from mailactors.providers.smtp.protocol import SmtpClient, SmtpState, Verb
from mailactors.providers.smtp.replies import GarbageError, clean_text
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

RECEIVE_OCTETS: Final = 16384

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
            self._stream = tls
            with self._losing(Phase.TLS, self._connect_timeout_s, "TLS handshake"):
                try:
                    await tls.do_handshake()
                except trio.BrokenResourceError as error:
                    raise LostError(Phase.TLS, _describe_tls(error)) from None

    async def exchange(self) -> None:
        """Write the pending commands, and read until every one is answered.

        Raises: LostError
        """
        async with self._guard():
            while (verb := self.client.awaited) is not None:
                awaiting = f"answer to {verb.value}"
                with self._losing(PHASES[verb], self._timeouts_s[verb], awaiting):
                    await self._write()
                    await self._hear_one()
            if self.client.state is SmtpState.CLOSED:
                await self.aclose()

    async def send_body(self, stuffed: bytes, patience: Patience) -> None:
        """Write a message, dots stuffed, without the final dot.

        What the server says meanwhile is read: a refusal ends the message, and anything else, an
        early 250 too, is no answer to it.

        Raises: LostError
        """
        async with self._guard():
            lost = await self._write_body(stuffed, patience)
            if lost is not None:
                if self.client.state is SmtpState.BODY:
                    await self._hear_last_words()
                raise lost

    async def end_body(self) -> None:
        """Write the final dot, and read the answer.

        The dot has a write of its own. `send_all` does not say how much of a failed write was sent,
        so only this makes "lost before the dot" certain. It costs one small packet, and no wait.

        Raises: LostError, with Phase.FINAL: the dot may have left.
        """
        lost: LostError | None = None
        async with self._guard():
            self.client.end_of_message()
            try:
                with self._losing(Phase.FINAL, DOT_TIMEOUT_S, "write of the final dot"):
                    await self._write()
            except LostError as error:
                lost = error
            if lost is not None:
                await self._hear_last_words()
                raise lost
        await self.exchange()

    async def is_stale(self) -> bool:
        """Return whether an idle connection has ended, or the server has sent something unasked."""
        if not self.is_open or not self.client.is_quiet:
            return True
        try:
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
                with self._losing(Phase.BODY, math.inf, "answer"):
                    await self._hear_one()
                lost = LostError(Phase.BODY, "the server answered before the message was sent")
            except LostError as error:
                lost = error
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
                await self._stream.send_all(window)
            left = left[len(window) :]

    async def _write(self) -> None:
        if outgoing := self.client.take_outgoing():
            await self._stream.send_all(outgoing)

    async def _hear_one(self) -> None:
        heard = self.client.replies_count
        while self.client.replies_count == heard:
            data = await self._stream.receive_some(RECEIVE_OCTETS)
            if not data:
                raise trio.BrokenResourceError("the server closed the connection")
            self.client.feed(bytes(data))

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
        try:
            with trio.fail_after(timeout_s):
                yield
        except trio.TooSlowError:
            self.is_silent = True
            raise LostError(phase, f"no {what} within {timeout_s:g} s") from None
        except GarbageError as error:
            raise LostError(phase, f"garbage: {error}") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            text = f"connection lost ({os_words(error)})"
            raise LostError(phase, text, is_ours=is_shortage(error)) from None


def _describe_tls(error: BaseException) -> str:
    cause = error.__cause__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return f"TLS handshake failed ({os_words(error)})"
    return f"the certificate is not to be trusted: {cause.verify_message}"
