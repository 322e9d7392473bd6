"""Why a lane does not take a message now: every state of a lane, and each rule of a route."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mailactors.dispatch.attempt import PassedOver
from mailactors.dispatch.lane import BreakerState, BreakerStatus, Lane, LearntPace, LimiterStatus
from mailactors.dispatch.passing import (
    FOREVER_S,
    Closed,
    LaneState,
    closed_because,
    lane_states,
    passed_over,
)
from mailactors.dispatch.retry import StreamPolicy
from mailactors.spool.port import Progress
from tests.dispatch.makers import NOW, make_attempt, make_lane, make_lease

NOW_S = 1000.0
PLAN = StreamPolicy(("primary", "secondary", "tertiary"))
OPEN = BreakerStatus(BreakerState.OPEN, until_s=NOW_S + 5.0)
LATER = LimiterStatus(next_permit_s=NOW_S + 2.0)
PACE = LearntPace(1.0, 2.0, 0.0, 0.0, 60.0)


def breaker(state: BreakerState, until_s: float = 0.0) -> Callable[[Lane], None]:
    return lambda lane: lane.breaker_status.publish(BreakerStatus(state, until_s=until_s))


def limiter(**status: object) -> Callable[[Lane], None]:
    return lambda lane: lane.limiter_status.publish(
        msgspec.structs.replace(LimiterStatus(), **status)
    )


def also(*steps: Callable[[Lane], None]) -> Callable[[Lane], None]:
    def all_of(lane: Lane) -> None:
        for step in steps:
            step(lane)

    return all_of


def having(**fields: object) -> Callable[[Lane], None]:
    def set_fields(lane: Lane) -> None:
        for name, value in fields.items():
            setattr(lane, name, value)

    return set_fields


def fly(count: int) -> Callable[[Lane], None]:
    def offer(lane: Lane) -> None:
        lane.opens_at_s()  # so that what follows is since the published states
        for number in range(count):
            make_attempt(lane, number)
        lane.offered += count

    return offer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (having(), None),
        (breaker(BreakerState.OPEN, NOW_S - 1.0), None),
        (
            breaker(BreakerState.HALF_OPEN),
            Closed("breaker half open, its probes under way", FOREVER_S, True),
        ),
        (breaker(BreakerState.OPEN, NOW_S + 5.0), Closed("breaker open", NOW_S + 5.0, True)),
        (
            also(breaker(BreakerState.OPEN, NOW_S - 1.0), fly(1)),
            Closed("breaker open, a probe under way", FOREVER_S, True),
        ),
        (
            breaker(BreakerState.DISABLED, NOW_S + 900.0),
            Closed("it refuses us as such", NOW_S + 900.0, True),
        ),
        (
            also(having(is_paused=True), limiter(next_permit_s=FOREVER_S, is_paused=True)),
            Closed("paused by an operator"),
        ),
        (having(is_retired=True), Closed("not configured any more")),
        (
            having(short_until_s=NOW_S + 1.0),
            Closed("this process lacks a resource for it", NOW_S + 1.0),
        ),
        (
            limiter(next_permit_s=NOW_S + 2.0),
            Closed("no permit left of its quota", NOW_S + 2.0),
        ),
        (
            limiter(next_permit_s=NOW_S + 2.0, learnt=PACE),
            Closed("no permit at the pace learnt of it", NOW_S + 2.0),
        ),
        (
            also(having(asked_until_s=NOW_S + 60.0), limiter(next_permit_s=NOW_S + 60.0)),
            Closed("it asked us to wait", NOW_S + 60.0),
        ),
        (fly(8), Closed("no free slot")),
        (also(limiter(permits=1), fly(1)), Closed("its permits are taken")),
        (
            lambda lane: lane.block(NOW_S + 3.0),
            Closed("it refused an attempt a moment before", NOW_S + 3.0),
        ),
    ],
)
def test_every_state_of_a_lane_has_its_reason(
    given: Callable[[Lane], None], expected: Closed | None
) -> None:
    lane = make_lane()
    given(lane)

    assert expected == closed_because(lane, NOW_S)


def three(**given: Callable[[Lane], None]) -> dict[str, Lane]:
    lanes = {name: make_lane(name) for name in PLAN.route}
    for name, step in given.items():
        step(lanes[name])
    return lanes


def test_the_first_lane_passes_over_none() -> None:
    assert () == passed_over(make_lease(), "primary", PLAN, three(), NOW_S, NOW)


def test_each_lane_before_the_chosen_one_has_its_reason_and_time() -> None:
    lanes = three(primary=breaker(BreakerState.OPEN, NOW_S + 5.0), secondary=having(is_paused=True))
    lanes["secondary"].limiter_status.publish(LimiterStatus(FOREVER_S, is_paused=True))

    found = passed_over(make_lease(), "tertiary", PLAN, lanes, NOW_S, NOW)

    assert found == (
        PassedOver("primary", "breaker open", NOW + 5.0),
        PassedOver("secondary", "paused by an operator"),
    )


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(tried=("primary",)), "tried in this round"),
        (Progress(barred=("primary",)), "it refused the message"),
        (
            Progress(prefer="secondary"),
            "secondary deferred the recipient, and is asked again first",
        ),
        (Progress(), "it refused mail like this as too fast: other mail goes first"),
    ],
)
def test_a_lane_is_passed_over_for_what_the_message_has_met(
    progress: Progress, expected: str
) -> None:
    lease = make_lease(progress=progress)

    (found,) = passed_over(lease, "secondary", PLAN, three(), NOW_S, NOW)

    assert found == PassedOver("primary", expected)


def test_a_domain_with_its_share_of_the_slots_is_a_reason() -> None:
    lanes = three(primary=lambda lane: lane.breaker_status.publish(BreakerStatus(concurrency=2)))
    lane = lanes["primary"]
    attempt = make_attempt(lane)
    lane._by_domain.update(attempt.domains)

    (found,) = passed_over(make_lease(2), "secondary", PLAN, lanes, NOW_S, NOW)

    assert found == PassedOver("primary", "no slot left for the recipient's domain")


def test_a_lane_that_cannot_carry_a_part_is_a_reason() -> None:
    plan = msgspec.structs.replace(PLAN, own_envelope=("secondary", "tertiary"))
    lease = msgspec.structs.replace(make_lease(), recipients_total=2)

    (found,) = passed_over(lease, "secondary", plan, three(), NOW_S, NOW)

    assert found.why == "it cannot send to some of the recipients only"


def test_where_every_lane_was_tried_none_is_spent() -> None:
    progress = Progress(tried=PLAN.route)

    found = lane_states(PLAN.route, PLAN.route, progress, three(), NOW_S, NOW)

    assert found == tuple(map(LaneState, PLAN.route))


def test_in_panic_an_open_breaker_is_tried_sooner() -> None:
    dead = BreakerStatus(
        BreakerState.OPEN, until_s=NOW_S + 100.0, last_resort_s=NOW_S + 20.0, is_dead=True
    )
    lanes = three(**{name: lambda lane: lane.breaker_status.publish(dead) for name in PLAN.route})

    calm, panic = (
        lane_states(PLAN.route, PLAN.route, Progress(), lanes, NOW_S, NOW, in_panic=in_panic)
        for in_panic in (False, True)
    )

    assert [each.until for each in calm] == [NOW + 100.0] * 3
    assert [each.until for each in panic] == [NOW + 20.0] * 3
