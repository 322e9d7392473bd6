"""The same server, by script, for smtplib and for us: the same octets and the same verdicts."""

from __future__ import annotations

import smtplib
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from mailactors.providers.smtp.protocol import SmtpClient, SmtpState
from mailactors.providers.smtp.wire import stuff_dots

ANN, BOB, CAT = "ann@x.example", "bob@y.example", "cat@z.example"
EHLO = b"250-relay\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN\r\n"


@dataclass
class Server:
    """A server by script: answers by verb or line; collects every line and message."""

    script: dict[str, bytes] = field(default_factory=dict)
    heard: list[bytes] = field(default_factory=list)
    _buffer: bytes = b""
    _is_body: bool = False

    GREETING = b"220 relay ESMTP\r\n"
    USUAL = {  # noqa: RUF012
        "EHLO": EHLO,
        "DATA": b"354 go\r\n",
        ".": b"250 2.0.0 Ok: queued as X1\r\n",
        "QUIT": b"221 bye\r\n",
    }

    def feed(self, data: bytes) -> bytes:
        """Take octets and return the answers."""
        self._buffer += data
        said = b""
        while (end := b"\r\n.\r\n" if self._is_body else b"\r\n") in self._buffer:
            heard, _, self._buffer = self._buffer.partition(end)
            said += self._hear(heard)
        return said

    def _hear(self, heard: bytes) -> bytes:
        # smtplib says some verbs in lower case: the same to a server, so the same here.
        verb, colon, rest = heard.partition(b":")
        name, *options = (verb if colon else heard).split(b" ")
        key = "." if self._is_body else name.decode("latin-1").upper()
        if not self._is_body:
            path, *parameters = rest.split(b" ")
            heard = b" ".join([key.encode(), *(o.upper() if colon else o for o in options)])
            heard += colon + b" ".join([path, *(p.upper() for p in parameters)])
        self.heard.append(heard)
        usual = self.USUAL.get(key, b"250 2.1.0 Ok\r\n")
        said = self.script.get(heard.decode("latin-1"), self.script.get(key, usual))
        self._is_body = not self._is_body and key == "DATA" and said.startswith(b"354")
        return said


