"""What a dead predecessor left behind, and who is blamed for a death."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailactors.dispatch.desk import DispatchDesk
from mailactors.dispatch.settling import first_at
from mailactors.runtime.ports import Journal
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.spool.port import Recover, Recovered, Result

WARN_EVERY_S: Final = 60.0


def recover_of(
    desk: DispatchDesk, leases: frozenset[tuple[int, int]], streams: Iterable[str]
) -> Recover:
    """Return the command that settles what nobody here knows of, when a dispatcher begins.

    Leases beside these and those in flight are ready again; intents that are not in flight are
    uncertain. A process that died may have died of any of those.
    """
    flying = [attempt for lane in desk.lanes.values() for attempt in lane.in_flight.values()]
    leases = leases.union((each.lease.seq, each.lease.epoch) for each in flying)
    in_flight = frozenset(each.id for each in flying)
    died = not desk.has_recovered
    return Recover(
        desk.node, in_flight, leases, _waits(desk, streams), frozenset(desk.blamed), died
    )


async def recovered_by(reply: Reply[Result], journal: Journal) -> Recovered | None:
    """Return what came of it, however long the disk has no room; None if the writer died on it.

    Nothing can be sent before, and dying of it would only begin the wait anew.
    """
    while True:
        try:
            recovered = await reply.wait(WARN_EVERY_S)
        except DeadlineError:
            journal.note("spool.recovery_waits", level="warning", for_s=WARN_EVERY_S)
            continue
        except ActorCrashedError as error:
            journal.note("spool.answer_lost", level="error", error=str(error))
            return None
        assert isinstance(recovered, Recovered)
        return recovered


def leave_of(desk: DispatchDesk) -> Recover:
    """Return the command of an orderly end: what is in flight still is uncertain, of no crash."""
    return Recover(desk.node, frozenset(), frozenset(), _waits(desk, desk.plans))


def _waits(desk: DispatchDesk, streams: Iterable[str]) -> dict[str, float]:
    """Return when to see to an intent without an outcome, at whichever provider it was."""
    able = [lane.out.capabilities for lane in desk.lanes.values()]
    return {
        name: min(first_at(each, desk.plan(name), 0.0) for each in able) for name in ("", *streams)
    }
