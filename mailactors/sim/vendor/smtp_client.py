"""The client side of the SMTP wire: the gateway's own SMTP client over streams in memory.

Name resolution, connection and TLS fail in the connector; everything after that comes from the
server (`sim/vendor/smtp_server.py`), octet for octet. Nothing is encrypted: a handshake fails in
the connector, which is where a real client notices it too.
"""

from __future__ import annotations

import contextvars
import errno
import socket
import ssl
from typing import Final, NoReturn

import trio
import trio.testing

from mailactors.config import SmtpProviderSettings
from mailactors.model.outcome import Deferred, NotAttempted, Outcome, Refusal, Rejected
from mailactors.providers.port import Capabilities, LookUpResult, Mail, Session
from mailactors.providers.smtp import SmtpProvider
from mailactors.sim.scenario.faults import Dns
from mailactors.sim.vendor.call import AttemptObserver, number_of
from mailactors.sim.vendor.smtp_server import SmtpServer
from mailactors.sim.vendor.vendor import Vendor

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
SENDING: Final[contextvars.ContextVar[int | None]] = contextvars.ContextVar("sending", default=None)
"""The message that a task of the client is sending."""
_RESOLVER: Final = {"nxdomain": socket.EAI_NONAME, "servfail": socket.EAI_AGAIN}


class WireConnector:
    """Implements the connector port: the far end of each stream is the vendor's server."""

    def __init__(self, vendor: Vendor, observer: AttemptObserver | None) -> None:
        self._vendor = vendor
        self._observer = observer

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """Return the client's end of a new connection.

        Raises: OSError, as the resolver, the network or TLS would.
        """
        vendor = self._vendor
        failure = vendor.unreachable(vendor.active())
        if failure is not None:
            text, dns = failure
            if dns is not None and dns.answer == "slow":
                await trio.sleep_forever()
            await trio.sleep(CONNECT_S)
            _fail(text, dns)
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        server = SmtpServer(vendor, far, self._observer)
        vendor.world.spawn(server.serve)
        return WireStream(near, server)


class WireStream(trio.abc.Stream):
    """The client's end: each write tells the server for which message it is."""

    def __init__(self, inner: trio.abc.Stream, server: SmtpServer) -> None:
        self._inner = inner
        self._server = server

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write."""
        self._server.number = SENDING.get()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read."""
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close both ways."""
        await self._inner.aclose()


def _fail(text: str, dns: Dns | None) -> NoReturn:
    if dns is not None:
        raise socket.gaierror(_RESOLVER[dns.answer], text)
    if "certificate" in text:
        raise ssl.SSLCertVerificationError(1, text)
    raise ConnectionRefusedError(errno.ECONNREFUSED, text)


class WireProvider:
    """One process's SMTP client, which records its attempts."""

    def __init__(
        self, vendor: Vendor, settings: SmtpProviderSettings, observer: AttemptObserver | None
    ) -> None:
        self.vendor = vendor
        self.observer = observer
        connector = WireConnector(vendor, observer)
        self._inner = SmtpProvider(vendor.name, settings, vendor.world.clock, connector)

    @property
    def capabilities(self) -> Capabilities:
        """The SMTP client's."""
        return self._inner.capabilities

    async def connect(self) -> WireSession | Refusal | NotAttempted:
        """Return a session of the client, pooled or new."""
        vendor, now_s = self.vendor, self.vendor.now_s()
        vendor.truth.attempt(vendor.name, now_s)
        if self.observer is not None:
            self.observer.began(vendor.name)
        try:
            session = await self._inner.connect()
        except trio.Cancelled:
            self.give_back(now_s)  # a deadline ended it: no attempt
            raise
        if isinstance(session, NotAttempted):
            self.give_back(now_s)
            return session
        if isinstance(session, Deferred | Rejected):
            return session
        return WireSession(self, session, now_s)

    def give_back(self, began_s: float) -> None:
        """Note that what began then was no attempt."""
        self.vendor.truth.give_back(self.vendor.name, began_s)
        if self.observer is not None:
            self.observer.unused(self.vendor.name, began_s)

    async def look_up(self, marker: str) -> LookUpResult:
        """Fail: SMTP has no look-ups, as `capabilities` says."""
        return await self._inner.look_up(marker)

    async def release(self) -> None:
        """Close what is idle."""
        await self._inner.release()

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._inner.aclose()


class WireSession:
    """A session of the client."""

    def __init__(self, provider: WireProvider, inner: Session, began_s: float) -> None:
        self._provider = provider
        self._inner = inner
        self._began_s = began_s

    async def send(self, mail: Mail) -> Outcome:
        """Send a message and return the outcome."""
        vendor, observer, number = self._provider.vendor, self._provider.observer, number_of(mail)
        if observer is not None:
            observer.sending(vendor.name, number)
        token = SENDING.set(number)
        try:
            return await self._inner.send(mail)
        finally:
            SENDING.reset(token)

    async def aclose(self) -> None:
        """Return the session unused."""
        self._provider.give_back(self._began_s)
        await self._inner.aclose()
