"""The one place that builds a gateway, from a configuration and ports.

The service and the simulator build the same gateway; they differ in the ports, the store and the
providers that they pass in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from mailactors.config import (
    Config,
    ConfigError,
    ProviderSettings,
    SimulatedProviderSettings,
    SmtpProviderSettings,
)
from mailactors.dispatch.clocks import steps_before
from mailactors.dispatch.dispatcher import DispatcherActor
from mailactors.dispatch.lane import Lane
from mailactors.dispatch.lanes import Lanes, LaneSettings
from mailactors.dispatch.recovery import leave_of
from mailactors.dispatch.retry import StreamPolicy
from mailactors.dispatch.settler import SettlerActor, SettlerState
from mailactors.dispatch.state import DispatcherState
from mailactors.dispatch.timekeeper import TimekeeperActor
from mailactors.intake.admission import AdmissionRules, StreamRules
from mailactors.intake.door import Door
from mailactors.intake.registry import RegistryActor, open_registry
from mailactors.model.message import Address
from mailactors.observe.watchdog import WatchdogActor, WatchdogStatus
from mailactors.outcome.reporter import ReporterActor
from mailactors.providers.port import Provider
from mailactors.providers.simulated import SimulatedProvider
from mailactors.providers.smtp import SmtpProvider
from mailactors.runtime.belief import BelievedClock
from mailactors.runtime.ports import Executor, Ports
from mailactors.runtime.supervisor import SERVER_RESTARTS, Child, Supervisor
from mailactors.spool.actor import SpoolActor, SpoolSignals, open_writes
from mailactors.spool.client import SpoolClient
from mailactors.spool.keeper import KeeperActor, Retention
from mailactors.spool.port import (
    Conflict,
    IdempotencyKey,
    Questions,
    Receipt,
    RecordDeliveryEvent,
    SpoolBrokenError,
    SpoolError,
    Store,
)

MEMORY: Final = ":memory:"
"""The spool's path when there is no file, and so no disk to run full."""
NODE: Final = "single"
"""The node's name in the spool while one process owns it."""
FREE_BYTES_MIN: Final = 256 * 1024 * 1024
"""Room on the spool's disk that outcomes and events may need while new messages are refused."""


PUBLIC_READERS: Final = 3
"""Connections, each with a thread, that answer those outside; a list holds one for milliseconds."""

ProviderFactory = Callable[[str, ProviderSettings, Ports], Provider]
Front = Callable[["Gateway"], Child]
"""Makes what accepts submissions, such as the HTTP server; it starts last and stops first."""


def make_provider(name: str, settings: ProviderSettings, ports: Ports) -> Provider:
    """Build a provider of the kind that its settings name."""
    if isinstance(settings, SmtpProviderSettings):
        try:
            executor = ports.executor(f"render:{name}")
            return SmtpProvider(name, settings, ports.clock, ports.connector, executor)
        except OSError as error:  # an ssl.SSLError is one
            problem = f"providers.{name}.ca_file: {error.strerror or error}"
            raise ConfigError("the configuration", [problem]) from None
    return SimulatedProvider(name, settings, ports.clock, ports.entropy)


