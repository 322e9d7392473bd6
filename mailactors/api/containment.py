"""One HTTP connection whose failure ends no other, and which speaks HTTP/1.1 alone.

hypercorn 0.18 on Trio lets some exceptions of a connection out into the nursery of all of them, so
that one request ends the server: a websocket upgrade followed by one more byte (hypercorn #225), or
an HTTP/2 request that is answered before its body ended (#312, #329, #334). Neither protocol is
begun here (`api.strict`), and any other fault ends with its own connection. Besides, a send to a
peer that never reads has a deadline, closing is not cancelled with the request that was answered, a
connection that its client closed is closed at once, and the read timeout counts only while a body
is owed. One that was answered before its body had come lingers a little.

`api.server` starts this subclass. It relies on internals of hypercorn 0.18, which is pinned.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

from mailactors.api.strict import StrictConnection
from mailactors.runtime.ports import Journal
from mailactors.runtime.supervisor import describe

RECEIVE_BYTES: Final = 65536
LINGER_S: Final = 2.0
"""How long the rest of a body that was refused may go by before the connection is closed."""
LINGER_EVERY_S: Final = 0.01
LINGER_RECEIVE_BYTES: Final = 256 * 1024


class ContainedConnection(TCPServer):
    """A connection whose failures are logged and end only itself."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: Any,
        journal: Journal,
        send_within_s: float,
        heard: Callable[[ContainedConnection], None],
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)
        self._journal = journal
        self._send_within_s = send_within_s
        self._heard = heard
        """Called when the peer has sent something."""
        self._lingers = False

    async def run(self) -> None:
        """Serve the connection to its end."""
        try:
            await super().run()
        except* trio.ClosedResourceError:
            pass  # it was closed to make room
        except* Exception as group:
            # `except*` raises the rest again, above all Cancelled.
            self._journal.note("api.connection", level="warning", error=describe(group))

    @property
    def waits_for_peer(self) -> bool:
        """Whether nothing happens here until the peer sends more: a handshake, a head or a body."""
        connection = self._connection
        return connection is None or connection.their_state in {h11.IDLE, h11.SEND_BODY}

    @property
    def _is_owed_body(self) -> bool:
        connection = self._connection
        return connection is not None and connection.their_state is h11.SEND_BODY

    @property
    def _connection(self) -> StrictConnection | None:
        found = getattr(getattr(self, "protocol", None), "protocol", None)
        connection: StrictConnection | None = getattr(found, "connection", None)
        return connection

    async def protocol_send(self, event: Event) -> None:
        """Write, or close, or mark the connection idle; to the end, but not for ever.

        Each is shielded: quart-trio cancels a request's tasks once it is answered, in the middle of
        what hypercorn does after it, and the connection would be neither closed nor ever idle.
        """
        if isinstance(event, Closed) and self._is_owed_body and not self._lingers:
            await self._linger()
        elif not isinstance(event, RawData):
            with trio.move_on_after(self._send_within_s, shield=True):
                await super().protocol_send(event)
        else:
            await self._send(event.data)

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                with trio.fail_after(self._send_within_s, shield=True):
                    await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())

    async def _linger(self) -> None:
        """Say that nothing more comes from here, and let the body go by for a while.

        To close while the client still sends would reset the connection, and it would never read
        why its body was refused (RFC 9112 §9.6).
        """
        self._lingers = True
        with trio.move_on_after(self._send_within_s, shield=True):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if (send_eof := getattr(self.stream, "send_eof", None)) is not None:
                    await send_eof()  # TLS has none
            await self.idle_task.restart(self._task_group, self._give_up_lingering)
            await self.protocol.handle(Closed())

    async def _give_up_lingering(self) -> None:
        await trio.sleep(LINGER_S)
        await trio.aclose_forcefully(self.stream)

    async def _read_data(self) -> None:
        inner: Any = self.protocol.protocol  # HTTP/1.1, and it stays so
        inner.connection = StrictConnection(self.config.h11_max_incomplete_size)
        data: bytes | bytearray = b"-"
        while data:
            try:
                with trio.fail_after(self._read_within_s()):
                    data = await self._receive()
            except (trio.ClosedResourceError, trio.BrokenResourceError, trio.TooSlowError):
                break
            self._heard(self)
            if not self._lingers:
                await self.protocol.handle(RawData(bytes(data)))
        await self.protocol.handle(Closed())
        await self.idle_task.stop()  # nothing more will come: do not hold a descriptor for it

    async def _receive(self) -> bytes | bytearray:
        if self._lingers:  # nobody waits for it, so that it comes in few and large pieces
            await trio.sleep(LINGER_EVERY_S)
            return await self.stream.receive_some(LINGER_RECEIVE_BYTES)
        return await self.stream.receive_some(RECEIVE_BYTES)

    def _read_within_s(self) -> float:
        """Return how long the peer may be silent: limited while it owes us a body.

        Headers are hypercorn's affair: its idle timer runs until they are complete.
        """
        return float(self.config.read_timeout or math.inf) if self._is_owed_body else math.inf
