"""The SMTP wire, our side: the gateway's own client, over streams in memory.

Name resolution, connection and TLS fail where the connector would; everything after that is said by
the world's server (`sim/smtp_peer.py`), octet for octet. Nothing is encrypted there: a handshake
that fails does so in the connector, which is where the client learns of it in either case.
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
from mailactors.model.outcome import Deferred, Outcome, Refusal, Rejected
from mailactors.providers.port import Capabilities, LookUpResult, Mail, Session
from mailactors.providers.smtp import SmtpProvider
from mailactors.sim.scenario.faults import Dns
from mailactors.sim.vendor.call import Watch, number_of
from mailactors.sim.vendor.smtp_server import SmtpPeer
from mailactors.sim.vendor.vendor import VendorBase

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
CARRIED: Final[contextvars.ContextVar[int | None]] = contextvars.ContextVar("carried", default=None)
"""The message that a task of the client is sending."""
_RESOLVER: Final = {"nxdomain": socket.EAI_NONAME, "servfail": socket.EAI_AGAIN}


class WireConnector:
    """Fulfils the connector port: the far end of each stream is a server of the world."""

    def __init__(self, vendor: VendorBase, watch: Watch | None) -> None:
        self._vendor = vendor
        self._watch = watch

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """Return the near end.

        Raises: OSError, as the resolver, the network or TLS would.
        """
        vendor = self._vendor
        obstacle = vendor.unreachable(vendor.weather())
        if obstacle is not None:
            text, dns = obstacle
            if dns is not None and dns.answer == "slow":
                await trio.sleep_forever()
            await trio.sleep(CONNECT_S)
            _fail(text, dns)
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        peer = SmtpPeer(vendor, far, self._watch)
        vendor.world.spawn(peer.serve)
        return WireStream(near, peer)


class WireStream(trio.abc.Stream):
    """The near end: tells the server, with all that is written, on which message's behalf."""

    def __init__(self, inner: trio.abc.Stream, peer: SmtpPeer) -> None:
        self._inner = inner
        self._peer = peer

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write."""
        self._peer.number = CARRIED.get()
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
    """One process's SMTP client, with somebody who counts its attempts."""

    def __init__(
        self, vendor: VendorBase, settings: SmtpProviderSettings, watch: Watch | None
    ) -> None:
        self.vendor = vendor
        self.watch = watch
        connector = WireConnector(vendor, watch)
        self._inner = SmtpProvider(vendor.name, settings, vendor.world.clock, connector)

    @property
    def capabilities(self) -> Capabilities:
        """The client's."""
        return self._inner.capabilities

    async def connect(self) -> WireSession | Refusal:
        """Return a session of the client, pooled or new."""
        vendor, now_s = self.vendor, self.vendor.now_s()
        vendor.truth.attempt(vendor.name, now_s)
        if self.watch is not None:
            self.watch.began(vendor.name)
        session = await self._inner.connect()
        if isinstance(session, Deferred | Rejected):
            return session
        return WireSession(self, session, now_s)

    async def look_up(self, marker: str) -> LookUpResult:
        """Nobody can be asked over SMTP: `capabilities` says so."""
        return await self._inner.look_up(marker)

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
        """Let the client send."""
        vendor, watch, number = self._provider.vendor, self._provider.watch, number_of(mail)
        if watch is not None:
            watch.sending(vendor.name, number)
        token = CARRIED.set(number)
        try:
            return await self._inner.send(mail)
        finally:
            CARRIED.reset(token)

    async def aclose(self) -> None:
        """Give the session back unused."""
        provider = self._provider
        provider.vendor.truth.give_back(provider.vendor.name, self._began_s)
        if provider.watch is not None:
            provider.watch.unused(provider.vendor.name, self._began_s)
        await self._inner.aclose()