class Gateway:
    """All actors of a gateway, and what others need to talk to them."""

    def __init__(
        self, config: Config, ports: Ports, store: Store, provider_factory: ProviderFactory
    ) -> None:
        self.config = config
        self.belief = BelievedClock(ports.clock, ports.journal, store.newest_at())
        self.ports = ports = dataclasses.replace(ports, clock=self.belief)
        signals = SpoolSignals()
        writes = open_writes()
        self.spool = SpoolClient(writes, signals, _open_readers(store, ports, "reader", 1))
        self.public_spool = SpoolClient(
            writes, signals, _open_readers(store, ports, "public_reader", PUBLIC_READERS)
        )
        """For those outside: however much they ask, no actor waits behind them."""
        self.watch = WatchdogStatus()
        self.registry = open_registry()
        self.door = Door(rules_of(config), self.registry, signals, ports, self._find_known)
        self.dispatcher = DispatcherState(NODE)
        self.settler = SettlerState()
        self.lanes = Lanes(self.dispatcher.mailbox.nudge, self.spool, ports)
        self.lanes.paused = store.paused()
        self._provider_factory = provider_factory
        self._settings: dict[str, ProviderSettings] = {}
        """Of every provider since the start, as they were last."""
        self._nursery: trio.Nursery | None = None
        for name, provider in self._changed_providers(config).items():
            self.lanes.open(name, config.providers[name], provider)
        self._settings |= config.providers
        self.lanes.plans = plans_of(config, self.lanes, store.pending_counts())
        signals.listen(self.dispatcher.mailbox.nudge)
        self.supervisor = Supervisor(self._children(store), ports.clock, ports.journal)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`.

        Raises: RestartsExhaustedError, SpoolBrokenError (in a group) when it cannot go on.
        """
        self.belief.wall_time()  # the first look, against the newest time on disk
        self.settler.clock_steps = steps_before(self.belief.newest_at, self.belief.ahead_s)
        async with trio.open_nursery() as self._nursery:
            await self.supervisor.run(task_status=task_status)
            self._nursery.cancel_scope.cancel()
        for lane in self.lanes.values():
            await lane.provider.aclose()

    async def stop(self) -> None:
        """Accept nothing new, wait up to `drain_s` for what is in flight, record it, end.

        What is still in flight after that has an open intent in the spool, and is uncertain when
        the gateway starts again.
        """
        self.door.close()
        self.lanes.drain()
        with trio.move_on_after(self.config.service.drain_s):
            await self.lanes.drained.wait()
            await self.spool.mailbox.wait_empty()
        if self.lanes.in_flight:
            with contextlib.suppress(SpoolError):  # then the next start puts it right
                await self.spool.ask(leave_of(NODE, self.lanes))
        async with self.lanes.changing:
            await self.supervisor.stop()

    async def record_delivery_event(self, event: RecordDeliveryEvent) -> None:
        """Record what a vendor reported of a delivery; to do so again changes nothing.

        Raises: SpoolError when it is not known to be durable: then report it again.
        """
        await self.spool.ask(event)

    async def reload(self, config: Config) -> None:
        """Take over providers, streams and limits of a new configuration; keep what is in flight.

        A provider that is still there keeps its lane, and its breaker is closed if it was disabled.
        The lane of one that is gone takes nothing new and ends with its last attempt. Settings of
        the process (address, spool, logs) stay as they were.
        """
        async with self.lanes.changing:
            if self.lanes.is_draining:
                return
            assert self._nursery is not None
            providers = self._changed_providers(config)  # a mistake is found before any change
            self.lanes.paused = await self.spool.read(lambda spool: spool.paused())
            self.config = config
            self._settings |= config.providers
            await self.lanes.take_over(config.providers, providers, self.supervisor, self._nursery)
            self.lanes.plans = plans_of(config, self.lanes, self.lanes.plans)
            self.door.rules = rules_of(config)
            self.lanes.publish_change()
        self.ports.journal.note("service.reloaded", providers=list(config.providers))

    def _changed_providers(self, config: Config) -> dict[str, Provider]:
        return {
            name: self._provider_factory(name, settings, self.ports)
            for name, settings in config.providers.items()
            if name not in self.lanes
            or own_settings(self._settings[name]) != own_settings(settings)
        }

    async def _find_known(self, key: IdempotencyKey, now: float) -> Receipt | Conflict | None:
        return await self.public_spool.read(lambda spool: spool.find_known(key, now))

    # Actors

    def _children(self, store: Store) -> list[Child]:
        ports, spool, lanes = self.ports, self.spool, self.lanes
        path, executor = self.config.service.spool, ports.executor("spool")
        folder = None if path == MEMORY else os.path.dirname(os.path.abspath(path))
        return [
            Child(
                "spool",
                lambda: SpoolActor(store, spool.mailbox, spool.signals, executor, ports),
                (spool.mailbox,),
                fatal=(SpoolBrokenError,),
            ),
            Child("keeper", lambda: KeeperActor(folder, self._retention, spool, ports)),
            Child("reporter", lambda: ReporterActor(spool, ports.journal)),
            *(child for name in lanes for child in lanes.children(name)),
            Child(
                "dispatcher",
                lambda: DispatcherActor(self.dispatcher, lanes, spool, self.settler.expect, ports),
                (self.dispatcher.mailbox,),
            ),
            Child(
                "settler",
                lambda: SettlerActor(self.settler, lanes, spool, ports),
                (self.settler.mailbox,),
            ),
            Child("timekeeper", self._make_timekeeper),
            Child(
                "registry",
                lambda: RegistryActor(self.registry, spool, ports.faults),
                (self.registry,),
            ),
            Child(
                "watchdog",
                lambda: WatchdogActor(
                    self.watch,
                    lanes,
                    self.dispatcher,
                    spool,
                    self.supervisor.mailbox_statistics,
                    ports,
                    self.belief,
                ),
                restarts=SERVER_RESTARTS,  # mail flows without it
            ),
        ]

    def _retention(self) -> Retention:
        settings = self.config.retention
        return Retention(settings.final_after_s, settings.bodies_after_s)

    def _make_timekeeper(self) -> TimekeeperActor:
        expect = self.settler.expect
        is_set_back = math.isinf(self.settler.clock_steps.backward_s(self.belief.newest_at))
        return TimekeeperActor(
            self.spool, self._streams, expect, self.ports, is_set_back=is_set_back
        )

    def _streams(self) -> set[str]:
        return {*self.lanes.plans, *self.spool.signals.streams}


def build(
    config: Config,
    ports: Ports,
    store: Store,
    provider_factory: ProviderFactory = make_provider,
    fronts: Sequence[Front] = (),
) -> Gateway:
    """Build a gateway that is not running yet."""
    gateway = Gateway(config, ports, store, provider_factory)
    for front in fronts:
        gateway.supervisor.append(front(gateway))
    return gateway


def _open_readers(
    store: Store, ports: Ports, name: str, count: int
) -> list[tuple[Questions, Executor]]:
    return [(store.reader(), ports.executor(name)) for _ in range(count)]


def own_settings(settings: ProviderSettings) -> dict[str, object]:
    """Return the settings of a provider without those of its lane."""
    return settings.model_dump(exclude=set(LaneSettings.model_fields))


def plans_of(
    config: Config, lanes: Mapping[str, Lane], left_over: Iterable[str]
) -> dict[str, StreamPolicy]:
    """Return what the dispatcher needs to know of each stream.

    Streams that are `left_over` in the spool but not configured go by the first one's plan.
    """
    plans = {}
    for name, stream in config.streams.items():
        route = config.route(name)
        plans[name] = StreamPolicy(
            route,
            failover=stream.failover,
            on_uncertain=stream.on_uncertain,
            uncertain_wait_s=stream.uncertain_wait_s,
            share=stream.share,
            own_envelope=tuple(n for n in route if lanes[n].provider.capabilities.own_envelope),
            spill_after_s=stream.spill_after_s,
        )
    return dict.fromkeys(left_over, next(iter(plans.values()))) | plans


def rules_of(config: Config) -> AdmissionRules:
    """Return what admission needs to know."""
    return AdmissionRules(
        Address(config.service.default_from),
        {name: StreamRules(stream.expires_after_s) for name, stream in config.streams.items()},
        config.idempotency.window_s,
        config.idempotency.fingerprint_window_s,
        config.service.per_minute,
        config.service.backlog_max,
        FREE_BYTES_MIN,
        all(isinstance(each, SimulatedProviderSettings) for each in config.providers.values()),
    )
