"""What a dead predecessor left behind, and who is blamed for a death."""

from __future__ import annotations

from collections.abc import Iterable

from mailactors.dispatch.desk import DispatchDesk
from mailactors.dispatch.settling import first_at
from mailactors.spool.port import Recover


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


def leave_of(desk: DispatchDesk) -> Recover:
    """Return the command of an orderly end: what is in flight still is uncertain, of no crash."""
    return Recover(desk.node, frozenset(), frozenset(), _waits(desk, desk.plans))


def _waits(desk: DispatchDesk, streams: Iterable[str]) -> dict[str, float]:
    """Return when to see to an intent without an outcome, at whichever provider it was."""
    able = [lane.out.capabilities for lane in desk.lanes.values()]
    return {
        name: min(first_at(each, desk.plan(name), 0.0) for each in able) for name in ("", *streams)
    }
