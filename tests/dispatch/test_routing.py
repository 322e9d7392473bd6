"""Which waiting message goes next, through which lane: order, shares, panic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.dispatch.lane import (
    PANIC_DEAD_INTERVAL_S,
    PANIC_IN_FLIGHT_MAX,
    PANIC_INTERVAL_S,
    BreakerState,
    BreakerStatus,
    Lane,
    LimiterStatus,
)
from mailactors.dispatch.queue import NO_ROOM, PASSED_OVER, Choice
from mailactors.dispatch.routing import Waiting, choose_lane, within_reach
from mailactors.dispatch.suspects import Suspects
from mailactors.spool.port import Lease
from tests.dispatch.makers import NOW, make_attempt, make_lane, make_lease

ROUTE = ("primary", "secondary")
NOW_S = 1000.0
CLOSED = BreakerStatus(last_success_s=NOW_S)
OPEN = BreakerStatus(BreakerState.OPEN, until_s=NOW_S + 5.0, last_success_s=NOW_S - 10.0)
DEAD = BreakerStatus(
    BreakerState.OPEN,
    until_s=NOW_S + 100.0,
    last_resort_s=NOW_S + 20.0,
    is_dead=True,
    last_success_s=NOW_S - 1.0,
)
DISABLED = BreakerStatus(BreakerState.DISABLED, until_s=NOW_S + 900.0, last_success_s=NOW_S)


def lanes_of(**statuses: BreakerStatus) -> dict[str, Lane]:
    lanes = {}
    for name, each in statuses.items():
        lanes[name] = make_lane(name)
        lanes[name].breaker_status.publish(each)
    return lanes


def fly(lane: Lane, count: int) -> None:
    """Let attempts be in flight, as if the dispatcher had offered them."""
    for number in range(count):
        make_attempt(lane, number)
    lane.offered += count


# When a lane opens


def test_a_fresh_lane_takes_a_message_now() -> None:
    lane = make_lane()

    assert lane.opens_at_s() <= NOW_S


def test_a_lane_without_credits_opens_when_it_says_so() -> None:
    lane = make_lane(concurrency_max=2)
    lane.opens_at_s()
    fly(lane, 2)

    assert math.inf == lane.opens_at_s()


def test_a_lane_is_sent_no_more_than_its_provider_can_bear() -> None:
    lane = make_lane(concurrency_max=8)
    lane.breaker_status.publish(BreakerStatus(concurrency=3))
    lane.opens_at_s()

    fly(lane, 2)
    with_two = lane.opens_at_s()
    fly(lane, 3)
    with_three = lane.opens_at_s()
    lane.breaker_status.publish(BreakerStatus(concurrency=4))

    assert with_two <= NOW_S
    assert math.inf == with_three
    assert lane.opens_at_s() <= NOW_S


def test_a_lane_is_sent_no_more_than_the_permits_it_published() -> None:
    lane = make_lane()
    lane.limiter_status.publish(LimiterStatus(next_permit_s=NOW_S, permits=2))
    lane.opens_at_s()

    fly(lane, 1)
    after_one = lane.opens_at_s()
    fly(lane, 1)
    after_two = lane.opens_at_s()
    lane.limiter_status.publish(LimiterStatus(next_permit_s=NOW_S + 1.0, permits=2))
    after_news = lane.opens_at_s()

    assert (NOW_S, math.inf, NOW_S + 1.0) == (after_one, after_two, after_news)


def test_a_lane_whose_messages_came_back_without_news_is_not_shut_for_ever() -> None:
    lane = make_lane()
    lane.breaker_status.publish(OPEN)
    lane.opens_at_s()
    fly(lane, 1)
    while_out = lane.opens_at_s()

    lane.in_flight.clear()

    assert math.inf == while_out
    assert lane.opens_at_s() <= NOW_S + 10.0


def test_a_half_open_lane_is_sent_no_more_than_its_free_probes() -> None:
    lane = make_lane()
    lane.breaker_status.publish(BreakerStatus(BreakerState.HALF_OPEN, probes_free=1))
    lane.opens_at_s()

    before = lane.opens_at_s()
    fly(lane, 1)

    assert before <= NOW_S
    assert math.inf == lane.opens_at_s()


@pytest.mark.parametrize("health", [OPEN, DISABLED], ids=["open", "disabled"])
def test_an_open_lane_takes_one_message_once_its_time_is_over(health: BreakerStatus) -> None:
    lane = make_lane()
    lane.breaker_status.publish(health)
    lane.opens_at_s()

    before = lane.opens_at_s()
    fly(lane, 1)

    assert (health.until_s, math.inf) == (before, lane.opens_at_s())


def test_a_refusal_holds_until_its_time_or_any_news() -> None:
    lane = make_lane()
    lane.opens_at_s()
    lane.block(NOW_S + 8.0)

    blocked = lane.opens_at_s()
    lane.breaker_status.publish(CLOSED)

    assert NOW_S + 8.0 == blocked
    assert lane.opens_at_s() <= NOW_S


# Choosing


def test_the_first_lane_that_takes_a_message_is_chosen() -> None:
    lanes = lanes_of(primary=CLOSED, secondary=CLOSED)

    assert Choice("primary") == choose_lane(ROUTE, ROUTE, lanes, NOW_S)


def test_a_lane_that_must_wait_is_passed_over() -> None:
    lanes = lanes_of(primary=CLOSED, secondary=CLOSED)
    lanes["primary"].limiter_status.publish(LimiterStatus(next_permit_s=NOW_S + 0.1))

    assert Choice("secondary") == choose_lane(ROUTE, ROUTE, lanes, NOW_S)


@pytest.mark.parametrize(
    ("primary", "now_s", "expected"),
    [
        (LimiterStatus(next_permit_s=NOW_S + 0.1), NOW_S, ("primary",)),
        (LimiterStatus(next_permit_s=NOW_S + 0.1), NOW_S + 2.0, ROUTE),
        (LimiterStatus(next_permit_s=NOW_S + 60.0), NOW_S, ROUTE),  # it would wait for nothing
        (LimiterStatus(permits=0), NOW_S, ("primary",)),  # the next publication will say
        (LimiterStatus(next_permit_s=math.inf, is_paused=True), NOW_S, ROUTE),
    ],
    ids=["soon", "waited", "late", "on-news", "paused"],
)
def test_a_message_waits_for_a_permit_of_its_first_lane_for_a_while(
    primary: LimiterStatus, now_s: float, expected: tuple[str, ...]
) -> None:
    lanes = lanes_of(primary=CLOSED, secondary=CLOSED)
    lanes["primary"].limiter_status.publish(primary)

    assert expected == tuple(within_reach(ROUTE, lanes, NOW_S + 2.0, now_s))


def test_a_message_waits_for_a_slot_but_not_for_a_breaker() -> None:
    lanes = lanes_of(primary=CLOSED, secondary=CLOSED)
    lanes["primary"].opens_at_s()
    fly(lanes["primary"], 8)

    for_a_slot = within_reach(ROUTE, lanes, NOW_S + 2.0, NOW_S)
    lanes["primary"].breaker_status.publish(OPEN)
    for_a_breaker = within_reach(ROUTE, lanes, NOW_S + 2.0, NOW_S)

    assert (["primary"], list(ROUTE)) == (list(for_a_slot), list(for_a_breaker))


def test_there_is_no_panic_while_a_lane_of_the_route_is_closed_though_busy() -> None:
    lanes = lanes_of(primary=OPEN, secondary=CLOSED)
    lanes["secondary"].limiter_status.publish(LimiterStatus(next_permit_s=NOW_S + 60.0))

    assert choose_lane(ROUTE, ROUTE, lanes, NOW_S) is None
    assert choose_lane(("primary",), ROUTE, lanes, NOW_S) is None


def test_when_every_breaker_is_open_the_latest_success_is_the_least_bad_lane() -> None:
    better = BreakerStatus(BreakerState.OPEN, until_s=NOW_S + 5.0, last_success_s=NOW_S - 1.0)
    lanes = lanes_of(primary=OPEN, secondary=better)

    assert Choice("secondary", True) == choose_lane(ROUTE, ROUTE, lanes, NOW_S)


def test_panic_keeps_to_the_lanes_that_may_take_the_message() -> None:
    better = BreakerStatus(BreakerState.OPEN, until_s=NOW_S + 5.0, last_success_s=NOW_S - 1.0)
    lanes = lanes_of(primary=OPEN, secondary=better)

    assert Choice("primary", True) == choose_lane(("primary",), ROUTE, lanes, NOW_S)


@pytest.mark.parametrize("health", [DEAD, DISABLED], ids=["dead", "disabled"])
def test_a_dead_or_disabled_lane_is_no_use_in_panic(health: BreakerStatus) -> None:
    lanes = lanes_of(primary=health, secondary=health)

    assert choose_lane(ROUTE, ROUTE, lanes, NOW_S) is None


def test_a_dead_lane_is_the_last_resort_once_in_a_long_time() -> None:
    lanes = lanes_of(primary=DEAD)

    def chosen(now_s: float) -> Choice | None:
        return choose_lane(("primary",), ("primary",), lanes, now_s)

    probes_at_s = DEAD.last_resort_s
    before, then = chosen(probes_at_s - 0.001), chosen(probes_at_s)
    lanes["primary"].panicked_s = probes_at_s
    again_s = probes_at_s + PANIC_DEAD_INTERVAL_S
    too_soon, later = chosen(again_s - 0.001), chosen(again_s)
    fly(lanes["primary"], 1)

    assert chosen(again_s) is None
    assert (None, Choice("primary", True)) == (before, then)
    assert (None, Choice("primary", True)) == (too_soon, later)


def test_a_dead_lane_is_not_tried_while_another_is_closed() -> None:
    lanes = lanes_of(primary=DEAD, secondary=CLOSED)
    fly(lanes["secondary"], 8)

    assert choose_lane(ROUTE, ROUTE, lanes, DEAD.last_resort_s + 1.0) is None


def test_a_free_probe_comes_before_panic() -> None:
    lanes = lanes_of(primary=OPEN, secondary=BreakerStatus(BreakerState.HALF_OPEN, probes_free=1))

    assert Choice("secondary") == choose_lane(ROUTE, ROUTE, lanes, NOW_S)


def test_panic_is_paced_and_bounded() -> None:
    lanes = lanes_of(primary=OPEN)
    lane = lanes["primary"]

    lane.panicked_s = NOW_S
    paced = choose_lane(("primary",), ("primary",), lanes, NOW_S)
    later = choose_lane(("primary",), ("primary",), lanes, NOW_S + PANIC_INTERVAL_S)
    fly(lane, PANIC_IN_FLIGHT_MAX)
    bounded = choose_lane(("primary",), ("primary",), lanes, NOW_S + PANIC_INTERVAL_S)

    assert (None, Choice("primary", True), None) == (paced, later, bounded)


def test_a_paused_lane_is_not_used_in_panic() -> None:
    lanes = lanes_of(primary=OPEN)
    lanes["primary"].limiter_status.publish(LimiterStatus(next_permit_s=math.inf, is_paused=True))

    assert choose_lane(("primary",), ("primary",), lanes, NOW_S) is None


# Waiting

Chooser = Callable[[Lease, tuple[str, ...]], Choice | None]


def through(*free: str) -> Chooser:
    """Choose the first of a message's lanes that is free."""

    def choose(_lease: Lease, lanes: tuple[str, ...]) -> Choice | None:
        return next((Choice(lane) for lane in lanes if lane in free), None)

    return choose


