"""All messages together: how many of them quotas, capacities and outages admit within a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mailactors.sim.oracle.planned import PlannedMessage
from mailactors.sim.oracle.providers import KnownProvider, Server
from mailactors.sim.world.truth import quantile

PRECISION: Final = 0.01
"""Relative precision of the bound on all messages together; the lower end is returned."""


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

    def at_least(self, alone_s: float, share: float, delivered: int) -> float:
        """Return a lower bound on a quantile of so many, if without quotas it were `alone_s`."""
        waits_s = self.waits_s[:delivered]
        count = math.ceil(share * len(waits_s))
        # Oldest first is one way to do it, so that the best way is no worse.
        high_s = (quantile(waits_s, share) or 0.0) + self._floor_s
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
