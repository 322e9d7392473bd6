"""Messages on which actors or processes died, and which are therefore sent one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mailactors.dispatch.queue import Choice
from mailactors.runtime.ports import Journal
from mailactors.spool.port import CRASHES_MAX, CountCrash, Lease


def count_crash(lease: Lease, journal: Journal) -> CountCrash:
    """Return the command that counts a crash on a message; the last one goes to the journal.

    At `CRASHES_MAX` it is not tried again.
    """
    crashes = lease.crashes + 1
    if crashes >= CRASHES_MAX:
        journal.note("message.poison", level="error", id=lease.id, crashes=crashes)
    return CountCrash(lease.seq, crashes)


class Suspects:
    """Leased messages that go out alone, in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Lease, tuple[str, ...]]] = deque()

    def push(self, lease: Lease, lanes: tuple[str, ...]) -> None:
        """Add a message that waits for its turn and for one of these lanes."""
        self._waiting.append((lease, lanes))

    def pop(
        self, choose: Callable[[Lease, tuple[str, ...]], Choice | None]
    ) -> tuple[Lease, Choice] | None:
        """Take out the first that a lane takes now; those before it move to the end."""
        for _ in range(len(self._waiting)):
            lease, lanes = self._waiting.popleft()
            choice = choose(lease, lanes)
            if choice is not None and choice.lane:
                return lease, choice
            self._waiting.append((lease, lanes))
        return None

    def __len__(self) -> int:
        return len(self._waiting)

    def count(self, stream: str) -> int:
        """Return how many of a stream wait."""
        if not self._waiting:
            return 0  # nearly always, and asked many times a message
        return sum(lease.stream == stream for lease, _ in self._waiting)

    def groups(self) -> tuple[tuple[Lease, tuple[str, ...]], ...]:
        """Return each message with the lanes that may take it."""
        return tuple(self._waiting)

    def leases(self) -> frozenset[tuple[int, int]]:
        """Return (seq, epoch) of the leases that wait."""
        return frozenset((lease.seq, lease.epoch) for lease, _ in self._waiting)

    def take_all(self) -> list[Lease]:
        """Take out every message."""
        leases = [lease for lease, _ in self._waiting]
        self._waiting.clear()
        return leases

    def remove(self, seqs: frozenset[int]) -> None:
        """Take out messages that need no lane any more."""
        self._waiting = deque(each for each in self._waiting if each[0].seq not in seqs)
