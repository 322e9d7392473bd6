"""The judges: watch every commit, attempt and arrival, and stop the run at the first wrong.

They keep their own account from what goes through the ports (the store's commands and results,
the providers' calls) and from what lanes publish, and never ask the actors for their opinion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import trio

from mailactors.dispatch.lane import Gate, Lane
from mailactors.model.lifecycle import FINAL, State
from mailactors.runtime.ports import Clock
from mailactors.sim.ledger import RESTING, Account
from mailactors.sim.truth import Truth
from mailactors.spool.port import Command, Result
from mailactors.wiring import Gateway

ROUNDING_S: Final = 1e-6
_QUOTA_S: Final = {"per_minute": 60.0, "per_hour": 3600.0, "per_day": 86400.0}


class Violation(msgspec.Struct, frozen=True):
    """A promise that was broken. `number` is the message's place in the traffic, or -1."""

    judge: str
    at_s: float
    detail: str
    number: int = -1
    timeline: tuple[str, ...] = ()


class _LaneWatch:
    """What the judges remember of a lane."""

    def __init__(self, lane: Lane, clock: Clock) -> None:
        self.lane = lane
        self.gate = lane.health.value.gate
        self.gate_since_s = 0.0
        self.begun: deque[float] = deque()
        self.told_at_s = self.closed_until_s = -1.0
        self._clock = clock
        self._seen: set[str] = set()
        lane.health.listen(self._on_health)

    def _on_health(self) -> None:
        gate = self.lane.health.value.gate
        if gate is not self.gate:
            self.gate, self.gate_since_s = gate, self._clock.now_s()

    def new_attempts(self) -> list[bool]:
        """Return, for each attempt that was not seen before, whether it is a panicking one."""
        underway = self.lane.underway
        new = [attempt for id_, attempt in underway.items() if id_ not in self._seen]
        self._seen = set(underway)
        return [attempt.is_panic for attempt in new]

    def probes(self) -> int:
        """Return how many attempts that began since the gate is half open are under way."""
        underway = self.lane.underway.values()
        return sum(1 for a in underway if not a.is_panic and a.began_s >= self.gate_since_s)


