"""Why a message is where it is, in one sentence. Plain functions: facts and a time in, text out.

It names the rule that decides, what the message waits for and until when, and the lanes that were
passed over, from what the spool recorded and what the lanes say now. It predicts nothing else: a
time is the next at which something may change, not one at which a message is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mailactors.dispatch.attempt import PassedOver
from mailactors.dispatch.evidence import Evidence, evidence_of
from mailactors.dispatch.lane import Lane
from mailactors.dispatch.passing import REFUSED, TRIED, LaneState, lane_states
from mailactors.dispatch.retry import StreamPolicy
from mailactors.dispatch.routing import is_panic
from mailactors.model.lifecycle import FINAL, State, Status
from mailactors.spool.port import DeliveryStatus, Event, MessageStatus

YEAR_9999_S: Final = 253_402_300_799.0
_NO_DECISION: Final = frozenset({"final_failure", "evidence", "retried"})
_ENDS: Final = frozenset({"expired", "suppressed", "cancelled", "failed"})
"""Events of the deliveries that have this state, whichever they are."""
_MOST_TELLING_FIRST: Final = tuple(Status)
"""In the order of the table of states: what still waits comes before what is final."""


class Underway(msgspec.Struct, frozen=True):
    """An attempt of the message that is in a lane now."""

    provider: str
    passed_over: tuple[PassedOver, ...] = ()


class Now(msgspec.Struct, frozen=True):
    """What a sentence needs of the gateway as it is at this moment."""

    lanes: tuple[LaneState, ...]
    """Of the stream's route, in order, as they are for this message."""
    spill_after_s: float = 0.0
    """How long it waits for its first lane that is well before the next one takes it."""
    evidence: Mapping[str, Evidence] = {}
    """By provider: what may settle an attempt whose answer was lost."""
    underway: tuple[Underway, ...] = ()
    halted: str = ""
    """Why nothing is sent at all, or empty."""

    @property
    def asked(self) -> list[LaneState]:
        """The lanes that may be asked in this round; all of them where none is left."""
        return [each for each in self.lanes if not each.is_spent] or list(self.lanes)


def look(
    message: MessageStatus,
    plan: StreamPolicy,
    lanes: Mapping[str, Lane],
    now_s: float,
    now: float,
    halted: str = "",
) -> Now:
    """Return what the lanes of a message's stream say at this moment."""
    waiting = [each for each in message.deliveries if each.state not in FINAL]
    able = plan.carrying(len(waiting), len(message.deliveries)).route
    in_panic = is_panic(plan.route, lanes)
    found = lane_states(plan.route, able, message.progress, lanes, now_s, now, in_panic=in_panic)
    return Now(
        found,
        plan.patience_s,
        {name: evidence_of(lane.provider.capabilities, plan) for name, lane in lanes.items()},
        tuple(
            Underway(lane.name, attempt.passed_over)
            for lane in lanes.values()
            for attempt in lane.in_flight.values()
            if attempt.lease.seq == message.seq
        ),
        halted,
    )


def explain(message: MessageStatus, timeline: Sequence[Event], here: Now, now: float) -> str:
    """Return one sentence on a message; of many recipients on those that are settled least.

    Args:
        timeline: the message's events, oldest first.
        now: UTC seconds.
    """
    found = [(message.delivery_status(each, now), each) for each in message.deliveries]
    rank = {status: place for place, status in enumerate(_MOST_TELLING_FIRST)}
    status, chosen = min(found, key=lambda each: (rank[each[0]], each[1].due_at, each[1].n))
    subject = "It" if len(found) == 1 else f"The delivery to {chosen.recipient}"
    said = _say(status, chosen, message, timeline, here, now)
    counts = Counter(each for each, delivery in found if delivery is not chosen)
    others = ", ".join(f"{count} {each.value}" for each, count in counts.items())
    return f"{subject} {said}{f'; of the others: {others}' if others else ''}."