def waiting_for(**shares: float) -> Waiting:
    waiting = Waiting()
    waiting.set_shares(shares)
    return waiting


def pop_all(waiting: Waiting, choose: Chooser) -> list[int]:
    seqs = []
    while (chosen := waiting.pop(choose)) is not None:
        seqs.append(chosen[0].seq)
    return seqs


def push_all(waiting: Waiting, stream: str, seqs: Iterable[int], lanes: tuple[str, ...]) -> None:
    for seq in seqs:
        waiting.push(make_lease(seq, stream=stream), lanes)


def test_messages_of_a_stream_go_in_the_order_they_came() -> None:
    waiting = waiting_for(bulk=1.0)
    push_all(waiting, "bulk", range(5), ROUTE)

    assert [0, 1, 2, 3, 4] == pop_all(waiting, through("primary"))
    assert 0 == len(waiting)


def test_messages_that_were_put_back_take_the_places_of_their_age() -> None:
    waiting = waiting_for(bulk=1.0)
    push_all(waiting, "bulk", [4, 7, 9], ROUTE)

    for seq in (1, 0, 5):
        waiting.push(make_lease(seq), ROUTE, is_first=True)

    assert [0, 1, 4, 5, 7, 9] == pop_all(waiting, through("primary"))


def lease_to(address: str, seq: int = 1) -> Lease:
    return msgspec.structs.replace(make_lease(seq), recipients=((0, address),))


