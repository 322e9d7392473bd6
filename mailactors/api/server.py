"""The HTTP server: an actor that binds, serves, and answers what it has read before it stops.

It owns the listening sockets and the connections, and decides nothing about mail: while it is down,
accepted mail is still sent. It uses hypercorn's connections without its worker, whose nursery ends
with any of them (`api.containment`); so the application gets no lifespan events.

It stops alike by the event and by cancellation: it closes the listeners and the idle connections,
gives requests in flight `graceful_s` to be answered, and closes the rest by force.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from mailactors.api.containment import ContainedConnection
from mailactors.api.guard import guard
from mailactors.api.names import OwnNames
from mailactors.runtime.cell import Cell
from mailactors.runtime.ports import Journal
from mailactors.runtime.shortage import Shortages, is_shortage, os_words

LOGGER_NAME: Final = "mailactors.http"
"""Where hypercorn reports errors of the application. There is no access log: paths and queries
hold clients' ids."""
HEADER_BYTES_MAX: Final = 16 * 1024
ACCEPT_AGAIN_S: Final = 0.1
"""How long to wait when this process lacks what a connection takes."""


class Timeouts(msgspec.Struct, frozen=True):
    """How long a peer may take. Seconds."""

    read_s: float = 10.0
    """Silence while a body is owed."""
    keep_alive_s: float = 5.0
    """An idle connection, and from its opening to the end of the first request's headers."""
    send_s: float = 10.0
    """A peer that does not read."""
    dead_s: float = 10.0
    """A peer whose machine confirms nothing; an event stream would not notice for hours."""
    graceful_s: float = 5.0
    """Requests in flight when the server is stopped."""


