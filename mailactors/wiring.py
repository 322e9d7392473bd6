"""The one place that knows every actor: builds a gateway from a configuration and ports.

The service and the simulator build the same gateway; they differ in the ports, the store and the
providers that they pass in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from mailactors.config import (
    Config,
    ConfigError,
    LaneSettings,
    ProviderSettings,
    SimulatedProviderSettings,
    SmtpProviderSettings,
)
from mailactors.dispatch.breaker import BreakerActor
from mailactors.dispatch.desk import DispatchDesk, open_outcomes
from mailactors.dispatch.dispatcher import DispatcherActor
from mailactors.dispatch.lane import BreakerState, Lane, Reset, open_lane
from mailactors.dispatch.limiter import LimiterActor
from mailactors.dispatch.provider import ProviderActor
from mailactors.dispatch.recovery import leave_of
from mailactors.dispatch.retry import StreamPolicy
from mailactors.dispatch.settler import SettlerActor
from mailactors.intake.admission import AdmissionRules, StreamRules
from mailactors.intake.door import Door
from mailactors.intake.registry import RegistryActor, open_registry
from mailactors.model.message import Address
from mailactors.observe.watchdog import WatchdogActor, WatchdogStatus
from mailactors.outcome.reporter import ReporterActor
from mailactors.providers.port import Provider
from mailactors.providers.simulated import SimulatedProvider
from mailactors.providers.smtp import SmtpProvider
from mailactors.runtime.ports import Clock, Ports
from mailactors.runtime.supervisor import SERVER_RESTARTS, Child, Supervisor
from mailactors.spool.actor import SpoolActor, SpoolSignals, open_writes
from mailactors.spool.keeper import KeeperActor, Retention
from mailactors.spool.port import RecordDeliveryEvent, SpoolBrokenError, SpoolError, Store
from mailactors.spool.reader import SpoolReader
from mailactors.spool.writer import SpoolWriter

MEMORY: Final = ":memory:"
"""The spool's path when there is no file, and so no disk to run full."""
NODE: Final = "single"
"""The node's name in the spool while one process owns it."""
FREE_BYTES_MIN: Final = 256 * 1024 * 1024
"""Room on the spool's disk that outcomes and events may need while new messages are refused."""
OUTCOMES_CAPACITY: Final = 1_000_000
"""The credits of all lanes bound what the dispatcher's mailbox holds; this is never reached."""


