"""The world of a simulation: time, chance, names, threads and records, all from one seed.

Everything reaches the gateway through its ports, so production code has no branch for the
simulator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import apsw

from mailactors.runtime.ports import (
    Clock,
    NoFaults,
    Ports,
    format_uuid7,
    system_ports,
)
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import ClockFault, SpoolFault, offset_s
from mailactors.sim.world.agenda import Act, Agenda
from mailactors.sim.world.scheduling import JumpingClock, sleep
from mailactors.spool.sqlite import BUSY_MS

if TYPE_CHECKING:
    from mailactors.config import ProviderSettings
    from mailactors.providers.port import Provider
    from mailactors.sim.vendor.call import Watch
    from mailactors.sim.vendor.client import Vendor
    from mailactors.wiring import ProviderFactory

T = TypeVar("T")
Listener: TypeAlias = Callable[[str, dict[str, Any]], None]

EPOCH_S: Final = 1_800_000_000.0
"""The wall time at which every simulation begins."""
COMMIT_S: Final = 0.002
"""Virtual time that a commit takes, about an fsync; without it nothing would share one."""
_ID_BITS: Final = 74
_DRAWS: Final = struct.Struct(">8Q")
_PAIR: Final = struct.Struct("<qq")
_UNIT: Final = 2.0**-53
_JOINED: Final = ["\x1f".join(["%s"] * parts) for parts in range(16)]
"""How the parts of a key are put together; three times as fast as `join` over `map`."""


class KeyedEntropy:
    """Chance as a function of the seed and a key: who asks first does not matter."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._base = hashlib.blake2b(f"mailactors:{seed}".encode(), digest_size=8)

    def draw(self, *key: str | int) -> float:
        """Return a number in [0, 1): 53 bits of a hash.

        >>> KeyedEntropy(1).draw("a", 1) == KeyedEntropy(1).draw("a", 1)
        True
        """
        return self.bits(_JOINED[len(key)] % key) * _UNIT

    def bits(self, key: str) -> int:
        """Return 53 bits for a key."""
        found = self._base.copy()
        found.update(key.encode())
        return int.from_bytes(found.digest()) >> 11

    def table(self, name: str) -> Callable[[int, int], tuple[float, ...]]:
        """Return a function from two numbers to eight draws in [0, 1): one hash for all of them.

        For the hot paths: half the price of one `draw`.
        """
        base = hashlib.blake2b(f"mailactors:{self._seed}:{name}".encode(), digest_size=64)

        def draws(first: int, second: int) -> tuple[float, ...]:
            found = base.copy()
            found.update(_PAIR.pack(first, second))
            return tuple([(bits >> 11) * _UNIT for bits in _DRAWS.unpack(found.digest())])

        return draws


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


class VirtualClock:
    """The monotonic clock is Trio's, which jumps; the wall clock is an epoch later, and may be set
    or drift."""

    def __init__(self, clock: JumpingClock, faults: tuple[ClockFault, ...] = ()) -> None:
        self._faults = faults
        self.now_s: Callable[[], float] = clock.current_time
        """Returns virtual seconds since the beginning; asked thirty times a message."""

    def wall_time(self) -> float:
        """Return the epoch plus virtual seconds, and whatever this clock is wrong by."""
        now_s = self.now_s()
        if self._faults:
            return EPOCH_S + now_s + offset_s(self._faults, now_s)
        return EPOCH_S + now_s


class Disk:
    """The disk under the spool, and what is wrong with it now."""

    def __init__(self, faults: tuple[SpoolFault, ...], clock: Clock) -> None:
        self._left = sorted(faults, key=lambda fault: -fault.at_s)
        """Those that are not over, the next one last."""
        self._clock = clock

    def fault(self) -> SpoolFault | None:
        """Return what is wrong with the disk now; at most one thing is."""
        if not self._left:
            return None
        now_s = self._clock.now_s()
        while self._left and self._left[-1].end_s <= now_s:
            self._left.pop()
        return self._left[-1] if self._left and self._left[-1].at_s <= now_s else None


