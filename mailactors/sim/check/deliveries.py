"""The judges' own account of every delivery, kept from the spool's commands and results.

A second book: on the common way it believes the commands, and what the spool says later must agree
with it. What rare commands came to it looks up in the spool, and holds against the same rules.
Simulated messages have one recipient each. Arrays by place in the spool and by number in the
traffic: a million messages must fit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final

from mailactors.model.lifecycle import FINAL, State
from mailactors.spool.port import (
    Accept,
    Cancel,
    Cancelled,
    Claimed,
    Command,
    Expired,
    Intend,
    IntendAgain,
    Intended,
    Receipt,
    RecordDeliveryEvent,
    Recorded,
    RecordOutcome,
    Recover,
    Release,
    Result,
    SettleByHand,
    SettledByHand,
    SettleDoubt,
    Withdrawn,
)

RESTING: Final = FINAL | {State.HELD}
"""What nothing happens to any more, unless a person sees to it."""
FAIR_S: Final = 30.0
"""How much younger a message may be that goes out before an older one of its kind."""
REPLAYED_MAX: Final = 10_000
"""Outcomes that are remembered, in case that a writer which died is told of them again."""
_STATES: Final = tuple(State)
_CODES: Final = {state: code for code, state in enumerate(State)}
_UNKNOWN: Final = -1


class DeliveryModel:
    """What became of each message."""

    def __init__(
        self,
        report: Callable[[str, str, int], None],
        read_state: Callable[[int], State | None],
    ) -> None:
        """Take whom to tell, and how to find out where a delivery stands by its place."""
        self.risks: dict[int, int] = {}
        """Declared risks of a duplicate, by number in the traffic."""
        self.final_count = 0
        self.open_count = 0
        """Deliveries that the gateway still has something to do for."""
        self.cancelled: list[int] = []
        self._report = report
        self._read_state = read_state
        self._seq_of = array("l")
        """By number in the traffic."""
        self._number_of = array("l", [_UNKNOWN])
        self._state_of = bytearray(1)
        self._id_of = array("Q", [0])
        self._expires_at = array("d", [0.0])
        """By place in the spool, which counts from 1."""
        self._settled: dict[str, None] = {}
        """Attempts whose outcome is durable: telling it again changes nothing."""
        self._queues: dict[tuple[str, str], dict[int, float]] = {}
        """When what was never tried was accepted: by stream and recipient domain, oldest first."""
        self._queue_of: dict[int, dict[int, float]] = {}

    def state(self, number: int) -> State | None:
        """Return where a message stands; None if it was never accepted."""
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

    def take(self, command: Command, result: Result, now: float) -> None:
        """Take in what one command of a commit did at `now` (UTC)."""
        match command, result:
            case Accept(), Receipt():
                self._accepted(command, result)
            case _, Claimed(leases):
                for lease in leases:
                    self._move(lease.seq, State.LEASED)
            case Intend(_, seq) | IntendAgain(_, seq), Intended():
                self._intended(seq, now)
            case RecordOutcome(), Recorded(is_stale=False) if (
                command.attempt_id not in self._settled
            ):
                self._settled[command.attempt_id] = None
                if len(self._settled) > REPLAYED_MAX:
                    del self._settled[next(iter(self._settled))]
                if command.is_attempt:  # what was refused waits for other lanes than its like
                    self._leave_queue(command.seq)
                for step in command.steps:
                    self._move(command.seq, step.state)
            case Release(), Recorded(is_stale=False):
                self._move(command.seq, State.FAILED if command.error else State.READY)
            case SettleDoubt(), Recorded(is_stale=False):
                if command.is_risk:
                    self._declare(command.seq)
                self._see(command.seq)
            case SettleByHand(id_), SettledByHand(settled=(_, *_)):
                seq = self._id_of.index(_short(id_))
                if command.into == "resend":
                    self._declare(seq)
                self._see(seq)
            case RecordDeliveryEvent(), _:
                self._see(self._id_of.index(_short(command.marker)))
            case (RecordOutcome() | Intend(), Recorded(is_stale=True) | Withdrawn()):
                self._see(command.seq)
            case Cancel(id_), Cancelled() if result.cancelled_count:
                self._cancelled(id_)
            case _, Expired(seqs):
                for seq in seqs:
                    self._move(seq, State.EXPIRED)
            case Recover(), _:
                for number in self.pending():
                    self._see(self._seq_of[number])

    def _cancelled(self, id_: str) -> None:
        seq = self._id_of.index(_short(id_))
        if not self._is_at(seq, State.CANCELLED):
            self.cancelled.append(self._number_of[seq])
            self._move(seq, State.CANCELLED)

    def _accepted(self, command: Accept, receipt: Receipt) -> None:
        if receipt.id != command.message.id:
            return  # a repetition: the message is known
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
        queue[receipt.seq] = receipt.accepted_at
        self._queue_of[receipt.seq] = queue

    def _intended(self, seq: int, now: float) -> None:
        number, late_s = self._number_of[seq], now - self._expires_at[seq]
        if late_s >= 0:
            self._report("no send after the deadline", f"intended {late_s:.3f} s late", number)
        queue = self._queue_of.get(seq)
        if queue is not None:
            oldest = next(iter(queue))
            older_s = queue[seq] - queue[oldest]
            if older_s > FAIR_S:
                detail = f"message {self._number_of[oldest]} has waited {older_s:.0f} s longer"
                self._report("first come, first served", detail, number)
            self._leave_queue(seq)
        self._move(seq, State.SENDING)

    def _leave_queue(self, seq: int) -> None:
        queue = self._queue_of.pop(seq, None)
        if queue is not None:
            del queue[seq]

    def _see(self, seq: int) -> None:
        """Take over from the spool where a delivery stands."""
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

    def _set(self, seq: int, state: State) -> None:
        self._state_of[seq] = _CODES[state]

    def _move(self, seq: int, state: State) -> None:
        before = _STATES[self._state_of[seq]]
        if before in FINAL:
            number = self._number_of[seq]
            self._report("one final state", f"it was {before} and became {state}", number)
        self._set(seq, state)
        self.final_count += (state in FINAL) - (before in FINAL)
        self.open_count -= (state in RESTING) - (before in RESTING)
        if state not in {State.READY, State.LEASED, State.SENDING}:
            self._leave_queue(seq)


def _short(id_: str) -> int:
    """Return 64 bits of an id, by which it is known again."""
    return int(id_[-16:], 16)


def _grow(values: array[int] | array[float], index: int, filling: float) -> None:
    """Make an array long enough for an index."""
    missing = index + 1 - len(values)
    if missing > 0:
        values.extend(array(values.typecode, [filling] * missing))  # type: ignore[arg-type, list-item]  # one of the two
