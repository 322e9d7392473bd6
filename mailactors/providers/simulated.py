"""The `simulated` provider, for first use and tests: it sends nothing.

It answers after a log-normal latency and fails at a set rate, or as a script says; all of it may be
changed while it runs (`behaviour`).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import pydantic
import trio

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Scope,
    Uncertain,
)
from mailactors.providers import port
from mailactors.runtime.ports import Clock, Entropy

RECEIVED_MAX: Final = 10_000
"""Deliveries that are remembered; the oldest are dropped first."""
_NORMAL: Final = statistics.NormalDist()

Answer: TypeAlias = Outcome | Callable[[port.Mail], Outcome]


class SimulatedSettings(pydantic.BaseModel):
    """How a simulated provider behaves at first."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["simulated"] = "simulated"
    latency_s: float = pydantic.Field(default=0.15, ge=0)
    """The median of its log-normal latency."""
    latency_sigma: float = pydantic.Field(default=0.4, ge=0)
    error_rate: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of messages answered with a 503, 0 to 1."""
    own_envelope: bool = True
    idempotency_window_s: float = pydantic.Field(default=0.0, ge=0)
    """For how long it recognises a key and answers with the first id; 0: not at all."""
    look_up_lag_s: float | None = pydantic.Field(default=None, ge=0)
    """How long a look-up misses a message that it has; None: there is no look-up."""
    delivery_events: bool = False
    """Whether it is said to report deliveries; it reports none by itself."""

    @property
    def capabilities(self) -> port.Capabilities:
        """What a provider with these settings can do."""
        return port.Capabilities(
            own_envelope=self.own_envelope,
            idempotency_window_s=self.idempotency_window_s,
            look_up_lag_s=self.look_up_lag_s,
            delivery_events=self.delivery_events,
            work_max_s=0.0,  # it accepts nothing after its session is gone
        )


@dataclass
class Behaviour:
    """What may be changed while the provider runs."""

    latency_s: float
    latency_sigma: float
    error_rate: float
    is_refusing: bool = False
    """Refuse every connection."""
    is_mute: bool = False
    """Answer no look-up (until cancelled)."""
    is_stalling: bool = False
    """Take the body, deliver it, and never answer (until cancelled)."""
    script: deque[Answer] = field(default_factory=deque)
    """Answers to give first, in order; then chance decides again."""


class SimulatedProvider:
    """Keeps what it accepted in `received`: (marker, recipients), newest last."""

    def __init__(
        self, name: str, settings: SimulatedSettings, clock: Clock, entropy: Entropy
    ) -> None:
        self.name = name
        self.behaviour = Behaviour(settings.latency_s, settings.latency_sigma, settings.error_rate)
        self.received: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=RECEIVED_MAX)
        self.calls = 0
        self.look_ups = 0
        self._by_key: dict[str, tuple[float, str]] = {}
        self._taken_at: dict[str, tuple[float, str]] = {}
        self._settings = settings
        self._clock = clock
        self._entropy = entropy

    @property
    def capabilities(self) -> port.Capabilities:
        return self._settings.capabilities

    @property
    def secrets(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def connect(self) -> SimulatedSession | Refusal:
        if self.behaviour.is_refusing:
            await trio.lowlevel.checkpoint()
            return Deferred(Scope.PROVIDER, Reason("connection refused"))
        return SimulatedSession(self)

    def take_ready(self) -> SimulatedSession | None:
        return None if self.behaviour.is_refusing else SimulatedSession(self)

    async def release(self) -> None:
        """Do nothing: nothing is kept."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def look_up(self, marker: str) -> port.LookUpResult:
        self.look_ups += 1
        await trio.sleep(self._latency_s(self._entropy.draw("look", self.name, self.look_ups)))
        if self.behaviour.is_mute:
            await trio.sleep_forever()
        lag_s = self._settings.look_up_lag_s
        if lag_s is None:
            return port.LookUpFailed(Reason("it cannot be asked"))
        if self.behaviour.is_refusing:
            return port.LookUpFailed(Reason("connection refused"))
        at_s, found = self._taken_at.get(marker, (math.inf, ""))
        return port.Found(found) if self._clock.now_s() >= at_s + lag_s else port.NotFound()

    async def answer(self, mail: port.Mail) -> Outcome:
        """Wait for the latency and return the outcome; remember the message if it was received."""
        self.calls += 1
        key = (self.name, mail.marker, self.calls)
        await trio.sleep(self._latency_s(self._entropy.draw("latency", *key)))
        behaviour = self.behaviour
        if behaviour.is_stalling:
            self._receive(mail)
            await trio.sleep_forever()
        if behaviour.script:
            scripted = behaviour.script.popleft()
            outcome = scripted(mail) if callable(scripted) else scripted
        elif self._entropy.draw("error", *key) < behaviour.error_rate:
            outcome = Deferred(Scope.PROVIDER, Reason("simulated overload", 503))
        else:
            outcome = Accepted(self._known_as(mail) or f"{self.name}-{self.calls}")
        if isinstance(outcome, Accepted) or (
            isinstance(outcome, Uncertain) and outcome.phase is Phase.FINAL
        ):
            self._receive(mail, set(outcome.refused))
        return outcome

    def _known_as(self, mail: port.Mail) -> str:
        """Return the id that it gave to this key before, or "" if it does not recognise it."""
        at_s, known = self._by_key.get(mail.key, (-math.inf, ""))
        return known if self._clock.now_s() < at_s + self._settings.idempotency_window_s else ""

    def _receive(self, mail: port.Mail, refused: set[str] | None = None) -> None:
        if self._known_as(mail):
            return
        taken = tuple(r for r in mail.envelope.recipients if r not in (refused or ()))
        self.received.append((mail.marker, taken))
        now_s, given = self._clock.now_s(), f"{self.name}-{self.calls}"
        if self._settings.idempotency_window_s:
            _remember(self._by_key, mail.key, now_s, given)
        if self._settings.look_up_lag_s is not None and mail.marker not in self._taken_at:
            _remember(self._taken_at, mail.marker, now_s, given)

    def _latency_s(self, draw: float) -> float:
        """Return a log-normal latency with the behaviour's median, cut at four sigma."""
        draw = min(max(draw, 3e-5), 1 - 3e-5)
        sigma = self.behaviour.latency_sigma
        return self.behaviour.latency_s * math.exp(sigma * _NORMAL.inv_cdf(draw))


def _remember(known: dict[str, tuple[float, str]], name: str, now_s: float, given: str) -> None:
    known.pop(name, None)
    known[name] = (now_s, given)
    if len(known) > RECEIVED_MAX:
        del known[next(iter(known))]


class SimulatedSession:
    """A session with a simulated provider."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self._provider = provider

    async def send(self, mail: port.Mail) -> Outcome:
        return await self._provider.answer(mail)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
