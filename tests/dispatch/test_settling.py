"""How uncertain outcomes are settled: tables of facts and decisions."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from mailactors.dispatch.clocks import STEPS_MAX, ClockSteps
from mailactors.dispatch.retry import NextTry, Preference, StreamPolicy, decide_resend
from mailactors.dispatch.settling import (
    HELD_FOR_S,
    NO_PROVIDER,
    Conclude,
    DoubtAction,
    LookUp,
    Repeat,
    Wait,
    after_repeat_at,
    count_look,
    decide_doubt,
    decide_repeated,
    doubt_delay_s,
    first_at,
    key_until,
    next_at,
    settle_of,
    settle_of_look,
)
from mailactors.model.lifecycle import NEXT, State
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.port import Capabilities, Found, LookUpFailed, NotFound
from mailactors.spool.port import NEVER_AT, Doubt, LookUps, Progress, SettleDoubt, Step
from tests.dispatch.makers import NOW

HOUR_S = 3600.0
LAG_S = 20.0
REASON = Reason("because", 451)
KEYED = Capabilities(True, idempotency_window_s=HOUR_S)
ASKED = Capabilities(True, look_up_lag_s=LAG_S, work_max_s=0.0)
SLOW = Capabilities(True, look_up_lag_s=LAG_S, work_max_s=100.0)
BOTH = Capabilities(True, HOUR_S, LAG_S, work_max_s=0.0)
REPORTING = Capabilities(True, delivery_events=True)
KEYED_REPORTING = Capabilities(True, idempotency_window_s=HOUR_S, delivery_events=True)
SHORT = Capabilities(True, idempotency_window_s=30.0)
RESEND = StreamPolicy(("primary", "secondary"))
HOLD = StreamPolicy(("primary", "secondary"), on_uncertain=Preference.HOLD)
NO_STEPS = ClockSteps()


def make_doubt(**changes: Any) -> Doubt:
    """Return what has been uncertain since NOW."""
    doubt = Doubt(
        seq=1,
        id="m1",
        stream="mail",
        provider="primary",
        attempt_id="a1",
        recipients=((0, "a@x.example"), (1, "b@x.example")),
        recipients_total=2,
        epoch=1,
        attempts=1,
        accepted_at=NOW - 5,
        expires_at=NOW + 48 * HOUR_S,
        size_bytes=100,
        began_at=NOW - 1,
        since=NOW,
        ended_at=NOW,
    )
    return msgspec.structs.replace(doubt, **changes)


def decide(
    after_s: float,
    able: Capabilities = NO_PROVIDER,
    plan: StreamPolicy = RESEND,
    steps: ClockSteps = NO_STEPS,
    **changes: Any,
) -> DoubtAction:
    return decide_doubt(make_doubt(**changes), able, plan, steps, NOW + after_s)


def concluded(move: DoubtAction) -> tuple[State, bool]:
    assert isinstance(move, Conclude), move
    (state,) = {state for _, state in move.states}
    return state, move.is_risk


NEGATIVE = LookUps(count=1, negatives=1, negative_at=NOW + LAG_S, answered_at=NOW + LAG_S + 1)
FAILED = LookUps(count=1, failures=1)


@pytest.mark.parametrize(
    ("after_s", "able", "plan", "changes", "expected"),
    [
        # The vendor has no look-ups.
        (0, REPORTING, RESEND, {}, Wait(NOW + 60)),
        (60, REPORTING, RESEND, {}, (State.READY, True)),
        (60, REPORTING, HOLD, {}, (State.HELD, False)),
        (30, REPORTING, RESEND, {"expires_at": NOW + 45}, Wait(NOW + 45)),
        (45, REPORTING, RESEND, {"expires_at": NOW + 45}, (State.HELD, False)),
        # No evidence can come.
        (0, NO_PROVIDER, RESEND, {}, (State.READY, True)),
        (0, NO_PROVIDER, HOLD, {}, (State.HELD, False)),
        (45, NO_PROVIDER, RESEND, {"expires_at": NOW + 45}, (State.HELD, False)),
        (90, NO_PROVIDER, RESEND, {"is_held": True}, Wait(NEVER_AT)),
        # By key, to the end of the wait, at least once.
        (1, KEYED, RESEND, {}, Repeat(NOW - 1 + HOUR_S - 60)),
        (1, KEYED, RESEND, {"repeats": 1}, Repeat(NOW + 60)),
        (59.9, KEYED, RESEND, {"repeats": 5}, Repeat(NOW + 60)),
        (60, KEYED, RESEND, {"repeats": 5}, (State.READY, True)),
        (60, KEYED, RESEND, {"repeats": 0}, Repeat(NOW - 1 + HOUR_S - 60)),
        (60, KEYED, HOLD, {"repeats": 9}, Repeat(NOW - 1 + HOUR_S - 60)),
        (HOUR_S - 61, KEYED, HOLD, {"repeats": 9}, (State.HELD, False)),
        (HOUR_S, KEYED, RESEND, {"repeats": 0}, (State.READY, True)),
        (60, BOTH, HOLD, {"repeats": 9}, LookUp()),
        # Never by key what would not be identical, or may not go out any more.
        (1, KEYED, RESEND, {"is_whole": False}, (State.READY, True)),
        (1, KEYED, RESEND, {"is_suppressed": True}, (State.READY, True)),
        (1, KEYED_REPORTING, RESEND, {"is_whole": False}, Wait(NOW + 60)),
        (1, KEYED_REPORTING, RESEND, {"is_suppressed": True}, Wait(NOW + 60)),
        (28, SHORT, RESEND, {"repeats": 3}, (State.READY, True)),
        (1, BOTH, RESEND, {"is_suppressed": True}, Wait(NOW + LAG_S)),
        (30, KEYED, RESEND, {"expires_at": NOW + 30}, (State.HELD, False)),
        (10, KEYED, RESEND, {"is_held": True}, Wait(NEVER_AT)),
        # By look-up, after the lag; the second a lag after the first.
        (19.9, ASKED, RESEND, {}, Wait(NOW + LAG_S)),
        (20, ASKED, RESEND, {}, LookUp()),
        (500, ASKED, RESEND, {}, LookUp()),
        (30, ASKED, RESEND, {"looks": NEGATIVE}, Wait(NOW + 40)),
        (40, ASKED, RESEND, {"looks": NEGATIVE}, LookUp()),
        (900, ASKED, RESEND, {"looks": NEGATIVE}, LookUp()),
        (50, ASKED, RESEND, {"looks": LookUps(2, 0, 2)}, (State.READY, False)),
        (50, ASKED, HOLD, {"looks": LookUps(2, 0, 2)}, (State.READY, False)),
        (50, ASKED, RESEND, {"looks": LookUps(2, 0, 2), "is_held": True}, LookUp()),
        # Look-ups that fail leave it to the preference when the wait is over.
        (19.9, SLOW, RESEND, {}, Wait(NOW + LAG_S)),
        (20, SLOW, RESEND, {}, LookUp()),
        (21, SLOW, RESEND, {"looks": LookUps(1)}, Wait(NOW + 120)),
        (120, SLOW, RESEND, {"looks": LookUps(1)}, LookUp()),
        (79, ASKED, RESEND, {"looks": FAILED}, LookUp()),
        (80, ASKED, RESEND, {"looks": FAILED}, (State.READY, True)),
        (80, ASKED, HOLD, {"looks": FAILED}, (State.HELD, False)),
        (80, ASKED, RESEND, {"looks": msgspec.structs.replace(NEGATIVE, failures=1)}, LookUp()),
        (
            *(81, ASKED, RESEND),
            {"looks": msgspec.structs.replace(NEGATIVE, failures=1)},
            (State.READY, True),
        ),
        # Held: looked up, nothing sent; after a week no more.
        (900, ASKED, RESEND, {"is_held": True, "looks": FAILED}, LookUp()),
        (HELD_FOR_S, ASKED, RESEND, {"is_held": True}, Wait(NEVER_AT)),
        # Past the deadline.
        (30, ASKED, RESEND, {"expires_at": NOW + 30}, (State.HELD, False)),
        (31, ASKED, RESEND, {"expires_at": NOW + 30, "is_held": True}, LookUp()),
        (
            *(99, ASKED, RESEND),
            {"expires_at": NOW + 30, "is_held": True, "looks": LookUps(2, 0, 2)},
            (State.READY, False),
        ),
    ],
)
def test_a_doubt_is_decided_by_the_table(
    after_s: float,
    able: Capabilities,
    plan: StreamPolicy,
    changes: dict[str, Any],
    expected: DoubtAction | tuple[State, bool],
) -> None:
    move = decide(after_s, able, plan, **changes)

    assert expected == (concluded(move) if isinstance(expected, tuple) else move)


@pytest.mark.parametrize("able", [NO_PROVIDER, KEYED, ASKED, BOTH])
@pytest.mark.parametrize("is_held", [True, False])
def test_what_a_delivery_event_told_goes_before_all_else(able: Capabilities, is_held: bool) -> None:
    evidence = ((0, "delivered"), (1, "bounced"))

    move = decide(9 * HOUR_S, able, HOLD, evidence=evidence, is_held=is_held)

    assert isinstance(move, Conclude)
    assert ((0, State.SENT), (1, State.BOUNCED)) == move.states


def test_no_decision_leaves_the_table_or_sends_what_may_not_be_sent() -> None:
    looks = [LookUps(), FAILED, NEGATIVE, LookUps(2, 0, 2, NOW, NOW)]
    for able, plan, look, held, late, repeats in itertools.product(
        (NO_PROVIDER, REPORTING, KEYED, ASKED, BOTH), (RESEND, HOLD), looks, (0, 1), (0, 1), (0, 3)
    ):
        changes: dict[str, Any] = {"looks": look, "is_held": bool(held), "repeats": repeats}
        for after_s in (0.0, 30.0, 60.0, 81.0, HOUR_S, 30 * 24 * HOUR_S):
            expires_at = NOW + (0 if late else 1e9)
            move = decide(after_s, able, plan, expires_at=expires_at, **changes)
            before = State.HELD if held else State.UNCERTAIN
            if isinstance(move, Conclude):
                assert all(state in NEXT[before] for _, state in move.states)
                proven = look.negatives == 2
                assert not move.is_risk or (plan is RESEND and not late and not held)
                is_ready = any(state is State.READY for _, state in move.states)
                assert not is_ready or move.is_risk or proven
            assert not isinstance(move, Repeat) or not (late or held)
            assert not isinstance(move, LookUp) or able.look_up_lag_s is not None


@pytest.mark.parametrize(
    ("steps", "after_s", "able", "expected"),
    [
        (NO_STEPS.stepped(100, NOW + 101), 101, ASKED, Wait(NOW + 120)),
        (NO_STEPS.stepped(100, NOW + 101), 120, ASKED, LookUp()),
        (NO_STEPS.stepped(100, NOW - 1), 20, ASKED, LookUp()),
        (NO_STEPS.stepped(-HOUR_S, NOW + 1 - HOUR_S), 1, KEYED_REPORTING, Wait(NOW + 60)),
        (NO_STEPS.stepped(-HOUR_S, NOW - 2 - HOUR_S), 1, KEYED, Repeat(NOW - 1 + HOUR_S - 60)),
    ],
)
def test_a_clock_that_was_set_is_trusted_that_much_less(
    steps: ClockSteps, after_s: float, able: Capabilities, expected: DoubtAction
) -> None:
    assert expected == decide(after_s, able, steps=steps)


def test_of_many_steps_none_is_forgotten() -> None:
    steps = NO_STEPS
    for n in range(1, 201):
        steps = steps.stepped(2.0, NOW + 10 * n).stepped(-1.0, NOW + 10 * n)

    assert (STEPS_MAX, STEPS_MAX) == (len(steps.forward), len(steps.backward))
    assert (400.0, 200.0) == (steps.forward_s(NOW), steps.backward_s(NOW))
    assert (2.0, 1.0) == (steps.forward_s(NOW + 1_995), steps.backward_s(NOW + 1_995))
    assert (0.0, 0.0) == (steps.forward_s(NOW + 2_002), steps.backward_s(NOW + 2_002))


def test_the_window_is_left_in_time() -> None:
    short = Capabilities(True, idempotency_window_s=100.0)

    assert NOW - 1 + 90 == key_until(make_doubt(), short, HOLD, NO_STEPS)


# Look-ups


@pytest.mark.parametrize(
    ("sighting", "asked_s", "expected"),
    [
        (Found("42"), 20.0, LookUps(4, 0, 1, 7.0, NOW + 30)),
        (NotFound(), 20.0, LookUps(4, 0, 2, NOW + 20, NOW + 30)),
        (NotFound(), 19.9, LookUps(4, 0, 1, 7.0, NOW + 30)),
        (LookUpFailed(REASON), 20.0, LookUps(4, 3, 1, 7.0, 8.0)),
    ],
)
def test_look_ups_are_counted(sighting: Any, asked_s: float, expected: LookUps) -> None:
    before = LookUps(3, 2, 1, 7.0, 8.0)

    assert expected == count_look(before, sighting, NOW + asked_s, NOW + LAG_S, NOW + 30)


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("at", [NOW + 50, NEVER_AT])
def test_a_look_up_is_recorded_with_what_it_found(at: float, is_held: bool) -> None:
    doubt, looks = make_doubt(is_held=is_held), LookUps(1, 0, 1)
    stays = State.HELD if is_held else State.UNCERTAIN

    found = settle_of_look(doubt, Found("42"), looks, NOW, at)
    nothing = settle_of_look(doubt, NotFound(), looks, NOW, at)
    failed = settle_of_look(doubt, LookUpFailed(REASON), looks, NOW, at)

    assert {State.SENT} == {step.state for step in found.steps}
    assert ("42", 1, "primary") == tuple(
        found.facts[name] for name in ("provider_message_id", "looks", "provider")
    )
    for resolve in (nothing, failed):
        assert {stays} == {step.state for step in resolve.steps}
        assert (at, "a1", looks) == (resolve.next_at, resolve.attempt_id, resolve.looks)
        assert all(step.due_at < NEVER_AT for step in resolve.steps)
    assert "451 because" in failed.rule


# Repetitions


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Accepted("42"), (State.SENT, State.SENT)),
        (
            Accepted("42", {"b@x.example": Rejected(Scope.RECIPIENT, REASON)}),
            (State.SENT, State.BOUNCED),
        ),
        (
            Accepted("42", {"b@x.example": Deferred(Scope.RECIPIENT, REASON)}),
            (State.SENT, State.UNCERTAIN),
        ),
        *(
            (each, (State.UNCERTAIN, State.UNCERTAIN))
            for each in (
                *(Deferred(scope, REASON) for scope in Scope),
                *(Rejected(scope, REASON) for scope in Scope),
                Deferred(Scope.PROVIDER, REASON, 5.0, throttled=True),
                Uncertain(Phase.FINAL, REASON),
                Uncertain(Phase.FINAL, REASON, {"b@x.example": Rejected(Scope.RECIPIENT, REASON)}),
                *(NotAttempted(why) for why in Why),
            )
        ),
    ],
)
def test_only_an_acceptance_settles_a_repetition(
    outcome: Outcome, expected: tuple[State, ...]
) -> None:
    steps, rule = decide_repeated(make_doubt(), outcome, NOW + 5)

    assert expected == tuple(step.state for step in steps)
    assert rule


# Times


@pytest.mark.parametrize(
    ("able", "plan", "expected_s"),
    [
        (NO_PROVIDER, RESEND, 0),
        (REPORTING, RESEND, 60),
        (KEYED, RESEND, 1),
        (ASKED, HOLD, 20),
        (BOTH, HOLD, 1),
    ],
)
def test_the_first_look_comes_when_there_is_something_to_see(
    able: Capabilities, plan: StreamPolicy, expected_s: float
) -> None:
    assert NOW + expected_s == first_at(able, plan, NOW)


def test_a_long_lag_is_waited_for_though_the_streams_wait_is_over() -> None:
    slow = Capabilities(True, look_up_lag_s=600.0)

    assert NOW + 600 == first_at(slow, RESEND, NOW)
    assert Wait(NOW + 600) == decide(60, slow)


def test_the_next_try_is_no_later_than_the_next_turn_of_something_else() -> None:
    doubt = make_doubt(repeats=3, expires_at=NOW + 500)

    at = [next_at(doubt, KEYED, RESEND, NO_STEPS, NOW + s, 300.0) for s in (10, 70, 300)]

    assert [NOW + 60, NOW + 370, NOW + 500] == at


def test_repetitions_become_rarer_up_to_a_cap() -> None:
    delays = [doubt_delay_s(tries, 0.5) for tries in range(20)]
    spread = {doubt_delay_s(3, draw / 100) for draw in range(100)}

    assert delays == sorted(delays)
    assert (1.0, 300.0) == (delays[0], delays[-1])
    assert min(spread) == 6.0
    assert max(spread) == pytest.approx(10.0, abs=0.1)


def test_each_try_in_vain_is_counted() -> None:
    doubt = make_doubt(repeats=2)

    assert NOW + 30 + 8 == after_repeat_at(doubt, KEYED, RESEND, NOW + 30, 0.5)


def test_a_conclusion_says_how_it_was_come_by() -> None:
    doubt = make_doubt(repeats=2, looks=LookUps(2, 0, 2))
    move = decide_doubt(doubt, ASKED, RESEND, NO_STEPS, NOW + 90)
    assert isinstance(move, Conclude)

    resolve = settle_of(doubt, move, NOW + 90, NEVER_AT)

    assert (False, None, "a1") == (resolve.is_risk, resolve.next_at, resolve.attempt_id)
    assert ("look-up", "primary", 2, 2) == tuple(
        resolve.facts[name] for name in ("kind", "provider", "looks", "repeats")
    )


# Where to


def resent(after: NextTry) -> SettleDoubt:
    doubt = make_doubt()
    move = decide_doubt(doubt, NO_PROVIDER, RESEND, NO_STEPS, NOW)
    assert isinstance(move, Conclude)
    return settle_of(doubt, move, NOW, NEVER_AT, after)


def test_what_is_resent_goes_at_once_to_a_lane_that_has_not_had_it() -> None:
    command = resent(decide_resend(Progress(), "primary", RESEND, 0.5))

    assert {Step(0, State.READY, NOW), Step(1, State.READY, NOW)} == set(command.steps)
    assert (Progress(tried=("primary",)), True) == (command.progress, command.is_risk)


@pytest.mark.parametrize(
    ("progress", "lane", "plan", "wait_s"),
    [
        (Progress(tried=("primary",)), "secondary", RESEND, 1.0),
        (Progress(3, ("primary",)), "secondary", RESEND, 10.0),
        (Progress(1, (), ("secondary",)), "primary", RESEND, 1.0),
        (Progress(), "primary", StreamPolicy(("primary",)), 1.0),
    ],
)
def test_where_every_lane_had_it_the_next_round_waits(
    progress: Progress, lane: str, plan: StreamPolicy, wait_s: float
) -> None:
    command = resent(decide_resend(progress, lane, plan, 0.5))

    assert {Step(n, State.DEFERRED, NOW + wait_s) for n in (0, 1)} == set(command.steps)
    assert command.progress == Progress(progress.round + 1, (), progress.barred)
    assert command.is_risk