@dataclass(eq=False)
class Listening:
    """What outlives the server: where to listen, and how to stop.

    `bound` holds the URLs of the present server. After the first bind of port 0 a restarted server
    takes the same port again. `drained` is set once a server that `shutdown` stops has answered its
    last request.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    names: frozenset[str] = frozenset()
    """By which clients and proxies call us, beside the address; `host` or `host:port`."""
    connections_max: int = 1000
    timeouts: Timeouts = field(default_factory=Timeouts)
    bound: Cell[tuple[str, ...]] = field(default_factory=lambda: Cell(()))
    shutdown: trio.Event = field(default_factory=trio.Event)
    drained: trio.Event = field(default_factory=trio.Event)


class ApiServer:
    """Binds, accepts connections until `shutdown` is set, then drains them."""

    def __init__(
        self,
        app: QuartTrio,
        listening: Listening,
        journal: Journal,
        shortages: Shortages | None = None,
    ) -> None:
        self._app = ASGIWrapper(guard(app, OwnNames(listening.host, listening.names)))
        self._listening = listening
        self._journal = journal
        self._shortages = shortages
        self._config = server_config(listening.timeouts)
        self._context = WorkerContext(None)
        self._live: dict[ContainedConnection, None] = {}
        """The connections, those whose peers were silent for longest first."""
        self._gone = trio.Event()
        self.refused_count = 0
        """Connections that were too many, while all others had something to do."""
        self.cut_count = 0
        """Connections that were closed to make room, since their peers were silent."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; after `shutdown`, wait to be.

        Raises: OSError when the address cannot be bound.
        """
        listeners = await self._bind()
        with contextlib.ExitStack() as sockets:
            for listener in listeners:
                sockets.callback(listener.socket.close)
            async with trio.open_nursery() as nursery:
                stop = trio.Event()
                handlers = await nursery.start(self._keep_connections, stop)
                try:
                    task_status.started()
                    await self._accept(listeners, handlers)
                finally:
                    self._listening.bound.publish(())
                    stop.set()
        self._listening.drained.set()
        await trio.sleep_forever()

    async def _bind(self) -> list[trio.SocketListener]:
        at = self._listening
        listeners = await trio.open_tcp_listeners(at.port, host=at.host)
        names = [listener.socket.getsockname() for listener in listeners]
        at.port = at.port or names[0][1]
        scheme = "https" if at.tls else "http"
        at.bound.publish(tuple(f"{scheme}://{format_host(n[0])}:{n[1]}" for n in names))
        self._journal.note("api.listening", at=", ".join(at.bound.value))
        return listeners

    async def _accept(self, listeners: list[trio.SocketListener], handlers: trio.Nursery) -> None:
        async with trio.open_nursery() as nursery:
            patient = [PatientListener(each, self._shortages) for each in listeners]
            serve = partial(trio.serve_listeners, handler_nursery=handlers)
            nursery.start_soon(serve, self._serve, patient)
            await self._listening.shutdown.wait()
            nursery.cancel_scope.cancel()

    async def _keep_connections(
        self, stop: trio.Event, task_status: trio.TaskStatus[trio.Nursery]
    ) -> None:
        """Hold the connections' nursery, out of reach of cancellation, until it may be closed."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await stop.wait()
                await self._context.terminated.set()
                with trio.move_on_after(self._listening.timeouts.graceful_s):
                    await self._wait_all_gone()
                for connection in list(self._live):
                    await trio.aclose_forcefully(connection.stream)
                nursery.cancel_scope.cancel()

    async def _wait_all_gone(self) -> None:
        while self._live:
            self._gone = trio.Event()
            await self._gone.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if not await self._has_room():
            self.refused_count += 1
            await trio.aclose_forcefully(stream)
            return
        at = self._listening
        with contextlib.suppress(OSError):  # it is reset already
            notice_dead_peer(stream, at.timeouts.dead_s)
        over: Any = stream
        if at.tls is not None:
            over = trio.SSLStream(stream, at.tls, server_side=True, https_compatible=True)
        connection = ContainedConnection(
            *(self._app, self._config, self._context, over, self._journal, at.timeouts.send_s),
            self._note_heard,
        )
        self._live[connection] = None
        try:
            await connection.run()
        finally:
            self._live.pop(connection, None)
            self._gone.set()

    def _note_heard(self, connection: ContainedConnection) -> None:
        if connection in self._live:
            del self._live[connection]
            self._live[connection] = None  # now the last

    async def _has_room(self) -> bool:
        """Say whether one more connection may be kept; one whose peer is silent makes room."""
        if len(self._live) < self._listening.connections_max:
            return True
        silent = next((each for each in self._live if each.waits_for_peer), None)
        if silent is None:
            return False
        del self._live[silent]
        self.cut_count += 1
        await trio.aclose_forcefully(silent.stream)
        return True


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits while this process has no descriptor or memory for a connection.

    Clients wait in the system's queue meanwhile. Trio would do the same, with ten records a second.
    """

    def __init__(self, inner: trio.SocketListener, shortages: Shortages | None) -> None:
        self._inner = inner
        self._shortages = shortages

    async def accept(self) -> trio.SocketStream:
        """Return the next connection."""
        while True:
            try:
                return await self._inner.accept()
            except OSError as error:
                if not is_shortage(error):
                    raise
                if self._shortages is not None:
                    self._shortages.note("api", os_words(error))
            await trio.sleep(ACCEPT_AGAIN_S)

    async def aclose(self) -> None:
        """Stop listening."""
        await self._inner.aclose()


def notice_dead_peer(stream: trio.SocketStream, within_s: float) -> None:
    """Let the system end a connection whose peer's machine has gone without a word.

    Source: tcp(7), TCP_USER_TIMEOUT and TCP_KEEPIDLE; what a system does not have is left out.
    """
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", int(within_s * 1000)),  # milliseconds that sent bytes may wait
        ("TCP_KEEPIDLE", max(1, int(within_s / 2))),
        ("TCP_KEEPINTVL", max(1, int(within_s / 4))),
        ("TCP_KEEPCNT", 2),
    ):
        if (option := getattr(socket, name, None)) is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


def server_config(timeouts: Timeouts) -> Config:
    """Return the settings of hypercorn's connections."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger(LOGGER_NAME)
    config.include_date_header = True
    config.include_server_header = False
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = timeouts.keep_alive_s
    config.read_timeout = timeouts.read_s  # type: ignore[assignment]  # any number will do
    config.ssl_handshake_timeout = timeouts.keep_alive_s
    return config


def format_host(host: str) -> str:
    """Return a host as it is written in a URL.

    >>> format_host("::1")
    '[::1]'
    """
    return f"[{host}]" if ":" in host else host