@pytest.mark.parametrize("answer", [None, NO_ROOM, PASSED_OVER], ids=["none", "room", "subject"])
def test_a_suspect_that_no_lane_takes_waits(answer: Choice | None) -> None:
    suspects = Suspects()
    suspects.push(make_lease(), ROUTE)

    taken = suspects.pop(lambda _lease, _lanes: answer)

    assert (None, 1) == (taken, len(suspects))


def test_one_without_room_speaks_for_all_with_its_domains() -> None:
    waiting, asked = waiting_for(bulk=1.0), []
    for seq in range(1000):
        waiting.push(lease_to(f"r{seq}@slow.example", seq), ROUTE)

    def choose(lease: Lease, _lanes: tuple[str, ...]) -> Choice | None:
        asked.append(lease.seq)
        is_full = lease.recipients[0][1].endswith("@slow.example")
        return NO_ROOM if is_full else Choice("primary")

    full = waiting.pop(choose)
    waiting.push(lease_to("ann@other.example", 1000), ROUTE)
    other = waiting.pop(choose)

    assert full is None
    assert other is not None
    assert (1000, [0, 0, 1000]) == (other[0].seq, asked)


def test_a_message_that_waits_for_one_lane_does_not_block_others() -> None:
    waiting = waiting_for(bulk=1.0)
    push_all(waiting, "bulk", [0], ("primary",))
    push_all(waiting, "bulk", [1, 2], ("secondary",))

    free_secondary = pop_all(waiting, through("secondary"))
    free_primary = pop_all(waiting, through("primary"))

    assert ([1, 2], [0]) == (free_secondary, free_primary)


