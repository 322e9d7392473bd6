"""A whole gateway for tests: real actors and a real spool, under a clock that tests rule."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import trio

from mailactors.config import Config
from mailactors.intake.submission import Submission
from mailactors.model.message import Address
from mailactors.providers.simulated import SimulatedProvider
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Ports, SilentJournal, SystemIds, system_ports
from mailactors.spool.actor import SpoolSignals, Write
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import MessageStatus, Receipt
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import Gateway, build

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0


class InlineExecutor:
    """Runs the store's work in place: a mock clock does not see threads."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()

    def close(self) -> None:
        """Nothing to give back."""


class VirtualClock:
    """Both clocks are Trio's, so that a mock clock moves dates as well."""

    def now_s(self) -> float:
        return trio.current_time()

    def wall_time(self) -> float:
        return EPOCH_S + trio.current_time()


class CrashPlan:
    """A fault port that makes an actor crash at named points, each as often as asked."""

    def __init__(self, **times: int) -> None:
        self.times = {name.replace("__", "."): count for name, count in times.items()}
        self.hits: dict[str, int] = {}

    def point(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1
        if self.times.get(name, 0) > 0:
            self.times[name] -= 1
            raise RuntimeError(f"crash at {name}")


class NotingJournal(SilentJournal):
    """Keeps what actors said."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        self.notes.append((event, facts))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.notes if name == event]


def simulated(**settings: Any) -> dict[str, Any]:
    """Return the settings of a provider that answers at once and never fails by itself."""
    return {"kind": "simulated", "latency_s": 0.01, "latency_sigma": 0.0, **settings}


THREE = {"primary": simulated(), "secondary": simulated(), "tertiary": simulated()}


def make_config(providers: dict[str, Any] | None = None, **tables: Any) -> Config:
    """Return a configuration with the given providers, three simulated ones by default."""
    return Config.model_validate({"providers": providers or THREE, **tables})


def make_ports(faults: CrashPlan | None = None, *, inline: bool = True) -> Ports:
    """Return the system's ports with a journal that listens and, on request, faults."""
    clock = VirtualClock()
    ports = dataclasses.replace(
        system_ports(NotingJournal()),
        clock=clock,
        ids=SystemIds(clock),
        faults=faults or CrashPlan(),
    )
    return dataclasses.replace(ports, executor=InlineExecutor) if inline else ports


@contextlib.contextmanager
def open_store(path: Path | None = None) -> Iterator[SqliteStore]:
    """Open a spool in memory, or in a file."""
    store = SqliteStore.open(":memory:" if path is None else str(path))
    try:
        yield store
    finally:
        store.close()


def spool_client(mailbox: Mailbox[Write], store: SqliteStore | None = None) -> SpoolClient:
    """Return a client of a mailbox; without a store it has nothing to read."""
    view: Any = None if store is None else store.reader()
    return SpoolClient(mailbox, SpoolSignals(), [(view, InlineExecutor("reader"))])


@contextlib.asynccontextmanager
async def running(
    config: Config, store: SqliteStore, ports: Ports | None = None
) -> AsyncIterator[Gateway]:
    """Run a gateway; it is stopped in order at the end."""
    gateway = build(config, ports or make_ports(), store)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: gateway.run(task_status=task_status))
        try:
            yield gateway
        finally:
            with trio.CancelScope(shield=True):
                await gateway.stop()


def letter(name: str = "1", **fields: Any) -> Submission:
    """Return a submission to one recipient."""
    plain: dict[str, Any] = {
        "sender": Address("ann@sender.example"),
        "to": (Address("bob@example.com"),),
        "subject": f"Letter {name}",
        "text": f"This is letter {name}.\n",
        "key": name,
        "client_id": name,
    }
    return Submission(**{**plain, **fields})


async def submit(gateway: Gateway, count: int, **fields: Any) -> list[Receipt]:
    """Submit several letters, named by their numbers."""
    return [await gateway.door.submit(letter(str(n), **fields)) for n in range(count)]


async def status(gateway: Gateway, name: str) -> MessageStatus:
    """Return the newest message of a name."""
    return (await gateway.spool.read(lambda spool: spool.status(name)))[0]


def states(message: MessageStatus) -> list[str]:
    """Return each delivery's state."""
    return [delivery.state.value for delivery in message.deliveries]


async def wait_for_states(gateway: Gateway, within_s: float = 600.0, **counts: int) -> None:
    """Wait until the ledger shows exactly these counts; it must balance at every look."""
    with trio.fail_after(within_s):
        while True:
            ledger = await gateway.spool.read(lambda spool: spool.ledger())
            assert ledger.is_balanced, ledger
            if {state: n for state, n in ledger.states.items() if n} == counts:
                return
            await trio.sleep(0.05)


def provider(gateway: Gateway, name: str) -> SimulatedProvider:
    """Return a simulated provider, to look at and to change."""
    found = gateway.lanes[name].provider
    assert isinstance(found, SimulatedProvider)
    return found
