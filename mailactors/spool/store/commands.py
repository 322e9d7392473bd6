"""Every command with the rule that executes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from mailactors.spool.port import (
    Accept,
    AcceptMany,
    Cancel,
    Claim,
    Command,
    CountCrash,
    Expire,
    FindDueDoubts,
    Intend,
    IntendAgain,
    Postpone,
    Purge,
    RecordDeliveryEvent,
    RecordOutcome,
    Recover,
    Release,
    Result,
    Retry,
    SettleByHand,
    SettleDoubt,
    Suppress,
    Unsuppress,
)
from mailactors.spool.store.accept import accept_all, accept_many
from mailactors.spool.store.deliver import claim, intend, record_outcome, release
from mailactors.spool.store.doubts import find_due_doubts
from mailactors.spool.store.retention import purge
from mailactors.spool.store.retry import retry
from mailactors.spool.store.rows import Rows
from mailactors.spool.store.settle import (
    intend_again,
    postpone,
    record_delivery_event,
    settle_by_hand,
    settle_doubt,
)
from mailactors.spool.store.suppressions import suppress, unsuppress
from mailactors.spool.store.upkeep import cancel, count_crash, expire, recover

RULES: Final[dict[type[Any], Callable[[Rows, Any, float], Result]]] = {
    AcceptMany: accept_many,
    Cancel: cancel,
    Claim: claim,
    CountCrash: count_crash,
    Expire: expire,
    FindDueDoubts: find_due_doubts,
    Intend: intend,
    IntendAgain: intend_again,
    Postpone: postpone,
    Purge: purge,
    RecordDeliveryEvent: record_delivery_event,
    RecordOutcome: record_outcome,
    Recover: recover,
    Release: release,
    Retry: retry,
    SettleByHand: settle_by_hand,
    SettleDoubt: settle_doubt,
    Suppress: suppress,
    Unsuppress: unsuppress,
}
"""Every command but `Accept`: neighbouring ones are executed together."""


def execute(db: Rows, commands: Sequence[Command], now: float) -> list[Result]:
    """Execute commands in order, in the engine's open transaction; results in the same order."""
    results: list[Result] = []
    for kind, run in itertools.groupby(commands, type):
        if kind is Accept:
            accepts = [command for command in run if isinstance(command, Accept)]
            results += accept_all(db, accepts, now)
        else:
            results += [RULES[kind](db, command, now) for command in run]
    return results
