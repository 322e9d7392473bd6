"""The ground truth of a run, which the gateway never sees.

It is kept in arrays, by a message's number in the traffic, so that a million messages fit.
"""

from __future__ import annotations

import bisect
import heapq
import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from mailactors.sim.scenario.tables import PoisonKind

Recovery: TypeAlias = Literal["no fault", "no backlog", "during", "after", "never"]
"""Whether the backlog was gone while its fault lasted, or after it."""

NEVER: Final = math.nan
_ID_BYTES: Final = 16
_ID_DIGITS: Final = 2 * _ID_BYTES


@dataclass
class Peak:
    """The most events in any second."""

    highest: int = 0
    recent: deque[float] = field(default_factory=deque)

    def add(self, at_s: float) -> None:
        """Count one event; times do not go back."""
        self.recent.append(at_s)
        while self.recent[0] <= at_s - 1.0:
            self.recent.popleft()
        if len(self.recent) > self.highest:
            self.highest = len(self.recent)


class Times(Mapping[int, list[float]]):
    """The times of one kind of event, oldest first, by message, for those that have any.

    The first is in an array, others in a dict.
    """

    def __init__(self) -> None:
        self._first = array("d")
        self._more: dict[int, list[float]] = {}
        self._count = 0
        self.again_count = 0
        """Times beyond the first of each message."""

    def add(self, number: int, at_s: float) -> int:
        """Record one time, and return how many the message has now."""
        first = self._first
        while len(first) <= number:
            first.append(NEVER)
        if math.isnan(first[number]):
            first[number] = at_s
            self._count += 1
            return 1
        more = self._more.setdefault(number, [])
        more.append(at_s)
        self.again_count += 1
        return 1 + len(more)

    def first_s(self, number: int) -> float | None:
        """Return a message's first time; None: it has none."""
        if not 0 <= number < len(self._first) or math.isnan(self._first[number]):
            return None
        return self._first[number]

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.first_s(number) is not None

    def __getitem__(self, number: int) -> list[float]:
        first_s = self.first_s(number)
        if first_s is None:
            raise KeyError(number)
        return [first_s, *self._more.get(number, ())]

    def __iter__(self) -> Iterator[int]:
        return (n for n, at_s in enumerate(self._first) if not math.isnan(at_s))

    def __len__(self) -> int:
        return self._count


