"""All lanes: opened, changed and retired here, at the start and by a reload.

Owns what the senders share beyond a single lane: the streams' plans, what is in flight anywhere,
and whether the gateway drains. It survives the dispatcher and the settler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pydantic
import trio

from mailactors.dispatch.attempt import Attempt
from mailactors.dispatch.breaker import BreakerActor
from mailactors.dispatch.breaker_settings import BreakerSettings
from mailactors.dispatch.lane import BreakerState, Lane, Reset, open_lane
from mailactors.dispatch.limiter import LimiterActor
from mailactors.dispatch.provider import ProviderActor
from mailactors.dispatch.quota import Quota
from mailactors.dispatch.retry import StreamPolicy
from mailactors.dispatch.speeds import Speeds
from mailactors.dispatch.subjects import Subjects
from mailactors.model.secrets import Secrets
from mailactors.providers.port import Provider
from mailactors.runtime.cell import Cell
from mailactors.runtime.ports import Ports
from mailactors.runtime.shortage import Shortages
from mailactors.runtime.supervisor import Child, Supervisor
from mailactors.runtime.tally import Tally
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import ALONE_FROM


class LaneSettings(pydantic.BaseModel):
    """What every provider has beside its own settings."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    concurrency_max: int = pydantic.Field(default=32, ge=1, le=1000)
    quota: Quota = Quota()
    breaker: BreakerSettings = BreakerSettings()


