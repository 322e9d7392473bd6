"""Refusals that are not sure, and recipients that are only left for a further transaction."""

from __future__ import annotations

from mailactors.dispatch.retry import Decision, StreamPolicy, decide_next
from mailactors.model.lifecycle import State
from mailactors.model.outcome import Accepted, Deferred, Outcome, Reason, Rejected, Scope
from mailactors.spool.port import Progress
from tests.dispatch.makers import NOW, make_lease

REASON = Reason("mailbox unavailable", 550)
UNSURE = Rejected(Scope.RECIPIENT, REASON, is_sure=False)
SURE = Rejected(Scope.RECIPIENT, REASON)
AT_ONCE = Deferred(Scope.RECIPIENT, Reason("too many recipients", 452), at_once=True)
PLAN = StreamPolicy(("primary", "secondary"))


def decide(
    outcome: Outcome, *, barred: tuple[str, ...] = (), lane: str = "primary", recipients: int = 1
) -> Decision:
    lease = make_lease(progress=Progress(barred=barred), recipients=recipients)
    return decide_next(lease, lease.recipients, lane, outcome, PLAN, NOW, 0.5)


def states(decision: Decision) -> list[State]:
    return [step.state for step in decision.steps]


def test_unsure_refusal_asks_the_next_lane_at_once() -> None:
    decision = decide(UNSURE)

    assert [State.LEASED] == states(decision)
    assert ("primary",) == decision.progress.barred


def test_unsure_refusal_bounces_when_each_lane_has_said_so() -> None:
    decision = decide(UNSURE, barred=("primary",), lane="secondary")

    assert [State.BOUNCED] == states(decision)
    assert "550 mailbox unavailable" == decision.steps[0].error


def test_message_that_each_lane_refused_has_failed_and_not_bounced() -> None:
    decision = decide(Rejected(Scope.MESSAGE, REASON), barred=("primary",), lane="secondary")

    assert [State.FAILED] == states(decision)


def test_sure_refusal_bounces_at_once_and_takes_no_unsure_one_with_it() -> None:
    lease = make_lease(recipients=2)
    (_, first), (_, second) = lease.recipients

    decision = decide(Accepted("42", {first: SURE, second: UNSURE}), recipients=2)

    assert [State.BOUNCED, State.LEASED] == states(decision)


def test_what_is_left_for_a_further_transaction_keeps_its_place() -> None:
    lease = make_lease(recipients=2)
    _, second = lease.recipients[1]

    decision = decide(Accepted("42", {second: AT_ONCE}), recipients=2)

    assert [State.SENT, State.LEASED] == states(decision)
    assert Progress() == decision.progress


def test_what_is_left_follows_a_lane_that_failed_meanwhile() -> None:
    lease = make_lease(recipients=2)
    _, second = lease.recipients[1]
    failed = Deferred(Scope.PROVIDER, REASON, refused={second: AT_ONCE})

    decision = decide(failed, recipients=2)

    assert [State.LEASED, State.LEASED] == states(decision)
    assert ("primary",) == decision.progress.tried
