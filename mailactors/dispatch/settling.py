"""How an uncertain outcome is settled. Plain functions: facts in, decision out.

In this order: by what the vendor reported; by a repeat at the same provider under the same key; by
a look-up; at last by the stream's preference.

**By repeat**, with the identical payload, while the vendor remembers the key (its window begins
with the first intent and is shortened by `KEY_MARGIN_S`) and the deadline allows. It ends sooner
where the stream resends or the vendor answers look-ups: after `uncertain_wait_s` and at least one
repeat. A sign-in code must not wait a day for a provider that died, and an invoice need not where
a look-up says as much. Only a stream that holds, at a vendor without look-ups, repeats to the
window's end.

**By look-up**, first `look_up_lag_s` after the latest attempt, for most vendors are done by then. A
look-up that finds nothing counts only from the lag after the vendor's longest work (`work_max_s`):
it may accept a message long after we hung up. Two that count, a lag apart, prove that nothing was
accepted: once the second one has come back, the message is ready again, without a declared risk.

**By preference**, at once where no evidence can come: no repeat (any more), no look-up, no delivery
events of that provider. Where delivery events may come, after `uncertain_wait_s` from the first
loss; where there are look-ups, that long after the last one that was answered, or after one could
first count. While look-ups are answered the next one is awaited; the preference applies only after
one failed. What is sent again goes to a lane that has not had it, and after the round to them all
(`retry.decide_resend`).

Past the deadline nothing is sent: the message is held, as it is where the stream prefers that. Held
messages are looked up again, ever more rarely, for `HELD_FOR_S`, where the vendor has look-ups.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, assert_never

import msgspec

from mailactors.dispatch.clocks import ClockSteps
from mailactors.dispatch.retry import (
    NextTry,
    Preference,
    StreamPolicy,
    is_bounce,
    outcome_word,
    reason_line,
)
from mailactors.model.lifecycle import State
from mailactors.model.outcome import (
    Accepted,
    NotAttempted,
    Outcome,
    Rejected,
    Uncertain,
    split_by_recipient,
)
from mailactors.providers.port import Capabilities, Found, LookUpFailed, LookUpResult, NotFound
from mailactors.spool.port import NEVER_AT, Doubt, LookUps, SettleDoubt, Step

NEGATIVES_ENOUGH: Final = 2
KEY_MARGIN_S: Final = 60.0
"""Stop repeating this long before the vendor's key window closes: a repeat takes a while."""
KEY_MARGIN_SHARE: Final = 0.1
"""The margin of a short window."""
DELAY_BASE_S: Final = 1.0
DELAY_CAP_S: Final = 300.0
HELD_DELAY_BASE_S: Final = 60.0
HELD_DELAY_CAP_S: Final = 6 * 3600.0
HELD_FOR_S: Final = 7 * 86400.0
"""Vendors keep their logs for days; later no look-up is made."""
JITTER: Final = 0.25
APART_MIN_S: Final = 1.0
"""Between two look-ups, even where a vendor has no lag."""

NO_PROVIDER: Final = Capabilities(own_envelope=True)
"""The capabilities assumed of a provider that is no longer configured."""


class Repeat(msgspec.Struct, frozen=True):
    """Send the same once more, under its key; not after `not_after` (UTC)."""

    not_after: float


class LookUp(msgspec.Struct, frozen=True):
    """Ask the provider whether it has the message."""


class Wait(msgspec.Struct, frozen=True):
    """Do nothing before `until` (UTC)."""

    until: float


class Conclude(msgspec.Struct, frozen=True):
    """Settle: the deliveries' next states, and by which rule."""

    states: tuple[tuple[int, State], ...]
    kind: str
    rule: str
    is_risk: bool = False


DoubtAction: TypeAlias = Repeat | LookUp | Wait | Conclude


def doubt_delay_s(
    tries: int, draw: float, base_s: float = DELAY_BASE_S, cap_s: float = DELAY_CAP_S
) -> float:
    """Return how long to wait after so many tries of a doubt, `draw` being in [0, 1).

    >>> [doubt_delay_s(n, 0.5) for n in (0, 1, 5, 50)]
    [1.0, 2.0, 32.0, 300.0]
    """
    plain_s = min(cap_s, base_s * 2.0 ** min(tries, 32))
    return plain_s * (1.0 - JITTER + 2.0 * JITTER * draw)


def key_until(doubt: Doubt, able: Capabilities, plan: StreamPolicy, steps: ClockSteps) -> float:
    """Return until when (UTC) the message is repeated under its key; 0 for never."""
    window_s = able.idempotency_window_s
    if not window_s or not doubt.is_whole or doubt.is_suppressed or doubt.is_held:
        return 0.0
    window_s -= min(KEY_MARGIN_S, KEY_MARGIN_SHARE * window_s) + steps.backward_s(doubt.began_at)
    last = min(doubt.began_at + window_s, doubt.expires_at)
    can_be_asked = able.look_up_lag_s is not None
    if doubt.repeats and (plan.on_uncertain is Preference.RESEND or can_be_asked):
        last = min(last, doubt.since + plan.uncertain_wait_s)
    return last


