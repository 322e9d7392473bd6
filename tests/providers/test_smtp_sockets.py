"""What only real sockets show."""

import socket
import ssl
import threading

import trio

from mailactors.model.outcome import Deferred, Scope
from mailactors.providers.smtp import SmtpProvider, SmtpSettings
from mailactors.providers.smtp.provider import TRUSTED_IDLE_S
from mailactors.providers.smtp.session import SmtpSession
from mailactors.runtime.ports import TcpConnector
from tests.providers.mails import make_mail, make_provider, open_session
from tests.providers.peers import make_certificate

GREETING = b"220 ready\r\n"
HELLO = b"250 hello\r\n"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def now_s(self) -> float:
        return self.now

    def wall_time(self) -> float:
        return self.now


def greet_and_hang_up(
    listener: socket.socket, hang_up: threading.Event, over: threading.Event
) -> None:
    for _ in range(2):
        peer, _ = listener.accept()
        with peer:
            peer.sendall(GREETING)
            peer.recv(1000)
            peer.sendall(HELLO)
            hang_up.wait(10)
        over.set()


async def test_a_pooled_connection_that_the_relay_closed_is_not_used_again() -> None:
    clock, hang_up, over = Clock(), threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = threading.Thread(target=greet_and_hang_up, args=(listener, hang_up, over))
        relay.start()
        settings = SmtpSettings(host="127.0.0.1", port=listener.getsockname()[1], tls="none")
        provider = SmtpProvider("relay", settings, clock, TcpConnector())
        first = await provider.connect()
        assert isinstance(first, SmtpSession)
        await first.aclose()
        hang_up.set()
        await trio.to_thread.run_sync(over.wait, 10)
        clock.now = TRUSTED_IDLE_S * 2

        second = await provider.connect()

        assert isinstance(second, SmtpSession)
        assert second._connection is not first._connection
        await second.aclose()
        await provider.aclose()
        relay.join(10)


class TlsServer:
    """One connection under TLS, whose records go out when the server says so."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        self.peer, self.incoming, self.outgoing = peer, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def flush(self) -> None:
        self.peer.sendall(self.outgoing.read())

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.peer.recv(65536))
            else:
                return self.flush()

    def hear(self) -> bytes:
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                if not (data := self.peer.recv(65536)):
                    return b""
                self.incoming.write(data)

    def say(self, *records: bytes) -> None:
        for record in records:
            self.tls.write(record)
        self.flush()


def answer_too_early(listener: socket.socket, context: ssl.SSLContext, heard: list[bytes]) -> None:
    peer, _ = listener.accept()
    with peer:
        server = TlsServer(peer, context)
        server.shake_hands()
        server.say(GREETING)
        server.hear()
        server.say(HELLO)
        for reply in (b"250 ok\r\n", b"250 ok\r\n"):
            server.hear()
            server.say(reply)
        server.hear()
        server.say(b"354 go ahead\r\n", b"250 2.0.0 Ok: queued as EARLY\r\n")
        heard.append(server.hear())
        heard.append(server.hear())


async def test_250_in_a_record_of_its_own_before_the_dot_is_no_acceptance() -> None:
    certificate, heard = make_certificate(), list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as listener, certificate.authority_file() as file:
        relay = threading.Thread(
            target=answer_too_early, args=(listener, certificate.server_context(), heard)
        )
        relay.start()
        port = listener.getsockname()[1]
        provider = make_provider(host="localhost", port=port, tls="implicit", ca_file=file)
        outcome = await (await open_session(provider)).send(make_mail())
        await trio.to_thread.run_sync(relay.join, 10)

    assert isinstance(outcome, Deferred)
    assert Scope.PROVIDER is outcome.scope
    assert heard[0].endswith(b"hello\r\n")
    assert not any(each.endswith(b".\r\n") for each in heard)
