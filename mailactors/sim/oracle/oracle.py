"""The oracle: bounds on the figures of any run, from all faults, quotas and draws in advance.

What each figure assumes:

- **delivered**: a message counts if any answer of any provider until its deadline would send it on,
  poison excepted, and what every vendor that it could go to refuses. Where the gateway's process,
  disk or clock is disturbed, its deadline is the end of the run, since it may be accepted late.
- **times**: of two bounds the larger one counts, the second only where nothing disturbs the gateway
  and no message is lost by liars. *Each message alone*: the earliest time at which any provider
  could accept it, without quotas. *All together*: how many of them quotas, capacities and outages
  admit within a time, as if every attempt succeeded in the shortest time that a vendor ever takes.
  They are of as many messages as are delivered: a run that delivers fewer, which may be faster, is
  held against the same number of the quickest ones.
- **attempts**: one for each delivered message, over all that clients submit.
- **expected**: what nobody rightly refuses, a goal and no bound.

The scheduler that knows rates but no draws (`by_rates`) is a goal and no bound.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mailactors.config import Config
from mailactors.sim.oracle.planned import PlannedMessage, is_rough, planned_messages
from mailactors.sim.oracle.providers import KnownProvider, odds
from mailactors.sim.oracle.shared import SharedCapacity
from mailactors.sim.report.report import Bound, Oracle, Report, rounded
from mailactors.sim.scenario.faults import Auth, ProviderFault
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.vendor.answers import ACCEPTANCE, Answer, decide_answer, decide_recipient
from mailactors.sim.vendor.client import ANSWER_WITHIN_S
from mailactors.sim.vendor.draws import RareDraw
from mailactors.sim.vendor.timeline import ActiveFaults
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.truth import quantile

ATTEMPTS_MAX: Final = 20
"""Attempts of a message that are simulated; the next one is assumed to succeed."""
RATE_ATTEMPTS_MAX: Final = 50
"""The same for the scheduler that does not know the draws."""
SHARES: Final = (0.5, 0.99, 0.999)
ROUNDING: Final = 1e-4
"""Figures are rounded to this."""


def oracle_bounds(
    scenario: Scenario, config: Config, seed: int, delivered: int | None = None
) -> Oracle:
    """Return the bounds for one run.

    `delivered`: how many messages the run delivers; None: all that can be.
    """
    entropy = KeyedEntropy(seed)
    providers = [
        KnownProvider(
            name, plan, known_faults(scenario, name), entropy, is_rough=is_rough(scenario)
        )
        for name, plan in scenario.providers.items()
    ]
    messages = planned_messages(scenario, config, entropy)
    wanted: list[PlannedMessage] = []
    alone_s: list[float] = []
    lost_s: list[float] = []
    """How soon liars accept what can never arrive: it counts for times, if a run has it."""
    expected = 0
    for message in messages:
        taken_s = math.inf if message.is_poison else earliest_s(providers, message)
        if taken_s == math.inf:
            continue
        if can_arrive(providers, message):
            wanted.append(message)
            alone_s.append(taken_s - message.at_s)
            expected += not is_refused_rightly(providers, message)
        else:
            lost_s.append(taken_s - message.at_s)
    alone_s.sort()
    lost_s.sort()
    count = len(wanted) if delivered is None else min(delivered, len(wanted))
    alone_s = alone_s[:count]
    together = SharedCapacity(providers, wanted)
    is_shared = not lost_s and not is_rough(scenario)
    least_s = [
        together.at_least(bounds_s, share, count) if is_shared else bounds_s
        for share in SHARES
        for bounds_s in (least_quantile(alone_s, lost_s, share),)
    ]
    by_rate = [attempt_by_rates(providers, message) for message in wanted]
    by_rate_s = sorted(
        taken_s - each.at_s for each, (taken_s, _) in zip(wanted, by_rate, strict=True)
    )
    attempts = math.fsum(tries for _, tries in by_rate)
    by_rates = _bound(len(messages), len(wanted), by_rate_s, least_s, attempts)
    best = _bound(len(messages), count, [], least_s, float(count))
    return Oracle(**msgspec.structs.asdict(best), by_rates=by_rates, expected=expected)


def known_faults(scenario: Scenario, name: str) -> tuple[ProviderFault, ...]:
    """Return a provider's faults, with those that a reload ends cut off by it."""
    reloads = sorted(each.at_s for each in scenario.operations if each.verb == "reload")
    found = []
    for fault in scenario.timeline(name):
        end_s = fault.end_s
        if isinstance(fault, Auth) and fault.until == "reload":
            end_s = next((at_s for at_s in reloads if at_s > fault.at_s), math.inf)
        found.append(fault.model_copy(update={"for_s": end_s - fault.at_s}))
    return tuple(found)