def look_up_at(doubt: Doubt, able: Capabilities, steps: ClockSteps) -> float:
    """Return from when (UTC) on a look-up that finds nothing counts."""
    lag_s = able.look_up_lag_s or 0.0
    at = doubt.ended_at + able.work_max_s + lag_s + steps.forward_s(doubt.ended_at)
    if doubt.looks.negatives:
        latest = doubt.looks.negative_at
        at = max(at, latest + max(lag_s + steps.forward_s(latest), APART_MIN_S))
    return at


def preference_at(doubt: Doubt, able: Capabilities, plan: StreamPolicy) -> float:
    """Return when (UTC) the stream's preference applies."""
    if able.look_up_lag_s is None:
        return doubt.since + (plan.uncertain_wait_s if able.delivery_events else 0.0)
    asked_from = doubt.ended_at + able.look_up_lag_s
    return max(asked_from, doubt.looks.answered_at) + plan.uncertain_wait_s


def decide_doubt(
    doubt: Doubt, able: Capabilities, plan: StreamPolicy, steps: ClockSteps, now: float
) -> DoubtAction:
    """Say what to do about a due doubt."""
    if doubt.evidence:
        states = {"delivered": State.SENT, "bounced": State.BOUNCED}
        reported = tuple((n, states[kind]) for n, kind in doubt.evidence)
        return Conclude(reported, "delivery event", "a delivery event, so it had been accepted")
    is_late = now >= doubt.expires_at
    if doubt.looks.negatives >= NEGATIVES_ENOUGH and (is_late or not doubt.is_held):
        return _all(doubt, State.READY, "look-up", "two look-ups found nothing: not accepted")
    if is_late and not doubt.is_held:
        return _all(doubt, State.HELD, "deadline", "uncertain past its deadline: held")
    not_after = key_until(doubt, able, plan, steps)
    if now < not_after:
        return Repeat(not_after)
    if able.look_up_lag_s is not None:
        return _decide_asking(doubt, able, plan, steps, now)
    if doubt.is_held:
        return Wait(NEVER_AT)
    at = preference_at(doubt, able, plan)
    return Wait(min(at, doubt.expires_at)) if now < at else _prefer(doubt, plan)


def _decide_asking(
    doubt: Doubt,
    able: Capabilities,
    plan: StreamPolicy,
    steps: ClockSteps,
    now: float,
) -> DoubtAction:
    if doubt.is_held and now >= doubt.since + HELD_FOR_S:
        return Wait(NEVER_AT)
    is_unanswered = doubt.looks.failures > 0 and not doubt.is_held
    if is_unanswered and now >= preference_at(doubt, able, plan):
        return _prefer(doubt, plan)
    at = look_up_at(doubt, able, steps)
    if not doubt.looks.count:
        at -= able.work_max_s  # it finds what the vendor had accepted by then
    if now < at:
        return Wait(at if doubt.is_held else min(at, doubt.expires_at))
    return LookUp()


def _prefer(doubt: Doubt, plan: StreamPolicy) -> Conclude:
    match plan.on_uncertain:
        case Preference.RESEND:
            rule = "uncertain and unsettled: resend, a declared duplicate risk"
            states = tuple((n, State.READY) for n in doubt.ns)
            return Conclude(states, "preference", rule, is_risk=True)
        case Preference.HOLD:
            rule = "uncertain and unsettled: hold, as the stream asks"
            return _all(doubt, State.HELD, "preference", rule)
        case _:
            assert_never(plan.on_uncertain)


def _all(doubt: Doubt, state: State, kind: str, rule: str) -> Conclude:
    return Conclude(tuple((n, state) for n in doubt.ns), kind, rule)


def next_at(
    doubt: Doubt,
    able: Capabilities,
    plan: StreamPolicy,
    steps: ClockSteps,
    now: float,
    wait_s: float,
) -> float:
    """Return when (UTC) a doubt is due again after a try that settled nothing.

    After `wait_s`; sooner where another rule applies before that.
    """
    turns = [doubt.expires_at, key_until(doubt, able, plan, steps)]
    turns.append(preference_at(doubt, able, plan))
    return min([now + wait_s, *(at for at in turns if at > now)])


def after_repeat_at(
    doubt: Doubt, able: Capabilities, plan: StreamPolicy, now: float, draw: float
) -> float:
    """Return when (UTC) a doubt is due again that was just repeated, or could not be."""
    tried = msgspec.structs.replace(doubt, repeats=doubt.repeats + 1, ended_at=now)
    return next_at(tried, able, plan, ClockSteps(), now, doubt_delay_s(tried.repeats, draw))


def first_at(able: Capabilities, plan: StreamPolicy, now: float) -> float:
    """Return when (UTC) a doubt is first due that arises now."""
    if not able.gives_evidence:
        return now
    waits_s = [plan.uncertain_wait_s]
    if able.idempotency_window_s:
        waits_s.append(DELAY_BASE_S)
    if able.look_up_lag_s is not None:
        waits_s.append(max(able.look_up_lag_s, DELAY_BASE_S))
        waits_s.remove(plan.uncertain_wait_s)  # the look-up comes first, however long its lag
    return now + min(waits_s)


