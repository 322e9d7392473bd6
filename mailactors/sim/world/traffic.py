"""Clients: they submit messages, retry when they are asked to, and some submit twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from mailactors.errors import MailactorsError
from mailactors.intake.submission import (
    KeyConflictError,
    OverloadedError,
    Submission,
    SubmissionRejectedError,
)
from mailactors.model.message import Address
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.tables import Traffic
from mailactors.sim.world.entropy import KeyedEntropy, log_normal
from mailactors.sim.world.scheduling import sleep, sleep_until
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import World
from mailactors.spool.port import Receipt

SENDER: Final = Address("shop@sender.example")
MAILBOXES: Final = 1000
"""Recipients in each domain."""
TRIES_MAX: Final = 10
REPEAT_WITHIN_S: Final = 10.0
"""The second of two duplicate submissions comes within this time."""
LOST_AGAIN_S: Final = 1.0
"""How long a client whose answer was lost waits before it retries."""


class SubmissionPort(Protocol):
    """Where clients submit: a node whose process may be down, or a loop."""

    async def submit(self, submission: Submission, /) -> Receipt:
        """Return the receipt. Raises: what the gateway's door raises."""
        ...


def segments(traffic: Traffic, duration_s: float) -> list[tuple[float, float, float]]:
    """Return (from, to, highest rate) of each stretch of the traffic, in order."""
    found, at_s = [], 0.0
    for burst in sorted(traffic.bursts, key=lambda each: each.at_s):
        found.append((at_s, min(burst.at_s, duration_s), traffic.rate_per_s))
        at_s = burst.end_s
        found.append((burst.at_s, min(at_s, duration_s), burst.rate_per_s))
    found.append((at_s, duration_s, traffic.rate_per_s))
    return [(start_s, end_s, rate) for start_s, end_s, rate in found if start_s < end_s]


def rate_per_s(traffic: Traffic, at_s: float) -> float:
    """Return how many messages a second are offered at a time."""
    for burst in traffic.bursts:
        if burst.is_on(at_s):
            return burst.rate_per_s
    day = traffic.diurnal
    if day is None:
        return traffic.rate_per_s
    height = (1.0 - math.cos(2.0 * math.pi * at_s / day.period_s)) / 2.0
    return day.low_per_s + (traffic.rate_per_s - day.low_per_s) * height


def arrival_times(traffic: Traffic, duration_s: float, entropy: KeyedEntropy) -> Iterator[float]:
    """Yield the times of a Poisson process whose rate changes over time.

    Unit exponentials are stretched by the rate of their segment. With `diurnal`, the highest rate
    is drawn and thinned (Lewis and Shedler, 1979).
    """
    number = candidate = 0
    left = -math.log(1.0 - entropy.draw("arrival", number))
    for start_s, end_s, highest in segments(traffic, duration_s):
        at_s = start_s
        while highest > 0 and at_s + left / highest < end_s:
            at_s += left / highest
            is_kept = True
            if traffic.diurnal is not None:
                candidate += 1
                draw = entropy.draw("diurnal", candidate)
                is_kept = draw * highest < rate_per_s(traffic, at_s)
            if is_kept:
                yield at_s
            number += 1
            left = -math.log(1.0 - entropy.draw("arrival", number))
        left -= (end_s - at_s) * highest


def planned_arrivals(
    traffic: Traffic, duration_s: float, entropy: KeyedEntropy
) -> Iterator[tuple[int, float, bool]]:
    """Yield each message's number and time, and whether it is poison: evenly over the traffic."""
    count = 0 if traffic.poison is None else traffic.poison.count
    times_s = (duration_s * (index + 0.5) / count for index in range(count))
    poison_s = next(times_s, math.inf)
    for number, at_s in enumerate(arrival_times(traffic, duration_s, entropy)):
        is_poison = at_s >= poison_s
        if is_poison:
            poison_s = next(times_s, math.inf)
        yield number, at_s, is_poison


def pick(weights: dict[str, float], draw: float) -> str:
    """Return a name by its weight.

    >>> pick({"a": 1.0, "b": 3.0}, 0.3)
    'b'
    """
    if len(weights) == 1:
        return next(iter(weights))
    left = draw * math.fsum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(weights))


def recipient_domain(traffic: Traffic, entropy: KeyedEntropy, number: int) -> str:
    """Return the domain of a message's recipient."""
    domains = traffic.recipient_domains
    if len(domains) == 1:
        return next(iter(domains))
    return pick(domains, entropy.draw("domain", number))


@dataclass(frozen=True)
class Clients:
    """All clients of a run."""

    scenario: Scenario
    port: SubmissionPort
    world: World
    truth: Truth
    on_receipt: Callable[[int, str], object]

    async def run(self) -> None:
        """Submit every message; return when each client has an answer or has given up."""
        traffic, draw = self.scenario.traffic, self.world.entropy.draw
        planned = planned_arrivals(traffic, self.scenario.duration_s, self.world.entropy)
        async with trio.open_nursery() as nursery:
            for number, at_s, is_poison in planned:
                await sleep_until(at_s)
                if is_poison and traffic.poison is not None:
                    self.truth.poison[number] = traffic.poison.kind
                self.truth.submit(at_s, self._size_bytes(number))
                nursery.start_soon(self._client, number)
                if traffic.duplicate_submissions and (
                    draw("repeat", number) < traffic.duplicate_submissions
                ):
                    delay_s = REPEAT_WITHIN_S * draw("repeat.delay", number)
                    nursery.start_soon(self._client, number, delay_s)

    async def _client(self, number: int, delay_s: float = 0.0) -> None:
        if delay_s:
            await sleep(delay_s)
        submission = self._submission(number)
        for _ in range(TRIES_MAX):
            try:
                receipt = await self.port.submit(submission)
            except OverloadedError as error:
                self.truth.refused += 1
                await sleep(error.retry_after_s)
            except (SubmissionRejectedError, KeyConflictError):
                raise  # a defect: every submission here is valid
            except MailactorsError:  # the API would answer 500: it may have been accepted
                self.truth.refused += 1
                await sleep(LOST_AGAIN_S)
            else:
                self.on_receipt(number, receipt.id)
                return
        if not delay_s:
            self.truth.given_up += 1

    def _size_bytes(self, number: int) -> int:
        size = self.scenario.traffic.size_bytes
        if size is None:
            return 0
        return round(log_normal(size.median, size.sigma, self.world.entropy.draw("size", number)))

    def _submission(self, number: int) -> Submission:
        traffic, draw = self.scenario.traffic, self.world.entropy.draw
        domain = recipient_domain(traffic, self.world.entropy, number)
        mailbox = int(MAILBOXES * draw("mailbox", number))
        return Submission(
            sender=SENDER,
            to=(Address(f"user{mailbox}@{domain}"),),
            subject=str(number),
            text="A simulated message.\n",
            stream=pick(traffic.streams, draw("stream", number)) if traffic.streams else "",
            key=f"message-{number}",
        )
