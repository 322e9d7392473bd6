"""The messages of a run as planned: when each is submitted, and until when it may go out."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from mailactors.config import Config
from mailactors.sim.scenario.file import Scenario, horizon_s
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.traffic import pick, planned_arrivals, recipient_domain

ACCEPT_S: Final = 0.1
"""Deadlines count from acceptance, which takes some commits; much longer where it is disturbed."""


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
    is_late = is_rough(scenario) or bool(scenario.clock_faults)
    default = next(iter(config.streams))
    planned = planned_arrivals(traffic, scenario.duration_s, entropy)
    for number, at_s, is_poison in planned:
        stream = pick(traffic.streams, draw("stream", number)) if traffic.streams else default
        domain = recipient_domain(traffic, entropy, number)
        expires_s = math.inf if is_late else config.streams[stream].expires_after_s
        until_s = min(end_s, at_s + expires_s + ACCEPT_S)
        found.append(PlannedMessage(number, at_s, until_s, domain, is_poison))
    return found


def is_rough(scenario: Scenario) -> bool:
    """Whether the gateway itself is disturbed.

    Then attempts break off before their answer, which uses up draws in no time, and what has
    connected may send much later.
    """
    return bool(scenario.crashes or scenario.spool_faults or scenario.pauses) or (
        scenario.traffic.poison is not None
    )
