"""A reference model of every delivery, derived from the spool's commands and results.

For common commands the model predicts the state, and the spool's later answers must agree. For
rare commands it reads the state from the spool and checks the transition by the same rules.
Simulated messages have one recipient each. The model is kept in arrays, by place in the spool and
by number in the traffic, so that a million messages fit.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Final

from mailactors.model.lifecycle import FINAL, State
from mailactors.spool import port

RESTING: Final = FINAL | {State.HELD}
"""States that a delivery leaves only by hand, or never."""
FAIR_S: Final = 30.0
"""By how much a message may overtake an older one of its stream and domain, in seconds."""
REPLAYED_MAX: Final = 10_000
"""Outcomes that are remembered, since a writer that died replays its last commands."""
_STATES: Final = tuple(State)
_CODES: Final = {state: code for code, state in enumerate(State)}
_UNKNOWN: Final = -1


class DeliveryModel:
    """The expected state of each message's delivery."""

    def __init__(
        self,
        report: Callable[[str, str, int], None],
        read_state: Callable[[int], State | None],
        now_s: Callable[[], float],
        in_flight: Callable[[], Set[int]],
    ) -> None:
        """Take the callback for violations and what the model cannot know.

        Args:
            read_state: the spool's state of the message at a place.
            now_s: monotonic; the wall clock may be set while a message waits.
            in_flight: the places of what is in a lane at the moment.
        """
        self.risks: dict[int, int] = {}
        """Declared risks of a duplicate, by number in the traffic."""
        self.final_count = 0
        self.open_count = 0
        """Deliveries that are neither final nor held."""
        self.cancelled: list[int] = []
        self._report = report
        self._read_state = read_state
        self._now_s = now_s
        self._in_flight = in_flight
        self._unread: dict[int, None] = {}
        """Places whose state is read from the spool after the commit's other commands."""
        self._seq_of = array("l")
        """By number in the traffic."""
        self._number_of = array("l", [_UNKNOWN])
        self._state_of = bytearray(1)
        self._id_of = array("Q", [0])
        self._expires_at = array("d", [0.0])
        """These four: by place in the spool, which counts from 1."""
        self._recorded: dict[str, None] = {}
        """Attempts whose outcome is durable; recording it again changes nothing."""
        self._queues: dict[tuple[str, str], dict[int, float]] = {}
        """When messages without an attempt were accepted (monotonic): by stream and domain, oldest
        first."""
        self._queue_of: dict[int, dict[int, float]] = {}

    def state(self, number: int) -> State | None:
        """Return a message's state; None if it was never accepted."""
        seq = self.seq(number)
        return None if seq is None else _STATES[self._state_of[seq]]

    def seq(self, number: int) -> int | None:
        """Return a message's place in the spool."""
        if not 0 <= number < len(self._seq_of) or self._seq_of[number] == _UNKNOWN:
            return None
        return self._seq_of[number]

    def number(self, seq: int) -> int:
        """Return the number of the message at a place in the spool."""
        return self._number_of[seq]

    def has_id(self, number: int, id_: str) -> bool:
        """Whether a message was committed under this id."""
        seq = self.seq(number)
        return seq is not None and self._id_of[seq] == _short(id_)

    def deadline(self, number: int) -> float:
        """Return when an accepted message expires (UTC)."""
        return self._expires_at[self._seq_of[number]]

    def pending(self) -> Iterator[int]:
        """Yield the numbers of messages that are not final."""
        final = {_CODES[state] for state in FINAL}
        for number, seq in enumerate(self._seq_of):
            if seq != _UNKNOWN and self._state_of[seq] not in final:
                yield number

    def commit(
        self, commands: Sequence[port.Command], results: Sequence[port.Result], now: float
    ) -> None:
        """Apply a commit; `now` is UTC.

        What is read from the spool is the state after the whole commit, so it is read last.
        """
        for command, result in zip(commands, results, strict=True):
            self._take(command, result, now)
        unread, self._unread = self._unread, {}
        for seq in unread:
            self._read(seq)

    def _take(self, command: port.Command, result: port.Result, now: float) -> None:
        match command, result:
            case port.Accept(), port.Receipt():
                self._accepted(command, result)
            case _, port.Claimed(leases):
                for lease in leases:
                    self._move(lease.seq, State.LEASED)
            case port.Intend(_, seq) | port.IntendAgain(_, seq), port.Intended():
                self._intended(seq, now)
            case port.RecordOutcome(), port.Recorded(is_stale=False) if (
                command.attempt_id not in self._recorded
            ):
                self._recorded[command.attempt_id] = None
                if len(self._recorded) > REPLAYED_MAX:
                    del self._recorded[next(iter(self._recorded))]
                if command.is_attempt:  # after a refusal it waits for other lanes than its queue
                    self._leave_queue(command.seq)
                for step in command.steps:
                    self._move(command.seq, step.state)
            case port.Release(), port.Recorded(is_stale=False):
                self._move(command.seq, State.FAILED if command.error else State.READY)
            case port.SettleDoubt(), port.Recorded(is_stale=False):
                if command.is_risk:
                    self._declare(command.seq)
                self._sync(command.seq)
            case port.SettleByHand(id_), port.SettledByHand(settled=(_, *_)):
                seq = self._id_of.index(_short(id_))
                if command.into == "resend":
                    self._declare(seq)
                self._sync(seq)
            case port.RecordDeliveryEvent(), _:
                self._sync(self._id_of.index(_short(command.marker)))
            case (
                port.RecordOutcome() | port.Intend(),
                port.Recorded(is_stale=True) | port.Withdrawn(),
            ):
                self._sync(command.seq)
            case port.Cancel(id_), port.Cancelled() if result.cancelled_count:
                self._cancelled(id_)
            case _, port.Expired(seqs):
                for seq in seqs:
                    self._move(seq, State.EXPIRED)
            case port.Recover(), _:
                for number in self.pending():
                    self._sync(self._seq_of[number])

    def _cancelled(self, id_: str) -> None:
        seq = self._id_of.index(_short(id_))
        if not self._is_at(seq, State.CANCELLED):
            self.cancelled.append(self._number_of[seq])
            self._move(seq, State.CANCELLED)

    def _accepted(self, command: port.Accept, receipt: port.Receipt) -> None:
        if receipt.id != command.message.id:
            return  # a duplicate submission of a known message
        message = command.message
        number = int(message.content.subject)
        if self.seq(number) is not None:
            self._report("same key, one message", f"stored again as {receipt.id}", number)
        _grow(self._seq_of, number, _UNKNOWN)
        _grow(self._number_of, receipt.seq, _UNKNOWN)
        _grow(self._id_of, receipt.seq, 0)
        _grow(self._expires_at, receipt.seq, 0.0)
        self._state_of.extend(bytes(receipt.seq + 1 - len(self._state_of)))
        self._seq_of[number], self._number_of[receipt.seq] = receipt.seq, number
        self._id_of[receipt.seq] = _short(receipt.id)
        self._expires_at[receipt.seq] = message.expires_at
        self._state_of[receipt.seq] = _CODES[State.READY]
        self.open_count += 1
        domain = message.envelope.recipients[0].rpartition("@")[2]
        queue = self._queues.setdefault((message.stream, domain), {})
        queue[receipt.seq] = self._now_s()
        self._queue_of[receipt.seq] = queue

    def _intended(self, seq: int, now: float) -> None:
        number, late_s = self._number_of[seq], now - self._expires_at[seq]
        if late_s >= 0:
            self._report("no send after the deadline", f"intended {late_s:.3f} s late", number)
        queue = self._queue_of.get(seq)
        if queue is not None:
            overtaken = self._overtaken(queue, queue[seq] - FAIR_S, now)
            if overtaken is not None:
                older_s = queue[seq] - queue[overtaken]
                detail = f"message {self._number_of[overtaken]} has waited {older_s:.0f} s longer"
                self._report("first come, first served", detail, number)
            self._leave_queue(seq)
        self._move(seq, State.SENDING)

    def _overtaken(self, queue: dict[int, float], before_s: float, now: float) -> int | None:
        """Return what has waited since before this time and still has no slot in any lane.

        Attempts that got their slots together connect side by side, and intend in any order. What
        is past its deadline waits for nothing but to be expired.
        """
        if queue[next(iter(queue))] >= before_s:
            return None
        in_flight = self._in_flight()
        older = itertools.takewhile(lambda seq: queue[seq] < before_s, queue)
        return next(
            (seq for seq in older if seq not in in_flight and now < self._expires_at[seq]), None
        )

    def _leave_queue(self, seq: int) -> None:
        queue = self._queue_of.pop(seq, None)
        if queue is not None:
            del queue[seq]

    def _sync(self, seq: int) -> None:
        self._unread[seq] = None

    def _read(self, seq: int) -> None:
        state = self._read_state(seq)
        if state is None:
            self._report("nothing accepted is lost", "its delivery is gone", self._number_of[seq])
        elif not self._is_at(seq, state):
            self._move(seq, state)

    def _declare(self, seq: int) -> None:
        number = self._number_of[seq]
        self.risks[number] = self.risks.get(number, 0) + 1

    def _is_at(self, seq: int, state: State) -> bool:
        return self._state_of[seq] == _CODES[state]

    def _move(self, seq: int, state: State) -> None:
        before = _STATES[self._state_of[seq]]
        if before in FINAL:
            number = self._number_of[seq]
            self._report("one final state", f"it was {before} and became {state}", number)
        self._state_of[seq] = _CODES[state]
        self.final_count += (state in FINAL) - (before in FINAL)
        self.open_count -= (state in RESTING) - (before in RESTING)
        if state not in {State.READY, State.LEASED, State.SENDING}:
            self._leave_queue(seq)


def _short(id_: str) -> int:
    """Return the last 64 bits of an id, which identify it."""
    return int(id_[-16:], 16)


def _grow(values: array[int] | array[float], index: int, filling: float) -> None:
    missing = index + 1 - len(values)
    if missing > 0:
        values.extend(array(values.typecode, [filling] * missing))  # type: ignore[arg-type, list-item]  # one of the two
