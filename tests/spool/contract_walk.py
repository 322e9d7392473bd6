"""Any order of commands: none leaves the table of states, or unbalances the ledger."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailactors.model.lifecycle import FINAL, NEXT, PENDING, State
from mailactors.spool.port import (
    Cancel,
    Claim,
    Claimed,
    Command,
    Doubts,
    Expire,
    FindDueDoubts,
    Intend,
    IntendAgain,
    Intended,
    Lease,
    Postpone,
    Purge,
    Receipt,
    RecordDeliveryEvent,
    RecordOutcome,
    Recover,
    Release,
    Result,
    Retry,
    SettleByHand,
    SettleDoubt,
    Step,
    Store,
    Suppress,
    Unsuppress,
)
from tests.spool.contract import Contract
from tests.spool.makers import NOW, make_accept, make_intend, make_recover, make_settle, one

VERBS = (
    *("accept", "claim", "intend", "settle") * 4,
    *("release", "give up", "upkeep", "cancel", "resolve"),
    *("retry", "suppress", "unsuppress", "purge"),
    *("repeat", "testify", "by hand", "postpone") * 2,
)
REPLIES_DIFFER = Release | SettleDoubt | Recover | Unsuppress | RecordDeliveryEvent | SettleByHand
"""Asked again they change nothing, and say so."""


class WalkContract(Contract):
    """See the module."""

    @settings(
        deadline=None,
        max_examples=50,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32), steps=st.integers(40, 120))
    @example(seed=5299, steps=78)  # a delivery event settles what is being repeated
    def test_no_order_of_commands_leaves_the_table(self, seed: int, steps: int) -> None:
        rng = random.Random(seed)  # lists drawn by hypothesis are too short to get anywhere
        with self.make_store() as store:
            walk = Walk(store)
            for _ in range(steps):
                walk.step(rng.choice(VERBS), rng.randrange(100))
                self.check(store)


class Walk:
    """A random walk through the commands: each checked against the table, and applied twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now = NOW
        self._count = 0
        self._leases: list[Lease] = []
        self._intents: list[tuple[Lease, Intend | IntendAgain, Intended]] = []

    def step(self, verb: str, choice: int) -> None:
        self._now += choice  # a walk lasts about as long as a message may
        self._count += 1
        command = self._command(verb, choice)
        if command is None:
            return
        result = self._checked(command)
        if isinstance(result, Claimed):
            self._leases += result.leases
        if isinstance(result, Intended):
            assert isinstance(command, Intend | IntendAgain)
            (lease,) = [
                each
                for each in self._leases
                if (each.seq, each.epoch) == (command.seq, command.epoch)
            ][:1]
            self._intents.append((lease, command, result))
        if not isinstance(command, Claim | Expire | Purge):
            self._check_replay(command, result)

    def _command(self, verb: str, choice: int) -> Command | None:
        name = f"w{self._count}"
        if verb == "accept":
            to = [f"{n}@example.com" for n in range(1 + choice % 3)]
            return make_accept(name, recipients=to, key=f"k{choice % 40}", at=self._now)
        if verb == "claim":
            return Claim("main", 1 + choice % 3, "node")
        if verb == "upkeep":
            return (Expire(1 + choice % 2), FindDueDoubts(2), make_recover())[choice % 3]
        if verb == "cancel":
            return Cancel(f"w{choice % self._count}")
        if verb in {"resolve", "repeat", "postpone"}:
            return self._about_a_doubt(verb, choice, name)
        if verb == "testify":
            who = f"{choice % 3}@example.com"
            kind: Literal["delivered", "bounced"] = "bounced" if choice % 2 else "delivered"
            return RecordDeliveryEvent(f"w{choice % self._count}", "primary", who, kind, self._now)
        if verb == "by hand":
            into: Final = ("sent", "resend", "failed")
            return SettleByHand(f"w{choice % self._count}", into[choice % 3])
        if verb in {"retry", "suppress", "unsuppress", "purge"}:
            return self._operation(verb, choice, name)
        if verb == "settle" and self._intents:
            return self._settle(choice)
        if not self._leases:
            return None
        lease = self._pick(self._leases, choice)
        ns = tuple(n for n, _ in lease.recipients[choice % 2 :])
        if verb == "release":
            error = "broken" if choice % 2 else ""
            return Release(lease.seq, ns, lease.epoch, self._now + choice, error)
        if verb == "give up":
            steps = [Step(n, State.DEFERRED, self._now) for n in ns]
            return make_settle(lease, *steps, attempt_id=name, is_attempt=False)
        return make_intend(lease, name, ns)

    def _operation(self, verb: str, choice: int, name: str) -> Command:
        if verb == "retry":
            return Retry(f"w{choice % self._count}", name, (0,) if choice % 2 else None)
        if verb == "purge":
            return Purge(self._now - 5 * choice, self._now - 2 * choice, 3)
        address = f"{choice % 3}@example.com"
        return Suppress(address, "", "test") if verb == "suppress" else Unsuppress(address)

    def _settle(self, choice: int) -> RecordOutcome:
        lease, intend, intended = self._pick(self._intents, choice)
        if isinstance(intend, IntendAgain):
            states = (State.SENT, State.UNCERTAIN, State.BOUNCED)
            again = [Step(n, states[(choice + n) % 3], self._now) for n, _ in intended.recipients]
            settle = make_settle(lease, *again, attempt_id=intend.attempt_id, is_repeat=True)
            return msgspec.structs.replace(settle, is_attempt=choice % 2 == 0)
        targets = sorted(NEXT[State.SENDING])
        steps = [
            Step(n, targets[(choice + n) % len(targets)], self._now + choice, suppress=choice == 1)
            for n, _ in intended.recipients
        ]
        return make_settle(lease, *steps, attempt_id=intend.attempt_id)

    def _about_a_doubt(self, verb: str, choice: int, name: str) -> Command | None:
        doubts = one(self._store, FindDueDoubts(100), self._now + 1_000)
        assert isinstance(doubts, Doubts)
        if not doubts.doubts:
            return None
        doubt = self._pick(doubts.doubts, choice)
        if verb == "repeat":
            again = (doubt.attempt_id, self._now + 1_000)
            return IntendAgain(name, doubt.seq, doubt.epoch, doubt.provider, *again)
        if verb == "postpone":
            return Postpone(doubt.seq, (doubt.attempt_id,), self._now + choice, choice)
        targets = sorted(NEXT[State.UNCERTAIN] - {State.SENDING})
        steps = tuple(Step(n, targets[(choice + n) % len(targets)], self._now) for n in doubt.ns)
        return SettleDoubt(doubt.seq, steps, None, "random", {}, is_risk=choice % 2 == 0)

    def _checked(self, command: Command) -> Result:
        before = self._states()
        result = one(self._store, command, self._now)
        after = self._states()
        gone = before.keys() - after.keys()
        assert not gone or (isinstance(command, Purge) and FINAL >= {before[d] for d in gone})
        for delivery, state in after.items():
            previous = before.get(delivery, State.READY)
            assert state == previous or state in NEXT[previous], (command, previous, state)
        audit = self._store.audit()
        ledger = self._store.ledger()
        assert (ledger, {}) == (audit.counted, audit.differences)
        assert ledger.is_balanced
        assert len(after) + ledger.purged == ledger.accepted
        pending = sum(sum(counts.values()) for counts in self._store.pending_counts().values())
        assert pending == self._store.backlog(self._now)
        assert pending == sum(state in PENDING for state in after.values())
        return result

    def _check_replay(self, command: Command, result: Result) -> None:
        before = self._states(), self._store.ledger()
        again = one(self._store, command, self._now)
        assert before == (self._states(), self._store.ledger())
        if isinstance(result, Receipt):
            result = msgspec.structs.replace(result, is_replay=True)
        if not isinstance(command, REPLIES_DIFFER):
            assert result == again

    def _states(self) -> dict[tuple[int, int], State]:
        return {
            (status.seq, delivery.n): delivery.state
            for status in self._store.statuses(1_000, None)
            for delivery in status.deliveries
        }

    @staticmethod
    def _pick(things: Sequence[Any], choice: int) -> Any:
        return things[-1 - choice % len(things) % 8]  # mostly what is young
