"""Messages that the same lanes may take, in the order in which they go out.

Whether a lane has room for a message depends on its recipients' domains alone. So one that there is
no room for speaks for all with the same domains, and a window full of them costs no more to pass
over than one of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from mailactors.model.message import domain_of
from mailactors.spool.port import Lease


class Choice(msgspec.Struct, frozen=True):
    """A lane for a message; `is_panic` when every breaker of the route is open."""

    lane: str
    """Empty in `PASSED_OVER` and `NO_ROOM`."""
    is_panic: bool = False


PASSED_OVER: Final = Choice("")
"""A lane is free, but not for this message: others of its queue may go before it."""
NO_ROOM: Final = Choice("")
"""The same, for its domains have too many slots: others with the same domains wait as well."""


def place_of(lease: Lease) -> tuple[float, int]:
    """Return a message's place among others: its age."""
    return lease.due_at, lease.seq


class Queue:
    """One such queue."""

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self._items: deque[tuple[Lease, frozenset[str]]] = deque()
        """Each with its recipients' domains."""
        self._counts: Counter[frozenset[str]] = Counter()
        """How many there are with these domains; nothing that is zero."""
        for lease in leases:
            self.push(lease)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Lease]:
        return (lease for lease, _ in self._items)

    @property
    def first(self) -> Lease:
        """The message at the head."""
        return self._items[0][0]

    def push(self, lease: Lease, *, is_first: bool = False) -> None:
        """Add a message at the end; with `is_first`, at the place of its age."""
        domains = frozenset(domain_of(address) for _, address in lease.recipients)
        self._counts[domains] += 1
        place = len(self._items)
        if is_first:
            age = place_of(lease)
            younger = (n for n, (each, _) in enumerate(self._items) if place_of(each) >= age)
            place = next(younger, place)
        self._items.insert(place, (lease, domains))

    def pop(self, place: int = -1) -> Lease:
        """Take out the message at a place, by default the last one."""
        lease, domains = self._items[place]
        del self._items[place]
        self._counts[domains] -= 1
        if not self._counts[domains]:
            del self._counts[domains]
        return lease

    def counts(self) -> dict[frozenset[str], int]:
        """Return how many messages there are, by their recipients' domains."""
        return dict(self._counts)

    def cut(self, domains: frozenset[str], keep: int) -> list[Lease]:
        """Take out the youngest messages with these domains; so many are kept."""
        places = [n for n, (_, each) in enumerate(self._items) if each == domains]
        return [self.pop(place) for place in reversed(places[keep:])][::-1]

    def find(
        self,
        lanes: tuple[str, ...],
        choose: Callable[[Lease, tuple[str, ...]], Choice | None],
    ) -> tuple[int, Choice] | None:
        """Return the first message that goes now, by its place; those passed over keep theirs."""
        without_room: set[frozenset[str]] = set()
        for place, (lease, domains) in enumerate(self._items):
            if domains in without_room:
                continue
            choice = choose(lease, lanes)
            if choice is None:
                return None  # nor do those behind it, which have the same lanes
            if choice is NO_ROOM:
                without_room.add(domains)
                if len(without_room) == len(self._counts):
                    return None
            elif choice is not PASSED_OVER:
                return place, choice
        return None
