"""The oracle: the figures of an all-knowing scheduler, a bound that no policy can beat.

It knows all faults, quotas and draws in advance. Two bounds on times hold; the larger one counts:

- each message alone: the earliest time at which any provider would accept it, without quotas;
- all messages together: how many of them quotas, capacities and outages admit within a time, as
  if every attempt succeeded in the shortest time that a vendor ever takes.

It needs one attempt a message, since it may always wait. It ignores what would only worsen its
figures (commits and decisions, faults of the gateway, quota that failed attempts use), makes one
attempt of a message at a time, and sends neither poison nor what a vendor rightly refuses. A
policy that delivers less may be faster: compare times only where the deliveries are the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mailactors.config import Config
from mailactors.sim.oracle.providers import KnownProvider, Server, odds
from mailactors.sim.report.report import Bound, Oracle, rounded
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.vendor.answers import ACCEPTANCE, Answer, decide_answer, decide_recipient
from mailactors.sim.vendor.draws import RareDraw
from mailactors.sim.vendor.timeline import ActiveFaults
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.traffic import pick, planned_arrivals, recipient_domain
from mailactors.sim.world.truth import quantile

ATTEMPTS_MAX: Final = 20
"""Attempts of a message that are simulated; the next one is assumed to succeed."""
RATE_ATTEMPTS_MAX: Final = 50
"""The same for the scheduler that does not know the draws."""
SHARES: Final = (0.5, 0.99, 0.999)
PRECISION: Final = 0.01
"""Relative precision of the bound on all messages together; the lower end is returned."""


class PlannedMessage(msgspec.Struct, frozen=True):
    """A message of the traffic."""

    number: int
    at_s: float
    until_s: float
    """No attempt may begin later."""
    domain: str
    is_poison: bool = False


def planned_messages(
    scenario: Scenario, config: Config, entropy: KeyedEntropy
) -> list[PlannedMessage]:
    """Return every message that the clients will submit."""
    traffic, draw = scenario.traffic, entropy.draw
    end_s, found = horizon_s(scenario, config), []
    default = next(iter(config.streams))
    planned = planned_arrivals(traffic, scenario.duration_s, entropy)
    for number, at_s, is_poison in planned:
        stream = pick(traffic.streams, draw("stream", number)) if traffic.streams else default
        domain = recipient_domain(traffic, entropy, number)
        until_s = min(end_s, at_s + config.streams[stream].expires_after_s)
        found.append(PlannedMessage(number, at_s, until_s, domain, is_poison))
    return found


def oracle_bounds(scenario: Scenario, config: Config, seed: int) -> Oracle:
    """Return the bounds for one run."""
    entropy = KeyedEntropy(seed)
    providers = [
        KnownProvider(name, plan, scenario.timeline(name), entropy)
        for name, plan in scenario.providers.items()
    ]
    messages = planned_messages(scenario, config, entropy)
    wanted: list[PlannedMessage] = []
    alone_s: list[float] = []
    for message in messages:
        if message.is_poison or is_refused_rightly(providers, message):
            continue
        taken_s = earliest_s(providers, message)
        if taken_s < math.inf and can_arrive(providers, message):
            wanted.append(message)
            alone_s.append(taken_s - message.at_s)
    alone_s.sort()
    together = SharedCapacity(providers, wanted)
    least_s = [together.at_least(quantile(alone_s, share) or 0.0, share) for share in SHARES]
    by_rate = [attempt_by_rates(providers, message) for message in wanted]
    by_rate_s = sorted(
        taken_s - each.at_s for each, (taken_s, _) in zip(wanted, by_rate, strict=True)
    )
    count, attempts = len(together.waits_s), math.fsum(tries for _, tries in by_rate)
    by_rates = _bound(len(messages), count, by_rate_s, least_s, attempts)
    best = msgspec.structs.asdict(_bound(len(messages), count, alone_s, least_s, float(count)))
    return Oracle(**best, by_rates=by_rates)


def _bound(
    accepted: int, count: int, times_s: list[float], least_s: list[float], attempts: float
) -> Bound:
    """Return the figures of sorted times, each quantile at least the one in `least_s`."""
    if not times_s:
        return Bound(0, 0.0 if accepted else None, None, None, None, None)
    p50_s, p99_s, p999_s = (
        rounded(max(quantile(times_s, share) or 0.0, least))
        for share, least in zip(SHARES, least_s, strict=True)
    )
    tries = rounded(attempts / accepted)
    return Bound(count, count / accepted, p50_s, p99_s, p999_s, tries)


# Each message alone


def earliest_s(
    providers: Iterable[KnownProvider], message: PlannedMessage, *, is_true: bool = False
) -> float:
    """Return the earliest time at which any provider could accept a message; inf: never.

    `is_true`: count only providers that then send it on.
    """
    return min(_earliest_at(provider, message, is_true=is_true) for provider in providers)


def can_arrive(providers: Iterable[KnownProvider], message: PlannedMessage) -> bool:
    """Whether any provider could send a message on, lies considered."""
    has_lies = any(provider.losing_lies for provider in providers)
    return not has_lies or earliest_s(providers, message, is_true=True) < math.inf


def _earliest_at(provider: KnownProvider, message: PlannedMessage, *, is_true: bool) -> float:
    """Search one provider: at each time an attempt is made, or the next stretch awaited."""
    number, best_s = message.number, math.inf
    heap = [(provider.open_from(message.at_s), 1)]
    while heap:
        at_s, attempt = heapq.heappop(heap)
        if at_s >= best_s or at_s > message.until_s:
            break
        active = provider.at(at_s)
        latency_s = provider.latency_s(active, number, attempt)
        if active.spares_messages or attempt > ATTEMPTS_MAX:
            best_s = min(best_s, at_s + latency_s)
        else:
            answer = answer_of(provider, active, message, attempt)
            is_lie = is_true and answer.lie in provider.losing_lies
            if answer.is_taken and not is_lie:
                best_s = min(best_s, at_s + latency_s)
            elif not is_lie and not is_hopeless(provider, active, message):
                heapq.heappush(heap, (provider.open_from(at_s + latency_s), attempt + 1))
        if active.end_s < best_s:
            heapq.heappush(heap, (provider.open_from(active.end_s), attempt))
    return best_s


def is_hopeless(provider: KnownProvider, active: ActiveFaults, message: PlannedMessage) -> bool:
    """Whether no attempt can succeed now: a refusal lasts, or everything is refused."""
    if odds(active, message.domain) <= 0.0:
        return True
    if not active.rejects:
        return False
    lasting = provider.draws.rare(message.number, 0)[RareDraw.REJECT]
    return any(lasting < reject.rate for reject in active.rejects)


def is_refused_rightly(providers: Iterable[KnownProvider], message: PlannedMessage) -> bool:
    """Whether a provider rightly refuses this message permanently when it is submitted."""
    for provider in providers:
        for reject in provider.at(message.at_s).rejects:
            lasting = provider.draws.rare(message.number, 0)
            if lasting[RareDraw.REJECT] < reject.rate:
                return lasting[RareDraw.FALSE] >= reject.false_share
    return False


# The same without the draws


def attempt_by_rates(
    providers: Sequence[KnownProvider], message: PlannedMessage
) -> tuple[float, float]:
    """Return when a message is accepted if each attempt goes where the odds are best.

    Also return the expected number of attempts: 1 / the best odds of any provider at the first
    time at which one can be reached.
    """
    at_s, expected = message.at_s, 0.0
    attempts, barred_s = [0] * len(providers), [0.0] * len(providers)
    for _ in range(RATE_ATTEMPTS_MAX):
        opens = {
            n: provider.open_from(max(at_s, barred_s[n])) for n, provider in enumerate(providers)
        }
        at_s = max(at_s, min(opens.values()))
        if at_s == math.inf:
            break
        chances = {
            n: odds(providers[n].at(at_s), message.domain)
            for n, open_s in opens.items()
            if open_s <= at_s
        }
        if max(chances.values()) <= 0.0:
            at_s = min(providers[n].at(at_s).end_s for n in chances)
            continue
        expected = expected or 1.0 / max(chances.values())
        chosen = _quickest(providers, chances, at_s)
        attempts[chosen] += 1
        provider, active = providers[chosen], providers[chosen].at(at_s)
        at_s += provider.latency_s(active, message.number, attempts[chosen])
        if answer_of(provider, active, message, attempts[chosen]).is_taken:
            break
        if is_hopeless(provider, active, message):  # the refusal says so
            barred_s[chosen] = active.end_s
    return at_s, expected or 1.0


def _quickest(providers: Sequence[KnownProvider], chances: dict[int, float], at_s: float) -> int:
    """Return the provider with the soonest expected success; the first of equals."""
    hopeful = [n for n, chance in chances.items() if chance > 0.0]
    return min(
        hopeful, key=lambda n: providers[n].median_latency_s(providers[n].at(at_s)) / chances[n]
    )


def answer_of(
    provider: KnownProvider, active: ActiveFaults, message: PlannedMessage, attempt: int
) -> Answer:
    """Return a provider's answer to an attempt, by its draws."""
    if active.spares_messages:
        return ACCEPTANCE
    number = message.number
    recipient_refusal = decide_recipient(active, provider.draws, number, attempt, message.domain)
    draws_of_attempt = provider.draws.attempt(number, attempt)
    return (
        recipient_refusal or decide_answer(active, provider.draws, draws_of_attempt, number, None)
    )[0]


