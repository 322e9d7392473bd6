"""Which waiting message goes next, and through which lane. Plain structures and functions.

Messages wait in FIFO queues, one for each stream and list of lanes that may take them, so that a
message which waits for one lane never blocks another that could use a free one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from mailactors.dispatch.lane import NEVER_S, BreakerState, Lane
from mailactors.dispatch.queue import Choice, Queue, place_of
from mailactors.runtime.ports import Journal
from mailactors.spool.port import Lease


def within_reach(
    lanes: Sequence[str], all_lanes: Mapping[str, Lane], spills_at_s: float, now_s: float
) -> Sequence[str]:
    """Return the lanes that a message may take now.

    A route's order is a preference: until `spills_at_s` a message waits for a permit or a slot of
    its first lane that is well, unless that lane has said that it opens later, or this process
    lacks something for it.
    """
    if now_s >= spills_at_s:
        return lanes
    for count, name in enumerate(lanes, 1):
        if _is_worth_waiting(all_lanes[name], spills_at_s, now_s):
            return lanes[:count]
    return lanes


def _is_worth_waiting(lane: Lane, spills_at_s: float, now_s: float) -> bool:
    if now_s < lane.short_until_s:  # nobody knows how long a shortage lasts
        return lane.is_well and math.isinf(spills_at_s)
    return lane.is_well and (lane.opens_at_s() <= spills_at_s or lane.opens_on_news)


def without_lane(lease: Lease, lane: str) -> Lease:
    """Return a lease that bars a lane, which cannot carry the message."""
    progress = msgspec.structs.replace(lease.progress, barred=(*lease.progress.barred, lane))
    return msgspec.structs.replace(lease, progress=progress)


def choose_lane(
    lanes: Sequence[str], route: Sequence[str], all_lanes: Mapping[str, Lane], now_s: float
) -> Choice | None:
    """Choose the first lane that takes a message now; else, in panic, the least bad one.

    Panic is when no breaker of the whole route is closed: obeying them all would be an outage of
    our own making. The least bad lane is the one with the latest success.
    """
    for name in lanes:
        if all_lanes[name].opens_at_s() <= now_s:
            return Choice(name)
    if not is_panic(route, all_lanes):
        return None
    bad = [name for name in lanes if all_lanes[name].panics_at_s() <= now_s]
    if not bad:
        return None
    return Choice(
        max(bad, key=lambda name: all_lanes[name].breaker_status.value.last_success_s), True
    )


def next_choice_s(
    lanes: Sequence[str], route: Sequence[str], all_lanes: Mapping[str, Lane], now_s: float
) -> float:
    """Return when `choose_lane` may answer differently without any news, or inf."""
    times = [all_lanes[name].opens_at_s() for name in lanes]
    if is_panic(route, all_lanes):
        times += [all_lanes[name].panics_at_s() for name in lanes]
    return min(times)


def is_panic(route: Sequence[str], all_lanes: Mapping[str, Lane]) -> bool:
    """Whether no breaker of the whole route is closed."""
    return all(
        all_lanes[name].breaker_status.value.state is not BreakerState.CLOSED for name in route
    )


class Panics:
    """The streams in panic, for the journal: from the first such attempt until a breaker closes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._streams: dict[str, None] = {}

    def enter(self, stream: str) -> None:
        """Note that a stream has an attempt in panic."""
        if stream not in self._streams:
            self._streams[stream] = None
            self._journal.note("panic.entered", level="warning", stream=stream)

    def look(self, route_of: Callable[[str], Sequence[str]], all_lanes: Mapping[str, Lane]) -> None:
        """Note the streams whose panic is over."""
        for stream in list(self._streams):
            if not is_panic(route_of(stream), all_lanes):
                del self._streams[stream]
                self._journal.note("panic.left", stream=stream)


@dataclass(eq=False)
class _StreamQueue:
    """A stream's waiting messages, by the lanes that may take them."""

    share: float
    turn: float = 0.0
    """Virtual time: the stream with the smallest turn goes next; each message adds 1/share."""
    by_lanes: dict[tuple[str, ...], Queue] = field(default_factory=dict)
    size: int = 0
    """Messages in all of its queues, kept because it is read many times a message."""


