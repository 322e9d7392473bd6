"""What surrounds the gateway in a simulation: clock, draws, ids, disk and journal, from one seed.

It reaches the gateway through its ports, so that production code has no branch for the simulator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

import trio

from mailactors.runtime.ports import Clock, NoFaults, Ports, format_uuid7, system_ports
from mailactors.sim.scenario.file import Scenario
from mailactors.sim.scenario.incidents import ClockFault, SpoolFault, offset_s
from mailactors.sim.world.entropy import KeyedEntropy
from mailactors.sim.world.scheduling import JumpingClock, sleep
from mailactors.spool.port import BUSY_WAIT_S, SpoolBusyError

T = TypeVar("T")
Listener: TypeAlias = Callable[[str, dict[str, Any]], None]
Action: TypeAlias = Callable[[float], None]
"""Receives the time for which it was planned; after a pause of the process the clock is later."""

EPOCH_S: Final = 1_800_000_000.0
"""The wall time at which every simulation begins."""
COMMIT_S: Final = 0.002
"""Virtual time of a commit, about that of an fsync; without it no two commands would share one."""
_ID_BITS: Final = 74


class SeededIds:
    """UUIDv7 of the virtual time, with bits from the seed."""

    def __init__(self, clock: Clock, entropy: KeyedEntropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._count = 0

    def new_id(self) -> str:
        self._count += 1
        millis = int(self._clock.wall_time() * 1000)
        low = self._entropy.bits(f"id{self._count}")
        bits = (self._count << 53 | low) & ((1 << _ID_BITS) - 1)
        return format_uuid7(millis, bits)


class VirtualClock:
    """Trio's virtual time as monotonic clock; a wall clock that starts at `EPOCH_S` and may be
    set or drift."""

    def __init__(self, clock: JumpingClock, faults: tuple[ClockFault, ...] = ()) -> None:
        self._faults = faults
        self.now_s: Callable[[], float] = clock.current_time
        """Returns virtual seconds since the start; called thirty times a message."""

    def wall_time(self) -> float:
        now_s = self.now_s()
        if self._faults:
            return EPOCH_S + now_s + offset_s(self._faults, now_s)
        return EPOCH_S + now_s


class Disk:
    """The disk under the spool, and its faults."""

    def __init__(self, faults: tuple[SpoolFault, ...], clock: Clock) -> None:
        self._faults = faults
        self._clock = clock

    def fault(self) -> SpoolFault | None:
        """Return the fault that is active now; there is at most one."""
        if not self._faults:
            return None
        now_s = self._clock.now_s()
        return next((fault for fault in self._faults if fault.is_on(now_s)), None)


class ChargedExecutor:
    """Runs work in place, at a cost in virtual time: a clock that jumps does not see threads."""

    def __init__(self, clock: JumpingClock, cost_s: float) -> None:
        self._clock = clock
        self._cost_s = cost_s

    async def run(self, work: Callable[[], T]) -> T:
        await self._clock.sleep_until(self._clock.current_time() + self._cost_s, shield=True)
        return work()

    def close(self) -> None:
        """Do nothing: there are no threads."""


class SpoolExecutor(ChargedExecutor):
    """The spool's executor, on a disk that may be slow or locked."""

    def __init__(self, clock: JumpingClock, disk: Disk) -> None:
        super().__init__(clock, COMMIT_S)
        self._disk = disk

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work, late on a slow disk.

        Raises: SpoolBusyError when another process locks the file for longer than the spool waits.
        """
        fault = self._disk.fault()
        if fault is not None and fault.what in {"slow", "busy"}:
            is_busy = fault.what == "busy"
            await sleep(BUSY_WAIT_S if is_busy else fault.commit_s, shield=True)
            if is_busy and self._disk.fault() is fault:
                raise SpoolBusyError("database is locked (simulated)")
        return await super().run(work)


class Agenda:
    """Planned actions of the vendors, in the order of their times, then of the requests.

    One task carries them out, which outlives the gateway's processes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Action]] = []
        self._count = 0
        self._scope = trio.CancelScope()

    def at(self, at_s: float, action: Action) -> None:
        """Plan a call; what is already due comes next."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, action))
        if at_s < self._scope.deadline:
            self._scope.deadline = at_s

    async def run(self) -> None:
        """Carry out each action when it is due; never return."""
        while True:
            first_s = self._heap[0][0] if self._heap else math.inf
            self._scope = trio.CancelScope(deadline=first_s)
            with self._scope:
                await trio.sleep_forever()
            self._act_until(self._clock.now_s())

    def finish(self) -> None:
        """Carry out everything that is left at once, since the run is over."""
        self._act_until(math.inf)

    def _act_until(self, now_s: float) -> None:
        while self._heap and self._heap[0][0] <= now_s:
            at_s, _, action = heapq.heappop(self._heap)
            action(at_s)


class HashingJournal:
    """Hashes and counts events, and passes them to listeners; it keeps none."""

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[str] = Counter()
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=16)

    def note(self, event: str, /, *, level: str = "info", **facts: Any) -> None:
        """Hash an event with its virtual time, count it, and call its listeners."""
        self.counts[event] += 1
        self._hash.update(f"{self._clock.now_s():.6f} {level} {event} {facts!r}\n".encode())
        if event in self._listeners:
            for listener in self._listeners[event]:
                listener(event, facts)

    def listen(self, listener: Listener, events: Iterable[str]) -> None:
        """Call `listener` at each of these events."""
        for event in events:
            self._listeners[event].append(listener)

    @property
    def digest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()


def _no_nursery(*_: object) -> None:
    raise RuntimeError("the runner must set `World.spawn` first")


@dataclasses.dataclass
class World:
    """Everything around the gateway that outlives its processes."""

    clock: Clock
    entropy: KeyedEntropy
    journal: HashingJournal
    ports: Ports
    disk: Disk
    agenda: Agenda
    leap: Callable[[float], None]
    """Lets time pass in which no task runs."""
    spawn: Callable[..., None] = _no_nursery
    """Starts a task that outlives the gateway's processes; the runner sets it."""
    is_over: bool = False
    """Whether the run has ended; vendors then report no more events."""
    _is_agenda_kept: bool = False

    def plan(self, at_s: float, action: Action) -> None:
        """Plan an action that happens even if the gateway's process dies before."""
        self.agenda.at(at_s, action)
        if not self._is_agenda_kept:
            self._is_agenda_kept = True
            self.spawn(self.agenda.run)

    def finish(self) -> None:
        """End the run: carry out what the vendors have planned, with its planned times."""
        self.is_over = True
        self.agenda.finish()


def make_world(seed: int, clock: JumpingClock, scenario: Scenario | None = None) -> World:
    """Build a world; to be called within a Trio run under this clock."""
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
    return World(virtual, entropy, journal, ports, disk, Agenda(virtual), clock.leap)