def moment(at: float, now: float) -> str:
    """Return UTC seconds as a time of day, with the date where it is another day than now.

    >>> moment(1005268127.9, 1005268000.0), moment(1005268127.9, 0.0)
    ('01:08:47Z', '2001-11-09 01:08:47Z')
    """
    then, today = (datetime.fromtimestamp(min(max(s, 0.0), YEAR_9999_S), UTC) for s in (at, now))
    return f"{then:%H:%M:%SZ}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M:%SZ}"


def _say(
    status: Status,
    delivery: DeliveryStatus,
    message: MessageStatus,
    timeline: Sequence[Event],
    here: Now,
    now: float,
) -> str:
    if delivery.state in FINAL:
        return _say_final(delivery, message, timeline, now)
    decided = _deciding(timeline, delivery)
    rule = _rule(decided)
    match status:
        case Status.SCHEDULED:
            at = moment(max(message.not_before, delivery.due_at), now)
            return f"is scheduled by its send_at, and waits until {at}"
        case Status.PROCESSING:
            said = f"is being sent through {delivery.provider} since"
            return f"{said} {moment(delivery.updated_at, now)}{_over_now(delivery, here, now)}"
        case Status.UNCERTAIN:
            return _say_uncertain(delivery, here, now, rule)
        case Status.HELD:
            how = f"settle it with: mailactors settle {message.id} --as sent, resend or failed"
            return f"is held for a person since {moment(delivery.updated_at, now)}{rule}; {how}"
        case Status.DEFERRED if delivery.due_at > now:
            at, asked = moment(delivery.due_at, now), here.asked
            is_shut = all(each.until is not None and each.until > delivery.due_at for each in asked)
            shut = _all_shut(asked, now) if is_shut else ""
            said = f"is deferred{rule}, and waits for its next attempt until {at}"
            return f"{said}; {shut}" if shut else said
    is_again = status is Status.DEFERRED
    verb = f"is due again since {moment(delivery.due_at, now)}{rule}" if is_again else "is queued"
    return f"{verb} and {_say_waiting(delivery, here, now)}"


def _say_waiting(delivery: DeliveryStatus, here: Now, now: float) -> str:
    """Say what a message waits for that is due."""
    if here.halted:
        return f"waits: {here.halted}"
    for each in here.underway:
        return f"is with {each.provider}, for a connection{_over(each.passed_over, now)}"
    if delivery.state is State.READY and delivery.due_at > now:
        at = moment(delivery.due_at, now)
        return f"is looked at again at {at}: its domain defers, or other mail fills the memory"
    asked = here.asked
    spent = [each for each in here.lanes if each not in asked]
    tail = "".join(f"; {_lane_text(each, now)}" for each in spent)
    is_open = [each for each in asked if not each.why]
    if not is_open:
        shut = _all_shut(asked, now) or "; ".join(_lane_text(each, now) for each in asked)
        return f"waits for a provider: {shut or 'its route has none'}{tail}"
    closed = asked[: asked.index(is_open[0])]
    over = "".join(f"; {_lane_text(each, now)}" for each in closed)
    spills_at = delivery.due_at + here.spill_after_s
    if closed and not closed[0].is_breaker and now < spills_at:
        over += f"; {is_open[0].name} takes it from {moment(spills_at, now)} on"
        return f"waits for {closed[0].name}, its stream's first choice{over}{tail}"
    return f"waits for its turn with {is_open[0].name}{over}{tail}"


def _all_shut(asked: Sequence[LaneState], now: float) -> str:
    """Say that the breakers of all these lanes are open, and when one is tried; else nothing."""
    if not asked or not all(each.is_breaker for each in asked):
        return ""
    count, first = len(asked), f"the breaker of {asked[0].name} is open"
    said = {1: first, 2: "both breakers are open"}.get(count, f"all {count} breakers are open")
    times = [each.until for each in asked if each.until is not None]
    return f"{said}; " + (f"next probe {moment(min(times), now)}" if times else "a probe is out")


def _say_uncertain(delivery: DeliveryStatus, here: Now, now: float, rule: str) -> str:
    provider = delivery.provider
    said = f"may have been accepted by {provider}, whose answer was lost"
    known = here.evidence.get(provider)
    if known is None:
        return f"{said}{rule}; {provider} is not configured any more"
    until = f" until {moment(delivery.due_at, now)}" if delivery.due_at > now else ""
    awaited = " or ".join(known.evidence) or "no evidence, for there is none"
    return f"{said}{rule}; waits for {awaited}{until}, else: {known.then}"