class Waiting:
    """Leased messages that wait for a lane.

    Streams share the lanes in proportion to their `share`; within a stream the oldest message that
    a free lane may take goes first.

    Source: Waldspurger and Weihl, "Stride Scheduling", 1995.
    """

    def __init__(self) -> None:
        self._streams: dict[str, _StreamQueue] = {}
        self._since_s: dict[tuple[int, int], float] = {}
        """Since when (monotonic) each message waits, by `_key`."""
        self._turn = 0.0
        """Virtual time of the latest dequeue; an idle stream restarts here and banks no credit."""

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Set each stream's share."""
        for stream, share in shares.items():
            queue = self._streams.setdefault(stream, _StreamQueue(share))
            queue.share = share

    def count(self, stream: str) -> int:
        """Return how many messages of a stream wait."""
        return self._streams[stream].size

    def sizes(self, stream: str) -> dict[tuple[str, ...], int]:
        """Return how many messages of a stream wait, by the lanes that may take them."""
        return {lanes: len(queue) for lanes, queue in self._streams[stream].by_lanes.items()}

    def cut(self, stream: str, lanes: tuple[str, ...], keep: int) -> list[Lease]:
        """Take out the youngest messages that wait for these lanes; so many are kept."""
        found = self._streams[stream]
        queue = found.by_lanes[lanes]
        left = [queue.pop() for _ in range(len(queue) - keep)]
        found.size -= len(left)
        for lease in left:
            self._since_s.pop(_key(lease), None)
        if not queue:
            del found.by_lanes[lanes]
        return left[::-1]

    def crowds(self, stream: str) -> Iterator[tuple[tuple[str, ...], frozenset[str]]]:
        """Yield the domains of a stream's messages, with the lanes that may take them."""
        for lanes, queue in self._streams[stream].by_lanes.items():
            for domains in queue.counts():
                yield lanes, domains

    def cut_crowd(
        self, stream: str, lanes: tuple[str, ...], domains: frozenset[str], keep: int
    ) -> list[Lease]:
        """Take out the youngest messages to these domains; so many are kept."""
        found = self._streams[stream]
        queue = found.by_lanes[lanes]
        left = queue.cut(domains, keep)
        found.size -= len(left)
        for lease in left:
            self._since_s.pop(_key(lease), None)
        if not queue:
            del found.by_lanes[lanes]
        return left

    def push(
        self,
        lease: Lease,
        lanes: tuple[str, ...],
        *,
        since_s: float = NEVER_S,
        is_first: bool = False,
    ) -> None:
        """Add a message at the end; with `is_first`, at the place of its age.

        `since_s` is since when (monotonic) it waits.
        """
        self._since_s[_key(lease)] = since_s
        stream = self._streams[lease.stream]
        queue = stream.by_lanes.get(lanes)
        if queue is None:
            queue = stream.by_lanes[lanes] = Queue()
        stream.size += 1
        queue.push(lease, is_first=is_first)

    def pop(
        self, choose: Callable[[Lease, tuple[str, ...]], Choice | None]
    ) -> tuple[Lease, Choice] | None:
        """Take out the message that goes next, with its lane; None when no lane takes any now."""
        waiting = [stream for stream in self._streams.values() if stream.size]
        for stream in sorted(waiting, key=lambda each: each.turn):
            oldest_first = sorted(stream.by_lanes.items(), key=lambda each: place_of(each[1].first))
            for lanes, queue in oldest_first:
                found = queue.find(lanes, choose)
                if found is None:
                    continue
                place, choice = found
                lease = queue.pop(place)
                self._since_s.pop(_key(lease), None)
                stream.size -= 1
                if not queue:
                    del stream.by_lanes[lanes]
                self._turn = max(self._turn, stream.turn)
                stream.turn = self._turn + 1.0 / stream.share
                return lease, choice
        return None

    def take_all(self) -> list[Lease]:
        """Take out every message, oldest first."""
        self._since_s.clear()
        queues = [q for stream in self._streams.values() for q in stream.by_lanes.values()]
        for stream in self._streams.values():
            stream.by_lanes, stream.size = {}, 0
        return sorted((lease for q in queues for lease in q), key=place_of)

    def remove(self, seqs: frozenset[int]) -> None:
        """Take out messages that need no lane any more."""
        for stream in self._streams.values():
            for lanes, queue in list(stream.by_lanes.items()):
                kept = Queue(lease for lease in queue if lease.seq not in seqs)
                stream.size -= len(queue) - len(kept)
                for lease in queue:
                    if lease.seq in seqs:
                        self._since_s.pop(_key(lease), None)
                if kept:
                    stream.by_lanes[lanes] = kept
                else:
                    del stream.by_lanes[lanes]

    def leases(self) -> frozenset[tuple[int, int]]:
        """Return (seq, epoch) of the leases that wait."""
        queues = [q for stream in self._streams.values() for q in stream.by_lanes.values()]
        return frozenset((lease.seq, lease.epoch) for queue in queues for lease in queue)

    def groups(self) -> Iterator[tuple[Lease, tuple[str, ...]]]:
        """Yield the first message of each queue, with the lanes that may take it."""
        for stream in self._streams.values():
            for lanes, queue in stream.by_lanes.items():
                yield queue.first, lanes

    def since_s(self, lease: Lease) -> float:
        """Return since when (monotonic) a message waits; `NEVER_S` if it does not wait here."""
        return self._since_s.get(_key(lease), NEVER_S)

    def __len__(self) -> int:
        return sum(stream.size for stream in self._streams.values())


def _key(lease: Lease) -> tuple[int, int]:
    """Return the message with its first delivery: another lease may have its other deliveries."""
    return lease.seq, lease.recipients[0][0]
