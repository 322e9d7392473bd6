"""The one place that knows every actor: builds a gateway from a configuration and ports.

The service and the simulator build the same gateway; they differ in the ports, the store and the
providers that they pass in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from mailactors.config import Config, ProviderSettings, SmtpProviderSettings
from mailactors.dispatch.breaker import BreakerActor
from mailactors.dispatch.desk import DispatchDesk, open_outcomes
from mailactors.dispatch.dispatcher import DispatcherActor
from mailactors.dispatch.lane import CONTROL_ROOM, Lane, open_lane
from mailactors.dispatch.limiter import LimiterActor
from mailactors.dispatch.provider import ProviderActor
from mailactors.dispatch.retry import Plan
from mailactors.intake.admission import Rules, Stream
from mailactors.intake.door import Door
from mailactors.intake.registry import RegistryActor, open_registry
from mailactors.model.message import Address
from mailactors.providers.port import Provider
from mailactors.providers.simulated import SimulatedProvider
from mailactors.providers.smtp import SmtpProvider
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Ports
from mailactors.runtime.supervisor import Child, Supervisor
from mailactors.spool.actor import SpoolActor, SpoolSignals, Write, open_writes
from mailactors.spool.port import SpoolBrokenError, Store
from mailactors.spool.reader import SpoolReader

NODE: Final = "single"
"""The node's name in the spool while one process owns it."""


@dataclass(frozen=True)
class Gateway:
    """A whole gateway, not yet running, and what others need to talk to it."""

    config: Config
    ports: Ports
    door: Door
    reader: SpoolReader
    desk: DispatchDesk
    supervisor: Supervisor
    providers: Mapping[str, Provider]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`.

        Raises: RestartsExhaustedError, SpoolBrokenError (in a group) when it cannot go on.
        """
        await self.supervisor.run(task_status=task_status)

    async def stop(self) -> None:
        """Accept nothing new, wait up to `drain_s` for what is in flight, record it, end.

        What is still in flight after that has an open intent in the spool, and is uncertain when
        the gateway starts again.
        """
        self.door.close()
        self.desk.drain()
        with trio.move_on_after(self.config.service.drain_s):
            await self.desk.drained.wait()
            await self.desk.spool.wait_empty()
        await self.supervisor.stop()
        for provider in self.providers.values():
            await provider.aclose()


Front = Callable[[Door, SpoolReader, Mapping[str, Lane], SpoolSignals], Child]
ProviderFactory = Callable[[str, ProviderSettings, Ports], Provider]


def make_provider(name: str, settings: ProviderSettings, ports: Ports) -> Provider:
    """Build a provider of the kind that its settings name."""
    if isinstance(settings, SmtpProviderSettings):
        return SmtpProvider(name, settings, ports.clock, ports.connector)
    return SimulatedProvider(name, settings, ports.clock, ports.entropy)


def build(
    config: Config,
    ports: Ports,
    store: Store,
    provider_factory: ProviderFactory = make_provider,
    fronts: Sequence[Front] = (),
) -> Gateway:
    """Build a gateway. `fronts` are the ways in (the HTTP server); they start last, stop first."""
    signals = SpoolSignals()
    reader = SpoolReader(store.reader(), ports.executor("reader"))
    writes = open_writes()
    providers = {
        name: provider_factory(name, settings, ports) for name, settings in config.providers.items()
    }
    desk = _desk(config, ports, providers, writes, signals)
    registry = open_registry()
    door = Door(rules_of(config), registry, signals, ports)
    children = [
        _spool_child(store, writes, signals, ports),
        *_lane_children(config, desk, providers, reader, ports),
        Child("dispatcher", lambda: DispatcherActor(desk, ports), (desk.outcomes,)),
        Child("registry", lambda: RegistryActor(registry, writes, ports.faults), (registry,)),
        *(front(door, reader, desk.lanes, signals) for front in fronts),
    ]
    supervisor = Supervisor(children, ports.clock, ports.journal)
    return Gateway(config, ports, door, reader, desk, supervisor, providers)


def _desk(
    config: Config,
    ports: Ports,
    providers: Mapping[str, Provider],
    writes: Mailbox[Write],
    signals: SpoolSignals,
) -> DispatchDesk:
    lanes: dict[str, Lane] = {}
    room = sum(each.concurrency_max + CONTROL_ROOM for each in config.providers.values())
    outcomes = open_outcomes(lanes, room)
    for name, settings in config.providers.items():
        capabilities = providers[name].capabilities
        lane = open_lane(name, settings.concurrency_max, capabilities, outcomes, ports.clock)
        lane.pace.listen(outcomes.nudge)
        lane.health.listen(outcomes.nudge)
        lanes[name] = lane
    signals.starts.listen(outcomes.nudge)
    for stream in config.streams:
        signals.due(stream).listen(outcomes.nudge)
    return DispatchDesk(outcomes, lanes, plans_of(config), writes, signals, NODE)


def _spool_child(
    store: Store, writes: Mailbox[Write], signals: SpoolSignals, ports: Ports
) -> Child:
    executor = ports.executor("spool")

    def make() -> SpoolActor:
        return SpoolActor(
            store, writes, executor, signals, ports.clock, ports.faults, ports.journal
        )

    return Child("spool", make, (writes,), fatal=(SpoolBrokenError,))


def _lane_children(
    config: Config,
    desk: DispatchDesk,
    providers: Mapping[str, Provider],
    reader: SpoolReader,
    ports: Ports,
) -> list[Child]:
    """Return three children a lane, the provider first: who sends on is there before who sends."""
    children = []
    for name, lane in desk.lanes.items():
        settings = config.providers[name]
        children += [
            Child(
                f"provider:{name}", _provider(lane, providers[name], desk, ports), (lane.provider,)
            ),
            Child(f"breaker:{name}", _breaker(lane, settings, ports), (lane.breaker,)),
            Child(
                f"limiter:{name}", _limiter(lane, settings, desk, reader, ports), (lane.limiter,)
            ),
        ]
    return children


def _provider(
    lane: Lane, provider: Provider, desk: DispatchDesk, ports: Ports
) -> Callable[[], ProviderActor]:
    return lambda: ProviderActor(lane, provider, desk.spool, ports)


def _breaker(lane: Lane, settings: ProviderSettings, ports: Ports) -> Callable[[], BreakerActor]:
    return lambda: BreakerActor(lane, settings.breaker, ports)


def _limiter(
    lane: Lane,
    settings: ProviderSettings,
    desk: DispatchDesk,
    reader: SpoolReader,
    ports: Ports,
) -> Callable[[], LimiterActor]:
    return lambda: LimiterActor(lane, settings.quota, reader.count_attempts, desk.outcomes, ports)


def plans_of(config: Config) -> dict[str, Plan]:
    """Return what the dispatcher needs to know of each stream."""
    return {
        name: Plan(
            config.route(name),
            stream.failover,
            stream.on_uncertain,
            stream.uncertain_wait_s,
            stream.share,
        )
        for name, stream in config.streams.items()
    }


def rules_of(config: Config) -> Rules:
    """Return what admission needs to know."""
    return Rules(
        Address(config.service.default_from),
        {name: Stream(stream.expires_after_s) for name, stream in config.streams.items()},
        config.idempotency.window_s,
        config.idempotency.fingerprint_window_s,
    )