@dataclass(frozen=True)
class Case:
    """One message, and how the server answers."""

    script: dict[str, bytes] = field(default_factory=dict)
    recipients: tuple[str, ...] = (BOB, CAT)
    message: bytes = b"A: b\r\n\r\nhello\r\n"
    login: tuple[str, str] | None = None
    eight_bit: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a client concludes: one code for all, or the codes of the refused."""

    code: int
    refused: dict[str, int] = field(default_factory=dict)


@contextmanager
def served(server: Server) -> Iterator[socket.socket]:
    near, far = socket.socketpair()
    far.sendall(server.GREETING)

    def serve() -> None:
        while data := far.recv(65536):
            far.sendall(server.feed(data))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join()
        far.close()


def send_by_smtplib(case: Case, server: Server) -> Verdict:
    with served(server) as near:

        class OverPair(smtplib.SMTP):
            def _get_socket(self, *_: object) -> socket.socket:
                return near

        with OverPair("relay", 25, local_hostname="me.example") as smtp:
            try:
                if case.login:
                    smtp.ehlo()
                    smtp.user, smtp.password = case.login
                    mechanism = "plain" if smtp.has_extn("x-plain") else "login"
                    smtp.auth(
                        mechanism.upper(),
                        getattr(smtp, f"auth_{mechanism}"),
                        initial_response_ok=mechanism == "plain",
                    )
                options = ["BODY=8BITMIME"] if case.eight_bit else []
                refused = smtp.sendmail(ANN, case.recipients, case.message, options)
                return Verdict(250, {r: code for r, (code, _) in refused.items()})
            except smtplib.SMTPRecipientsRefused as error:
                return Verdict(0, {r: code for r, (code, _) in error.recipients.items()})
            except smtplib.SMTPResponseException as error:
                return Verdict(error.smtp_code)


def send_by_ours(case: Case, server: Server) -> Verdict:
    client = SmtpClient("me.example")
    client.feed(server.GREETING)

    def exchange() -> None:
        while client.awaited is not None:
            client.feed(server.feed(client.take_outgoing()))

    client.hello()
    exchange()
    if case.login:
        client.authenticate(*case.login)
        exchange()
        if not client.reply.is_positive:
            return Verdict(client.reply.code)
    octets = len(case.message)
    client.mail(ANN, case.recipients, octets=octets, eight_bit=case.eight_bit)
    exchange()
    if client.state is SmtpState.BODY:
        assert server.feed(stuff_dots(case.message)) == b""
        client.end_of_message()
        exchange()
    told = client.transaction
    refused = {r: reply.code for r, reply in told.answers.items() if not reply.is_positive}
    if refused and not told.accepted:
        return Verdict(0, refused)
    for reply in (told.final, told.data, told.mail):
        if reply is not None:
            return Verdict(reply.code, refused if reply.is_positive else {})
    raise AssertionError("no answer at all")


CASES = {
    "plain sending": Case(),
    "dots": Case(message=b".A: b\r\n\r\n.\r\n..\r\n...x\r\ny.\r\n.\r\n"),
    "no last line end": Case(message=b"A: b\r\n\r\nhello"),
    "eight bits": Case(message=b"A: b\r\n\r\n\xe6\xff\r\n", eight_bit=True),
    "no extensions": Case({"EHLO": b"250 relay\r\n"}),
    "no EHLO": Case({"EHLO": b"500 what?\r\n"}),
    "EHLO refused by policy": Case({"EHLO": b"550-go\r\n550 away\r\n"}),
    "one refused": Case({f"RCPT TO:<{CAT}>": b"550-5.1.1 no\r\n550 5.1.1 such user\r\n"}),
    "all refused": Case({f"RCPT TO:<{BOB}>": b"450 later\r\n", f"RCPT TO:<{CAT}>": b"550 no\r\n"}),
    "forwarded": Case({f"RCPT TO:<{BOB}>": b"251 will forward\r\n"}),
    "mail later": Case({"MAIL": b"451 4.3.0 later\r\n"}),
    "mail never": Case({"MAIL": b"553 5.7.1 not you\r\n"}, recipients=(BOB,)),
    "data refused": Case({"DATA": b"554 5.5.1 no valid recipients\r\n"}),
    "content refused": Case({".": b"554-5.7.1 this\r\n554-5.7.1 is\r\n554 5.7.1 spam\r\n"}),
    "content later": Case({".": b"451 4.7.0 \xc3\xa6 greylisted\r\n"}),
    "login": Case(
        {
            "EHLO": b"250-relay\r\n250 AUTH LOGIN\r\n",
            "AUTH": b"334 VXNlcm5hbWU6\r\n",
            "YW5u".upper(): b"334 UGFzc3dvcmQ6\r\n",
            b64encode(b"hunter2").decode().upper(): b"235 welcome\r\n",
        },
        login=("ann", "hunter2"),
    ),
    "plain": Case(
        {"EHLO": b"250-relay\r\n250-X-PLAIN\r\n250 AUTH PLAIN\r\n", "AUTH": b"235 2.7.0 ok\r\n"},
        login=("ann", "hunter2"),
    ),
    "wrong password": Case(
        {"EHLO": b"250-relay\r\n250-X-PLAIN\r\n250 AUTH PLAIN\r\n", "AUTH": b"535 5.7.8 no\r\n"},
        login=("ann", "hunter2"),
    ),
}


def essence(heard: list[bytes]) -> list[bytes]:
    """What matters: smtplib resets and quits by itself, we when it costs nothing."""
    return [line for line in heard if line not in (b"RSET", b"QUIT")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_says_and_concludes_what_smtplib_does(case: Case) -> None:
    theirs, ours = Server(dict(case.script)), Server(dict(case.script))

    assert send_by_smtplib(case, theirs) == send_by_ours(case, ours)
    assert essence(theirs.heard) == essence(ours.heard)
