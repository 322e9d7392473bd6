"""What the API shows of the spool and of the lanes. Plain functions.

Here UTC seconds become RFC 3339 text, and monotonic times become seconds from now.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET

from mailactors.api.schemas import (
    DeliveryBrief,
    DeliveryView,
    MessageHead,
    MessageView,
    NextStep,
    PassedOverView,
    StatusView,
    TimelineEntry,
)
from mailactors.api.schemas_control import (
    ActView,
    AlarmView,
    DifferenceView,
    LedgerView,
    MessageBrief,
    PendingView,
    ProviderView,
    RiskView,
    SuppressionView,
)
from mailactors.dispatch.lane import BreakerState, Lane, LimiterStatus
from mailactors.model.facts import public_facts, public_word
from mailactors.model.lifecycle import PENDING, State, Status, summarize_statuses
from mailactors.observe.alarms import Alarm
from mailactors.observe.explain import Now, explain
from mailactors.spool.port import (
    Act,
    Audit,
    Event,
    Ledger,
    MessageStatus,
    Pending,
    Questions,
    Suppression,
)

YEAR_9999_S: Final = 253_402_300_799.0
UNLIMITED: Final = LimiterStatus().permits
MOVING: Final = PENDING - {State.HELD}
"""The states of a delivery that is due at some time, without a person."""
_IN_FLIGHT: Final = (Status.QUEUED, Status.PROCESSING, Status.DEFERRED, Status.UNCERTAIN)


def rfc3339(utc_s: float) -> str:
    """Return UTC seconds as text with milliseconds.

    >>> rfc3339(1005268127.9)
    '2001-11-09T01:08:47.900Z'
    """
    moment = datetime.fromtimestamp(min(max(utc_s, 0.0), YEAR_9999_S), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_view(status: MessageStatus, now: float) -> StatusView:
    """Return a message in a line; provider and error are the newest delivery's that has one."""
    newest_first = sorted(status.deliveries, key=lambda d: (-d.updated_at, d.n))
    return StatusView(
        id=status.id,
        client_id=status.client_id or None,
        rfc_message_id=status.message_id,
        to=tuple(delivery.recipient for delivery in status.deliveries),
        subject=status.subject,
        status=_summary(status, now),
        provider=next((d.provider for d in newest_first if d.provider), None),
        attempts=status.attempts,
        updated_at=rfc3339(newest_first[0].updated_at if newest_first else status.accepted_at),
        error=next((d.error for d in newest_first if d.error), None),
        deliveries=_briefs(status, now),
    )


def message_view(
    status: MessageStatus, events: Sequence[Event], here: Now, now: float
) -> MessageView:
    """Return all that is known of a message but its content."""
    recipients = {str(d.n): d.recipient for d in status.deliveries}
    return MessageView(
        **_head(status, now),
        explanation=explain(status, events, here, now),
        not_before=rfc3339(status.not_before),
        expires_at=rfc3339(status.expires_at),
        declared_risks=status.declared_risks,
        deliveries=tuple(
            DeliveryView(
                **msgspec.structs.asdict(brief),
                next_at=rfc3339(each.due_at) if each.state in MOVING else None,
            )
            for brief, each in zip(_briefs(status, now), status.deliveries, strict=True)
        ),
        timeline=tuple(_entry(event, recipients) for event in events),
    )


def message_brief(status: MessageStatus, now: float) -> MessageBrief:
    """Return a message as a list shows it."""
    return MessageBrief(
        **_head(status, now),
        deliveries=_briefs(status, now),
        status_url=f"/v1/messages/{status.id}",
    )


def _head(status: MessageStatus, now: float) -> dict[str, Any]:
    head = MessageHead(
        id=status.id,
        client_id=status.client_id or None,
        rfc_message_id=status.message_id,
        status=_summary(status, now),
        stream=status.stream,
        sender=status.sender,
        subject=status.subject,
        accepted_at=rfc3339(status.accepted_at),
        attempts=status.attempts,
        retry_of=status.retry_of or None,
        tags=status.tags,
        metadata=status.metadata,
    )
    return msgspec.structs.asdict(head)


def ask_ledger(
    spool: Questions, now: float, *, audit: bool
) -> tuple[Ledger | Audit, tuple[Pending, ...]]:
    """Return what `ledger_view` shows of a spool."""
    return spool.audit() if audit else spool.ledger(), spool.pending(now)


def ledger_view(
    found: Ledger | Audit, pending: Sequence[Pending], alarms: Sequence[Alarm] | None, now: float
) -> LedgerView:
    """Return the accounting identity, whether it holds, and how long what is due has waited.

    What was counted goes before what is kept.
    """
    ledger = found.counted if isinstance(found, Audit) else found
    audit = found.differences if isinstance(found, Audit) else None
    states = _public_states(ledger, pending)
    oldest: dict[str, float] = {}
    for each in pending:
        if each.status is not Status.SCHEDULED and each.waits_since is not None:
            oldest[each.status] = min(each.waits_since, oldest.get(each.status, each.waits_since))
    return LedgerView(
        holds=ledger.is_balanced and not audit,
        accepted=ledger.accepted,
        imbalance=ledger.imbalance,
        states=states,
        in_flight=sum(states.get(status, 0) for status in _IN_FLIGHT),
        purged=ledger.purged,
        declared_risks=ledger.declared_risks,
        risks=tuple(RiskView(each.stream, each.provider, each.count) for each in ledger.risks),
        pending=tuple(_pending_view(each, now) for each in pending),
        oldest_s={state: _age_s(at, now) for state, at in sorted(oldest.items())},
        alarms=None if alarms is None else tuple(map(alarm_view, alarms)),
        audit=UNSET if audit is None else tuple(DifferenceView(n, *p) for n, p in audit.items()),
    )