ProviderFactory = Callable[[str, ProviderSettings, Ports], Provider]
Front = Callable[["Gateway"], Child]
"""Makes a way in, such as the HTTP server; it starts last and stops first."""


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
    """A whole gateway: its actors, and what others need to talk to it."""

    def __init__(
        self, config: Config, ports: Ports, store: Store, provider_factory: ProviderFactory
    ) -> None:
        self.config = config
        self.ports = ports
        self.signals = SpoolSignals()
        self.reader = SpoolReader(store.reader(), ports.executor("reader"))
        self.watch = WatchdogStatus()
        self.writes = open_writes()
        self.registry = open_registry()
        self.door = Door(rules_of(config), self.registry, self.signals, ports)
        self._provider_factory = provider_factory
        self._retiring: trio.Nursery | None = None
        self._changing = trio.Lock()
        """Held while children come or go: by a reload, a retirement, the stop."""
        self._settings = dict(config.providers)
        """Of every lane, those that retire included."""
        lanes: dict[str, Lane] = {}
        blamed: set[int] = set()
        outcomes = open_outcomes(lanes, OUTCOMES_CAPACITY, blamed)
        self.desk = DispatchDesk(
            outcomes, lanes, {}, self.writes, self.signals, NODE, blamed=blamed
        )
        for name, out in self._ways_out(config, {}).items():
            self._open_lane(name, out)
        self.desk.changes.listen(outcomes.nudge)
        self.desk.plans = plans_of(config, lanes, store.pending_counts())
        self.signals.listen(outcomes.nudge)
        self.supervisor = Supervisor(self._children(store), ports.clock, ports.journal)

    @property
    def clock(self) -> Clock:
        """The clock port."""
        return self.ports.clock

    @property
    def lanes(self) -> dict[str, Lane]:
        """The lanes by name, in the configuration's order; those that retire are still here."""
        return self.desk.lanes

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`.

        Raises: RestartsExhaustedError, SpoolBrokenError (in a group) when it cannot go on.
        """
        async with trio.open_nursery() as self._retiring:
            await self.supervisor.run(task_status=task_status)
            self._retiring.cancel_scope.cancel()
        for lane in self.lanes.values():
            await lane.out.aclose()

    async def stop(self) -> None:
        """Accept nothing new, wait up to `drain_s` for what is in flight, record it, end.

        What is still in flight after that has an open intent in the spool, and is uncertain when
        the gateway starts again.
        """
        self.door.close()
        self.desk.drain()
        with trio.move_on_after(self.config.service.drain_s):
            await self.desk.drained.wait()
            await self.writes.wait_empty()
        if self.desk.in_flight:
            with contextlib.suppress(SpoolError):  # then it is found out at the next start
                await SpoolWriter(self.writes).ask(leave_of(self.desk))
        async with self._changing:
            await self.supervisor.stop()

    async def testify(self, event: RecordDeliveryEvent) -> None:
        """Take in what a vendor reported of a delivery; to do so again changes nothing.

        Raises: SpoolError when it is not known to be durable: then report it again.
        """
        await SpoolWriter(self.writes).ask(event)

    async def reload(self, config: Config) -> None:
        """Take over providers, streams and limits of a new configuration; keep what is in flight.

        A provider that is still there keeps its lane, and is given another chance if its breaker
        had disabled it. One that is gone takes nothing new and ends with its last attempt. What
        belongs to the process (address, spool, logs) stays as it was.
        """
        async with self._changing:
            if self.desk.is_draining:
                return
            await self._take_over(config)
        self.ports.journal.note("service.reloaded", providers=list(config.providers))

    async def _take_over(self, config: Config) -> None:
        before = dict(self._settings)
        ways_out = self._ways_out(config, before)  # what cannot be made is found out first
        self.config, self._settings = config, before | config.providers
        for name in config.providers:
            if name not in self.lanes:
                self._open_lane(name, ways_out[name])
                for child in self._lane_children(name):
                    await self.supervisor.add(child, before="dispatcher")
            else:
                await self._change_lane(name, before[name], ways_out.get(name))
        for name, lane in self.lanes.items():
            if name not in config.providers and not lane.is_retired:
                assert self._retiring is not None
                lane.retire()
                self._retiring.start_soon(self._retire, lane)
        self.desk.plans = plans_of(config, self.lanes, self.desk.plans)
        self.door.rules = rules_of(config)
        self.desk.changes.publish(self.desk.changes.value + 1)

    # Lanes

    def _ways_out(
        self, config: Config, before: Mapping[str, ProviderSettings]
    ) -> dict[str, Provider]:
        """Make the providers that are new or changed."""
        return {
            name: self._provider_factory(name, settings, self.ports)
            for name, settings in config.providers.items()
            if name not in before or way_out_of(before[name]) != way_out_of(settings)
        }

    def _open_lane(self, name: str, out: Provider) -> None:
        settings, outcomes = self._settings[name], self.desk.outcomes
        lane = open_lane(name, settings.concurrency_max, out, outcomes, self.ports.clock)
        lane.pace.listen(outcomes.nudge)
        lane.health.listen(outcomes.nudge)
        self.lanes[name] = lane

    async def _change_lane(self, name: str, before: ProviderSettings, out: Provider | None) -> None:
        """Let a lane go on with new settings, by a new way `out` if that changed."""
        lane, after = self.lanes[name], self._settings[name]
        lane.unretire()
        lane.resize(after.concurrency_max)
        if out is not None:
            former, lane.out = lane.out, out
            await former.aclose()
        if before.breaker != after.breaker:
            self.supervisor.restart(f"breaker:{name}")
        if before.quota != after.quota:
            self.supervisor.restart(f"limiter:{name}")
        if lane.health.value.gate is BreakerState.DISABLED:
            lane.breaker.put_nowait(Reset())

    async def _retire(self, lane: Lane) -> None:
        """End a lane that no route names any more, once nothing is in flight."""
        while self._is_leaving(lane):
            await lane.emptied.wait()
            async with self._changing:
                if self._is_leaving(lane) and not lane.in_flight:
                    await self._remove_lane(lane)

    def _is_leaving(self, lane: Lane) -> bool:
        """Whether no later reload has brought it back, and nobody else has ended it."""
        return lane.is_retired and self.lanes.get(lane.name) is lane

    async def _remove_lane(self, lane: Lane) -> None:
        for kind in ("limiter", "breaker", "provider"):
            await self.supervisor.remove(f"{kind}:{lane.name}")
        del self.lanes[lane.name], self._settings[lane.name]
        self.desk.changes.publish(self.desk.changes.value + 1)
        await lane.out.aclose()

    # Actors

    def _children(self, store: Store) -> list[Child]:
        lanes = [child for name in self.lanes for child in self._lane_children(name)]
        return [
            self._spool_child(store),
            self._keeper_child(),
            Child("reporter", lambda: ReporterActor(self.reader, self.ports.journal)),
            *lanes,
            self._dispatcher_child(),
            self._settler_child(),
            self._registry_child(),
            self._watchdog_child(),
        ]

    def _spool_child(self, store: Store) -> Child:
        ports, executor = self.ports, self.ports.executor("spool")

        def make() -> SpoolActor:
            return SpoolActor(
                store,
                self.writes,
                executor,
                self.signals,
                ports.clock,
                ports.faults,
                ports.journal,
            )

        return Child("spool", make, (self.writes,), fatal=(SpoolBrokenError,))

    def _keeper_child(self) -> Child:
        path = self.config.service.spool
        folder = None if path == MEMORY else os.path.dirname(os.path.abspath(path))
        writer = SpoolWriter(self.writes)

        def make() -> KeeperActor:
            return KeeperActor(
                folder, self._retention, self.reader, writer, self.signals, self.ports
            )

        return Child("keeper", make)

    def _retention(self) -> Retention:
        """What the present configuration says."""
        settings = self.config.retention
        return Retention(settings.final_after_s, settings.bodies_after_s)

    def _lane_children(self, name: str) -> list[Child]:
        """Return three children, the provider first: who sends on is there before who sends."""
        lane, ports = self.lanes[name], self.ports

        def make_limiter() -> LimiterActor:
            quota = self._settings[name].quota
            return LimiterActor(lane, quota, self.reader.count_attempts, self.desk.outcomes, ports)

        def make_breaker() -> BreakerActor:
            return BreakerActor(lane, self._settings[name].breaker, ports)

        return [
            Child(
                f"provider:{name}",
                lambda: ProviderActor(lane, self.writes, ports),
                (lane.provider,),
            ),
            Child(f"breaker:{name}", make_breaker, (lane.breaker,)),
            Child(f"limiter:{name}", make_limiter, (lane.limiter,)),
        ]

    def _dispatcher_child(self) -> Child:
        desk, ports = self.desk, self.ports
        return Child("dispatcher", lambda: DispatcherActor(desk, ports), (desk.outcomes,))

    def _settler_child(self) -> Child:
        desk, ports = self.desk, self.ports
        return Child("settler", lambda: SettlerActor(desk, ports), (desk.looked,))

    def _registry_child(self) -> Child:
        mailbox, faults = self.registry, self.ports.faults
        return Child("registry", lambda: RegistryActor(mailbox, self.writes, faults), (mailbox,))

    def _watchdog_child(self) -> Child:
        def make() -> WatchdogActor:
            statistics = self.supervisor.mailbox_statistics
            return WatchdogActor(self.watch, self.desk, self.reader, statistics, self.ports)

        return Child("watchdog", make, restarts=SERVER_RESTARTS)  # mail flows without it


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


def way_out_of(settings: ProviderSettings) -> dict[str, object]:
    """Return the settings of a provider without those of its lane."""
    return settings.model_dump(exclude=set(LaneSettings.model_fields))


def plans_of(
    config: Config, lanes: Mapping[str, Lane], left_over: Iterable[str]
) -> dict[str, StreamPolicy]:
    """Return what the dispatcher needs to know of each stream.

    Streams that are `left_over` in the spool but not configured go by the first one's plan.
    """
    plans = {name: plan_of(config, name, lanes) for name in config.streams}
    return dict.fromkeys(left_over, next(iter(plans.values()))) | plans


def plan_of(config: Config, name: str, lanes: Mapping[str, Lane]) -> StreamPolicy:
    """Return what the dispatcher needs to know of one stream."""
    stream, route = config.streams[name], config.route(name)
    return StreamPolicy(
        route,
        stream.failover,
        stream.on_uncertain,
        stream.uncertain_wait_s,
        stream.share,
        tuple(each for each in route if lanes[each].out.capabilities.own_envelope),
    )


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