def least_quantile(needed_s: Sequence[float], optional_s: Sequence[float], share: float) -> float:
    """Return the least quantile of all the needed times and any of the optional ones; 0: no times.

    >>> least_quantile([1.0, 4.0], [], 0.5), least_quantile([3.0, 4.0], [1.0, 2.0, 9.0], 0.5)
    (1.0, 2.0)
    """
    optional = 0
    times = heapq.merge(((each, 0) for each in needed_s), ((each, 1) for each in optional_s))
    for count, (time_s, is_optional) in enumerate(times, 1):
        optional += is_optional
        if count >= math.ceil(share * (len(needed_s) + optional)):
            return time_s
    return 0.0


def beaten(report: Report, oracle: Oracle) -> list[str]:
    """Return the figures in which a run is better than its bound.

    Times and attempts are those of the messages that were delivered: they are compared only where
    the bound is for as many.
    """
    found = []
    if report.delivered > oracle.delivered:
        found.append(f"delivered: {report.delivered} > {oracle.delivered}")
    if report.delivered == oracle.delivered:
        for name in ("p50_s", "p99_s", "p999_s", "attempts_per_message"):
            value, bound = getattr(report, name), getattr(oracle, name)
            if value is not None and bound is not None and value < bound - ROUNDING:
                found.append(f"{name}: {value} < {bound}")
    return found


def _bound(
    accepted: int, count: int, times_s: list[float], least_s: list[float], attempts: float
) -> Bound:
    """Return the figures of sorted times, each quantile at least the one in `least_s`."""
    if not count:
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
    """Return a time before which no provider can accept a message; inf: never.

    `is_true`: count only answers after which it is sent on.
    """
    return min(_earliest_at(provider, message, is_true=is_true) for provider in providers)


def can_arrive(providers: Iterable[KnownProvider], message: PlannedMessage) -> bool:
    """Whether any provider could send a message on, lies considered."""
    has_lies = any(provider.losing_lies for provider in providers)
    return not has_lies or earliest_s(providers, message, is_true=True) < math.inf


def _earliest_at(provider: KnownProvider, message: PlannedMessage, *, is_true: bool) -> float:
    """Search one provider, stretch after stretch of its faults.

    An attempt may connect in one stretch and send in the next. Failed attempts use up draws, so
    that after a stretch with attempts the next answer may be any of a message's answers.
    """
    at_s, best_s = message.at_s, math.inf
    is_connected, is_fresh = False, not provider.is_rough
    while at_s < best_s and at_s <= message.until_s:
        active = provider.at(at_s)
        open_s = provider.open_within(active, at_s)
        begin_s = at_s if is_connected else open_s
        if begin_s <= message.until_s:
            taken_s = _taken_in(
                provider, active, message, begin_s, is_fresh=is_fresh, is_true=is_true
            )
            best_s = min(best_s, taken_s)
            is_fresh = False
        is_connected = open_s < math.inf or (is_connected and provider.is_rough)
        at_s = active.end_s
    return best_s


def _taken_in(
    provider: KnownProvider,
    active: ActiveFaults,
    message: PlannedMessage,
    at_s: float,
    *,
    is_fresh: bool,
    is_true: bool,
) -> float:
    """Return the earliest acceptance of an attempt that begins in this stretch, from `at_s` on.

    `is_fresh`: none was made before, and each of them is made only once the last has failed.
    """
    number, is_open = message.number, True

    def is_taken(attempt: int) -> bool:
        answer = answer_of(provider, active, message, attempt)
        return answer.is_taken and not (is_true and answer.lie in provider.losing_lies)

    is_lasting = is_hopeless(provider, active, message) or (
        is_true and any(lie.rate >= 1.0 for lie in active.lies if lie in provider.losing_lies)
    )
    attempts = range(1, ATTEMPTS_MAX + 1)
    if not is_fresh or active.capacities:
        likely = [n for n in attempts if is_taken(n)] or ([] if is_lasting else attempts)
        times_s = (provider.latency_s(active, number, n) for n in likely)
        return at_s + min(times_s, default=math.inf)
    for attempt in attempts:
        latency_s = provider.latency_s(active, number, attempt)
        if is_taken(attempt):
            return at_s + latency_s
        at_s = provider.open_within(active, at_s + min(latency_s, ANSWER_WITHIN_S))
        is_open = at_s <= message.until_s
        if is_lasting or not is_open:
            return math.inf
    return at_s + provider.latency_s(active, number, ATTEMPTS_MAX + 1)


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
