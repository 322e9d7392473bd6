"""How promptly each lane's provider answers for each recipient domain, and whose slowness it is.

A relay that calls on the recipient's server is as slow as that server. Such a domain may not take
every slot of a lane, and its slowness opens no breaker: not as long as other domains are answered
in time, or nothing speaks for the provider's own slowness. What speaks for that: the same domain is
answered in time by another lane, or three domains and more are slow and no fewer than are prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

NEVER_S: Final = -1e9
"""A monotonic time before any other."""
LATE_DOMAINS_MIN: Final = 3
"""Slow domains of which fewer are not taken for a slow provider."""
RESERVED_SHARE: Final = 8
"""One domain never has the last eighth of a lane's slots."""
DOMAINS_MAX: Final = 10_000
"""Domains that are remembered of a lane, prompt and late ones each; the oldest is evicted."""


class Speeds:
    """Which domains were answered in time and which late, by lane. The lanes share it."""

    def __init__(self) -> None:
        self._prompt: dict[str, dict[str, float]] = {}
        """By lane and domain: when (monotonic) the latest answer came; the latest is last."""
        self._late: dict[str, dict[str, float]] = {}
        """The same for domains whose latest answer was late, or is awaited for too long."""

    def note(self, lane: str, domains: frozenset[str], now_s: float, *, is_late: bool) -> None:
        """Remember that an answer was late, or came in time."""
        into, out_of = (self._late, self._prompt) if is_late else (self._prompt, self._late)
        known, others = into.setdefault(lane, {}), out_of.setdefault(lane, {})
        for domain in domains:
            others.pop(domain, None)
            known.pop(domain, None)
            known[domain] = now_s
            if len(known) > DOMAINS_MAX:
                del known[next(iter(known))]

    def is_prompt(self, lane: str, domain: str) -> bool:
        """Whether the latest answer for a domain came in time; False if none came yet."""
        return domain in self._prompt.get(lane, {})

    def is_late(self, lane: str, domain: str) -> bool:
        """Whether the latest answer for a domain was late; False if none came yet."""
        return domain in self._late.get(lane, {})

    def judge(
        self,
        lane: str,
        domains: frozenset[str],
        began_s: float,
        now_s: float,
        *,
        is_late: bool,
        is_lost: bool = False,
    ) -> bool:
        """Remember a call; return whether it is late because of its recipients' domains."""
        is_own = is_late and self.is_domains_own(lane, domains, began_s, is_lost=is_lost)
        self.note(lane, domains, now_s, is_late=is_late)
        return is_own

    def is_domains_own(
        self, lane: str, domains: frozenset[str], began_s: float, *, is_lost: bool
    ) -> bool:
        """Whether a late call that began then is late because of its recipients' domains.

        One that `is_lost` is the provider's unless other domains were answered in time since.
        """
        prompt, late = self._prompt.get(lane, {}), self._late.get(lane, {})
        if any(prompt.get(domain, NEVER_S) >= began_s for domain in domains):
            return False  # it is slow now and then only
        prompt_count = sum(1 for _ in since(prompt, began_s))
        if not prompt_count and (is_lost or self._is_prompt_anywhere(domains, began_s)):
            return False
        late_count = len(domains.union(since(late, began_s)))
        return late_count < max(LATE_DOMAINS_MIN, prompt_count)

    def _is_prompt_anywhere(self, domains: frozenset[str], since_s: float) -> bool:
        known = self._prompt.values()
        return any(each.get(domain, NEVER_S) >= since_s for each in known for domain in domains)


def since(known: dict[str, float], since_s: float) -> Iterator[str]:
    """Yield the domains of a memory whose time is not earlier, the latest first."""
    return takewhile(lambda domain: known[domain] >= since_s, reversed(known))


def slots_of_domain(slots: int, in_flight: int, own: int, *, is_prompt: bool) -> int:
    """Return how many of a lane's slots a domain may have that has `own` of those in flight.

    One that is answered in time has nearly all of them. Any other has half of what others leave, so
    that however many are slow a new one finds a slot.

    >>> [slots_of_domain(32, 10, 10, is_prompt=each) for each in (True, False)]
    [28, 16]
    >>> slots_of_domain(32, 24, 8, is_prompt=False)
    8
    """
    if is_prompt:
        return max(1, slots - slots // RESERVED_SHARE)
    return max(1, (slots - (in_flight - own)) // 2)
