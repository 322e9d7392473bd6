"""The judges' own account of every delivery, kept from the spool's commands and results.

A second, independent book: it does not look into the spool, and what the spool says later must
agree with it. Simulated messages have one recipient each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailactors.model.lifecycle import FINAL, State
from mailactors.spool.port import (
    Accept,
    Claimed,
    Command,
    Expired,
    Intend,
    Intended,
    Receipt,
    Recover,
    Release,
    Resolve,
    Result,
    Settle,
    Settled,
    Withdrawn,
)

RESTING: Final = FINAL | {State.HELD}
"""What nothing happens to any more, unless a person sees to it."""


class Account:
    """States by the message's number in the traffic."""

    def __init__(self, accuse: Callable[[str, str, int], None]) -> None:
        self.states: dict[int, State] = {}
        self.risks: dict[int, int] = {}
        """Declared risks of a duplicate."""
        self.seq_of_id: dict[str, int] = {}
        self.seq_of: dict[int, int] = {}
        self.final_count = 0
        self.open_count = 0
        """Deliveries that the gateway still has something to do for."""
        self._accuse = accuse
        self._number_of: dict[int, int] = {}
        self._settled: set[str] = set()
        """Attempts whose outcome is durable: telling it again changes nothing."""
        self._attempt: dict[int, str] = {}
        self._epoch: dict[int, int] = {}
        self._expires_at: dict[int, float] = {}

    def take(self, command: Command, result: Result, now: float) -> None:
        """Take in what one command of a commit did at `now` (UTC)."""
        match command, result:
            case Accept(), Receipt():
                self._accepted(command, result)
            case _, Claimed(leases):
                for lease in leases:
                    self._epoch[lease.seq] = lease.epoch
                    self._move(lease.seq, State.LEASED)
            case Intend(attempt_id, seq), Intended():
                self._attempt[seq] = attempt_id
                self._move(seq, State.SENDING)
            case Intend(_, seq), Withdrawn() if self._expires_at[seq] <= now:
                if self.states[self._number_of[seq]] is State.LEASED:
                    self._move(seq, State.EXPIRED)
            case Settle(), Settled(is_stale=False) if command.attempt_id not in self._settled:
                self._settled.add(command.attempt_id)
                for step in command.steps:
                    self._move(command.seq, step.state)
            case Resolve(), Settled(is_stale=False):
                number = self._number_of[command.seq]
                self.risks[number] = self.risks.get(number, 0) + command.is_risk
                for step in command.steps:
                    self._move(command.seq, step.state)
            case Release(), Settled(is_stale=False):
                self._move(command.seq, State.FAILED if command.error else State.READY)
            case _, Expired(seqs):
                for seq in seqs:
                    self._move(seq, State.EXPIRED)
            case Recover(), _:
                self._recover(command)

    def _accepted(self, command: Accept, receipt: Receipt) -> None:
        if receipt.id != command.message.id:
            return  # a repetition: the message is known
        number = int(command.message.content.subject)
        if number in self.states:
            self._accuse("same key, one message", f"stored again as {receipt.id}", number)
        self._number_of[receipt.seq] = number
        self._expires_at[receipt.seq] = command.message.expires_at
        self.seq_of[number] = receipt.seq
        self.seq_of_id[receipt.id] = receipt.seq
        self.states[number] = State.READY
        self.open_count += 1

    def _recover(self, command: Recover) -> None:
        for number, state in self.states.items():
            seq = self.seq_of[number]
            if state is State.LEASED and seq not in {each for each, _ in command.leases}:
                self.states[number] = State.READY
            elif state is State.SENDING and self._attempt[seq] not in command.in_flight:
                self.states[number] = State.UNCERTAIN

    def _move(self, seq: int, state: State) -> None:
        number = self._number_of[seq]
        before = self.states[number]
        if before in FINAL:
            self._accuse("one final state", f"it was {before} and became {state}", number)
        self.states[number] = state
        self.final_count += (state in FINAL) - (before in FINAL)
        self.open_count -= (state in RESTING) - (before in RESTING)
