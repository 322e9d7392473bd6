"""The oracle: what an all-knowing scheduler would come to, a bound that no policy can beat.

It knows each fault's beginning and end, the vendors' quotas, and the dice of every attempt before
it is made. Two bounds on times hold at once, and the larger one counts:

- each message by itself: the earliest moment at which any provider would take it over, waiting
  for better weather or spending failed attempts on the way, as if quotas did not exist;
- all together: how many messages quotas, capacities and outages let begin within a time, as if
  every attempt succeeded and took the shortest time that a vendor ever takes.

One attempt for each message that it delivers is enough, for it may always wait.

It ignores what only makes it look better: the time that commits and decisions take, our own
faults, failed attempts' share of the quotas, and that both bounds hold together. It makes one
attempt of a message at a time and hangs up on none. It sends no poison, and nothing that a vendor
rightly refuses for good. A policy that delivers less than it does may be faster: compare times
only where the deliveries are the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from mailactors.config import Config
from mailactors.sim.oracle.server import Server, Sky, odds
from mailactors.sim.report.report import Bound, Oracle, rounded
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.vendor.answers import YES, Answer, decide_answer, decide_recipient
from mailactors.sim.vendor.draws import RareDie
from mailactors.sim.vendor.timeline import Weather
from mailactors.sim.world.traffic import arrival_times, domain_of, pick, poison_times
from mailactors.sim.world.truth import quantile
from mailactors.sim.world.world import KeyedEntropy

ATTEMPTS_MAX: Final = 20
"""Attempts of a message that are followed up; after so many the next one is taken to succeed."""
GUESSES_MAX: Final = 50
"""The same for the scheduler that does not know the dice."""
SHARES: Final = (0.5, 0.99, 0.999)
PRECISION: Final = 0.01
"""Of the bound on all together; what is returned is its lower end."""


class Letter(msgspec.Struct, frozen=True):
    """A message of the traffic."""

    number: int
    at_s: float
    until_s: float
    """No attempt may begin later."""
    domain: str
    is_poison: bool = False


def letters_of(scenario: Scenario, config: Config, entropy: KeyedEntropy) -> list[Letter]:
    """Return every message that clients submit, as they do."""
    traffic, draw = scenario.traffic, entropy.draw
    end_s, found = horizon_s(scenario, config), []
    default = next(iter(config.streams))
    poison_at = poison_times(traffic.poison, scenario.duration_s)
    poison_s = next(poison_at, math.inf)
    for number, at_s in enumerate(arrival_times(traffic, scenario.duration_s, entropy)):
        stream = pick(traffic.streams, draw("stream", number)) if traffic.streams else default
        domain = domain_of(traffic, entropy, number)
        until_s = min(end_s, at_s + config.streams[stream].expires_after_s)
        found.append(Letter(number, at_s, until_s, domain, at_s >= poison_s))
        if at_s >= poison_s:
            poison_s = next(poison_at, math.inf)
    return found


def ask_oracle(scenario: Scenario, config: Config, seed: int) -> Oracle:
    """Return the bounds for one run."""
    entropy = KeyedEntropy(seed)
    skies = [
        Sky(name, plan, scenario.timeline(name), entropy)
        for name, plan in scenario.providers.items()
    ]
    letters = letters_of(scenario, config, entropy)
    wanted: list[Letter] = []
    alone_s: list[float] = []
    for letter in letters:
        if letter.is_poison or is_refused_rightly(skies, letter):
            continue
        taken_s = earliest_s(skies, letter)
        if taken_s < math.inf and can_arrive(skies, letter):
            wanted.append(letter)
            alone_s.append(taken_s - letter.at_s)
    alone_s.sort()
    together = Together(skies, wanted)
    least_s = [together.at_least(quantile(alone_s, share) or 0.0, share) for share in SHARES]
    guesses = [guess(skies, letter) for letter in wanted]
    guessed_s = sorted(
        taken_s - each.at_s for each, (taken_s, _) in zip(wanted, guesses, strict=True)
    )
    count, attempts = len(together.waits_s), math.fsum(tries for _, tries in guesses)
    by_rates = _bound(len(letters), count, guessed_s, least_s, attempts)
    best = msgspec.structs.asdict(_bound(len(letters), count, alone_s, least_s, float(count)))
    return Oracle(**best, by_rates=by_rates)


def _bound(
    accepted: int, count: int, times_s: list[float], least_s: list[float], attempts: float
) -> Bound:
    """Return the figures of sorted times, none of which counts for less than what is possible."""
    if not times_s:
        return Bound(0, 0.0 if accepted else None, None, None, None, None)
    p50_s, p99_s, p999_s = (
        rounded(max(quantile(times_s, share) or 0.0, least))
        for share, least in zip(SHARES, least_s, strict=True)
    )
    tries = rounded(attempts / accepted)
    return Bound(count, count / accepted, p50_s, p99_s, p999_s, tries)


# Each message by itself


def earliest_s(skies: Iterable[Sky], letter: Letter, *, is_true: bool = False) -> float:
    """Return when any provider could have taken a message over at the earliest; inf: never.

    `is_true`: only by one that then lets it go out.
    """
    return min(_earliest_at(sky, letter, is_true=is_true) for sky in skies)


def can_arrive(skies: Iterable[Sky], letter: Letter) -> bool:
    """Whether a message could have gone out: not every provider lies about it."""
    has_lies = any(sky.false_lies for sky in skies)
    return not has_lies or earliest_s(skies, letter, is_true=True) < math.inf


def _earliest_at(sky: Sky, letter: Letter, *, is_true: bool) -> float:
    """Search one provider: at each moment an attempt may be made, or better weather awaited."""
    number, best_s = letter.number, math.inf
    heap = [(sky.open_from(letter.at_s), 1)]
    while heap:
        at_s, attempt = heapq.heappop(heap)
        if at_s >= best_s or at_s > letter.until_s:
            break
        weather, change_s = sky.at(at_s)
        latency_s = sky.latency_s(weather, number, attempt)
        if weather.is_calm or attempt > ATTEMPTS_MAX:
            best_s = min(best_s, at_s + latency_s)
        else:
            answer = answer_of(sky, weather, letter, attempt)
            is_lie = is_true and answer.lie in sky.false_lies
            if answer.is_taken and not is_lie:
                best_s = min(best_s, at_s + latency_s)
            elif not is_lie and not is_hopeless(sky, weather, letter):
                heapq.heappush(heap, (sky.open_from(at_s + latency_s), attempt + 1))
        if change_s < best_s:
            heapq.heappush(heap, (sky.open_from(change_s), attempt))
    return best_s


def is_hopeless(sky: Sky, weather: Weather, letter: Letter) -> bool:
    """Whether no attempt can succeed in this weather: a refusal that lasts, or of everything."""
    if odds(weather, letter.domain) <= 0.0:
        return True
    if not weather.rejects:
        return False
    lasting = sky.chance.rare(letter.number, 0)[RareDie.REJECT]
    return any(lasting < reject.rate for reject in weather.rejects)


def is_refused_rightly(skies: Iterable[Sky], letter: Letter) -> bool:
    """Whether a provider refuses this message for good at its time, and is right to."""
    for sky in skies:
        for reject in sky.at(letter.at_s)[0].rejects:
            lasting = sky.chance.rare(letter.number, 0)
            if lasting[RareDie.REJECT] < reject.rate:
                return lasting[RareDie.FALSE] >= reject.false_share
    return False


# The same without the dice


def guess(skies: Sequence[Sky], letter: Letter) -> tuple[float, float]:
    """Return when a message is taken over if each attempt goes where the odds are best.

    And the attempts that it takes on average: one over the best odds of any provider at the time
    at which it can first be sent at all.
    """
    at_s, expected = letter.at_s, 0.0
    attempts, barred_s = [0] * len(skies), [0.0] * len(skies)
    for _ in range(GUESSES_MAX):
        opens = {n: sky.open_from(max(at_s, barred_s[n])) for n, sky in enumerate(skies)}
        at_s = max(at_s, min(opens.values()))
        if at_s == math.inf:
            break
        chances = {
            n: odds(skies[n].at(at_s)[0], letter.domain)
            for n, open_s in opens.items()
            if open_s <= at_s
        }
        if max(chances.values()) <= 0.0:
            at_s = min(skies[n].at(at_s)[1] for n in chances)
            continue
        expected = expected or 1.0 / max(chances.values())
        chosen = _quickest(skies, chances, at_s)
        attempts[chosen] += 1
        sky, (weather, change_s) = skies[chosen], skies[chosen].at(at_s)
        at_s += sky.latency_s(weather, letter.number, attempts[chosen])
        if answer_of(sky, weather, letter, attempts[chosen]).is_taken:
            break
        if is_hopeless(sky, weather, letter):  # so it was told
            barred_s[chosen] = change_s
    return at_s, expected or 1.0


def _quickest(skies: Sequence[Sky], chances: dict[int, float], at_s: float) -> int:
    """Return whose next success is the soonest by the odds; the first of equals."""
    hopeful = [n for n, chance in chances.items() if chance > 0.0]
    return min(hopeful, key=lambda n: skies[n].typical_s(skies[n].at(at_s)[0]) / chances[n])


def answer_of(sky: Sky, weather: Weather, letter: Letter, attempt: int) -> Answer:
    """Return what a provider does with an attempt, as it will."""
    if weather.is_calm:
        return YES
    number = letter.number
    against = decide_recipient(weather, sky.chance, number, attempt, letter.domain)
    dice = sky.chance.attempt(number, attempt)
    return (against or decide_answer(weather, sky.chance, dice, number, None))[0]


# All together


class Together:
    """What quotas, capacities and outages let begin, if nothing ever fails.

    Exact where all windows are of one length; where they are not, a message goes where it stands
    in the way of others for the shortest time.
    """

    def __init__(self, skies: Sequence[Sky], letters: Sequence[Letter]) -> None:
        self._skies = skies
        self._letters = letters
        self._floor_s = min(sky.latency_min_s for sky in skies)
        self.waits_s = sorted(self._serve(math.inf))
        """How long each message that can begin in time waits, if the oldest always goes first."""

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
        """Return the waits of those messages that can begin within so long; the others are left.

        All have the same patience and cost the same: to serve the oldest that still counts serves
        as many as any order.
        """
        servers = sorted((Server(sky) for sky in self._skies), key=lambda each: each.reserve_s)
        waits_s = []
        for letter in self._letters:
            at_s = letter.at_s
            start_s, chosen = math.inf, servers[0]
            for server in servers:
                next_s = server.next_s(at_s, start_s)
                if next_s < start_s:
                    start_s, chosen = next_s, server
                    if start_s <= at_s:
                        break
            if start_s <= at_s + patience_s and start_s <= letter.until_s:
                chosen.serve()
                waits_s.append(start_s - at_s)
        return waits_s
