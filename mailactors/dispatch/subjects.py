"""Whose limit a refusal as too fast is: the lane's, or one recipient's, domain's or sender's.

A lane's limit refuses whatever comes next. Where others are accepted while one subject is refused
again and again, the limit is the subject's own: it says nothing of the pace that the lane bears,
and its messages go elsewhere or wait, each with its own backoff. After a refusal messages that
share no subject with it go first, which is how the two are told apart.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mailactors.model.message import domain_of
from mailactors.model.outcome import Deferred, Outcome, Scope, Verdict, decide_verdict

NEVER_S: Final = -1e9
"""A monotonic time before any other."""
STRIKES_OWN: Final = 3
"""Refusals in a row of one subject, others accepted between each two, that show its own limit.
At a lane's limit about one attempt in a hundred is refused: three in a row are one in a million."""
STRIKES_LIMITED: Final = 6
"""The same at a lane that shows a limit of its own: until its pace is learnt well, one attempt in
ten is refused."""
OTHERS_MIN: Final = 4
"""How many others must be accepted between two refusals there. At first one attempt in three may
be refused, and where others go first that is the same message each time."""
LANE_LIMIT_S: Final = 60.0
"""A lane shows a limit for so long after it accepted what it had refused as too fast before."""
ASK_EVERY_S: Final = 30.0
"""A subject with a limit of its own goes behind all others, but for one message so often."""
STARVED_S: Final = 10.0
"""With nothing served for so long others must get their turn: a lane's own limit lets some pass."""
FORGET_S: Final = 3600.0
SUBJECTS_MAX: Final = 10_000
"""Subjects that are remembered on a lane; the one refused the longest ago is evicted."""


@dataclass
class _Subject:
    """A recipient, domain or sender that was refused and not accepted since."""

    sender: str
    """Of the latest message that was refused."""
    strikes: int = 0
    struck_s: float = NEVER_S
    """When the latest refusal came (monotonic)."""


def subjects_of(addresses: Iterable[str], sender: str) -> frozenset[str]:
    """Return what a limit may be about: each recipient, its domain, the sender.

    >>> sorted(subjects_of(["bob@x.example"], "ann@y.example"))
    ['@x.example', 'bob@x.example', 'from:ann@y.example']
    """
    found = {f"from:{sender.lower()}"} if sender else set()
    for address in addresses:
        found |= {address.lower(), f"@{domain_of(address)}"}
    return frozenset(found)


def is_too_fast(outcome: Outcome) -> bool:
    """Whether this one outcome is a refusal as too fast, whoever's limit it is."""
    return isinstance(outcome, Deferred) and outcome.scope is Scope.PROVIDER and outcome.throttled


class Subjects:
    """What a lane knows of refusals as too fast, by subject. It survives the lane's actors.

    Args:
        elsewhere: when each subject last met an own limit, at whatever lane. The lanes share it: a
            lane that gets nothing but what another one refused would never see who is accepted.
    """

    def __init__(self, elsewhere: dict[str, float] | None = None) -> None:
        self._elsewhere = {} if elsewhere is None else elsewhere
        self._known: dict[str, _Subject] = {}
        """The latest to be refused is last."""
        self._served_s = [NEVER_S] * OTHERS_MIN
        """When the latest attempts that were not too fast got their permits, in order."""
        self._lane_limit_s = NEVER_S
        """When a recipient was accepted whom the lane had refused, from the same sender."""

    def __bool__(self) -> bool:
        return bool(self._known)

    def note(
        self, apart: Mapping[str, Outcome], sender: str, permit_s: float, now_s: float
    ) -> frozenset[str]:
        """Learn from an attempt's outcome by recipient; return the subjects with own limits.

        Empty if nothing was refused as too fast, or some of it by the lane's own limit.
        """
        refused = [address for address, each in apart.items() if is_too_fast(each)]
        served = [a for a, each in apart.items() if decide_verdict(each) is Verdict.SUCCESS]
        if served:
            bisect.insort(self._served_s, permit_s)
            del self._served_s[0]
            if any(self._was_refused(address, sender) for address in served):
                self._lane_limit_s = now_s
            for name in subjects_of(served, sender) if self._known or self._elsewhere else ():
                self._known.pop(name, None)
                self._elsewhere.pop(name, None)
        struck = subjects_of(refused, "" if served else sender) if refused else frozenset()
        for name in sorted(struck):
            self._strike(name, sender, permit_s, now_s)
        enough = self._strikes_own(now_s)
        own = frozenset(name for name in struck if self._known[name].strikes >= enough)
        is_whole = all(own & subjects_of([address], sender) for address in refused)
        return own if is_whole else frozenset()

    def shared(self, subjects: frozenset[str], now_s: float) -> int:
        """Return how many of a message's subjects others should go before."""
        return sum(self._is_suspect(name, now_s) for name in subjects)

    def starves(self, subjects: frozenset[str], now_s: float) -> bool:
        """Whether one of these was refused, and nothing at all was served for a while."""
        is_starved = now_s > self._served_s[-1] + STARVED_S
        return is_starved and any(self._is_suspect(name, now_s) for name in subjects)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()
        self._elsewhere.clear()

    def _is_suspect(self, name: str, now_s: float) -> bool:
        subject = self._known.get(name)
        if subject is None:
            return False
        if subject.strikes >= self._strikes_own(now_s):
            return now_s < subject.struck_s + ASK_EVERY_S
        return not self._has_served_since(subject, now_s)

    def _was_refused(self, address: str, sender: str) -> bool:
        subject = self._known.get(address.lower())
        return subject is not None and subject.sender == sender

    def _has_served_since(self, subject: _Subject, now_s: float) -> bool:
        """Whether enough others got through since a subject was last refused."""
        others_min = OTHERS_MIN if self._is_limited(now_s) else 1
        return self._served_s[-others_min] > subject.struck_s

    def _strikes_own(self, now_s: float) -> int:
        return STRIKES_LIMITED if self._is_limited(now_s) else STRIKES_OWN

    def _is_limited(self, now_s: float) -> bool:
        return now_s < self._lane_limit_s + LANE_LIMIT_S

    def _strike(self, name: str, sender: str, permit_s: float, now_s: float) -> None:
        subject = self._known.pop(name, None)
        if subject is None or now_s > subject.struck_s + FORGET_S:
            subject = _Subject(sender, 1, now_s)
        elif permit_s > subject.struck_s:  # else it was under way then: the same refusal
            subject.strikes += self._has_served_since(subject, now_s)
            subject.struck_s, subject.sender = now_s, sender
        if now_s <= self._elsewhere.get(name, NEVER_S) + FORGET_S:
            subject.strikes = max(subject.strikes, self._strikes_own(now_s))
        self._known[name] = subject
        _trim(self._known)
        if subject.strikes >= self._strikes_own(now_s):
            self._elsewhere.pop(name, None)
            self._elsewhere[name] = now_s
            _trim(self._elsewhere)


def _trim(known: dict[str, Any]) -> None:
    if len(known) > SUBJECTS_MAX:
        del known[next(iter(known))]
