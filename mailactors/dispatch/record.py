"""What is recorded of an attempt: the spool's commands and the timeline's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.retry import Decision, outcome_word, reason_line
from mailactors.dispatch.settling import decide_repeated
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
from mailactors.spool.port import Command, Doubt, Lease, Postpone, Progress, RecordOutcome, Step


def record_of(
    attempt: Attempt, outcome: Outcome, decision: Decision, duration_s: float
) -> RecordOutcome:
    """Return the command that makes an outcome and the next steps durable."""
    facts: dict[str, Any] = {
        "rule": decision.rule,
        "reason": reason_text(outcome),
        "round": attempt.lease.progress.round,
        "duration_s": round(duration_s, 6),
        "panic": attempt.is_panic,
        "next": next_words(decision.steps),
    }
    if attempt.passed_over:
        facts["passed_over"] = attempt.passed_over
    return RecordOutcome(
        attempt.id,
        attempt.lease.seq,
        attempt.lease.epoch,
        attempt.lane,
        decision.steps,
        decision.progress,
        outcome_word(outcome),
        facts,
        stream=attempt.lease.stream,
    )


def void_of(attempt: Attempt, outcome: NotAttempted) -> RecordOutcome:
    """Return the command that closes an intent under which nothing was accepted."""
    lease = attempt.lease
    steps = tuple(Step(n, State.LEASED) for n, _ in attempt.recipients)
    facts = {"rule": void_rule(outcome), "reason": reason_text(outcome)}
    word = outcome_word(outcome)
    return RecordOutcome(
        attempt.id, lease.seq, lease.epoch, attempt.lane, steps, lease.progress, word, facts, False
    )


def void_rule(outcome: NotAttempted) -> str:
    """Return why an intent is void, for the timeline."""
    if outcome.why is Why.EXPIRED:
        return "given up at the message's deadline: nothing was accepted"
    return "nothing was sent: the intent is void"


def with_doubt_at(decision: Decision, at: float) -> Decision:
    """Return the decision with `at` as the time when what is uncertain is settled first."""
    steps = tuple(
        msgspec.structs.replace(step, due_at=at) if step.state is State.UNCERTAIN else step
        for step in decision.steps
    )
    return msgspec.structs.replace(decision, steps=steps)


def lease_of(doubt: Doubt, now: float) -> Lease:
    """Return the lease of an attempt that repeats an uncertain one."""
    return Lease(
        seq=doubt.seq,
        id=doubt.id,
        stream=doubt.stream,
        recipients=doubt.recipients,
        recipients_total=doubt.recipients_total,
        epoch=doubt.epoch,
        attempts=doubt.attempts,
        progress=Progress(),
        due_at=now,
        accepted_at=doubt.accepted_at,
        expires_at=doubt.expires_at,
        size_bytes=doubt.size_bytes,
        crashes=doubt.crashes,
    )


def end_of_repeat(done: Done, doubt: Doubt, due_at: float) -> list[Command]:
    """Return the commands that record how a repeat ended.

    What it did not settle is as uncertain as before, and due at `due_at`. Where the intent was
    asked for, the spool may have it, and must learn that nothing was sent under it.
    """
    attempt, outcome = done.attempt, done.outcome
    if not isinstance(outcome, NotAttempted):
        return [record_of_repeat(done, doubt, due_at)]
    ids = (doubt.attempt_id, attempt.id)
    postpone = Postpone(doubt.seq, ids, due_at, doubt.repeats + 1)
    if attempt.may_have_intent and outcome.why is not Why.WITHDRAWN:
        return [record_of_repeat(done, doubt, due_at), postpone]
    return [postpone]


def record_of_repeat(done: Done, doubt: Doubt, due_at: float) -> RecordOutcome:
    """Return the command that records a repeat, or that its intent is void."""
    attempt, outcome = done.attempt, done.outcome
    duration_s = done.ended_s - attempt.began_s
    steps, rule = decide_repeated(doubt, outcome, due_at)
    is_attempt = not isinstance(outcome, NotAttempted)
    facts: dict[str, Any] = {
        "kind": "key",
        "rule": void_rule(outcome) if isinstance(outcome, NotAttempted) else rule,
        "reason": reason_text(outcome),
        "repeats": doubt.repeats + 1,
        "duration_s": round(duration_s, 6),
        "next": next_words(steps),
    }
    if isinstance(outcome, Accepted):
        facts["provider_message_id"] = outcome.provider_message_id
    return RecordOutcome(
        attempt.id,
        doubt.seq,
        doubt.epoch,
        attempt.lane,
        steps,
        attempt.lease.progress,
        outcome_word(outcome),
        facts,
        is_attempt,
        is_repeat=True,
    )


def attempt_facts(attempt: Attempt, outcome: Outcome, decision: Decision) -> dict[str, Any]:
    """Return what the journal shows of an attempt."""
    return {
        "id": attempt.lease.id,
        "provider": attempt.lane,
        "attempt": attempt.lease.attempts + 1,
        "recipients": [address for _, address in attempt.recipients],
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
            return f"lost in phase {outcome.phase.value}: {reason_line(outcome.reason)}"
        case NotAttempted():
            return outcome.text or outcome.why.value
        case Deferred() | Rejected():
            return reason_line(outcome.reason)
        case _:
            assert_never(outcome)