class Lanes(dict[str, Lane]):
    """The lanes by provider, in the configuration's order; those that retire are still here.

    Args:
        wake: wakes the dispatcher; must not block.
    """

    def __init__(self, wake: Callable[[], None], spool: SpoolClient, ports: Ports) -> None:
        super().__init__()
        self.wake = wake
        self.plans: dict[str, StreamPolicy] = {}
        """By stream; in the order of the configuration, so that the first one is the default."""
        self.paused: frozenset[str] = frozenset()
        """Providers that an operator had paused, before this process or before they came back."""
        self.changes = Cell(0)
        """Counts changes of lanes and plans by a reload."""
        self.changes.listen(wake)
        self.attempts = Tally()
        """Attempts by provider and outcome."""
        self.shortages = Shortages(ports.clock, ports.journal)
        """What this process lacked, in any lane or at the door."""
        self.secrets = Secrets()
        """What no lane's words may repeat, whichever lane it belongs to."""
        self.blamed: set[int] = set()
        """Messages on whose attempt's end an actor died, until the dispatcher has recovered."""
        self.is_draining = False
        self.drained = trio.Event()
        """Set by the dispatcher when nothing is in flight any more after `drain`."""
        self.changing = trio.Lock()
        """Held while lanes' actors come or go: by a reload, a retirement, the stop."""
        self._settings: dict[str, LaneSettings] = {}
        self._own_limits: dict[str, float] = {}
        self._speeds = Speeds()
        self._spool = spool
        self._ports = ports

    # What is in flight

    @property
    def in_flight(self) -> list[Attempt]:
        """Every attempt whose end its owner has not read yet."""
        return [attempt for lane in self.values() for attempt in lane.in_flight.values()]

    @property
    def has_suspect_in_flight(self) -> bool:
        """Whether a message is in flight that actors died on so often that it goes alone."""
        return any(attempt.lease.crashes >= ALONE_FROM for attempt in self.in_flight)

    def lose(self, attempt: Attempt) -> None:
        """Leave an attempt, on whose end its owner died, to the intents in the spool."""
        self.blamed.add(attempt.lease.seq)
        self[attempt.lane].end(attempt)

    def drain(self) -> None:
        """Offer nothing new; ends of what is in flight are still recorded."""
        self.is_draining = True
        self.wake()

    # What the configuration says

    def plan(self, stream: str) -> StreamPolicy:
        """Return a stream's plan; one that is no longer configured has the first stream's."""
        return self.plans.get(stream) or next(iter(self.plans.values()))

    def open(self, name: str, settings: LaneSettings, provider: Provider) -> None:
        """Open a lane; its actors are `children`."""
        lane = open_lane(name, settings.concurrency_max, provider, self._ports.clock)
        lane.is_paused = name in self.paused
        lane.subjects, lane.speeds = Subjects(self._own_limits), self._speeds
        self.secrets.learn(provider.secrets)
        lane.limiter_status.listen(self.wake)
        lane.breaker_status.listen(self.wake)
        self[name], self._settings[name] = lane, settings

    def children(self, name: str) -> list[Child]:
        """Return a lane's actors, downstream first: each finds its next one running."""
        lane, ports, spool = self[name], self._ports, self._spool

        def make_limiter() -> LimiterActor:
            return LimiterActor(lane, self._settings[name].quota, spool.count_attempts, ports)

        def make_breaker() -> BreakerActor:
            return BreakerActor(lane, self._settings[name].breaker, ports)

        def make_provider() -> ProviderActor:
            return ProviderActor(lane, spool, ports, self.shortages, self.secrets)

        return [
            Child(f"provider:{name}", make_provider, (lane.provider_mailbox,)),
            Child(f"breaker:{name}", make_breaker, (lane.breaker_mailbox,)),
            Child(f"limiter:{name}", make_limiter, (lane.limiter_mailbox,)),
        ]

    async def take_over(
        self,
        settings: Mapping[str, LaneSettings],
        providers: Mapping[str, Provider],
        supervisor: Supervisor,
        nursery: trio.Nursery,
    ) -> None:
        """Open, change and retire lanes, so that there is one for each of `settings`.

        The caller holds `changing`, and publishes the change when plans are changed as well.

        Args:
            providers: those that are new, or whose own settings changed.
            nursery: where a lane that retires waits for its last attempt.
        """
        before = dict(self._settings)
        self._settings |= settings
        for name in settings:
            if name not in self:
                self.open(name, settings[name], providers[name])
                for child in self.children(name):
                    await supervisor.add(child, before="dispatcher")
            else:
                await self._change(name, before[name], providers.get(name), supervisor)
        for name, lane in self.items():
            if name not in settings and not lane.is_retired:
                lane.retire()
                nursery.start_soon(self._retire, lane, supervisor)

    def publish_change(self) -> None:
        """Have the dispatcher take in changed lanes and plans."""
        self.changes.publish(self.changes.value + 1)

    async def _change(
        self, name: str, before: LaneSettings, provider: Provider | None, supervisor: Supervisor
    ) -> None:
        """Let a lane go on with new settings, and with another `provider` if there is one.

        Limiter and breaker restore themselves as after a crash; a disabled breaker is closed.
        """
        lane, after = self[name], self._settings[name]
        lane.unretire()
        lane.resize(after.concurrency_max)
        if provider is not None:
            self.secrets.learn(provider.secrets)
            former, lane.provider = lane.provider, provider
            await former.aclose()
        if before.breaker != after.breaker:
            supervisor.restart(f"breaker:{name}")
        if before.quota != after.quota:
            supervisor.restart(f"limiter:{name}")
        if lane.breaker_status.value.state is BreakerState.DISABLED:
            lane.breaker_mailbox.put_nowait(Reset())

    async def _retire(self, lane: Lane, supervisor: Supervisor) -> None:
        """End a lane that no route names any more, once nothing is in flight."""
        while self._is_leaving(lane):
            await lane.emptied.wait()
            async with self.changing:
                if self._is_leaving(lane) and not lane.in_flight:
                    await self._remove(lane, supervisor)

    def _is_leaving(self, lane: Lane) -> bool:
        """Whether no later reload has taken it back, and it is not removed yet."""
        return lane.is_retired and self.get(lane.name) is lane

    async def _remove(self, lane: Lane, supervisor: Supervisor) -> None:
        for kind in ("limiter", "breaker", "provider"):
            await supervisor.remove(f"{kind}:{lane.name}")
        del self[lane.name], self._settings[lane.name]
        self.publish_change()
        await lane.provider.aclose()
