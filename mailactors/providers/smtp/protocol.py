"""The client side of SMTP, sans-io: octets in, octets out, and what is known so far.

Owns the order of commands: what may be said now, what was said and is not answered yet, and the
results of the transaction. Never touches a socket, a clock or TLS; never decides what a refusal
means. One instance a connection, in the manner of h11: call a method, write `take_outgoing()`, feed
what comes back, until `awaited` is None.

    GREETING → IDLE ─ hello ─→ READY ─ mail ─→ ENVELOPE ─ 354 ─→ BODY ─ dot ─→ FINAL → READY
                 ↑                 ├─ authenticate → READY
                 └ HANDSHAKE ←─────┘ starttls                    421 or nonsense anywhere → CLOSED

Source: RFC 5321 §3.3, §4.1.1, §4.3.2; RFC 2920 (PIPELINING), 3207 (STARTTLS), 4954 (AUTH), 1870
(SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8).
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from mailactors.providers.smtp.replies import (
    Extensions,
    GarbageError,
    ReplyParser,
    SmtpReply,
    parse_extensions,
)
from mailactors.providers.smtp.transaction import Transaction
from mailactors.providers.smtp.verbs import Command, Verb
from mailactors.providers.smtp.wire import (
    PASSWORD_AUTH,
    TERMINATOR,
    UnsendableError,
    auth_lines,
    check_address,
    check_credential,
    check_hello_name,
)

_FRAMING: Final = re.compile(rb"[\r\n\0]")


class SmtpState(enum.Enum):
    """Where the conversation stands."""

    GREETING = "greeting"
    IDLE = "idle"
    """Greeted, or newly under TLS: only a hello is next."""
    HELLO = "hello"
    READY = "ready"
    """Anything may begin."""
    STARTTLS = "starttls"
    HANDSHAKE = "handshake"
    """The server waits for TLS; nothing may be said in clear text any more."""
    AUTH = "auth"
    ENVELOPE = "envelope"
    BODY = "body"
    """354 was received: the message is next."""
    FINAL = "final"
    QUIT = "quit"
    CLOSED = "closed"


class SmtpClient:
    """One connection's worth of client protocol; `pipelines` False makes no use of PIPELINING."""

    def __init__(self, hello_name: str, *, pipelines: bool = True) -> None:
        self._pipelines = pipelines
        self._hello_name = check_hello_name(hello_name).encode()
        self._parser = ReplyParser()
        self._outgoing = bytearray()
        self._held: deque[Command] = deque()
        self._awaited = deque([Command(Verb.GREETING)])
        self._credentials: deque[bytes] = deque()
        self._must_reset = False
        self.state = SmtpState.GREETING
        self.extensions = Extensions()
        self.reply = SmtpReply(220, (b"",))
        """The newest reply."""
        self.replies_count = 0
        self._read_at = 0
        """`replies_count` when the newest octets came."""
        self.transaction = Transaction(())

    @property
    def awaited(self) -> Verb | None:
        """What the next reply will answer; None when it is our turn."""
        return self._awaited[0].verb if self._awaited else None

    @property
    def is_quiet(self) -> bool:
        """Whether the server has said nothing that is still incomplete."""
        return self._parser.is_empty

    @property
    def has_unanswered_rcpt(self) -> bool:
        """Whether commands that went out together with MAIL have no answer, though MAIL has."""
        return (
            self.is_pipelining
            and self.transaction.mail is not None
            and self.awaited in (Verb.RCPT, Verb.DATA)
        )

    @property
    def is_pipelining(self) -> bool:
        """Whether commands go out without waiting for the answers before them (RFC 2920)."""
        return self._pipelines and self.extensions.pipelining

    def take_outgoing(self) -> bytes:
        """Return what has to be written, once."""
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    # What we say. Each checks all of its arguments before it changes anything.

    def hello(self) -> None:
        """Say EHLO; a server that does not know it is asked again with HELO (§3.2)."""
        self._move(SmtpState.HELLO, SmtpState.IDLE)
        self._say(Command(Verb.EHLO, b"EHLO " + self._hello_name))

    def starttls(self) -> None:
        """Ask for TLS; with a 220 the state is HANDSHAKE, otherwise READY (RFC 3207 §4)."""
        self._move(SmtpState.STARTTLS, SmtpState.READY)
        self._say(Command(Verb.STARTTLS, b"STARTTLS"))

    def tls_established(self) -> None:
        """Begin again under TLS: forget what was offered or sent in clear text (RFC 3207 §4.2)."""
        self._move(SmtpState.IDLE, SmtpState.HANDSHAKE)
        self._parser.clear()
        self.extensions = Extensions()

    def authenticate(self, username: str, secret: str, mechanism: str = "") -> None:
        """Log in by PLAIN (RFC 4616), LOGIN or XOAUTH2; without a mechanism by the first offered.

        `secret` is the password, for XOAUTH2 the access token.

        Raises: UnsendableError, when none is offered or a credential holds CR, LF or NUL.
        """
        user, password = check_credential(username), check_credential(secret)
        mechanism = mechanism or next((m for m in PASSWORD_AUTH if m in self.extensions.auth), "")
        if mechanism not in self.extensions.auth:
            raise UnsendableError("the server offers neither AUTH PLAIN nor AUTH LOGIN")
        line, credentials = auth_lines(mechanism, user, password)
        self._move(SmtpState.AUTH, SmtpState.READY)
        self._credentials = deque(credentials)
        self._say(Command(Verb.AUTH, line))

    def mail(
        self,
        sender: str,
        recipients: Sequence[str],
        *,
        octets: int = 0,
        eight_bit: bool = False,
        smtputf8: bool = False,
    ) -> None:
        """Begin a transaction: MAIL, each RCPT and DATA, in one write where that is allowed.

        A transaction that was left open is reset first. Afterwards the state is BODY if somebody
        may receive, otherwise READY, and `transaction` says who may not.

        Raises: UnsendableError
        """
        assert recipients, "an envelope without recipients"
        commands = [Command(Verb.MAIL, self._mail_line(sender, octets, eight_bit, smtputf8))]
        for recipient in recipients:
            path = check_address(recipient, smtputf8=smtputf8)
            if not path:
                raise UnsendableError("an empty recipient")
            commands.append(Command(Verb.RCPT, b"RCPT TO:<" + path + b">", recipient))
        commands.append(Command(Verb.DATA, b"DATA"))
        if self._must_reset:
            commands.insert(0, Command(Verb.RSET, b"RSET"))
        self._move(SmtpState.ENVELOPE, SmtpState.READY)
        self.transaction = Transaction(tuple(recipients))
        self._must_reset = True
        self._say(*commands)

    def end_of_message(self, taken: int = 0) -> None:
        """Say the final dot, of which `taken` octets went with the message; nothing follows it."""
        self._move(SmtpState.FINAL, SmtpState.BODY)
        self._outgoing += TERMINATOR[taken:]
        self._awaited.append(Command(Verb.FINAL))

    def quit(self) -> None:
        """Take leave (§4.1.1.10)."""
        self._move(SmtpState.QUIT, SmtpState.READY, SmtpState.IDLE)
        self._say(Command(Verb.QUIT, b"QUIT"))

    def _mail_line(self, sender: str, octets: int, eight_bit: bool, smtputf8: bool) -> bytes:
        offered = self.extensions
        if smtputf8 and not offered.smtputf8:
            raise UnsendableError("the server does not offer SMTPUTF8, which the message needs")
        if eight_bit and not offered.eight_bit_mime:
            raise UnsendableError("the server does not offer 8BITMIME, which the message needs")
        if offered.size_max and octets > offered.size_max:
            raise UnsendableError(f"{octets} octets, and the server takes {offered.size_max}")
        return b"".join(
            (
                b"MAIL FROM:<" + check_address(sender, smtputf8=smtputf8) + b">",
                b" SIZE=%d" % octets if offered.size and octets else b"",
                b" BODY=8BITMIME" if eight_bit else b"",
                b" SMTPUTF8" if smtputf8 else b"",
            )
        )

    def _move(self, state: SmtpState, *allowed: SmtpState) -> None:
        assert self.state in allowed, f"{state} after {self.state}"
        assert not self._awaited, f"{state} before the answer to {self.awaited}"
        self.state = state

    def _say(self, *commands: Command) -> None:
        self._held.extend(commands)
        self._write_held()

    def _write_held(self) -> None:
        while self._held and (self.is_pipelining or not self._awaited):
            command = self._held.popleft()
            line = command.line
            assert not _FRAMING.search(line)
            self._outgoing += line + b"\r\n"
            self._awaited.append(command)

    # What we hear.

    def feed(self, data: bytes) -> None:
        """Take octets from the server.

        Raises: GarbageError for what is no answer to what was asked; the state is CLOSED then.
        """
        self._read_at = self.replies_count
        try:
            for reply in self._parser.feed(data):
                self._hear(reply)
                if self.state in (SmtpState.CLOSED, SmtpState.HANDSHAKE):
                    self._parser.clear()
                    break
        except GarbageError:
            self._close()
            raise
        if self.state is not SmtpState.CLOSED:
            self._write_held()

    def _hear(self, reply: SmtpReply) -> None:
        self.reply = reply
        self.replies_count += 1
        if not self._awaited:
            self._hear_unasked(reply)
            return
        command = self._awaited.popleft()
        _ANSWERED[command.verb](self, command, reply)
        # 421 may come in answer to anything, and the connection is gone with it (§3.8).
        if reply.code == 421 or (command.verb is Verb.GREETING and not reply.is_positive):
            self._close()

    def _hear_unasked(self, reply: SmtpReply) -> None:
        if self.state is SmtpState.BODY and reply.is_refusal:
            # The server breaks off before it saw the message: as certain as a refusal after it.
            self.transaction.final = reply
        elif reply.code != 421:
            raise GarbageError(f"an answer to nothing that was asked: {reply.code}")
        else:
            self.transaction.closing = reply
        self._close()

    def _close(self) -> None:
        self.state = SmtpState.CLOSED
        self._held.clear()
        self._awaited.clear()
        self._outgoing.clear()

    def _on_greeting(self, _command: Command, _reply: SmtpReply) -> None:
        self.state = SmtpState.IDLE

    def _on_hello(self, command: Command, reply: SmtpReply) -> None:
        if reply.is_positive:
            if command.verb is Verb.EHLO:
                self.extensions = parse_extensions(reply)
            self.state = SmtpState.READY
        elif command.verb is Verb.EHLO and reply.code // 100 == 5:
            self._held.append(Command(Verb.HELO, b"HELO " + self._hello_name))
        else:
            self.state = SmtpState.IDLE

    def _on_starttls(self, _command: Command, reply: SmtpReply) -> None:
        self.state = SmtpState.HANDSHAKE if reply.code == 220 else SmtpState.READY

    def _on_auth(self, command: Command, reply: SmtpReply) -> None:
        if reply.code == 334:
            # With nothing left to say, "*" gives up (RFC 4954 §4): the server then answers 501.
            if command.line == b"*":
                raise GarbageError("a second challenge that nothing answers")
            # A server that overlooks an initial response asks for it with an empty challenge;
            # XOAUTH2's other challenge is an error, which an empty line acknowledges.
            if command.line.startswith(b"AUTH XOAUTH2") and reply.text:
                self._credentials = deque([b""])
            line = self._credentials.popleft() if self._credentials else b"*"
            self._outgoing += line + b"\r\n"
            self._awaited.append(Command(Verb.AUTH, line))
        else:
            self._credentials.clear()
            self.state = SmtpState.READY

    def _on_rset(self, _command: Command, reply: SmtpReply) -> None:
        if not reply.is_positive:
            raise GarbageError(f"RSET was refused: {reply.code}")

    def _on_mail(self, _command: Command, reply: SmtpReply) -> None:
        self.transaction.mail = _definite(reply)
        if not reply.is_positive:
            self._held.clear()
            self._settle()

    def _on_rcpt(self, command: Command, reply: SmtpReply) -> None:
        self.transaction.is_read_together = self.replies_count - self._read_at > 1
        self.transaction.answers[command.recipient] = _definite(reply)
        nobody = len(self._held) == 1 and not self.transaction.accepted
        if nobody:
            # Only DATA is left unsaid, and nobody to say it for.
            self._held.clear()
        self._settle()

    def _on_data(self, _command: Command, reply: SmtpReply) -> None:
        self.transaction.data = reply
        if reply.code == 354:
            if self.transaction.accepted:
                self.state = SmtpState.BODY
            else:
                self._outgoing += TERMINATOR
                self._awaited.append(Command(Verb.LONE_DOT))
        elif reply.is_refusal:
            self._settle()
        else:
            raise GarbageError(f"{reply.code} in answer to DATA")

    def _on_final(self, _command: Command, reply: SmtpReply) -> None:
        self.transaction.final = reply
        # After 250 the buffers are clear (§4.1.1.4), after a refusal only most servers agree.
        self._must_reset = not reply.is_positive
        self.state = SmtpState.READY

    def _on_lone_dot(self, _command: Command, _reply: SmtpReply) -> None:
        self._settle()

    def _on_quit(self, _command: Command, _reply: SmtpReply) -> None:
        self._close()

    def _settle(self) -> None:
        if not self._awaited and not self._held:
            self.state = SmtpState.READY


def _definite(reply: SmtpReply) -> SmtpReply:
    if not reply.is_positive and not reply.is_refusal:
        raise GarbageError(f"{reply.code} in answer to MAIL or RCPT")
    return reply


_ANSWERED: dict[Verb, Callable[[SmtpClient, Command, SmtpReply], None]] = {
    Verb.GREETING: SmtpClient._on_greeting,
    Verb.EHLO: SmtpClient._on_hello,
    Verb.HELO: SmtpClient._on_hello,
    Verb.STARTTLS: SmtpClient._on_starttls,
    Verb.AUTH: SmtpClient._on_auth,
    Verb.RSET: SmtpClient._on_rset,
    Verb.MAIL: SmtpClient._on_mail,
    Verb.RCPT: SmtpClient._on_rcpt,
    Verb.DATA: SmtpClient._on_data,
    Verb.FINAL: SmtpClient._on_final,
    Verb.LONE_DOT: SmtpClient._on_lone_dot,
    Verb.QUIT: SmtpClient._on_quit,
}
