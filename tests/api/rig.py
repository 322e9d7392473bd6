"""A whole accept path in memory: spool, registry, door, API, and real sockets where asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from quart import Response
from quart_trio import QuartTrio

from mailactors.api.app import create_app
from mailactors.api.parts import ApiParts
from mailactors.api.server import ApiServer, Listening, Timeouts
from mailactors.dispatch.lane import (
    BreakerStatus,
    Lane,
    LaneMessage,
    LimiterStatus,
    Pause,
    Reset,
    Resume,
    open_lane,
    pass_up,
    reply,
)
from mailactors.dispatch.retry import StreamPolicy
from mailactors.errors import MailactorsError
from mailactors.intake.admission import AdmissionRules, StreamRules
from mailactors.intake.door import Door
from mailactors.intake.registry import RegistryActor, open_registry
from mailactors.model.message import Address
from mailactors.model.outcome import Refusal
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.providers.port import Capabilities, LookUpResult, Session
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import (
    NoFaults,
    Ports,
    SystemClock,
    SystemEntropy,
    SystemIds,
    TcpConnector,
    ThreadExecutor,
)
from mailactors.spool.actor import SpoolActor, SpoolSignals, open_writes
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Conflict, IdempotencyKey, Receipt
from mailactors.spool.sqlite import SqliteStore

T = TypeVar("T")

WITHIN_S = 5.0
"""After this a test that waits for an answer has failed."""
JSON = {"Content-Type": "application/json"}
RULES = AdmissionRules(
    default_from=Address("mailactors@mail.example"),
    streams={"transactional": StreamRules(3600.0), "bulk": StreamRules(60.0)},
    key_window_s=86400.0,
    fingerprint_window_s=60.0,
)


GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
METRICS = b"mailactors_up 1.0\n"


class InlineExecutor:
    """Runs work where it is, as the simulator does."""

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()

    def close(self) -> None:
        pass


class _NoProvider:
    """A provider that nobody asks."""

    capabilities = Capabilities(own_envelope=True)

    async def connect(self) -> Session | Refusal:
        raise AssertionError

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    def take_ready(self) -> None:
        return None

    async def look_up(self, marker: str) -> LookUpResult:
        raise AssertionError

    async def release(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class ListJournal:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        self.notes.append((event, {"level": level, **facts}))

    def events(self) -> list[str]:
        return [event for event, _ in self.notes]


class Configuration:
    """What a reload finds."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.fault: MailactorsError | None = None
        self.begun, self.may_go_on, self.taken_over = trio.Event(), trio.Event(), trio.Event()
        self.may_go_on.set()

    async def reload(self) -> list[str]:
        self.begun.set()
        await self.may_go_on.wait()
        if self.fault is not None:
            raise self.fault
        self.taken_over.set()
        return self.notes


@dataclass(eq=False)
class Rig:
    """Everything that a test may want to touch."""

    app: QuartTrio
    parts: ApiParts
    door: Door
    store: SqliteStore
    reader: SpoolClient
    lanes: dict[str, Lane]
    signals: SpoolSignals
    journal: ListJournal
    stopping: trio.Event
    configuration: Configuration
    clock: SystemClock
    watch: WatchdogStatus
    spool_scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Cancelled, it leaves a spool that never answers."""
    lane_scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Cancelled, it leaves a lane whose actors are behind."""
    lane_error: Exception | None = None
    """What the lane's actors die of when they are commanded."""


def problem(slug: str) -> str:
    """Return a problem's type."""
    return f"urn:mailactors:problem:{slug}"