class ChargedExecutor:
    """Runs work in place: a clock that jumps does not see threads. Each piece takes its time."""

    def __init__(self, clock: JumpingClock, cost_s: float) -> None:
        self._clock = clock
        self._cost_s = cost_s

    async def run(self, work: Callable[[], T]) -> T:
        """Let the virtual time of the work pass, then do it; not cancellable."""
        await self._clock.sleep_until(self._clock.current_time() + self._cost_s, shield=True)
        return work()

    def close(self) -> None:
        """Nothing to give back."""


class SpoolExecutor(ChargedExecutor):
    """The spool's: a commit takes as long as the disk does."""

    def __init__(self, clock: JumpingClock, disk: Disk) -> None:
        super().__init__(clock, COMMIT_S)
        self._disk = disk

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work, late on a slow disk.

        Raises: apsw.BusyError when another process holds the file longer than the spool waits.
        """
        fault = self._disk.fault()
        if fault is not None and fault.what in {"slow", "busy"}:
            is_busy = fault.what == "busy"
            await sleep(BUSY_MS / 1000 if is_busy else fault.commit_s, shield=True)
            if is_busy and self._disk.fault() is fault:
                raise apsw.BusyError("database is locked (simulated)")
        return await super().run(work)


class HashingJournal:
    """Keeps of what it is told a hash, counts, and whatever a listener wants to know."""

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[str] = Counter()
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Take in an event with the virtual time at which it happened."""
        self.counts[event] += 1
        self._hash.update(f"{self._clock.now_s():.6f} {level} {event} {facts!r}\n".encode())
        if event in self._listeners:
            for listener in self._listeners[event]:
                listener(event, facts)

    def listen(self, listener: Listener, events: Iterable[str]) -> None:
        """Call `listener` whenever one of these events is told."""
        for event in events:
            self._listeners[event].append(listener)

    @property
    def digest(self) -> str:
        """The hash of everything so far."""
        return self._hash.hexdigest()


def _nobody_spawns(*_: object) -> None:
    raise RuntimeError("the runner must set `World.spawn` first")


@dataclasses.dataclass
class World:
    """A seed and what came of it."""

    seed: int
    clock: Clock
    entropy: KeyedEntropy
    journal: HashingJournal
    ports: Ports
    disk: Disk
    agenda: Agenda
    """What others have still to do, whoever of us dies meanwhile."""
    leap: Callable[[float], None]
    """Lets time pass while nobody runs."""
    spawn: Callable[..., None] = _nobody_spawns
    """Starts a task that outlives the gateway's processes; the runner sets it."""
    is_over: bool = False
    """The run has ended: nobody is told of anything any more."""
    _is_agenda_kept: bool = False

    def plan(self, at_s: float, act: Act) -> None:
        """Let something happen later, whatever becomes of the gateway."""
        self.agenda.at(at_s, act)
        if not self._is_agenda_kept:
            self._is_agenda_kept = True
            self.spawn(self.agenda.run)

    def finish(self) -> None:
        """End the run: what vendors had still to do is done, at the times planned for it."""
        self.is_over = True
        self.agenda.finish()

    def factory(self, vendors: Mapping[str, Vendor], watch: Watch) -> ProviderFactory:
        """Return how a process of the gateway makes its ways to the vendors."""

        def make(name: str, settings: ProviderSettings, _ports: Ports) -> Provider:
            return vendors[name].client(watch, settings)

        return make


def make_world(seed: int, clock: JumpingClock, scenario: Scenario | None = None) -> World:
    """Build the ports of a simulation; to be used within a run under this clock."""
    clock_faults = scenario.clock_faults if scenario is not None else ()
    spool_faults = scenario.spool_faults if scenario is not None else ()
    virtual, entropy = VirtualClock(clock, clock_faults), KeyedEntropy(seed)
    journal, disk = HashingJournal(virtual), Disk(spool_faults, virtual)
    ports = dataclasses.replace(
        system_ports(journal),
        clock=virtual,
        entropy=entropy,
        ids=SeededIds(virtual, entropy),
        faults=NoFaults(),
        executor=lambda name: (
            SpoolExecutor(clock, disk) if name == "spool" else ChargedExecutor(clock, 0.0)
        ),
    )
    return World(seed, virtual, entropy, journal, ports, disk, Agenda(virtual), clock.leap)
