"""Recipient domains that defer everything: they are tried rarely, so that others get the permits.

A domain whose mail was deferred many times in a row, through whatever lane, is *deferring*, and so
is one that met a limit of its own (`subjects`) as often. Of the messages to it that were tried
before, one at a time is tried again, once a second or as rarely as its answers take. The rest is
released to the disk, which is neither an attempt nor a round, and is due again after a time that
grows with how long the domain has been deferring. The first message that it accepts or bounces ends
that.

A message that was never tried goes out at once, in its order: greylisting counts from its first
attempt. One whose deadline is near has a last try. So a deferring domain costs what comes in for it
and what expires, not what has piled up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mailactors.dispatch.attempt import Done
from mailactors.dispatch.lane import NEVER_S
from mailactors.dispatch.retry import is_bounce, is_recipients_own
from mailactors.dispatch.subjects import is_too_fast
from mailactors.dispatch.waits import LAST_TRY_S
from mailactors.model.message import domain_of
from mailactors.model.outcome import Accepted, NotAttempted, split_by_recipient
from mailactors.runtime.ports import Journal
from mailactors.spool.port import Lease

DEFERRED_IN_A_ROW: Final = 20
"""Deferrals after which a domain is deferring: fewer are full mailboxes, or greylisting."""
ASK_EVERY_S: Final = 1.0
HOLD_MIN_S: Final = 30.0
HOLD_MAX_S: Final = 300.0
HOLD_SHARE: Final = 0.5
"""Messages are due again after this share of the time that the domain has been deferring."""
HOLD_JITTER: Final = 0.25
"""Holds vary by ± this share, so that what was released together is not due together."""
DOMAINS_MAX: Final = 10_000
"""Domains tracked; the least recently deferring one is evicted."""


@dataclass
class _Domain:
    """A domain with deferrals and nothing accepted since. Times are monotonic."""

    in_a_row: int = 0
    since_s: float = NEVER_S
    """When it began to count as deferring."""
    asks_at_s: float = NEVER_S
    """When the next message may be tried."""
    ask_every_s: float = ASK_EVERY_S

    @property
    def is_deferring(self) -> bool:
        return self.in_a_row >= DEFERRED_IN_A_ROW


class Domains:
    """What the dispatcher knows of recipient domains. A crash loses it; it is learnt again."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._flushes = 0
        self._domains: dict[str, _Domain] = {}
        """Only those with deferrals; the latest to defer is last."""

    def note(self, done: Done) -> None:
        """Learn from an attempt's end."""
        attempt, outcome = done.attempt, done.outcome
        if isinstance(outcome, NotAttempted):
            return
        addresses = [address for _, address in attempt.recipients]
        took_s = done.ended_s - attempt.sending_s
        for address, each in split_by_recipient(outcome, addresses).items():
            is_own_limit = is_too_fast(each) and f"@{domain_of(address)}" in attempt.own_limits
            if is_recipients_own(each) or is_own_limit:
                self._deferred(domain_of(address), took_s, done.ended_s)
            elif isinstance(each, Accepted) or is_bounce(each):
                self._taken(domain_of(address))

    def deferring_s(self, lease: Lease, now_s: float, left_s: float = math.inf) -> float | None:
        """Return for how long all domains of a message have been deferring.

        None if it goes out: it is new, or one of them is not deferring, or it is the one to try, or
        its deadline is so near, `left_s`, that it has its last try.
        """
        if not lease.attempts or left_s <= LAST_TRY_S:
            return None
        found = [self._domains.get(domain_of(address)) for _, address in lease.recipients]
        deferring = [each for each in found if each is not None and each.is_deferring]
        if len(deferring) < len(found):
            return None
        if any(each.asks_at_s <= now_s for each in deferring):
            for each in deferring:
                each.asks_at_s = now_s + each.ask_every_s
            return None
        return now_s - max(each.since_s for each in deferring)

    def forget_at(self, flushes: int) -> None:
        """Let every domain be tried again after another flush; what still defers counts anew."""
        if flushes != self._flushes:
            self._flushes = flushes
            self._domains.clear()

    def _deferred(self, name: str, took_s: float, now_s: float) -> None:
        domain = self._domains.pop(name, None) or _Domain()
        self._domains[name] = domain
        domain.in_a_row += 1
        domain.ask_every_s = max(ASK_EVERY_S, took_s)
        if len(self._domains) > DOMAINS_MAX:
            del self._domains[next(iter(self._domains))]
        if domain.in_a_row == DEFERRED_IN_A_ROW:
            domain.since_s, domain.asks_at_s = now_s, now_s + domain.ask_every_s
            self._journal.note("domain.deferring", level="warning", domain=name)

    def _taken(self, name: str) -> None:
        domain = self._domains.pop(name, None)
        if domain is not None and domain.is_deferring:
            self._journal.note("domain.lifted", domain=name)


def hold_time_s(deferring_s: float, draw: float) -> float:
    """Return how long to hold a message to a domain that has been deferring for so long.

    >>> [hold_time_s(since_s, 0.5) for since_s in (0.0, 100.0, 3600.0)]
    [30.0, 50.0, 300.0]
    """
    plain_s = min(HOLD_MAX_S, max(HOLD_MIN_S, HOLD_SHARE * deferring_s))
    return plain_s * (1.0 - HOLD_JITTER + 2.0 * HOLD_JITTER * draw)