@contextlib.asynccontextmanager
async def open_rig() -> AsyncIterator[Rig]:
    """Start the actors of the accept path."""
    clock, journal, signals = SystemClock(), ListJournal(), SpoolSignals()
    ports = Ports(
        clock=clock,
        entropy=SystemEntropy(),
        ids=SystemIds(clock),
        faults=NoFaults(),
        executor=ThreadExecutor,
        connector=TcpConnector(),
        journal=journal,
    )
    store = SqliteStore.open(":memory:")
    executor = InlineExecutor()
    spool = open_writes()
    registry = open_registry()
    client = SpoolClient(spool, signals, [(store.reader(), executor)])

    async def find_known(key: IdempotencyKey, now: float) -> Receipt | Conflict | None:
        return await client.read(lambda spool: spool.find_known(key, now))

    door = Door(RULES, registry, signals, ports, find_known)
    lanes = {"primary": open_lane("primary", 4, _NoProvider(), clock)}
    stopping = trio.Event()
    configuration, watch = Configuration(), WatchdogStatus()
    parts = ApiParts(
        door=door,
        spool=client,
        lanes=lanes,
        clock=clock,
        plan=lambda _stream: StreamPolicy(("primary",)),
        journal=journal,
        decoding=ThreadExecutor("decoding"),
        ids=ports.ids,
        stopping=stopping,
        reload=configuration.reload,
        metrics=expose,
        watch=watch,
    )
    app = create_app(parts)
    rig = Rig(
        *(app, parts, door, store, client, lanes, signals, journal, stopping),
        *(configuration, clock, watch),
    )
    spool_actor = SpoolActor(store, spool, signals, executor, ports)
    registry_actor = RegistryActor(registry, client, NoFaults())

    async def run_spool() -> None:
        with rig.spool_scope:
            await spool_actor.run(trio.TASK_STATUS_IGNORED)

    async def run_lane() -> None:
        with rig.lane_scope:
            async with trio.open_nursery() as actors:
                actors.start_soon(obey, rig, lanes["primary"].limiter_mailbox)
                actors.start_soon(obey, rig, lanes["primary"].breaker_mailbox)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_spool)
            nursery.start_soon(run_lane)
            await nursery.start(registry_actor.run)
            yield rig
            nursery.cancel_scope.cancel()
    finally:
        store.close()


async def obey(rig: Rig, mailbox: Mailbox[LaneMessage]) -> None:
    """Play an actor of the lane: carry out commands, or die of them."""
    lane = rig.lanes["primary"]
    while True:
        await mailbox.wait()
        for item in mailbox.take():
            assert isinstance(item, Pause | Resume | Reset)
            if rig.lane_error is not None:
                pass_up(reply, rig.clock)(item, rig.lane_error)
                continue
            if isinstance(item, Reset):
                lane.breaker_status.publish(BreakerStatus())
                lane.limiter_status.publish(LimiterStatus())
            item.done.resolve(None)


async def expose() -> bytes:
    return METRICS


def _outcomes() -> Mailbox[Any]:
    return Mailbox("outcomes", 64, lambda _item, _error: None)


@dataclass(eq=False)
class Served:
    """A server on a loopback port."""

    server: ApiServer
    listening: Listening
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def port(self) -> int:
        return self.listening.port

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """Send a request on a connection of its own and return all that comes until it closes."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return await read_all(stream)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what comes until the peer closes, or breaks off."""
    received = b""
    with trio.fail_after(WITHIN_S), contextlib.suppress(trio.BrokenResourceError):
        async for chunk in stream:
            received += chunk
    return received


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    """Return what comes up to the first chunk that brings `end`."""
    received = b""
    with trio.fail_after(WITHIN_S):
        while end not in received:
            chunk = await stream.receive_some()
            assert chunk, received
            received += chunk
    return received


@contextlib.asynccontextmanager
async def serve(
    app: Any, journal: ListJournal, listening: Listening | None = None, **timeouts: float
) -> AsyncIterator[Served]:
    """Serve an application on a free loopback port."""
    listening = listening or Listening("127.0.0.1", 0)
    listening.timeouts = Timeouts(**timeouts)
    server = ApiServer(app, listening, journal)
    served = Served(server, listening, trio.CancelScope(), trio.Event())

    async def run(task_status: trio.TaskStatus[None]) -> None:
        try:
            with served.scope:
                await server.run(task_status)
        finally:
            served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield served
        served.scope.cancel()


class Waiter:
    """An application with one route that waits to be let go."""

    def __init__(self) -> None:
        self.app = QuartTrio("waiter")
        self.entered, self.leave, self.cancelled = trio.Event(), trio.Event(), trio.Event()
        self.app.add_url_rule("/", "wait", self.wait, methods=["GET", "POST"])
        self.app.add_url_rule("/big", "big", self.big)

    async def wait(self) -> str:
        self.entered.set()
        try:
            await self.leave.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return "done"

    async def big(self) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.entered.set()
                    yield b"x" * 100_000
            finally:
                self.cancelled.set()

        return Response(parts())


async def assert_serving(served: Served) -> None:
    answer = await served.ask(GET)
    assert answer.startswith(b"HTTP/1.1 200"), answer