def _public_states(ledger: Ledger, pending: Sequence[Pending]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for state, count in ledger.states.items():
        counts[public_word(state)] += count
    scheduled = sum(each.count for each in pending if each.status is Status.SCHEDULED)
    # The sums are of one moment and `pending` of the next; in between some may have been claimed.
    scheduled = min(scheduled, ledger.states.get(State.READY, 0))
    counts[Status.SCHEDULED.value] += scheduled
    counts[Status.QUEUED.value] -= scheduled
    return {state: count for state, count in sorted(counts.items()) if count}


def alarm_view(alarm: Alarm) -> AlarmView:
    """Return an alarm of the watchdog's."""
    fault = alarm.fault
    return AlarmView(
        kind=fault.kind.value,
        subject=fault.subject,
        stream=fault.stream or None,
        state=fault.state or None,
        since=_optional_time(fault.since),
        raised_at=rfc3339(alarm.raised_at),
        detail=fault.detail,
        expected=alarm.expected,
    )


def _pending_view(each: Pending, now: float) -> PendingView:
    is_due = each.status is not Status.SCHEDULED
    times = (each.waits_since, each.unmoved_since) if is_due else (None, None)
    ages = [None if at is None else _age_s(at, now) for at in times]
    return PendingView(each.stream, each.status, each.count, *ages)


def _age_s(at: float, now: float) -> float:
    return round(max(0.0, now - at), 3)


def suppression_view(suppression: Suppression) -> SuppressionView:
    """Return an address that gets no mail."""
    created_at = rfc3339(suppression.created_at)
    return SuppressionView(suppression.address, suppression.reason, suppression.source, created_at)


def act_view(act: Act) -> ActView:
    """Return what an operator did."""
    return ActView(act.seq, rfc3339(act.at), act.what, act.way, act.subject or None, act.facts)


def provider_view(lane: Lane, now_s: float) -> ProviderView:
    """Return a lane as it is now."""
    breaker, limiter = lane.breaker_status.value, lane.limiter_status.value
    is_shut = breaker.state in {BreakerState.OPEN, BreakerState.DISABLED}
    ago_s = now_s - breaker.last_success_s
    wait_s = max(0.0, limiter.next_permit_s - now_s)
    return ProviderView(
        name=lane.name,
        breaker=breaker.state.value,
        breaker_opens_in_s=round(max(0.0, breaker.until_s - now_s), 3) if is_shut else None,
        probes_free=breaker.probes_free,
        opened_count=breaker.opened_count,
        last_success_s_ago=round(max(0.0, ago_s), 3) if breaker.last_success_s >= 0 else None,
        paused=lane.is_paused,
        next_permit_in_s=round(wait_s, 3) if math.isfinite(wait_s) else None,
        permits=limiter.permits if limiter.permits < UNLIMITED else None,
        in_flight=len(lane.in_flight),
        slots_free=lane.slots_free,
        concurrency_max=lane.concurrency_max,
        concurrency=min(lane.concurrency_max, breaker.concurrency),
        learnt_pace_per_s=round(limiter.learnt.per_s, 3) if limiter.learnt else None,
        dead=breaker.is_dead,
    )


def _summary(status: MessageStatus, now: float) -> str:
    return summarize_statuses(
        frozenset(status.delivery_status(each, now) for each in status.deliveries)
    )


def _briefs(status: MessageStatus, now: float) -> tuple[DeliveryBrief, ...]:
    return tuple(
        DeliveryBrief(
            recipient=each.recipient,
            status=status.delivery_status(each, now),
            provider=each.provider or None,
            attempts=each.attempts,
            error=each.error or None,
            updated_at=rfc3339(each.updated_at),
        )
        for each in status.deliveries
    )


def _entry(event: Event, recipients: dict[str, str]) -> TimelineEntry:
    facts = public_facts(event.facts)
    return TimelineEntry(
        at=rfc3339(event.at),
        kind=event.kind,
        **{name: facts.pop(name, None) for name in ("rule", "provider", "outcome", "reason")},
        next=_next_steps(facts.pop("next", None), recipients),
        passed_over=tuple(
            PassedOverView(each["provider"], each["why"], _optional_time(each.get("until")))
            for each in facts.pop("passed_over", ())
        ),
        facts=facts,
    )


def _next_steps(steps: Any, recipients: dict[str, str]) -> tuple[NextStep, ...]:
    """Read the steps of an event, such as {"0": "deferred", "0.due_at": 1005268127.9}."""
    if not isinstance(steps, dict):
        return ()
    return tuple(
        NextStep(recipients[n], state, _optional_time(steps.get(f"{n}.due_at")))
        for n, state in steps.items()
        if n in recipients
    )


def _optional_time(utc_s: float | None) -> str | None:
    return None if utc_s is None else rfc3339(utc_s)
