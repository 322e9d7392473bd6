"""All lanes: what is in flight anywhere, who ends it, and when the gateway has drained."""

from __future__ import annotations

import msgspec
import trio
from trio.testing import MockClock

from mailactors.dispatch.attempt import Attempt, Done
from mailactors.dispatch.lanes import Lanes, LaneSettings
from mailactors.dispatch.retry import StreamPolicy
from mailactors.model.outcome import Phase, Reason, Uncertain
from mailactors.providers.simulated import SimulatedProvider, SimulatedSettings
from mailactors.runtime.mailbox import Mailbox
from mailactors.spool.actor import Write
from mailactors.spool.port import ALONE_FROM
from tests.dispatch.makers import EvenEntropy, TrioClock, ignore, make_lease, make_ports
from tests.gateways import (
    CrashPlan,
    NotingJournal,
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    spool_client,
    status,
    wait_for_states,
)
from tests.gateways import make_ports as gateway_ports

LOST = Uncertain(Phase.FINAL, Reason("no answer"))
KEYED = simulated(idempotency_window_s=3600.0)


class Wakes:
    """Counts how often the dispatcher was woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def lanes_of(*names: str, wake: Wakes | None = None) -> Lanes:
    spool = spool_client(Mailbox[Write]("spool", 100, lambda _write, _error: None))
    lanes = Lanes(wake or Wakes(), spool, make_ports())
    for name in names:
        out = SimulatedProvider(name, SimulatedSettings(), TrioClock(), EvenEntropy())
        lanes.open(name, LaneSettings(concurrency_max=2), out)
    return lanes


def attempt_through(name: str, number: int = 1, crashes: int = 0) -> Attempt:
    lease = msgspec.structs.replace(make_lease(number), crashes=crashes)
    return Attempt(f"attempt-{number}", lease, name, ignore)


def test_an_offered_attempt_takes_a_slot_until_its_end_is_read() -> None:
    lanes = lanes_of("primary", "secondary")
    lane, attempt = lanes["primary"], attempt_through("primary")

    lane.offer(attempt, 0.0)

    assert ([attempt], 1, 1) == (lanes.in_flight, lane.slots_free, lane.offered)
    assert 1 == lane.limiter_mailbox.waiting
    assert lane.end(attempt)
    assert ([], 2) == (lanes.in_flight, lane.slots_free)


def test_an_end_that_comes_twice_counts_once() -> None:
    lane, attempt = lanes_of("primary")["primary"], attempt_through("primary")
    lane.offer(attempt, 0.0)

    ends = [lane.end(attempt), lane.end(attempt)]

    assert [True, False] == ends


def test_both_senders_count_against_the_same_slots_and_permits() -> None:
    lanes = lanes_of("primary")
    lane = lanes["primary"]
    lane.opens_at_s()

    lane.offer(attempt_through("primary", 1), 0.0)  # the dispatcher's
    one_left = lane.opens_at_s()
    lane.offer(attempt_through("primary", 2), 0.0)  # the settler's

    assert (True, float("inf")) == (one_left <= 0.0, lane.opens_at_s())


def test_an_attempt_that_actors_died_on_is_in_flight_alone() -> None:
    lanes = lanes_of("primary", "secondary")
    lanes["primary"].offer(attempt_through("primary", 1, ALONE_FROM - 1), 0.0)
    before = lanes.has_suspect_in_flight

    lanes["secondary"].offer(attempt_through("secondary", 2, ALONE_FROM), 0.0)

    assert (False, True) == (before, lanes.has_suspect_in_flight)


def test_a_lost_end_frees_its_slot_and_blames_its_message() -> None:
    lanes = lanes_of("primary")
    attempt = attempt_through("primary", 7)
    lanes["primary"].offer(attempt, 0.0)

    lanes.lose(attempt)

    assert ([], {7}) == (lanes.in_flight, lanes.blamed)


def test_a_drain_wakes_the_dispatcher() -> None:
    wake = Wakes()
    lanes = lanes_of("primary", wake=wake)

    lanes.drain()

    assert (True, 1) == (lanes.is_draining, wake.count)


def test_a_stream_without_a_plan_has_the_first_one_s() -> None:
    lanes = lanes_of("primary")
    first, second = StreamPolicy(("primary",)), StreamPolicy(("primary",), share=2.0)
    lanes.plans = {"main": first, "bulk": second}

    assert [second, first] == [lanes.plan("bulk"), lanes.plan("gone")]


def test_a_lane_s_actors_are_there_downstream_first() -> None:
    children = lanes_of("primary").children("primary")

    names = [child.name for child in children]

    assert ["provider:primary", "breaker:primary", "limiter:primary"] == names
    assert names == [child.mailboxes[0].name for child in children]


def test_an_attempt_s_end_goes_to_the_actor_that_offered_it() -> None:
    ends: list[Done] = []
    lanes = lanes_of("primary")
    attempt = Attempt("attempt-1", make_lease(), "primary", ends.append)
    limiter = lanes["primary"].limiter_mailbox
    limiter.put_nowait(Done(attempt, LOST, 1.0))

    taken = limiter.take()
    next(taken)
    limiter.crash(RuntimeError("under the cursor"))

    assert [attempt] == [done.attempt for done in ends]


# A repeat is the settler's


async def test_a_repeat_that_kills_the_settler_three_times_is_held(
    autojump_clock: MockClock,
) -> None:
    faults = CrashPlan(settler__outcome=100)
    with open_store() as store:
        config = make_config({"primary": KEYED, "secondary": simulated()})
        async with running(config, store, gateway_ports(faults)) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=200, held=1)
            await trio.sleep(60)

            assert isinstance(gateway.ports.journal, NotingJournal)
            crashed = [facts["actor"] for facts in gateway.ports.journal.named("actor.crashed")]
            assert ["settler"] * 3 == crashed
            assert [] == gateway.lanes.in_flight
            assert 1 == len(provider(gateway, "primary").received)


async def test_a_stop_waits_for_a_repeat_and_records_its_end(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = make_config({"primary": KEYED, "secondary": simulated()})
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, uncertain=1)
            provider(gateway, "primary").behaviour.latency_s = 3.0
            with trio.fail_after(30):
                while True:
                    if gateway.lanes["primary"].repeats_in_flight:
                        break
                    await trio.sleep(0.1)
            await gateway.stop()

            assert "sent" == (await status(gateway, "1")).deliveries[0].state.value