def test_of_several_that_could_go_the_one_that_is_due_longest_goes_first() -> None:
    waiting = waiting_for(bulk=1.0)
    waiting.push(make_lease(1, due_at=NOW + 1.0), ("primary",))
    waiting.push(make_lease(2, due_at=NOW), ("secondary", "primary"))

    assert [2, 1] == pop_all(waiting, through("primary"))


def test_nothing_is_taken_out_when_no_lane_is_free() -> None:
    waiting = waiting_for(bulk=1.0)
    push_all(waiting, "bulk", range(3), ROUTE)

    assert waiting.pop(through()) is None
    assert 3 == len(waiting)
    assert 3 == waiting.count("bulk")


def test_messages_that_need_no_lane_any_more_are_taken_out() -> None:
    waiting = waiting_for(bulk=1.0, otp=1.0)
    push_all(waiting, "bulk", [1, 2], ROUTE)
    push_all(waiting, "otp", [3], ("primary",))

    waiting.remove(frozenset({1, 3}))

    assert {2} == {seq for seq, _ in waiting.leases()}
    assert [("bulk", ROUTE)] == [(lease.stream, lanes) for lease, lanes in waiting.groups()]


def streams_popped(waiting: Waiting, count: int, *free: str) -> Counter[str]:
    taken = [waiting.pop(through(*free)) for _ in range(count)]
    return Counter(chosen[0].stream for chosen in taken if chosen is not None)


@given(shares=st.lists(st.floats(0.25, 8.0), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_streams_share_a_lane_in_proportion(shares: list[float]) -> None:
    names = [f"stream-{number}" for number in range(len(shares))]
    waiting = waiting_for(**dict(zip(names, shares, strict=True)))
    for name in names:
        push_all(waiting, name, range(100), ("primary",))

    popped = streams_popped(waiting, 100, "primary")

    for name, share in zip(names, shares, strict=True):
        assert abs(popped[name] - 100 * share / sum(shares)) <= len(shares)


def test_a_stream_that_was_idle_saves_up_no_turns() -> None:
    waiting = waiting_for(otp=1.0, bulk=1.0)
    for seq in range(100):  # otp's messages go as they come: nothing waits in between
        push_all(waiting, "otp", [seq], ("primary",))
        waiting.pop(through("primary"))

    push_all(waiting, "bulk", range(50), ("primary",))
    push_all(waiting, "otp", range(50), ("primary",))
    popped = streams_popped(waiting, 20, "primary")

    assert abs(popped["otp"] - popped["bulk"]) <= 1


def test_a_stream_that_was_blocked_saves_up_no_turns() -> None:
    waiting = waiting_for(otp=1.0, bulk=1.0)
    push_all(waiting, "bulk", range(50), ("primary",))
    push_all(waiting, "otp", range(100), ("secondary", "primary"))
    streams_popped(waiting, 50, "secondary")

    popped = streams_popped(waiting, 20, "primary")

    assert abs(popped["otp"] - popped["bulk"]) <= 1


@given(
    pushes=st.lists(
        st.tuples(
            st.sampled_from(["otp", "bulk"]),
            st.sampled_from([("primary",), ("secondary",), ROUTE]),
            st.booleans(),
        ),
        max_size=40,
    ),
    frees=st.lists(st.sampled_from([(), ("primary",), ("secondary",), ROUTE]), max_size=80),
)
@settings(deadline=None, max_examples=200)
def test_every_message_goes_exactly_once_and_through_a_lane_that_may_take_it(
    pushes: list[tuple[str, tuple[str, ...], bool]], frees: list[tuple[str, ...]]
) -> None:
    waiting = waiting_for(otp=4.0, bulk=1.0)
    for seq, (stream, lanes, is_first) in enumerate(pushes):
        waiting.push(make_lease(seq, stream=stream), lanes, is_first=is_first)

    taken = []
    for free in [*frees, *[ROUTE] * len(pushes)]:
        if (chosen := waiting.pop(through(*free))) is not None:
            taken.append(chosen)
            assert chosen[1].lane in pushes[chosen[0].seq][1]
            assert chosen[1].lane in free

    assert list(range(len(pushes))) == sorted(lease.seq for lease, _ in taken)
    assert 0 == len(waiting)