class Receipts(Mapping[int, str]):
    """The ids in the clients' receipts, 16 bytes each."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._others: dict[int, str] = {}
        """Ids that are not 32 hexadecimal digits."""
        self._count = 0

    def setdefault(self, number: int, id_: str) -> str:
        """Store the id of a message that has none yet, and return the stored one."""
        known = self.get(number)
        if known is not None:
            return known
        self._count += 1
        start = number * _ID_BYTES
        if len(self._ids) < start + _ID_BYTES:
            self._ids.extend(bytes(start + _ID_BYTES - len(self._ids)))
        packed = _packed(id_)
        if packed is None:
            self._others[number] = id_
        else:
            self._ids[start : start + _ID_BYTES] = packed
        return id_

    def __getitem__(self, number: int) -> str:
        start = number * _ID_BYTES
        found = self._ids[start : start + _ID_BYTES] if number >= 0 else b""
        if any(found):
            return found.hex()
        return self._others[number]

    def __iter__(self) -> Iterator[int]:
        return (n for n in range(len(self._ids) // _ID_BYTES) if n in self)

    def __len__(self) -> int:
        return self._count


def _packed(id_: str) -> bytes | None:
    try:
        packed = bytes.fromhex(id_)
    except ValueError:
        return None
    is_plain = len(id_) == _ID_DIGITS and packed.hex() == id_ and any(packed)
    return packed if is_plain else None


class Truth:
    """What truly happened in one run."""

    def __init__(self, providers: tuple[str, ...]) -> None:
        self.providers = providers
        self.submitted_s = array("d")
        """When each message was first submitted, by its number."""
        self.accepted = Receipts()
        """The id in the client's receipt."""
        self.refused = 0
        """How often a client was asked to retry."""
        self.given_up = 0
        """Messages that were never accepted because their client gave up."""
        self.taken = Times()
        """When a provider accepted a message, whether the answer arrived or not, true or false."""
        self.arrivals = Times()
        """When any provider sent a message on; a second time is a duplicate."""
        self.rejected: dict[int, bool] = {}
        """Messages that a provider refused permanently; True: wrongly."""
        self.poison: dict[int, PoisonKind] = {}
        """Poisonous messages."""
        self.attempts = 0
        self.peaks = {name: Peak() for name in providers}
        self.attempted_s = {name: array("d") for name in providers}
        """When attempts began, by provider."""
        self.arrived_s = {name: array("d") for name in providers}
        """When messages were sent on, by provider; duplicates included."""
        self.bytes_arrived = dict.fromkeys(providers, 0)
        """Bytes that were sent on, by provider, by the declared sizes."""
        self._sizes = array("L")

    # Written by clients and vendors

    def submit(self, at_s: float, size_bytes: int = 0) -> None:
        """Record the next message, in the order of their numbers."""
        self.submitted_s.append(at_s)
        if size_bytes or self._sizes:
            self._sizes.append(size_bytes)

    def attempt(self, provider: str, at_s: float) -> None:
        """Record that an attempt reached a provider."""
        self.attempts += 1
        self.attempted_s[provider].append(at_s)
        self.peaks[provider].add(at_s)

    def give_back(self, provider: str, began_s: float) -> None:
        """Remove an attempt whose session was returned unused."""
        self.attempts -= 1
        times = self.attempted_s[provider]
        for index in range(len(times) - 1, -1, -1):
            if times[index] <= began_s:
                del times[index]
                return

    def take(self, number: int, at_s: float) -> None:
        """Record that a provider accepted a message."""
        self.taken.add(number, at_s)

    def arrive(self, provider: str, number: int, at_s: float) -> None:
        """Record that a provider sent a message on."""
        self.arrivals.add(number, at_s)
        self.arrived_s[provider].append(at_s)
        if self._sizes:
            self.bytes_arrived[provider] += self._sizes[number]

    # Read by reports and checks

    @property
    def delivered(self) -> int:
        """Accepted messages that a provider sent on."""
        return sum(1 for number in self.accepted if number in self.arrivals)

    @property
    def accepted_by_provider(self) -> int:
        """Accepted messages that a provider accepted: more than `delivered` where one lost some."""
        return sum(1 for number in self.accepted if number in self.taken)

    @property
    def duplicates(self) -> int:
        """How often a message was sent on that had been sent on before."""
        return self.arrivals.again_count

    def size_bytes(self, number: int) -> int:
        """Return a message's declared size; 0 if the scenario declares none."""
        return self._sizes[number] if self._sizes else 0

    def latencies_s(self, numbers: Iterable[int]) -> list[float]:
        """Return the times from submission to acceptance by a provider, sorted."""
        taken, submitted_s = self.taken, self.submitted_s
        return sorted((taken.first_s(n) or 0.0) - submitted_s[n] for n in numbers)

    def backlog(self, bearable: float) -> Backlog:
        """Return when the backlog was above `bearable` messages.

        It is what is submitted and accepted by no provider.
        """
        spans: list[tuple[float, float]] = []
        waiting = 0
        for at_s, step in self._steps():
            was_above = waiting > bearable
            waiting += step
            if waiting > bearable and not was_above:
                spans.append((at_s, math.inf))
            elif was_above and waiting <= bearable:
                spans[-1] = (spans[-1][0], at_s)
        return Backlog(tuple(spans))

    def _steps(self) -> Iterator[tuple[float, int]]:
        """Yield when messages came (1) and a provider took them (-1), in order."""
        came = array("d", sorted(self.submitted_s[number] for number in self.accepted))
        firsts = (self.taken.first_s(number) for number in self.accepted)
        gone = array("d", sorted(at_s for at_s in firsts if at_s is not None))
        return heapq.merge(((at_s, 1) for at_s in came), ((at_s, -1) for at_s in gone))


class Backlog(NamedTuple):
    """When the backlog of a run was too large."""

    spans: tuple[tuple[float, float], ...]
    """From when to when; the last may have no end."""

    def recovery(self, ends_s: Sequence[float]) -> tuple[Recovery, float | None]:
        """Return how it recovered, and the longest time from a fault's end until it was gone.

        Each span counts from the last fault that ended in it.

        Args: ends_s: when faults ended, earliest first.
        """
        if not ends_s or not self.spans:
            return ("no backlog", 0.0) if ends_s else ("no fault", None)
        longest_s = 0.0
        for from_s, to_s in self.spans:
            ended = bisect.bisect_right(ends_s, to_s)
            if ended == 0 or ends_s[ended - 1] < from_s:
                continue
            if to_s == math.inf:
                return "never", None
            longest_s = max(longest_s, to_s - ends_s[ended - 1])
        return ("after" if longest_s else "during"), longest_s


def quantile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that at least a share of all do not exceed; None if there is none.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
