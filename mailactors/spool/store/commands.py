"""Every command with the rule that executes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

from mailactors.spool import port
from mailactors.spool.store import (
    accept,
    acts,
    clocks,
    deliver,
    doubts,
    retention,
    retry,
    settle,
    sums,
    suppressions,
    upkeep,
)
from mailactors.spool.store.rows import Rows

RULES: Final[dict[type[Any], Callable[[Rows, Any, float], port.Result]]] = {
    port.AcceptMany: accept.accept_many,
    port.Cancel: upkeep.cancel,
    port.Claim: deliver.claim,
    port.CorrectDoubts: clocks.correct_doubts,
    port.CorrectDue: clocks.correct_due,
    port.CountCrash: upkeep.count_crash,
    port.Expire: upkeep.expire,
    port.Flush: upkeep.flush,
    port.FindDueDoubts: doubts.find_due_doubts,
    port.Intend: deliver.intend,
    port.IntendAgain: settle.intend_again,
    port.NoteAct: acts.note_act,
    port.Postpone: settle.postpone,
    port.Purge: retention.purge,
    port.RecordDeliveryEvent: settle.record_delivery_event,
    port.RecordOutcome: deliver.record_outcome,
    port.Recover: upkeep.recover,
    port.Release: deliver.release,
    port.Retry: retry.retry,
    port.SetPaused: acts.set_paused,
    port.SettleByHand: settle.settle_by_hand,
    port.SettleDoubt: settle.settle_doubt,
    port.Suppress: suppressions.suppress,
    port.Unsuppress: suppressions.unsuppress,
}
"""Every command but `Accept`: neighbouring ones are executed together."""


def execute(db: Rows, commands: Sequence[port.Command], now: float) -> list[port.Result]:
    """Execute commands in order, in the engine's open transaction; results in the same order."""
    results: list[port.Result] = []
    db.moved.clear()  # of a transaction that was rolled back
    for kind, run in itertools.groupby(commands, type):
        if kind is port.Accept:
            accepts = [command for command in run if isinstance(command, port.Accept)]
            results += accept.accept_all(db, accepts, now)
        else:
            results += [RULES[kind](db, command, now) for command in run]
    sums.write(db)
    return results
