"""What only real sockets show."""

import socket
import threading

import trio

from mailactors.providers.smtp import SmtpProvider, SmtpSettings
from mailactors.providers.smtp.provider import TRUSTED_IDLE_S, SmtpSession
from mailactors.runtime.ports import TcpConnector

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
