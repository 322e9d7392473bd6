"""The world of a simulation: time, chance, names, threads and records, all from one seed.

The only file that touches Trio's private scheduling switch. Everything else reaches the gateway
through its ports, so production code has no branch for the simulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final, TypeVar

import trio

from mailactors.errors import MailactorsError
from mailactors.runtime.ports import (
    Clock,
    NoFaults,
    Ports,
    SystemClock,
    format_uuid7,
    system_ports,
)

T = TypeVar("T")

EPOCH_S: Final = 1_800_000_000.0
"""The wall time at which every simulation begins."""
COMMIT_S: Final = 0.002
"""Virtual time that a commit takes, about an fsync; without it nothing would share one."""
SCHEDULER: Final = "trio._core._run"
SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
DICE: Final = "_r"
_ID_BITS: Final = 74


class SchedulingError(MailactorsError):
    """This Trio has no switch for deterministic scheduling where the known versions have it."""


def scheduler() -> ModuleType:
    """Return Trio's module with the switch and the dice.

    Raises: SchedulingError when either is gone, for then the same seed means nothing.
    """
    module = importlib.import_module(SCHEDULER)
    names = vars(module)
    if not isinstance(names.get(SWITCH), bool) or not isinstance(names.get(DICE), random.Random):
        raise SchedulingError(
            f"trio {trio.__version__} has no {SCHEDULER}.{SWITCH} or no {DICE} to seed:"
            " simulations would not repeat; use a version of Trio that is known to work"
        )
    return module


@contextlib.contextmanager
def seeded_scheduling(seed: int) -> Iterator[None]:
    """Let Trio choose among ready tasks by this seed; put everything back at the end.

    Tasks that become ready at the same time are sorted by age and then shuffled, so that ties of
    deadlines, which Trio breaks by address, do not matter.
    """
    module = scheduler()
    names = vars(module)
    before, dice = names[SWITCH], names[DICE]
    state = dice.getstate()
    setattr(module, SWITCH, True)
    dice.seed(seed)
    try:
        yield
    finally:
        setattr(module, SWITCH, before)
        dice.setstate(state)


class KeyedEntropy:
    """Chance as a function of the seed and a key: who asks first does not matter."""

    def __init__(self, seed: int) -> None:
        self._base = hashlib.blake2b(f"mailactors:{seed}".encode(), digest_size=8)

    def draw(self, *key: str | int) -> float:
        """Return a number in [0, 1): 53 bits of a hash.

        >>> KeyedEntropy(1).draw("a", 1) == KeyedEntropy(1).draw("a", 1)
        True
        """
        return self.bits("\x1f".join(map(str, key))) / 2.0**53

    def bits(self, key: str) -> int:
        """Return 53 bits for a key."""
        found = self._base.copy()
        found.update(key.encode())
        return int.from_bytes(found.digest()) >> 11


class SeededIds:
    """UUIDv7 of the virtual time, with bits from the seed."""

    def __init__(self, clock: Clock, entropy: KeyedEntropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._count = 0

    def new_id(self) -> str:
        """Return 32 hexadecimal digits; the same in every run of the seed."""
        self._count += 1
        millis = int(self._clock.wall_time() * 1000)
        low = self._entropy.bits(f"id{self._count}")
        bits = (self._count << 53 | low) & ((1 << _ID_BITS) - 1)
        return format_uuid7(millis, bits)


class JumpingClock(trio.abc.Clock):
    """Trio's time in a simulation: when nobody has anything to do, it is the next deadline.

    What `trio.testing.MockClock(autojump_threshold=0)` does, in one turn of the loop instead of
    two: Trio asks how long to sleep only when no task is ready, and then there is nothing else to
    wait for, for simulations have no sockets and no threads.
    """

    def __init__(self) -> None:
        self._now_s = 0.0

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Be there already; without any deadline wait for Trio's own beginning or end."""
        if math.isinf(deadline):
            return deadline
        self._now_s = max(self._now_s, deadline)
        return 0.0


class VirtualClock:
    """The monotonic clock is Trio's, which jumps; the wall clock is an epoch later."""

    def __init__(self) -> None:
        self._trio = SystemClock()

    def now_s(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._trio.now_s()

    def wall_time(self) -> float:
        """Return the epoch plus virtual seconds."""
        return EPOCH_S + self._trio.now_s()


class ChargedExecutor:
    """Runs work in place: a clock that jumps does not see threads. Each piece takes its time."""

    def __init__(self, cost_s: float) -> None:
        self._cost_s = cost_s

    async def run(self, work: Callable[[], T]) -> T:
        """Let the virtual time of the work pass, then do it; not cancellable."""
        with trio.CancelScope(shield=True):
            await trio.sleep(self._cost_s)
        return work()

    def close(self) -> None:
        """Nothing to give back."""


class HashingJournal:
    """Keeps of what it is told a hash, counts, and whatever a listener wants to know."""

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[str] = Counter()
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Take in an event with the virtual time at which it happened."""
        self.counts[event] += 1
        self._hash.update(f"{self._clock.now_s():.6f} {level} {event} {facts!r}\n".encode())
        for listener in self.listeners:
            listener(event, facts)

    @property
    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True)
class World:
    """A seed and what came of it."""

    seed: int
    clock: Clock
    entropy: KeyedEntropy
    journal: HashingJournal
    ports: Ports


def make_world(seed: int) -> World:
    """Build the ports of a simulation; to be used within a run under a mock clock."""
    clock, entropy = VirtualClock(), KeyedEntropy(seed)
    journal = HashingJournal(clock)
    ports = dataclasses.replace(
        system_ports(journal),
        clock=clock,
        entropy=entropy,
        ids=SeededIds(clock, entropy),
        faults=NoFaults(),
        executor=lambda name: ChargedExecutor(COMMIT_S if name == "spool" else 0.0),
    )
    return World(seed, clock, entropy, journal, ports)
