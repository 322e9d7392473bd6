"""The world of a simulation: time, chance, names, threads and records, all from one seed.

The only file that touches Trio's private scheduling switch. Everything else reaches the gateway
through its ports, so production code has no branch for the simulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import importlib
import math
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import apsw
import msgspec
import trio

from mailactors.errors import MailactorsError
from mailactors.runtime.ports import (
    Clock,
    NoFaults,
    Ports,
    format_uuid7,
    system_ports,
)
from mailactors.sim.agenda import Act, Agenda
from mailactors.sim.incidents import ClockFault, SpoolFault, offset_s
from mailactors.sim.scenario import Scenario
from mailactors.spool.sqlite import BUSY_MS

if TYPE_CHECKING:
    from mailactors.config import ProviderSettings
    from mailactors.providers.port import Provider
    from mailactors.sim.call import Watch
    from mailactors.sim.providers import Vendor
    from mailactors.wiring import ProviderFactory

T = TypeVar("T")

EPOCH_S: Final = 1_800_000_000.0
"""The wall time at which every simulation begins."""
COMMIT_S: Final = 0.002
"""Virtual time that a commit takes, about an fsync; without it nothing would share one."""
SCHEDULER: Final = "trio._core._run"
SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
DICE: Final = "_r"
_ID_BITS: Final = 74
_DRAWS: Final = struct.Struct(">8Q")
_PAIR: Final = struct.Struct("<qq")
_UNIT: Final = 2.0**-53
_JOINED: Final = ["\x1f".join(["%s"] * parts) for parts in range(16)]
"""How the parts of a key are put together; three times as fast as `join` over `map`."""


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


class _Sleeper(msgspec.Struct):
    """A task that sleeps, or None where it was cancelled."""

    task: trio.lowlevel.Task | None


async def sleep_until(at_s: float, *, shield: bool = False) -> None:
    """Sleep by the simulation's clock, for a fifth of what `trio.sleep_until` costs."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, JumpingClock):
        await clock.sleep_until(at_s, shield=shield)
    else:
        with trio.CancelScope(shield=shield):
            await trio.sleep_until(at_s)


async def sleep(for_s: float, *, shield: bool = False) -> None:
    """Sleep by the simulation's clock, for a fifth of what `trio.sleep` costs."""
    await sleep_until(trio.lowlevel.current_clock().current_time() + for_s, shield=shield)


class JumpingClock(trio.abc.Clock):
    """Trio's time in a simulation: when nobody has anything to do, it is the next deadline.

    What `trio.testing.MockClock(autojump_threshold=0)` does, in one turn of the loop instead of
    two: Trio asks how long to sleep only when no task is ready, and then there is nothing else to
    wait for, for simulations have no sockets and no threads.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, _Sleeper]] = []
        """A heap: when, in what order, who."""
        self._count = 0

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Be there already; without any deadline wait for Trio's own beginning or end."""
        sleepers = self._sleepers
        while sleepers and sleepers[0][2].task is None:
            heapq.heappop(sleepers)
        if sleepers:
            deadline = min(deadline, sleepers[0][0])
        if math.isinf(deadline):
            return deadline
        self._now_s = max(self._now_s, deadline)
        while sleepers and sleepers[0][0] <= self._now_s:
            task = heapq.heappop(sleepers)[2].task
            if task is not None:
                trio.lowlevel.reschedule(task)
        return 0.0

    async def sleep_until(self, at_s: float, *, shield: bool = False) -> None:
        """Sleep without a cancel scope of its own; with `shield`, not cancellable at all."""
        self._count += 1
        sleeper = _Sleeper(trio.lowlevel.current_task())
        heapq.heappush(self._sleepers, (at_s, self._count, sleeper))

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            if shield:
                return trio.lowlevel.Abort.FAILED
            sleeper.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def leap(self, for_s: float) -> None:
        """Let time pass while nobody runs: all that was due meanwhile is due at once."""
        self._now_s += for_s


class VirtualClock:
    """The monotonic clock is Trio's, which jumps; the wall clock is an epoch later, and may be set
    or drift."""

    def __init__(self, clock: JumpingClock, faults: tuple[ClockFault, ...] = ()) -> None:
        self._clock = clock
        self._faults = faults

    def now_s(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._clock.current_time()

    def wall_time(self) -> float:
        """Return the epoch plus virtual seconds, and whatever this clock is wrong by."""
        now_s = self._clock.current_time()
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

    def __init__(self, cost_s: float) -> None:
        self._cost_s = cost_s

    async def run(self, work: Callable[[], T]) -> T:
        """Let the virtual time of the work pass, then do it; not cancellable."""
        await sleep(self._cost_s, shield=True)
        return work()

    def close(self) -> None:
        """Nothing to give back."""


class SpoolExecutor(ChargedExecutor):
    """The spool's: a commit takes as long as the disk does."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(COMMIT_S)
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
        executor=lambda name: SpoolExecutor(disk) if name == "spool" else ChargedExecutor(0.0),
    )
    return World(seed, virtual, entropy, journal, ports, disk, Agenda(virtual), clock.leap)
