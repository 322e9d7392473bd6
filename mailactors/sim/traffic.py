"""Clients: they submit at the door, come again when told to, and some say everything twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import trio

from mailactors.intake.door import Door
from mailactors.intake.submission import OverloadedError, Submission
from mailactors.model.message import Address
from mailactors.sim.scenario import Scenario, Traffic
from mailactors.sim.truth import Truth
from mailactors.sim.world import KeyedEntropy, World

SENDER: Final = Address("shop@sender.example")
MAILBOXES: Final = 1000
"""Different recipients in each domain."""
TRIES_MAX: Final = 10
REPEAT_WITHIN_S: Final = 10.0
"""A submission that is made twice is repeated within this time."""


def segments(traffic: Traffic, duration_s: float) -> list[tuple[float, float, float]]:
    """Return (from, to, rate) of each stretch of the traffic, in order."""
    found, at_s = [], 0.0
    for burst in sorted(traffic.bursts, key=lambda each: each.at_s):
        found.append((at_s, min(burst.at_s, duration_s), traffic.rate_per_s))
        at_s = burst.at_s + burst.for_s
        found.append((burst.at_s, min(at_s, duration_s), burst.rate_per_s))
    found.append((at_s, duration_s, traffic.rate_per_s))
    return [(start_s, end_s, rate) for start_s, end_s, rate in found if start_s < end_s]


def arrival_times(traffic: Traffic, duration_s: float, entropy: KeyedEntropy) -> Iterator[float]:
    """Yield a Poisson process's times: unit exponentials, stretched by the rate of their time."""
    number = 0
    left = -math.log(1.0 - entropy.draw("arrival", number))
    for start_s, end_s, rate in segments(traffic, duration_s):
        at_s = start_s
        while rate > 0 and at_s + left / rate < end_s:
            at_s += left / rate
            yield at_s
            number += 1
            left = -math.log(1.0 - entropy.draw("arrival", number))
        left -= (end_s - at_s) * rate


def pick(weights: dict[str, float], draw: float) -> str:
    """Return a name by its weight.

    >>> pick({"a": 1.0, "b": 3.0}, 0.3)
    'b'
    """
    left = draw * math.fsum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(weights))


class Clients:
    """All clients of a run."""

    def __init__(
        self, scenario: Scenario, door: Door, world: World, truth: Truth, told: Callable[..., None]
    ) -> None:
        self._scenario = scenario
        self._door = door
        self._world = world
        self._truth = truth
        self._told = told

    async def run(self) -> None:
        """Submit everything; return when each client has its answer or has given up."""
        traffic, draw = self._scenario.traffic, self._world.entropy.draw
        times = arrival_times(traffic, self._scenario.duration_s, self._world.entropy)
        async with trio.open_nursery() as nursery:
            for number, at_s in enumerate(times):
                await trio.sleep_until(at_s)
                nursery.start_soon(self._client, number)
                if draw("repeat", number) < traffic.duplicate_submissions:
                    delay_s = REPEAT_WITHIN_S * draw("repeat.delay", number)
                    nursery.start_soon(self._client, number, delay_s)

    async def _client(self, number: int, delay_s: float = 0.0) -> None:
        self._truth.submitted_s.setdefault(number, self._world.clock.now_s())
        if delay_s:
            await trio.sleep(delay_s)
        letter = self._letter(number)
        for _ in range(TRIES_MAX):
            try:
                receipt = await self._door.submit(letter)
            except OverloadedError as error:
                self._truth.refused += 1
                await trio.sleep(error.retry_after_s)
            else:
                self._told(number, receipt.id)
                return
        if not delay_s:
            self._truth.given_up += 1

    def _letter(self, number: int) -> Submission:
        traffic, draw = self._scenario.traffic, self._world.entropy.draw
        domain = pick(traffic.recipient_domains, draw("domain", number))
        mailbox = int(MAILBOXES * draw("mailbox", number))
        return Submission(
            sender=SENDER,
            to=(Address(f"user{mailbox}@{domain}"),),
            subject=str(number),
            text="A simulated message.\n",
            stream=pick(traffic.streams, draw("stream", number)) if traffic.streams else "",
            key=f"message-{number}",
        )
