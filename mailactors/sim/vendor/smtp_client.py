"""The network of the SMTP wire: the gateway's own SMTP client over streams in memory.

Name resolution, connection and TLS fail in the connector; everything after that comes from the
server (`sim/vendor/smtp_server.py`), octet for octet. Nothing is encrypted: a handshake fails in
the connector, which is where a real client notices it too.
"""

from __future__ import annotations

import contextvars
import errno
import socket
import ssl
from typing import Final

import trio
import trio.testing

from mailactors.sim.vendor.call import AttemptObserver
from mailactors.sim.vendor.smtp_server import SmtpServer
from mailactors.sim.vendor.vendor import CONNECT_S, SHORT_TEXT, Vendor

SENDING: Final[contextvars.ContextVar[int | None]] = contextvars.ContextVar("sending", default=None)
"""The message that a task of the client is sending; each write passes it to the server."""
_RESOLVER: Final = {"nxdomain": socket.EAI_NONAME, "servfail": socket.EAI_AGAIN}


class WireConnector:
    """Implements the connector port: the far end of each stream is the vendor's server."""

    def __init__(self, vendor: Vendor, observer: AttemptObserver) -> None:
        self._vendor = vendor
        self._observer = observer

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """Return the client's end. Raises: OSError, as the resolver, the network or TLS would."""
        vendor = self._vendor
        if vendor.active().shorts:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EMFILE, SHORT_TEXT)
        failure = vendor.unreachable(vendor.active())
        if failure is not None:
            text, dns = failure
            if dns is not None and dns.answer == "slow":
                await trio.sleep_forever()
            await trio.sleep(CONNECT_S)
            if dns is not None:
                raise socket.gaierror(_RESOLVER[dns.answer], text)
            if "certificate" in text:
                raise ssl.SSLCertVerificationError(1, text)
            raise ConnectionRefusedError(errno.ECONNREFUSED, text)
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        server = SmtpServer(vendor, far, self._observer)
        vendor.world.spawn(server.serve)

        sent, read = near.send_stream, far.receive_stream

        async def pump_of_message() -> None:
            data = sent.get_data_nowait()
            await trio.sleep(vendor.reads_for_s(len(data)))
            server.number = SENDING.get()
            read.put_data(data)

        sent.send_all_hook = pump_of_message
        return near