class Judges:
    """All of them. `stopped` is set with the first violation."""

    def __init__(self, truth: Truth, clock: Clock) -> None:
        self.violations: list[Violation] = []
        self.stopped = trio.Event()
        self.account = Account(self.accuse)
        self._truth = truth
        self._clock = clock
        self._gateway: Gateway | None = None
        self._lanes: dict[str, _LaneWatch] = {}

    def attend(self, gateway: Gateway) -> None:
        """Begin to watch a gateway that is built but not yet running."""
        self._gateway = gateway
        self._lanes = {n: _LaneWatch(lane, self._clock) for n, lane in gateway.lanes.items()}

    def accuse(self, judge: str, detail: str, number: int = -1) -> None:
        """Record a violation and stop the run."""
        self.violations.append(Violation(judge, self._clock.now_s(), detail, number))
        self.stopped.set()

    def noted(self, event: str, facts: dict[str, Any]) -> None:
        """An actor said something to the journal; no crash was asked for, so there may be none."""
        if event in {"actor.crashed", "attempt.fault"}:
            self.accuse("no actor dies by itself", f"{event}: {facts}")

    # Submissions and commits

    def told(self, number: int, id_: str) -> None:
        """A client holds a receipt: from now on its message may not be lost."""
        known = self._truth.accepted.setdefault(number, id_)
        if known != id_:
            self.accuse("same key, one message", f"two ids: {known}, {id_}", number)
        if id_ not in self.account.seq_of_id:
            self.accuse("nothing accepted is lost", f"{id_} was never committed", number)

    def committed(self, commands: Sequence[Command], results: Sequence[Result], now: float) -> None:
        """A transaction is durable."""
        for command, result in zip(commands, results, strict=True):
            self.account.take(command, result, now)

    # Attempts

    def began(self, provider: str) -> None:
        """Look at the gate, the quotas and what the provider asked for."""
        watch, now_s = self._lanes[provider], self._clock.now_s()
        for is_panic in watch.new_attempts():
            if not is_panic:
                self._check_gate(watch, now_s)
        if now_s > watch.told_at_s and now_s < watch.closed_until_s - ROUNDING_S:
            self.accuse(
                "never before Retry-After",
                f"{provider} asked for {watch.closed_until_s - now_s:.3f} s more",
            )
        self._check_quota(provider, watch, now_s)

    def unused(self, provider: str, began_s: float) -> None:
        """An attempt sent nothing, so that its permit may be given again."""
        begun = self._lanes[provider].begun
        if began_s in begun:
            begun.remove(began_s)

    def sending(self, provider: str, number: int) -> None:
        """Nothing may be sent of what is final, or without an intent."""
        state = self.account.states.get(number)
        if state is not State.SENDING:
            word = state.value if state is not None else "not accepted"
            self.accuse("no send without an intent", f"to {provider}, but it is {word}", number)

    def arrived(self, provider: str, number: int) -> None:
        """A message may go out once, and once more for each declared risk."""
        count, risks = len(self._truth.arrivals[number]), self.account.risks.get(number, 0)
        if count > 1 + risks:
            self.accuse(
                "no undeclared duplicate",
                f"went out {count} times, at last through {provider}; risks declared: {risks}",
                number,
            )

    def throttled(self, provider: str, retry_after_s: float) -> None:
        """The provider has just said when to come back."""
        watch, now_s = self._lanes[provider], self._clock.now_s()
        if now_s + retry_after_s >= watch.closed_until_s:
            watch.told_at_s, watch.closed_until_s = now_s, now_s + retry_after_s

    def _check_gate(self, watch: _LaneWatch, now_s: float) -> None:
        health = watch.lane.health.value
        is_shut = health.gate in {Gate.OPEN, Gate.DISABLED} and now_s < health.until_s
        if is_shut and now_s > watch.gate_since_s:  # at the same instant it was on its way already
            self.accuse(
                "an open breaker sends nothing",
                f"{watch.lane.name} was asked {health.until_s - now_s:.3f} s too early",
            )
        assert self._gateway is not None
        probes_max = self._gateway.config.providers[watch.lane.name].breaker.probes
        if health.gate is Gate.HALF_OPEN and watch.probes() > probes_max:
            detail = f"{watch.lane.name} has {watch.probes()} probes under way"
            self.accuse("half open, few probes", detail)

    def _check_quota(self, provider: str, watch: _LaneWatch, now_s: float) -> None:
        assert self._gateway is not None
        quota, begun = self._gateway.config.providers[provider].quota, watch.begun
        if quota == type(quota)():
            return
        if quota.per_s and begun and now_s < begun[-1] + 1.0 / quota.per_s - ROUNDING_S:
            detail = f"{provider}: {now_s - begun[-1]:.4f} s apart, at {quota.per_s:g} a second"
            self.accuse("quotas hold in every window", detail)
        begun.append(now_s)
        for name, length_s in _QUOTA_S.items():
            count_max: int | None = getattr(quota, name)
            if count_max is None or len(begun) <= count_max:
                continue
            if begun[-count_max - 1] > now_s - length_s:
                self.accuse("quotas hold in every window", f"{provider}: {name} = {count_max}")
        while begun[0] < now_s - _QUOTA_S["per_day"]:
            begun.popleft()

    # Looks from time to time, and the last one

    async def look(self) -> None:
        """Compare the spool's ledger with the clients' receipts and our own account."""
        assert self._gateway is not None
        # In place, without a moment in between: nothing may be committed while we compare.
        ledger = await self._gateway.reader.ask(lambda spool: spool.ledger())
        account, accepted = self.account, len(self._truth.accepted)
        if not ledger.is_balanced:
            self.accuse("the ledger balances", f"{ledger.accepted} accepted: {ledger.states}")
        if ledger.accepted < accepted:
            detail = f"{accepted} receipts, but {ledger.accepted} in the spool"
            self.accuse("nothing accepted is lost", detail)
        final = sum(ledger.states.get(state.value, 0) for state in FINAL)
        if final != account.final_count:
            detail = f"{final} final in the spool, {account.final_count} by its commits"
            self.accuse("one final state", detail)

    async def conclude(self, is_complete: bool) -> None:
        """Judge the end. `is_complete`: the run was not cut off by the horizon."""
        await self.look()
        assert self._gateway is not None
        for name, lane in self._gateway.lanes.items():
            if lane.in_flight or lane.underway:
                self.accuse("nothing is left in flight", f"{name}: {len(lane.in_flight)}")
        for number in self._truth.accepted:
            state = self.account.states.get(number)
            if state is State.SENT and number not in self._truth.arrivals:
                self.accuse("sent means sent", "no provider ever had it", number)
            elif is_complete and state not in RESTING:
                word = state.value if state else "nowhere"
                self.accuse("nothing accepted is lost", f"it ended as {word}", number)