def _say_final(
    delivery: DeliveryStatus, message: MessageStatus, timeline: Sequence[Event], now: float
) -> str:
    decided, at = _deciding(timeline, delivery), moment(delivery.updated_at, now)
    why = _rule(decided)
    said = f": {delivery.error}" if delivery.error and delivery.error not in why else ""
    tries = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    match delivery.state:
        case State.SENT:
            over = _over_before(timeline, delivery.n, now)
            return f"was sent through {delivery.provider} at {at}, in {tries}{why}{over}"
        case State.EXPIRED:
            deadline, over = (
                moment(message.expires_at, now),
                _over_before(timeline, delivery.n, now),
            )
            return f"expired at its deadline, {deadline}, after {tries}{said}{over}"
        case State.SUPPRESSED:
            return f"was not sent, for its address was on the suppression list at {at}"
        case State.CANCELLED:
            return f"was cancelled at {at}"
        case _:
            through = f" with {delivery.provider}" if delivery.provider else ""
            return f"{_ENDED[delivery.state]} at {at}{through}{why}{said}"


_ENDED: Final = {State.BOUNCED: "bounced", State.FAILED: "failed"}


# The timeline


def _deciding(timeline: Sequence[Event], delivery: DeliveryStatus) -> Event | None:
    """Return the newest event that decided on a delivery."""
    n, state = delivery.n, delivery.state.value
    for event in reversed(timeline):
        steps, ns = event.facts.get("next"), event.facts.get("ns")
        is_others = isinstance(steps, dict) and str(n) not in steps
        is_others |= isinstance(ns, list) and n not in ns
        is_others |= event.kind in _ENDS and event.kind != state
        if event.kind not in _NO_DECISION and not is_others:
            return event
    return None


def _rule(event: Event | None) -> str:
    """Return the rule of an event and what the provider said, in brackets; empty without a rule."""
    if event is None or event.kind == "accepted" or "rule" not in event.facts:
        return ""
    rule, reason = str(event.facts["rule"]), str(event.facts.get("reason") or "")
    is_said = reason and event.facts.get("outcome") != "accepted"
    who = event.facts.get("provider", "")
    return f' (rule "{rule}"{f"; {who}: {reason}" if is_said else ""})'


def _over_before(timeline: Sequence[Event], n: int, now: float) -> str:
    """Say which lanes the latest attempt passed over, and what they had said before."""
    attempts = [each for each in timeline if each.kind == "attempt"]
    attempts = [each for each in attempts if str(n) in each.facts.get("next", {})]
    if not attempts:
        return ""
    said = {each.facts.get("provider"): str(each.facts.get("reason", "")) for each in attempts[:-1]}
    over = tuple(_read_passed(each) for each in attempts[-1].facts.get("passed_over", ()))
    return _over(over, now, said)


def _read_passed(facts: Mapping[str, Any]) -> PassedOver:
    return PassedOver(facts["provider"], facts["why"], facts.get("until"))


def _over_now(delivery: DeliveryStatus, here: Now, now: float) -> str:
    for each in here.underway:
        if each.provider == delivery.provider:
            return _over(each.passed_over, now)
    return ""


def _over(
    passed: Sequence[PassedOver], now: float, said: Mapping[str | None, str] | None = None
) -> str:
    """Say which lanes were passed over, and why."""
    texts = []
    for each in passed:
        until = f" until {moment(each.until, now)}" if each.until is not None else ""
        words = (said or {}).get(each.provider, "") if each.why in {TRIED, REFUSED} else ""
        texts.append(f"{each.provider} ({each.why}{until}{f': {words}' if words else ''})")
    if not texts:
        return ""
    return f"; passed over: {', '.join(texts)}"


def _lane_text(lane: LaneState, now: float) -> str:
    until = f" until {moment(lane.until, now)}" if lane.until is not None else ""
    return f"{lane.name}: {lane.why}{until}"