# What is learnt


def count_look(
    looks: LookUps, sighting: LookUpResult, asked_at: float, counts_from: float, now: float
) -> LookUps:
    """Count a look-up that came back now. One that found nothing may have been made too early."""
    match sighting:
        case Found():
            return msgspec.structs.replace(
                looks, count=looks.count + 1, failures=0, answered_at=now
            )
        case NotFound():
            is_early = asked_at < counts_from
            return LookUps(
                count=looks.count + 1,
                negatives=looks.negatives + (not is_early),
                negative_at=looks.negative_at if is_early else asked_at,
                answered_at=now,
            )
        case LookUpFailed():
            return msgspec.structs.replace(
                looks, count=looks.count + 1, failures=looks.failures + 1
            )
        case _:
            assert_never(sighting)


def decide_repeated(doubt: Doubt, outcome: Outcome, due_at: float) -> tuple[tuple[Step, ...], str]:
    """Say what the end of a repeat means for each delivery, and by which rule.

    Only an acceptance settles: the vendor has it once, whichever attempt brought it. A refusal, a
    deferral or another loss says nothing of the first attempt.
    """
    apart = split_by_recipient(outcome, [address for _, address in doubt.recipients])
    steps = []
    for n, address in doubt.recipients:
        each = apart[address]
        if isinstance(each, Accepted):
            steps.append(Step(n, State.SENT))
        elif isinstance(outcome, Accepted) and is_bounce(each):
            assert isinstance(each, Rejected)
            steps.append(Step(n, State.BOUNCED, error=reason_line(each.reason)))
        else:
            error = "" if isinstance(each, Accepted | NotAttempted) else reason_line(each.reason)
            steps.append(Step(n, State.UNCERTAIN, due_at, error))
    if isinstance(outcome, Accepted):
        return tuple(steps), "repeated by its key and accepted: the provider has it once"
    if isinstance(outcome, Uncertain):
        return tuple(steps), "repeated by its key and lost again: still uncertain"
    word = outcome_word(outcome)
    return tuple(steps), f"repeated by its key and {word}: says nothing of the first attempt"


def settle_of(
    doubt: Doubt, conclusion: Conclude, now: float, looks_at: float, onward: NextTry | None = None
) -> SettleDoubt:
    """Return the command of a conclusion; a doubt that is held is due again at `looks_at`.

    `onward`: where the message goes if it is sent again as a risk; else to the other lanes, now.
    """
    if onward is not None and onward.state is State.DEFERRED:
        later = tuple((n, State.DEFERRED) for n, _ in conclusion.states)
        conclusion = msgspec.structs.replace(conclusion, states=later)
    wait_s = 0.0 if onward is None else onward.wait_s
    states = {state for _, state in conclusion.states}
    facts: dict[str, Any] = {
        "kind": conclusion.kind,
        "provider": doubt.provider,
        "next": {str(n): state.value for n, state in conclusion.states},
    }
    if doubt.looks.count:
        facts["looks"] = doubt.looks.count
    if doubt.repeats:
        facts["repeats"] = doubt.repeats
    return SettleDoubt(
        doubt.seq,
        tuple(Step(n, state, now + wait_s) for n, state in conclusion.states),
        None if onward is None else onward.progress,
        conclusion.rule,
        facts,
        conclusion.is_risk,
        doubt.attempt_id,
        next_at=looks_at if State.HELD in states else None,
    )


def poison_of(doubt: Doubt, now: float) -> SettleDoubt:
    """Return the command that holds an uncertain message on which actors died too often."""
    conclusion = _all(doubt, State.HELD, "crashes", "poison: held, it may have gone out")
    return settle_of(doubt, conclusion, now, NEVER_AT)


def settle_of_look(
    doubt: Doubt, sighting: LookUpResult, looks: LookUps, now: float, at: float
) -> SettleDoubt:
    """Return the command that records a look-up, and settles what it found.

    `at`: when the doubt is due again if that settles nothing.
    """
    facts = {"kind": "look-up", "provider": doubt.provider, "looks": looks.count}
    state = State.HELD if doubt.is_held else State.UNCERTAIN
    match sighting:
        case Found(provider_message_id=found):
            state, rule = State.SENT, "a look-up found it: accepted"
            facts["provider_message_id"] = found
        case NotFound():
            is_counted = looks.negatives > doubt.looks.negatives
            rule = "a look-up found nothing" + ("" if is_counted else ", but was asked too early")
            facts["negatives"] = looks.negatives
        case LookUpFailed(reason=reason):
            rule = f"a look-up had no answer: {reason_line(reason)}"
            facts["failures"] = looks.failures
        case _:
            assert_never(sighting)
    due_at = at if at < NEVER_AT else now
    steps = tuple(Step(n, state, due_at) for n in doubt.ns)
    return SettleDoubt(
        doubt.seq,
        steps,
        None,
        rule,
        facts,
        attempt_id=doubt.attempt_id,
        looks=looks,
        next_at=None if state is State.SENT else at,
    )
