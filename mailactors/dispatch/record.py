"""What the dispatcher writes down of an attempt: the spool's commands and the timeline's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from mailactors.dispatch.lane import Attempt
from mailactors.dispatch.retry import Decision, Plan, decide_doubt, describe, outcome_word
from mailactors.model.lifecycle import State
from mailactors.model.message import without_recipients
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Rejected,
    Uncertain,
    Why,
)
from mailactors.spool.port import Doubt, Resolve, Settle, Step


def settle_of(attempt: Attempt, outcome: Outcome, decision: Decision, duration_s: float) -> Settle:
    """Return the command that makes an outcome and the step after it durable."""
    facts = {
        "rule": decision.rule,
        "reason": reason_text(outcome),
        "round": attempt.lease.progress.round,
        "duration_s": round(duration_s, 6),
        "panic": attempt.is_panic,
        "next": next_words(decision.steps),
    }
    return Settle(
        attempt.id,
        attempt.lease.seq,
        attempt.lease.epoch,
        attempt.lane,
        decision.steps,
        decision.progress,
        outcome_word(outcome),
        facts,
    )


def unsettled(attempt: Attempt) -> Settle:
    """Return the command that closes an intent under which nothing was sent."""
    lease = attempt.lease
    steps = tuple(Step(n, State.LEASED) for n, _ in lease.recipients)
    facts = {"rule": "nothing was sent: the intent is void"}
    word = outcome_word(NotAttempted(Why.SPOOL))
    return Settle(
        attempt.id, lease.seq, lease.epoch, attempt.lane, steps, lease.progress, word, facts, False
    )


def resolve_of(doubt: Doubt, plan: Plan, now: float) -> Resolve:
    """Return the command that moves an uncertain message on as its stream prefers."""
    state, rule = decide_doubt(doubt, plan.on_uncertain, now)
    return Resolve(
        doubt.seq,
        tuple(Step(n, state, now) for n in doubt.ns),
        msgspec.structs.replace(doubt.progress, tried=()),
        rule,
        {"provider": doubt.provider, "on_uncertain": plan.on_uncertain.value},
        is_risk=state is State.READY,
    )


def attempt_facts(attempt: Attempt, outcome: Outcome, decision: Decision) -> dict[str, Any]:
    """Return what an operator is told of an attempt."""
    return {
        "id": attempt.lease.id,
        "provider": attempt.lane,
        "attempt": attempt.lease.attempts + 1,
        "outcome": outcome_word(outcome),
        "rule": decision.rule,
        "reason": without_recipients(reason_text(outcome), [r for _, r in attempt.recipients]),
    }


def next_words(steps: Iterable[Step]) -> dict[str, str | float]:
    """Return each delivery's next state for the timeline, with its time where it has one."""
    words: dict[str, str | float] = {}
    for step in steps:
        words[str(step.n)] = step.state.value
        if step.state in {State.DEFERRED, State.UNCERTAIN}:
            words[f"{step.n}.due_at"] = round(step.due_at, 3)
    return words


def reason_text(outcome: Outcome) -> str:
    """Return what the provider said, or what it accepted the message as."""
    match outcome:
        case Accepted():
            return outcome.provider_message_id
        case Uncertain():
            return f"lost in phase {outcome.phase.value}: {describe(outcome.reason)}"
        case NotAttempted():
            return outcome.why.value
        case Deferred() | Rejected():
            return describe(outcome.reason)
        case _:
            assert_never(outcome)
