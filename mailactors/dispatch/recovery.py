"""What a dead predecessor left behind, and the commands that put it right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.settling import first_at
from mailactors.runtime.ports import Journal
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.spool.port import Recover, Recovered, Result

WARN_EVERY_S: Final = 60.0


def recover_of(
    node: str,
    lanes: Lanes,
    leases: frozenset[tuple[int, int]],
    streams: Iterable[str],
    *,
    died: bool,
) -> Recover:
    """Return the command with which a dispatcher begins: what nobody here owns is put right.

    Leases other than `leases` and those in flight are ready again; intents that are not in flight
    are uncertain. If the process `died`, each of those messages may be what it died of.
    """
    flying = lanes.in_flight
    leases = leases.union((each.lease.seq, each.lease.epoch) for each in flying)
    in_flight = frozenset(each.id for each in flying)
    return Recover(node, in_flight, leases, _waits(lanes, streams), frozenset(lanes.blamed), died)


async def is_recovered(reply: Reply[Result], journal: Journal) -> bool:
    """Wait for the result, however long the disk has no room; False if the writer died on it.

    Nothing can be sent before, and a crash of the dispatcher would only begin the wait anew.
    """
    while True:
        try:
            recovered = await reply.wait(WARN_EVERY_S)
        except DeadlineError:
            journal.note("spool.recovery_waits", level="warning", for_s=WARN_EVERY_S)
            continue
        except ActorCrashedError as error:
            journal.note("spool.answer_lost", level="error", error=str(error))
            return False
        break
    assert isinstance(recovered, Recovered)
    for message_id in recovered.held_ids:
        journal.note("message.poison", level="error", id=message_id, state="held")
    released, uncertain = recovered.released_count, recovered.uncertain_count
    if released or uncertain:
        journal.note("spool.recovered", level="warning", released=released, uncertain=uncertain)
    return True


def leave_of(node: str, lanes: Lanes) -> Recover:
    """Return the command of an orderly end: what is still in flight is uncertain; nobody died."""
    return Recover(node, frozenset(), frozenset(), _waits(lanes, lanes.plans))


def _waits(lanes: Lanes, streams: Iterable[str]) -> dict[str, float]:
    """Return by stream how soon to settle an intent without an outcome, whichever provider's."""
    able = [lane.provider.capabilities for lane in lanes.values()]
    return {
        name: min(first_at(each, lanes.plan(name), 0.0) for each in able) for name in ("", *streams)
    }