# All messages together


class SharedCapacity:
    """What quotas, capacities and outages admit, if nothing ever fails.

    Exact if all quota windows have one length; otherwise a message goes where it uses up quota for
    the shortest time.
    """

    def __init__(
        self, providers: Sequence[KnownProvider], messages: Sequence[PlannedMessage]
    ) -> None:
        self._providers = providers
        self._messages = messages
        self._floor_s = min(provider.latency_min_s for provider in providers)
        self.waits_s = sorted(self._serve(math.inf))
        """How long each message that can begin in time waits, if the oldest goes first."""

    def at_least(self, alone_s: float, share: float) -> float:
        """Return a lower bound on a quantile, if without quotas it were `alone_s`."""
        count = math.ceil(share * len(self.waits_s))
        # Oldest first is one way to do it, so that the best way is no worse.
        high_s = (quantile(self.waits_s, share) or 0.0) + self._floor_s
        low_s = middle_s = alone_s
        while high_s - low_s > PRECISION * high_s:
            if len(self._serve(middle_s - self._floor_s)) >= count:
                high_s = middle_s
            else:
                low_s = middle_s
            middle_s = (low_s + high_s) / 2
        return low_s

    def _serve(self, patience_s: float) -> list[float]:
        """Return the waits of those messages that can begin within `patience_s`; drop the others.

        All have the same patience and the same cost, so that no order serves more messages than
        the oldest first.
        """
        servers = sorted(
            (Server(provider) for provider in self._providers), key=lambda each: each.window_max_s
        )
        waits_s = []
        for message in self._messages:
            at_s = message.at_s
            start_s, chosen = math.inf, servers[0]
            for server in servers:
                next_s = server.next_s(at_s, start_s)
                if next_s < start_s:
                    start_s, chosen = next_s, server
                    if start_s <= at_s:
                        break
            if start_s <= at_s + patience_s and start_s <= message.until_s:
                chosen.serve()
                waits_s.append(start_s - at_s)
        return waits_s
