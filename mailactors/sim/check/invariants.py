"""The invariants, checked at every commit, attempt and arrival; the first violation stops the run.

They rely on what passes through the ports (the store's commands and results, the providers'
calls) and on what lanes publish, never on the actors' own state. They outlive the gateway's
processes: a receipt that one process gave binds the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from mailactors.dispatch.attempt import Attempt
from mailactors.dispatch.lane import BreakerState, BreakerStatus, Lane
from mailactors.dispatch.quota import Quota
from mailactors.model.lifecycle import FINAL, State
from mailactors.runtime.ports import Clock
from mailactors.runtime.supervisor import InjectedCrashError
from mailactors.sim.check.deliveries import RESTING, DeliveryModel
from mailactors.sim.report.report import Violation
from mailactors.sim.world.truth import Truth
from mailactors.spool.port import Audit, Command, Result
from mailactors.wiring import Gateway

ROUNDING_S: Final = 1e-6
ROUNDING: Final = 1e-3
"""Of a permit: sums over a run are not exact."""
_QUOTA_S: Final = {"per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


class _ObservedLane:
    """A lane, since when its breaker is in its state, and until when it must be left alone."""

    def __init__(self, lane: Lane, clock: Clock) -> None:
        self.lane = lane
        self.gate = lane.breaker_status.value.state
        self.gate_since_s = 0.0
        self.asked_at_s = self.closed_until_s = -1.0
        self._clock = clock
        self._seen: set[str] = set()
        lane.breaker_status.listen(self._on_health)

    def _on_health(self) -> None:
        gate = self.lane.breaker_status.value.state
        if gate is not self.gate:
            self.gate, self.gate_since_s = gate, self._clock.now_s()

    def new_attempts(self) -> list[Attempt]:
        """Return the attempts under way that are new since the last call."""
        underway = self.lane.underway
        new = [attempt for id_, attempt in underway.items() if id_ not in self._seen]
        self._seen = set(underway)
        return new

    def probes(self) -> int:
        """Count the attempts under way that began after the breaker became half open."""
        underway = self.lane.underway.values()
        return sum(1 for a in underway if not a.is_panic and a.began_s >= self.gate_since_s)


class Invariants:
    """All invariants. `stopped` is set at the first violation."""

    NOTED: Final = ("actor.crashed", "attempt.fault", "settler.fault", "attempt.panic")
    """The journal's events that they listen to."""

    def __init__(
        self,
        truth: Truth,
        clock: Clock,
        audit: Callable[[], Audit],
        read_state: Callable[[int], State | None],
    ) -> None:
        """Take two readers of the spool; `read_state` is by a message's place in it."""
        self.violations: list[Violation] = []
        self.stopped = trio.Event()
        self.deliveries = DeliveryModel(self.report, read_state, clock.now_s, self._in_flight)
        self._audit = audit
        self._truth = truth
        self._clock = clock
        self._gateway: Gateway | None = None
        self._lanes: dict[str, _ObservedLane] = {}
        self._quotas: dict[str, Quota] = {}
        """By provider, for those that have a quota."""
        self._begun: dict[str, deque[float]] = {}
        """When permits were used, by provider, across processes."""
        self._levels: dict[str, tuple[float, float]] = {}
        """The most, over windows that end then, of permits used beyond the rate; by provider."""
        self._panics: dict[str, None] = {}
        """Messages whose panic attempt was logged and has not reached the provider yet."""
        self.may_crash: tuple[str, ...] = ()
        """Actors that may crash although no crash is injected."""

    def observe(self, gateway: Gateway) -> None:
        """Observe a gateway that is built but does not run yet."""
        self._gateway = gateway
        self._lanes = {n: _ObservedLane(each, self._clock) for n, each in gateway.lanes.items()}
        quotas = {name: each.quota for name, each in gateway.config.providers.items()}
        self._quotas = {name: quota for name, quota in quotas.items() if quota != Quota()}
        for name in gateway.lanes:
            self._begun.setdefault(name, deque())

    def report(self, invariant: str, detail: str, number: int = -1) -> None:
        """Record a violation and stop the run."""
        self.violations.append(Violation(invariant, self._clock.now_s(), detail, number))
        self.stopped.set()

    def on_event(self, event: str, facts: dict[str, Any]) -> None:
        """An actor logged an event: none may crash unless a crash was injected."""
        if event == "actor.crashed":
            is_injected = InjectedCrashError.__name__ in str(facts["error"])
            if not is_injected and facts["actor"] not in self.may_crash:
                self.report("no actor dies by itself", f"{event}: {facts}")
        elif event in {"attempt.fault", "settler.fault"}:
            self.report("no actor dies by itself", f"{event}: {facts}")
        elif event == "attempt.panic":
            self._panics[facts["id"]] = None

    def on_death(self, why: str, *, is_planned: bool) -> None:
        """A process died: its state in memory is lost, what is durable is not."""
        if not is_planned:
            self.report("no process dies by itself", why)
        self._panics.clear()

    # Submissions and commits

    def on_receipt(self, number: int, id_: str) -> None:
        """A client has a receipt: from now on its message must not be lost."""
        known = self._truth.accepted.setdefault(number, id_)
        if known != id_:
            self.report("same key, one message", f"two ids: {known}, {id_}", number)
        if not self.deliveries.has_id(number, id_):
            self.report("nothing accepted is lost", f"{id_} was never committed", number)

    def committed(self, commands: Sequence[Command], results: Sequence[Result], now: float) -> None:
        """A transaction is durable."""
        self.deliveries.commit(commands, results, now)

    def _in_flight(self) -> set[int]:
        lanes = () if self._gateway is None else self._gateway.lanes.values()
        return {attempt.lease.seq for lane in lanes for attempt in lane.in_flight.values()}

    # Attempts

    def began(self, provider: str) -> None:
        """Check the breaker, the quotas and Retry-After."""
        observed, now_s = self._lanes[provider], self._clock.now_s()
        for attempt in observed.new_attempts():
            if not attempt.is_panic:
                self._check_gate(observed, now_s)
            elif attempt.lease.id in self._panics:
                del self._panics[attempt.lease.id]
            else:
                detail = f"{provider} was asked in panic, which no event announced"
                self.report("an open breaker sends nothing", detail)
        if observed.asked_at_s < now_s < observed.closed_until_s - ROUNDING_S:
            detail = f"{provider} asked for {observed.closed_until_s - now_s:.3f} s more"
            self.report("never before Retry-After", detail)
        self._check_quota(provider, now_s)

    def unused(self, provider: str, began_s: float) -> None:
        """An attempt sent nothing: its permit may be used again."""
        begun = self._begun[provider]
        if began_s in begun:
            begun.remove(began_s)
            level, at_s = self._levels.get(provider, (0.0, 0.0))
            self._levels[provider] = max(0.0, level - 1.0), at_s

    def sending(self, provider: str, number: int) -> None:
        """A message must have an intent and must not be final."""
        state = self.deliveries.state(number)
        if state is not State.SENDING:
            word = state.value if state is not None else "not accepted"
            self.report("no send without an intent", f"to {provider}, but it is {word}", number)

    def arrived(self, provider: str, number: int) -> None:
        """A message may go out once, and once more for each declared risk."""
        count, risks = len(self._truth.arrivals[number]), self.deliveries.risks.get(number, 0)
        if count > 1 + risks:
            detail = f"went out {count} times, at last through {provider}; risks declared: {risks}"
            self.report("no undeclared duplicate", detail, number)

    def throttled(self, provider: str, retry_after_s: float) -> None:
        """The provider has just asked for a pause."""
        observed, now_s = self._lanes[provider], self._clock.now_s()
        if now_s + retry_after_s >= observed.closed_until_s:
            observed.asked_at_s, observed.closed_until_s = now_s, now_s + retry_after_s

    def _check_gate(self, observed: _ObservedLane, now_s: float) -> None:
        health = observed.lane.breaker_status.value
        is_shut = health.state in {BreakerState.OPEN, BreakerState.DISABLED}
        # At the instant at which it opened, the attempt was under way.
        if is_shut and observed.gate_since_s < now_s < health.until_s:
            detail = f"{observed.lane.name} was asked {health.until_s - now_s:.3f} s too early"
            self.report("an open breaker sends nothing", detail)
        assert self._gateway is not None
        probes_max = self._gateway.config.providers[observed.lane.name].breaker.probes
        if health.state is BreakerState.HALF_OPEN and observed.probes() > probes_max:
            detail = f"{observed.lane.name} has {observed.probes()} probes under way"
            self.report("half open, few probes", detail)

    def _check_quota(self, provider: str, now_s: float) -> None:
        quota = self._quotas.get(provider)
        if quota is None:
            return
        begun = self._begun[provider]
        if quota.per_s:
            level, at_s = self._levels.get(provider, (0.0, 0.0))
            level = max(0.0, level - quota.per_s * (now_s - at_s)) + 1.0
            self._levels[provider] = level, now_s
            if level > quota.burst_count + ROUNDING:
                detail = f"{provider}: {level:.3f} more than {quota.per_s:g} a second"
                self.report("quotas hold in every window", detail)
        begun.append(now_s)
        for name, length_s in _QUOTA_S.items():
            count_max: int | None = getattr(quota, name)
            if count_max is None or len(begun) <= count_max:
                continue
            if begun[-count_max - 1] > now_s - length_s:
                self.report("quotas hold in every window", f"{provider}: {name} = {count_max}")
        while begun[0] < now_s - _QUOTA_S["per_day"]:
            begun.popleft()

    # Regular checks, and the last one

    def check_ledger(self) -> None:
        """Compare the spool's ledger with the clients' receipts and the delivery model."""
        audit = self._audit()
        ledger = audit.counted
        if audit.differences:
            self.report("the kept sums are right", f"{audit.differences}")
        deliveries, accepted = self.deliveries, len(self._truth.accepted)
        if not ledger.is_balanced:
            self.report("the ledger balances", f"{ledger.accepted} accepted: {ledger.states}")
        if ledger.accepted < accepted:
            detail = f"{accepted} receipts, but {ledger.accepted} in the spool"
            self.report("nothing accepted is lost", detail)
        final = sum(ledger.states.get(state.value, 0) for state in FINAL)
        if final != deliveries.final_count:
            detail = f"{final} final in the spool, {deliveries.final_count} by its commits"
            self.report("one final state", detail)

    def check_end(self, *, is_complete: bool, unfinished_max: int = 0) -> None:
        """Check the end of a run.

        Args:
            is_complete: the horizon did not cut it off.
            unfinished_max: deliveries that may be neither final nor held at the horizon.
        """
        self.check_ledger()
        assert self._gateway is not None
        for name, lane in self._gateway.lanes.items():
            # A run that was cut off leaves calls that no drain waits for; providers hold them.
            left = [id_ for id_ in lane.in_flight if is_complete or id_ not in lane.underway]
            if left:
                self.report("nothing is left in flight", f"{name}: {len(left)}")
            elif not lane.in_flight and _lacks_probes(lane.breaker_status.value):
                self.report("permits are back at rest", f"{name}: {lane.breaker_status.value}")
        for box in self._gateway.supervisor.mailbox_statistics():
            if box.waiting:
                self.report("nothing is left over", f"{box.waiting} in the mailbox {box.name}")
        unfinished: dict[int, State] = {}
        for number in self._truth.accepted:
            state = self.deliveries.state(number)
            if state is None:
                self.report("nothing accepted is lost", "it was never committed", number)
            elif state is State.SENT and number not in self._truth.taken:
                self.report("sent means sent", "no provider ever had it", number)
            elif state not in RESTING:
                unfinished[number] = state
        if len(unfinished) > unfinished_max:
            for number, state in unfinished.items():
                detail = f"it is {state} at the end, one of {len(unfinished)}"
                self.report("final or held at the end", detail, number)


def _lacks_probes(health: BreakerStatus) -> bool:
    return health.state is BreakerState.HALF_OPEN and health.probes_free <= 0
