"""When and where a message is tried next: the table, every pair, and whole lives."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.dispatch.retry import (
    RECIPIENT_WAIT_MIN_S,
    RETRY_AFTER_JITTER,
    TABLE,
    TAIL_BASE_S,
    TAIL_CAP_S,
    THROTTLES_MAX,
    Decision,
    Failover,
    StreamPolicy,
    candidates,
    decide_next,
    decide_onward,
    outcome_word,
    retry_delay_s,
)
from mailactors.dispatch.waits import LAST_TRY_S
from mailactors.model.lifecycle import FINAL, NEXT, State
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.spool.port import Lease, Progress
from tests.dispatch.makers import NOW, make_lease

ROUTE = ("primary", "secondary", "tertiary")
REASON = Reason("because", 451)
LAST_DRAW = 1.0 - 2.0**-53
"""The largest number that a draw can be."""

PROVIDER_DOWN = Deferred(Scope.PROVIDER, REASON)
TOO_FAST = Deferred(Scope.PROVIDER, REASON, throttled=True)
REFUSED_MESSAGE = Rejected(Scope.MESSAGE, REASON)
LOST = Uncertain(Phase.FINAL, REASON)
OUTCOMES: dict[str, Outcome] = {
    "accepted": Accepted("42"),
    "uncertain": LOST,
    "throttled": TOO_FAST,
    **{f"deferred-{scope.value}": Deferred(scope, REASON) for scope in Scope},
    **{f"rejected-{scope.value}": Rejected(scope, REASON) for scope in Scope},
}
RECIPIENT_SCOPES = {Scope.RECIPIENT, Scope.DOMAIN}

PROGRESSES = {
    "first": Progress(),
    "later-round": Progress(round=3),
    "tail": Progress(round=9),
    "second-lane": Progress(tried=("primary",)),
    "last-lane": Progress(tried=("primary", "secondary")),
    "one-barred": Progress(barred=("primary",)),
    "one-left": Progress(barred=("primary", "secondary")),
    "tried-and-barred": Progress(tried=("primary",), barred=("secondary",)),
    "greylisted": Progress(round=2, prefer="secondary"),
    "retrying": Progress(lane_tries=2, prefer="primary"),
    "retried-out": Progress(lane_tries=len(TABLE), prefer="primary"),
    "last-lane-retried-out": Progress(tried=("primary", "secondary"), lane_tries=len(TABLE)),
}


def plan_of(failover: Failover = Failover.IMMEDIATE) -> StreamPolicy:
    return StreamPolicy(ROUTE, failover)


def decide(
    outcome: Outcome,
    progress: Progress | None = None,
    plan: StreamPolicy | None = None,
    *,
    lane: str | None = None,
    recipients: int = 1,
    draw: float = 0.5,
) -> Decision:
    plan = plan or plan_of()
    lease = make_lease(progress=progress, recipients=recipients)
    lane = lane or candidates(plan, lease.progress)[0]
    return decide_next(lease, lease.recipients, lane, outcome, plan, NOW, draw)


# The table


@pytest.mark.parametrize("draw", [0.0, 0.5, LAST_DRAW])
def test_delays_stay_in_bounds_up_to_round_10_000(draw: float) -> None:
    rows = {row.round: (row.delay_s, row.wait_max_s) for row in TABLE}

    delays_s = {number: retry_delay_s(number, draw) for number in range(1, 10_001)}

    for number, wait_s in delays_s.items():
        tail = (0.0, min(TAIL_CAP_S, TAIL_BASE_S * 2 ** min(number - len(TABLE) - 1, 60)))
        low, high = rows.get(number, tail)
        assert low <= wait_s <= high


def test_the_table_is_the_one_that_the_design_promises() -> None:
    expected = [(1, 1.0, 1.0), (2, 2.0, 4.0), (3, 4.0, 16.0), (4, 8.0, 32.0)]

    actual = [(row.round, row.delay_s, row.wait_max_s) for row in TABLE]

    assert expected == actual


def test_the_tail_doubles_from_its_base_to_its_cap() -> None:
    bounds_s = [round(retry_delay_s(number, LAST_DRAW)) for number in range(5, 11)]

    assert [64, 128, 256, 512, 600, 600] == bounds_s


# Every pair


@pytest.mark.parametrize("progress", PROGRESSES.values(), ids=PROGRESSES)
@pytest.mark.parametrize("failover", Failover)
@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_each_outcome_leads_to_a_legal_step_and_never_to_nowhere(
    outcome: Outcome, failover: Failover, progress: Progress
) -> None:
    plan = plan_of(failover)

    decision = decide(outcome, progress, plan)

    (step,) = decision.steps
    assert step.state in NEXT[State.SENDING]
    assert (step.state is State.UNCERTAIN) == isinstance(outcome, Uncertain)
    assert (step.state is State.SENT) == isinstance(outcome, Accepted)
    if step.state is State.LEASED or step.state is State.DEFERRED:
        assert candidates(plan, decision.progress)
    if step.state is State.FAILED:
        assert {*progress.barred, "tertiary"} == set(plan.route)
    if step.state in {State.DEFERRED, State.UNCERTAIN}:
        assert step.due_at >= NOW
    assert bool(step.error) == (step.state is not State.SENT)
    assert decision.rule


@pytest.mark.parametrize("progress", PROGRESSES.values(), ids=PROGRESSES)
@pytest.mark.parametrize("failover", Failover)
@pytest.mark.parametrize("scope", [Scope.RECIPIENT, Scope.DOMAIN])
def test_what_is_the_recipients_own_never_fails_over(
    scope: Scope, failover: Failover, progress: Progress
) -> None:
    plan = plan_of(failover)
    lane = candidates(plan, progress)[0]

    deferred = decide(Deferred(scope, REASON), progress, plan, lane=lane)
    rejected = decide(Rejected(scope, REASON), progress, plan, lane=lane)

    assert State.DEFERRED is deferred.steps[0].state
    assert deferred.steps[0].due_at >= NOW + RECIPIENT_WAIT_MIN_S
    assert lane == candidates(plan, deferred.progress)[0]
    assert progress.round + 1 == deferred.progress.round
    assert State.BOUNCED is rejected.steps[0].state
    assert progress == rejected.progress


@pytest.mark.parametrize("progress", PROGRESSES.values(), ids=PROGRESSES)
@pytest.mark.parametrize("failover", Failover)
def test_a_throttled_message_keeps_its_place(failover: Failover, progress: Progress) -> None:
    decision = decide(TOO_FAST, progress, plan_of(failover))

    assert State.LEASED is decision.steps[0].state
    assert msgspec.structs.replace(progress, throttles=1) == decision.progress


def test_a_message_that_is_throttled_too_often_gives_up_its_place() -> None:
    progress, places = Progress(), list[State]()
    for _ in range(THROTTLES_MAX):
        decision = decide(TOO_FAST, progress, plan_of(Failover.IMMEDIATE))
        progress = decision.progress
        places.append(decision.steps[0].state)

    assert [State.LEASED] * THROTTLES_MAX == places
    assert (ROUTE[:1], 0) == (progress.tried, progress.throttles)


@pytest.mark.parametrize("failover", Failover)
def test_one_with_an_own_limit_takes_the_next_lane_and_waits_after_the_last(
    failover: Failover,
) -> None:
    lease, plan = make_lease(), plan_of(failover)
    asked = msgspec.structs.replace(TOO_FAST, retry_after_s=900.0)
    steps = []
    for lane in ROUTE:
        decision = decide_next(
            lease, lease.recipients, lane, asked, plan, NOW, 0.5, is_own_limit=True
        )
        lease = msgspec.structs.replace(lease, progress=decision.progress)
        steps.append(decision.steps[0])

    assert [State.LEASED, State.LEASED, State.DEFERRED] == [step.state for step in steps]
    assert NOW + 900.0 <= steps[-1].due_at
    assert 1 < lease.progress.round


@pytest.mark.parametrize("progress", PROGRESSES.values(), ids=PROGRESSES)
@pytest.mark.parametrize("failover", Failover)
def test_an_uncertain_message_waits_and_does_not_fail_over(
    failover: Failover, progress: Progress
) -> None:
    plan = StreamPolicy(ROUTE, failover, uncertain_wait_s=7.0)

    decision = decide(LOST, progress, plan)

    assert (State.UNCERTAIN, NOW + 7.0) == (decision.steps[0].state, decision.steps[0].due_at)
    assert NOW + 7.0 == decision.next_doubt_at
    assert decision.next_due_at is None
    assert progress == decision.progress


@pytest.mark.parametrize("failover", Failover)
def test_what_was_not_attempted_has_nothing_to_decide_on(failover: Failover) -> None:
    with pytest.raises(AssertionError):
        decide(NotAttempted(Why.LIMITER), plan=plan_of(failover))


# The way along the route


def follow(
    outcome: Outcome, plan: StreamPolicy, steps_max: int
) -> list[tuple[str, State, float, Progress]]:
    """Walk on with the same outcome each time: (lane, state, wait, progress) of each attempt."""
    progress, walk = Progress(), []
    for _ in range(steps_max):
        lane = candidates(plan, progress)[0]
        decision = decide(outcome, progress, plan)
        (step,), progress = decision.steps, decision.progress
        walk.append((lane, step.state, step.due_at - NOW, progress))
        if step.state in FINAL:
            break
    return walk


def test_a_failing_provider_hands_on_along_the_route_and_then_the_round_is_over() -> None:
    walk = follow(PROVIDER_DOWN, plan_of(), 6)

    leased, deferred = State.LEASED, State.DEFERRED
    expected = [
        ("primary", leased, 0.0, 1),
        ("secondary", leased, 0.0, 1),
        ("tertiary", deferred, retry_delay_s(1, 0.5), 2),
        ("primary", leased, 0.0, 2),
        ("secondary", leased, 0.0, 2),
        ("tertiary", deferred, retry_delay_s(2, 0.5), 3),
    ]
    assert expected == [(lane, state, wait_s, p.round) for lane, state, wait_s, p in walk]


@pytest.mark.parametrize("failover", Failover)
def test_a_refused_message_asks_each_lane_exactly_once_and_fails(failover: Failover) -> None:
    walk = follow(REFUSED_MESSAGE, plan_of(failover), 10)

    assert list(ROUTE) == [lane for lane, *_ in walk]
    assert [State.LEASED, State.LEASED, State.FAILED] == [state for _, state, *_ in walk]


@pytest.mark.parametrize("failover", Failover)
def test_a_lane_that_refused_the_message_is_left_out_of_later_rounds(failover: Failover) -> None:
    plan = plan_of(failover)
    refused = decide(REFUSED_MESSAGE, plan=plan).progress

    lanes, progress = set(), refused
    for _ in range(40):
        lanes.add(candidates(plan, progress)[0])
        progress = decide(PROVIDER_DOWN, progress, plan).progress

    assert {"secondary", "tertiary"} == lanes


def test_after_retries_walks_the_table_on_each_provider_and_then_the_tail() -> None:
    walk = follow(PROVIDER_DOWN, plan_of(Failover.AFTER_RETRIES), 15)

    table = [(State.DEFERRED, retry_delay_s(number, 0.5)) for number in (1, 2, 3, 4)]
    next_lane, tail = (State.LEASED, 0.0), (State.DEFERRED, retry_delay_s(5, 0.5))
    expected = [*table, next_lane, *table, next_lane, *table, tail]
    lanes = ["primary"] * 5 + ["secondary"] * 5 + ["tertiary"] * 5
    assert expected == [(state, wait_s) for _, state, wait_s, _ in walk]
    assert lanes == [lane for lane, *_ in walk]
    assert Progress(round=6) == walk[-1][3]


def test_after_a_greylisting_the_same_provider_is_asked_first() -> None:
    progress = Progress(tried=("primary",))

    decision = decide(Deferred(Scope.RECIPIENT, REASON), progress, lane="secondary")

    expected = ("secondary", "primary", "tertiary")
    assert expected == candidates(plan_of(), decision.progress)


def test_a_lane_that_was_tried_is_asked_again_only_when_a_reload_left_no_other() -> None:
    progress = Progress(tried=("primary",))

    before = candidates(StreamPolicy(("primary", "secondary")), progress)
    after = candidates(StreamPolicy(("primary",)), progress)

    assert (("secondary",), ("primary",)) == (before, after)


# Several recipients, one answer each


def test_mixed_recipients_each_go_their_own_way() -> None:
    refused: dict[str, Refusal] = {
        "r1@x.example": Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1")),
        "r2@x.example": Deferred(Scope.RECIPIENT, Reason("mailbox busy", 450)),
    }

    decision = decide(Accepted("42", refused), recipients=3)

    expected = [State.SENT, State.BOUNCED, State.DEFERRED]
    assert expected == [step.state for step in decision.steps]
    assert ["", "550 5.1.1 no such user", "450 mailbox busy"] == [s.error for s in decision.steps]
    assert NOW + RECIPIENT_WAIT_MIN_S == decision.next_due_at
    assert Progress(round=2, prefer="primary") == decision.progress


def test_a_deferred_recipient_does_not_hold_back_one_that_another_lane_may_take() -> None:
    refused: dict[str, Refusal] = {"r1@x.example": Deferred(Scope.RECIPIENT, REASON)}

    decision = decide(Deferred(Scope.PROVIDER, REASON, refused=refused), recipients=2)

    assert [State.LEASED, State.DEFERRED] == [step.state for step in decision.steps]
    assert Progress(tried=("primary",)) == decision.progress


def test_recipients_refused_beside_an_uncertain_end_are_not_uncertain() -> None:
    refused: dict[str, Refusal] = {"r1@x.example": Rejected(Scope.RECIPIENT, REASON)}

    decision = decide(Uncertain(Phase.FINAL, REASON, refused), recipients=2)

    assert [State.UNCERTAIN, State.BOUNCED] == [step.state for step in decision.steps]


PARTS: list[Refusal] = [o for o in OUTCOMES.values() if isinstance(o, Deferred | Rejected)]


@pytest.mark.parametrize("failover", Failover)
@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("parts", list(itertools.combinations(PARTS, 2)), ids=lambda _: "")
def test_every_mixture_gives_each_recipient_one_legal_step_by_its_own_answer(
    parts: tuple[Refusal, Refusal], name: str, failover: Failover
) -> None:
    refused = {f"r{n + 1}@x.example": part for n, part in enumerate(parts)}
    whole = OUTCOMES[name]
    assert not isinstance(whole, NotAttempted)
    outcome = msgspec.structs.replace(whole, refused=refused)

    decision = decide(outcome, plan=plan_of(failover), recipients=3)

    assert [0, 1, 2] == [step.n for step in decision.steps]
    for step, own in zip(decision.steps, (whole, *parts), strict=True):
        assert step.state in NEXT[State.SENDING]
        assert (step.state is State.SENT) == isinstance(own, Accepted)
        assert (step.state is State.UNCERTAIN) == isinstance(own, Uncertain)
        is_own = isinstance(own, Deferred | Rejected) and own.scope in RECIPIENT_SCOPES
        assert (step.state is State.BOUNCED) == (is_own and isinstance(own, Rejected))


@pytest.mark.parametrize(("asked_s", "least_s"), [(None, 60.0), (5.0, 60.0), (300.0, 300.0)])
def test_retry_after_is_a_lower_bound_for_a_recipient(
    asked_s: float | None, least_s: float
) -> None:
    decision = decide(Deferred(Scope.RECIPIENT, REASON, retry_after_s=asked_s))

    assert NOW + least_s <= decision.steps[0].due_at <= NOW + least_s * (1 + RETRY_AFTER_JITTER)


def test_every_outcome_has_a_word() -> None:
    words = {outcome_word(outcome) for outcome in (*OUTCOMES.values(), NotAttempted(Why.LIMITER))}

    expected = {"accepted", "uncertain", "throttled", "deferred", "rejected", "not attempted"}
    assert expected == words


def test_a_deferred_delivery_is_not_barred_by_refusals_of_another() -> None:
    parts: dict[str, Refusal] = {
        "a@example.com": REFUSED_MESSAGE,
        "b@example.com": Deferred(Scope.DOMAIN, REASON),
    }
    recipients = tuple(enumerate(parts))
    lease = msgspec.structs.replace(
        make_lease(progress=Progress(barred=ROUTE[:-1]), recipients=2), recipients=recipients
    )

    outcome = Accepted("42", parts)
    decision = decide_next(lease, recipients, ROUTE[-1], outcome, plan_of(), NOW, 0.5)

    assert [State.FAILED, State.DEFERRED] == [step.state for step in decision.steps]
    assert ROUTE == candidates(plan_of(), decision.progress)


# Whole lives


class Life:
    """A message of several recipients, driven by decisions alone until it is final or held."""

    def __init__(self, plan: StreamPolicy, recipients: int, chance: random.Random) -> None:
        self.plan = plan
        self.chance = chance
        self.now = NOW
        self.progress = Progress()
        self.states = dict.fromkeys(range(recipients), State.READY)
        self.due = dict.fromkeys(range(recipients), NOW)
        self.round_lanes: dict[int, list[str]] = {}

    def attempt(self, ns: list[int], outcomes: list[Outcome]) -> list[int]:
        """Make one attempt for some deliveries; return those that go on at once."""
        lanes = candidates(self.plan, self.progress)
        assert lanes
        lease = self._lease(ns)
        outcome = self._outcome(lease, outcomes)
        self._note(lanes[0], outcome)
        draw = self.chance.random()
        decision = decide_next(
            lease, lease.recipients, lanes[0], outcome, self.plan, self.now, draw
        )
        assert decision.progress.round >= self.progress.round
        refusing = {*self.progress.barred, lanes[0]}
        has_failed = any(step.state is State.FAILED for step in decision.steps)
        assert set(decision.progress.barred) <= refusing
        assert has_failed or set(self.progress.barred) <= set(decision.progress.barred)
        assert not has_failed or set(self.plan.route) <= refusing
        self.progress = decision.progress
        for step in decision.steps:
            assert step.state in NEXT[State.SENDING]
            self.states[step.n], self.due[step.n] = step.state, step.due_at
            if step.state in {State.DEFERRED, State.UNCERTAIN}:
                assert step.due_at >= self.now
        return [step.n for step in decision.steps if step.state is State.LEASED]

    def wait(self) -> list[int]:
        """Go to the earliest due time; return the deliveries that are due then."""
        waiting = {n for n, state in self.states.items() if state not in FINAL}
        if not waiting:
            return []
        self.now = max(self.now, min(self.due[n] for n in waiting))
        due = sorted(n for n in waiting if self.due[n] <= self.now)
        for n in due:
            if self.states[n] is State.UNCERTAIN:
                self.states[n] = State.READY  # as the stream prefers
        return due

    def _lease(self, ns: list[int]) -> Lease:
        return make_lease_of(ns, self.progress)

    def _outcome(self, lease: Lease, outcomes: list[Outcome]) -> Outcome:
        whole = self.chance.choice(outcomes)
        if isinstance(whole, Accepted) and self.chance.random() < 0.5:
            refused = {a: self.chance.choice(PARTS) for _, a in lease.recipients[1:]}
            return Accepted("42", refused)
        return whole

    def _note(self, lane: str, outcome: Outcome) -> None:
        is_failed = isinstance(outcome, Deferred) and outcome.scope is Scope.PROVIDER
        if is_failed and not (isinstance(outcome, Deferred) and outcome.throttled):
            self.round_lanes.setdefault(self.progress.round, []).append(lane)


def make_lease_of(ns: list[int], progress: Progress) -> Lease:
    whole = make_lease(progress=progress, recipients=max(ns) + 1)
    recipients = tuple(each for each in whole.recipients if each[0] in ns)
    return msgspec.structs.replace(whole, recipients=recipients)


@given(
    seed=st.integers(0, 2**32),
    failover=st.sampled_from(Failover),
    route_length=st.integers(1, 3),
    recipients=st.integers(1, 3),
    kinds=st.sets(st.sampled_from(sorted(OUTCOMES)), min_size=1),
)
@settings(deadline=None, max_examples=150)
def test_a_message_lives_until_it_is_final_or_waits_for_a_time_to_come(
    seed: int, failover: Failover, route_length: int, recipients: int, kinds: set[str]
) -> None:
    plan = StreamPolicy(ROUTE[:route_length], failover)
    life = Life(plan, recipients, random.Random(seed))
    outcomes = [OUTCOMES[kind] for kind in sorted(kinds)]

    attempts, ns = 0, list(range(recipients))
    while ns and attempts < 120:
        attempts += 1
        ns = life.attempt(ns, outcomes) or life.wait()

    tries_max = 1 if failover is Failover.IMMEDIATE else len(TABLE) + 1
    assert life.progress.round <= attempts + len(TABLE) + 1
    assert 0 <= life.progress.lane_tries <= len(TABLE)
    for lanes in life.round_lanes.values():
        assert max(lanes.count(lane) for lane in lanes) <= tries_max
    if not ns:
        assert set(life.states.values()) <= FINAL


@pytest.mark.parametrize("failover", Failover)
def test_48_hours_of_outage_cost_a_bounded_number_of_attempts(failover: Failover) -> None:
    plan, life = plan_of(failover), Life(plan_of(failover), 1, random.Random(1))

    attempts, ns = 0, [0]
    while life.now < NOW + 172_800.0:
        attempts += 1
        ns = life.attempt(ns, [PROVIDER_DOWN]) or life.wait()

    assert 100 < attempts / len(plan.route) < 5000


THROTTLED_BESIDE = [PROVIDER_DOWN, REFUSED_MESSAGE, Rejected(Scope.PROVIDER, REASON)]


@pytest.mark.parametrize("other", THROTTLED_BESIDE, ids=["down", "refused", "refuses-us"])
@pytest.mark.parametrize("failover", Failover)
def test_one_throttled_recipient_does_not_keep_the_others_on_the_lane(
    other: Outcome, failover: Failover
) -> None:
    found = decide_onward(Progress(), "primary", [TOO_FAST, other], plan_of(failover), 0.5)

    assert "throttled" not in found.rule
    assert Progress() != found.progress


@pytest.mark.parametrize("other", [PROVIDER_DOWN, TOO_FAST], ids=["down", "throttled"])
@pytest.mark.parametrize("failover", Failover)
def test_one_refused_recipient_bars_the_lane_for_no_other(
    other: Outcome, failover: Failover
) -> None:
    found = decide_onward(Progress(), "primary", [REFUSED_MESSAGE, other], plan_of(failover), 0.5)

    assert () == found.progress.barred
    assert State.FAILED is not found.state


# The deadline


@pytest.mark.parametrize("left_s", [30.0, 300.0, 1000.0, 86_400.0])
@pytest.mark.parametrize("is_own_limit", [False, True])
@pytest.mark.parametrize(
    "outcome",
    [
        Deferred(Scope.PROVIDER, REASON, 3600.0, throttled=True),
        Deferred(Scope.RECIPIENT, REASON, 999_999.0),
        Deferred(Scope.DOMAIN, REASON),
        PROVIDER_DOWN,
    ],
    ids=["throttled", "recipient-asks", "domain", "provider"],
)
def test_no_wait_leaves_a_message_without_a_last_try(
    outcome: Outcome, is_own_limit: bool, left_s: float
) -> None:
    progress = Progress(round=9, tried=("primary", "secondary"), throttles=THROTTLES_MAX)
    lease = msgspec.structs.replace(make_lease(progress=progress), expires_at=NOW + left_s)
    recipients = lease.recipients
    plan = StreamPolicy(ROUTE)

    decision = decide_next(
        lease, recipients, "tertiary", outcome, plan, NOW, LAST_DRAW, is_own_limit=is_own_limit
    )

    (step,) = decision.steps
    assert State.DEFERRED is step.state
    assert step.due_at is not None
    assert NOW < step.due_at <= NOW + left_s - min(LAST_TRY_S, left_s / 2)
