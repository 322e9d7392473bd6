"""A lane of real actors: each attempt has exactly one end, whichever actor crashes on it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.dispatch.attempt import Attempt, Done, Stage
from mailactors.dispatch.breaker import BreakerActor
from mailactors.dispatch.breaker_settings import BreakerSettings
from mailactors.dispatch.lane import BreakerState, Lane, Reset
from mailactors.dispatch.limiter import LimiterActor
from mailactors.dispatch.provider import INTENT_WITHIN_S, ProviderActor
from mailactors.dispatch.quota import Quota
from mailactors.errors import MailactorsError
from mailactors.model.message import Address, Content, pack_content
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.model.outcome import Phase as Lost
from mailactors.providers.port import Mail
from mailactors.providers.simulated import SimulatedProvider, SimulatedSession, SimulatedSettings
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import SilentJournal
from mailactors.runtime.supervisor import Child, InjectedCrashError, Restarts, Supervisor
from mailactors.spool.actor import Write
from mailactors.spool.port import Intend, Intended, Result, SpoolError, Withdrawn
from tests.dispatch.makers import NOW, EvenEntropy, TrioClock, make_lane, make_lease, make_ports
from tests.gateways import spool_client

LATENCY_S = 0.5
PACKED = pack_content(Content(Address("ann@sender.example"), subject="Hello", text="Hello.\n"))
CRASHED = NotAttempted(Why.CRASHED)
STOPPED = NotAttempted(Why.STOPPING)
DOWN = Deferred(Scope.PROVIDER, Reason("simulated overload", 503))

Answering = Callable[[Intend], Result | Exception | None]


class CrashPlan:
    """A fault port: at a point, raise at the visits that are listed, counted from 1."""

    def __init__(self, **visits: set[int]) -> None:
        self.visits = {name.replace("__", "."): numbers for name, numbers in visits.items()}
        self.seen = Counter[str]()

    def point(self, name: str) -> None:
        self.seen[name] += 1
        if self.seen[name] in self.visits.get(name, set()):
            raise InjectedCrashError(name)


def intended(command: Intend) -> Intended:
    """Answer as the spool does when nothing speaks against sending."""
    recipients = tuple((n, f"r{n}@x.example") for n in command.ns)
    return Intended(f"{command.seq}@x.example", NOW, "ann@sender.example", recipients, PACKED)


class Session(SimulatedSession):
    """Tells the provider when it is given back unused."""

    def __init__(self, provider: SlowProvider) -> None:
        super().__init__(provider)
        self._owner = provider

    async def aclose(self) -> None:
        self._owner.closed_count += 1
        await super().aclose()


class SlowProvider(SimulatedProvider):
    """Takes time to connect, too, and fails at it as the test likes."""

    stands_ready = False
    """Whether sessions stand ready, so that an attempt need not connect."""

    def __init__(self) -> None:
        quiet = SimulatedSettings(latency_s=LATENCY_S, latency_sigma=0.0)
        super().__init__("primary", quiet, TrioClock(), EvenEntropy())
        self.connect_s = 0.0
        self.connect_error: Exception | None = None
        self.closed_count = 0

    def take_ready(self) -> SimulatedSession | None:
        must_connect = self.connect_s or self.connect_error or self.behaviour.is_refusing
        return Session(self) if self.stands_ready and not must_connect else None

    async def connect(self) -> SimulatedSession | Refusal:
        await trio.sleep(self.connect_s)
        if self.connect_error is not None:
            raise self.connect_error
        session = await super().connect()
        return Session(self) if isinstance(session, SimulatedSession) else session


@pytest.fixture(autouse=True, scope="module", params=[False, True], ids=["connects", "ready"])
def _stands_ready(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make every attempt of these tests both ways: in a task of its own, and at once."""
    SlowProvider.stands_ready = request.param
    yield
    SlowProvider.stands_ready = False


class Bench:
    """A lane under a supervisor; the test plays the spool and the dispatcher."""

    def __init__(
        self,
        faults: CrashPlan | None = None,
        *,
        quota: Quota | None = None,
        breaker: BreakerSettings | None = None,
        concurrency_max: int = 8,
    ) -> None:
        self.faults = faults or CrashPlan()
        self.outcomes = Mailbox[Done]("outcomes", 1000, lambda _done, _error: None)
        self.provider = SlowProvider()
        self.lane = make_lane("primary", concurrency_max, self.provider)
        self.spool = Mailbox[Write]("spool", 1000, lambda _write, _error: None)
        self.answer: Answering = intended
        self.intents: list[Intend] = []
        self.intents_at: list[float] = []
        self.ends: list[Done] = []
        self.supervisor = self._supervisor(quota or Quota(), breaker or BreakerSettings())

    def _supervisor(self, quota: Quota, breaker: BreakerSettings) -> Supervisor:
        ports, lane = make_ports(self.faults), self.lane

        def build_provider() -> ProviderActor:
            return ProviderActor(lane, spool_client(self.spool), ports)

        def build_limiter() -> LimiterActor:
            return LimiterActor(lane, quota, self._count_attempts, ports)

        often = Restarts(count_max=1000, within_s=1.0)
        children = [
            Child("provider", build_provider, (lane.provider_mailbox,), often),
            Child(
                "breaker",
                lambda: BreakerActor(lane, breaker, ports),
                (lane.breaker_mailbox,),
                often,
            ),
            Child("limiter", build_limiter, (lane.limiter_mailbox,), often),
        ]
        return Supervisor(children, ports.clock, SilentJournal())

    async def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._play_spool)
        nursery.start_soon(self._play_dispatcher)
        await nursery.start(lambda task_status: self.supervisor.run(task_status=task_status))

    async def _count_attempts(self, _lane: str, since: float, bucket_s: float) -> dict[int, int]:
        await trio.lowlevel.checkpoint()
        return Counter(int(at // bucket_s) for at in self.intents_at if at >= since)

    async def _play_spool(self) -> None:
        while True:
            await self.spool.wait()
            for write in self.spool.take():
                assert isinstance(write.command, Intend)
                self.intents.append(write.command)
                self.intents_at.append(TrioClock().wall_time())
                answer = self.answer(write.command)
                if isinstance(answer, Exception):
                    write.reply.fail(answer)
                elif answer is not None:
                    write.reply.resolve(answer)

    async def _play_dispatcher(self) -> None:
        while True:
            await self.outcomes.wait()
            for done in self.outcomes.take():
                self.ends.append(done)
                self.lane.end(done.attempt)

    def send(self, count: int = 1, *, is_panic: bool = False) -> list[Attempt]:
        """Send attempts down, as the dispatcher does."""
        attempts = []
        for _ in range(count):
            assert self.lane.slots_free > 0
            number = len(self.ends) + len(self.lane.in_flight) + 1
            reply_to = self.outcomes.put_nowait
            attempt = Attempt(
                f"attempt-{number}", make_lease(number), "primary", reply_to, is_panic=is_panic
            )
            self.lane.offer(attempt, trio.current_time())
            attempts.append(attempt)
        return attempts

    async def crash(self, name: str) -> None:
        """Make an actor crash where it stands."""
        self.supervisor.crash(name)
        await trio.testing.wait_all_tasks_blocked()

    @property
    def outcomes_seen(self) -> list[Outcome]:
        return [done.outcome for done in self.ends]

    def assert_settled(self, attempts: list[Attempt]) -> None:
        """Each attempt has exactly one end, and nothing of it is left anywhere."""
        assert sorted(a.id for a in attempts) == sorted(done.attempt.id for done in self.ends)
        assert {} == self.lane.in_flight
        assert {} == self.lane.underway
        assert self.lane.concurrency_max == self.lane.slots_free
        boxes = [self.lane.limiter_mailbox, self.lane.breaker_mailbox, self.lane.provider_mailbox]
        assert [0, 0, 0] == [mailbox.waiting for mailbox in boxes]


async def test_an_attempt_goes_down_and_its_end_comes_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)

    assert [Accepted("primary-1")] == bench.outcomes_seen
    assert [LATENCY_S] == [done.ended_s for done in bench.ends]
    assert [("message-1", ("r0@x.example",))] == list(bench.provider.received)
    bench.assert_settled(attempts)


# Each actor crashes on each kind of item


@pytest.mark.parametrize("point", ["limiter.attempt", "breaker.attempt", "provider.attempt"])
async def test_an_attempt_under_the_cursor_was_not_attempted(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, point: str
) -> None:
    bench = Bench(CrashPlan(**{point: {1}}), quota=Quota(per_minute=1))
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)

    assert [CRASHED] == bench.outcomes_seen
    assert [] == bench.intents
    assert 0 == bench.provider.calls
    bench.assert_settled(attempts)


@pytest.mark.parametrize("point", ["breaker.done", "limiter.done"])
async def test_an_outcome_under_the_cursor_travels_on(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, point: str
) -> None:
    bench = Bench(CrashPlan(**{point: {1}}))
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)

    assert [Accepted("primary-1")] == bench.outcomes_seen
    bench.assert_settled(attempts)


@pytest.mark.parametrize("visit", [1, 3, 8])
@pytest.mark.parametrize(
    "point",
    ["limiter.attempt", "breaker.attempt", "provider.attempt", "breaker.done", "limiter.done"],
)
async def test_a_crash_in_the_middle_of_a_batch_costs_the_others_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, point: str, visit: int
) -> None:
    bench = Bench(CrashPlan(**{point: {visit}}))
    await bench.start(nursery)

    attempts = bench.send(8)
    await trio.sleep(2.0)

    bench.assert_settled(attempts)
    assert {visit} == bench.faults.visits[point]
    for done in bench.ends:
        sent = [marker for marker, _ in bench.provider.received].count(done.attempt.lease.id)
        match done.outcome:
            case Accepted():
                assert 1 == sent
            case NotAttempted():
                assert 0 == sent
            case Uncertain():
                assert sent <= 1
            case _:
                pytest.fail(f"unexpected: {done.outcome}")


@pytest.mark.parametrize("point", ["breaker.attempt", "provider.attempt"])
async def test_a_permit_whose_attempt_a_crash_took_is_given_back(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, point: str
) -> None:
    bench = Bench(CrashPlan(**{point: {1}}), quota=Quota(per_minute=1))
    await bench.start(nursery)

    first = bench.send()
    await trio.sleep(1.0)
    second = bench.send()
    await trio.sleep(1.0)

    assert [CRASHED, Accepted("primary-1")] == bench.outcomes_seen
    bench.assert_settled(first + second)


async def test_a_breaker_that_misses_an_outcome_still_lets_the_limiter_hear_of_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(CrashPlan(breaker__done={1}))
    await bench.start(nursery)
    bench.provider.behaviour.script.append(Deferred(Scope.PROVIDER, Reason("later"), 30.0))

    bench.send()
    await trio.sleep(1.0)

    assert 30.0 <= bench.lane.limiter_status.value.next_permit_s - LATENCY_S <= 33.0


# The provider dies at each phase


async def test_a_provider_that_dies_while_sending_leaves_an_uncertain_attempt(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    await bench.start(nursery)

    attempts = bench.send(3)
    await trio.sleep(LATENCY_S / 2)
    assert {Stage.SENDING} == {attempt.stage for attempt in attempts}
    await bench.crash("provider")
    await trio.sleep(1.0)

    reason = Reason("the provider actor died while sending")
    assert [Uncertain(Lost.UNKNOWN, reason)] * 3 == bench.outcomes_seen
    bench.assert_settled(attempts)


async def test_a_provider_that_dies_before_the_intent_has_not_sent(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.answer = lambda _command: None
    await bench.start(nursery)

    attempts = bench.send(2)
    await trio.sleep(1.0)
    await bench.crash("provider")

    assert {Stage.INTENDING} == {attempt.stage for attempt in attempts}
    assert [STOPPED] * 2 == bench.outcomes_seen
    assert (0, 2) == (bench.provider.calls, bench.provider.closed_count)
    bench.assert_settled(attempts)


async def test_a_provider_that_dies_while_connecting_has_not_sent(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.provider.connect_s = 5.0
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)
    await bench.crash("provider")

    assert Stage.CONNECTING is attempts[0].stage
    assert [STOPPED] == bench.outcomes_seen
    assert [] == bench.intents
    bench.assert_settled(attempts)


@pytest.mark.parametrize("name", ["limiter", "breaker"])
async def test_an_actor_that_dies_while_others_send_changes_no_outcome(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, name: str
) -> None:
    bench = Bench()
    await bench.start(nursery)

    attempts = bench.send(3)
    await trio.sleep(LATENCY_S / 2)
    await bench.crash(name)
    await trio.sleep(1.0)

    assert {Accepted} == {type(outcome) for outcome in bench.outcomes_seen}
    bench.assert_settled(attempts)


async def test_attempts_with_a_session_share_a_turn_of_the_spool_and_a_few_tasks(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    SlowProvider.stands_ready = True
    bench = Bench(concurrency_max=8)
    groups: list[int] = []
    take = bench.spool.take

    def take_noted() -> Iterator[Write]:
        groups.append(bench.spool.waiting)
        return take()

    bench.spool.take = take_noted  # type: ignore[method-assign]
    await bench.start(nursery)
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(5):
        bench.send(8)
        await trio.sleep(1.0)

    assert [8] * 5 == groups
    assert 40 == len(bench.outcomes_seen)
    assert trio.lowlevel.current_statistics().tasks_living - before <= 8 + 1


async def test_a_full_spool_makes_an_attempt_with_a_session_wait(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    SlowProvider.stands_ready = True
    bench = Bench()
    bench.spool.capacity = 0
    await bench.start(nursery)

    attempts = bench.send(3)
    await trio.sleep(1.0)
    before = len(bench.intents)
    bench.spool.capacity = 1000
    assert bench.spool._room is not None
    bench.spool._room.unpark_all()
    await trio.sleep(1.0)

    assert 0 == before
    assert {Accepted} == {type(outcome) for outcome in bench.outcomes_seen}
    bench.assert_settled(attempts)


# An attempt's fault is its outcome


@pytest.mark.parametrize("point", ["provider.intended", "provider.sent"])
async def test_a_fault_after_the_intent_is_uncertain_and_crashes_no_actor(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, point: str
) -> None:
    bench = Bench(CrashPlan(**{point: {1}}))
    await bench.start(nursery)

    attempts = bench.send(2)
    await trio.sleep(1.0)

    kinds = Counter(type(outcome) for outcome in bench.outcomes_seen)
    assert Counter({Uncertain: 1, Accepted: 1}) == kinds
    assert [0, 0, 0] == [child.crash_count for child in bench.supervisor.statistics()]
    bench.assert_settled(attempts)


async def test_a_fault_while_connecting_is_the_providers_failure_and_crashes_no_actor(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.provider.connect_error = ValueError("a bug")
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)

    expected = [Deferred(Scope.PROVIDER, Reason("our fault: ValueError"))]
    assert expected == bench.outcomes_seen
    bench.assert_settled(attempts)


async def test_a_refused_connection_needs_no_intent(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.provider.behaviour.is_refusing = True
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(1.0)

    assert [Deferred(Scope.PROVIDER, Reason("connection refused"))] == bench.outcomes_seen
    assert [] == bench.intents
    bench.assert_settled(attempts)


# The intent


@pytest.mark.parametrize(
    ("answer", "expected", "after_s"),
    [
        (Withdrawn(), Why.WITHDRAWN, 0.0),
        (SpoolError("no"), Why.SPOOL, 0.0),
        (MailactorsError("the writer died"), Why.SPOOL, 0.0),
        (None, Why.SPOOL, INTENT_WITHIN_S),
    ],
    ids=["withdrawn", "refused", "writer-died", "no-answer"],
)
async def test_without_a_durable_intent_nothing_is_sent_and_the_session_is_given_back(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    answer: Result | Exception | None,
    expected: Why,
    after_s: float,
) -> None:
    bench = Bench()
    bench.answer = lambda _command: answer
    await bench.start(nursery)

    attempts = bench.send()
    await trio.sleep(INTENT_WITHIN_S + 1.0)

    assert [NotAttempted(expected)] == bench.outcomes_seen
    assert [after_s] == [done.ended_s for done in bench.ends]
    assert (0, 1) == (bench.provider.calls, bench.provider.closed_count)
    bench.assert_settled(attempts)


async def test_only_the_recipients_of_the_intent_are_sent_to(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    mails: list[Mail] = []

    def keep(mail: Mail) -> Outcome:
        mails.append(mail)
        return Accepted("42")

    def without_the_second(command: Intend) -> Intended:
        recipients = ((0, "r0@x.example"), (2, "r2@x.example"))
        return Intended("1@x.example", NOW, "", recipients, PACKED)

    bench.provider.behaviour.script = deque([keep])
    bench.answer = without_the_second
    await bench.start(nursery)
    lease = make_lease(recipients=3)
    attempt = Attempt("attempt-1", lease, "primary", bench.outcomes.put_nowait)

    bench.lane.offer(attempt, trio.current_time())
    await trio.sleep(1.0)

    assert ("r0@x.example", "r2@x.example") == mails[0].envelope.recipients
    assert ((0, "r0@x.example"), (2, "r2@x.example")) == attempt.recipients
    assert mails[0].is_partial


# The lane as a whole


async def test_a_failing_provider_opens_the_breaker_and_what_follows_costs_no_permit(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(breaker=BreakerSettings(calls_min=2), quota=Quota(per_minute=4))
    bench.provider.behaviour.script.extend([DOWN, DOWN])
    await bench.start(nursery)

    first = bench.send(2)
    await trio.sleep(1.0)
    second = bench.send(2)
    await trio.sleep(0.1)

    until_s = bench.lane.breaker_status.value.until_s
    refused = NotAttempted(Why.BREAKER, until_s)
    assert [DOWN, DOWN, refused, refused] == bench.outcomes_seen
    assert 2 == bench.lane.limiter_status.value.permits
    bench.assert_settled(first + second)


async def test_an_open_lane_probes_and_closes_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench(breaker=BreakerSettings(calls_min=1))
    bench.provider.behaviour.script.append(DOWN)
    await bench.start(nursery)
    sent = bench.send()
    await trio.sleep(10.0)

    sent += bench.send(5)
    await trio.sleep(1.0)

    kinds = Counter(type(outcome) for outcome in bench.outcomes_seen)
    assert Counter({Accepted: 3, NotAttempted: 2, Deferred: 1}) == kinds
    assert BreakerState.CLOSED is bench.lane.breaker_status.value.state
    bench.assert_settled(sent)


@pytest.mark.parametrize("victim", ["provider", "breaker", "limiter"])
async def test_a_crash_while_half_open_does_not_wedge_the_lane(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, victim: str
) -> None:
    bench = Bench(breaker=BreakerSettings(calls_min=1))
    bench.provider.behaviour.script.append(DOWN)
    await bench.start(nursery)
    sent = bench.send()
    await trio.sleep(10.0)
    sent += bench.send(3)
    await trio.sleep(LATENCY_S / 2)

    await bench.crash(victim)
    for _ in range(40):
        await trio.sleep(5.0)
        sent += bench.send()
        await trio.sleep(1.0)

    assert BreakerState.CLOSED is bench.lane.breaker_status.value.state
    bench.assert_settled(sent)


async def test_a_provider_that_refuses_us_is_left_alone_until_a_reset(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.provider.behaviour.script.append(Rejected(Scope.PROVIDER, Reason("key revoked", 401)))
    await bench.start(nursery)
    bench.send()
    await trio.sleep(1.0)
    disabled = bench.lane.breaker_status.value.state

    bench.lane.breaker_mailbox.put_nowait(Reset())
    await trio.testing.wait_all_tasks_blocked()
    bench.send()
    await trio.sleep(1.0)

    assert BreakerState.DISABLED is disabled
    assert Accepted("primary-2") == bench.outcomes_seen[-1]


POINTS = [
    "limiter.attempt",
    "limiter.done",
    "breaker.attempt",
    "breaker.done",
    "provider.attempt",
    "provider.intended",
    "provider.sent",
]


@given(
    visits=st.dictionaries(
        st.sampled_from(POINTS), st.sets(st.integers(1, 20), max_size=4), max_size=4
    ),
    crashes=st.lists(
        st.tuples(st.floats(0.0, 2.0), st.sampled_from(["limiter", "breaker", "provider"])),
        max_size=4,
    ),
    bursts=st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 8)), min_size=1, max_size=5),
    script=st.lists(st.sampled_from([DOWN, Uncertain(Lost.FINAL, Reason("lost"))]), max_size=8),
)
@settings(deadline=None, max_examples=60)
def test_whatever_crashes_every_attempt_ends_once_and_truthfully(
    visits: dict[str, set[int]],
    crashes: list[tuple[float, str]],
    bursts: list[tuple[float, int]],
    script: list[Outcome],
) -> None:
    bench, sent = Bench(CrashPlan(**visits), quota=Quota(per_minute=20)), list[Attempt]()

    async def crash_at(after_s: float, name: str) -> None:
        await trio.sleep(after_s)
        bench.supervisor.crash(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bench.provider.behaviour.script.extend(script)
            await bench.start(nursery)
            for after_s, name in crashes:
                nursery.start_soon(crash_at, after_s, name)
            for gap_s, count in bursts:
                await trio.sleep(gap_s)
                sent.extend(bench.send(min(count, bench.lane.slots_free)))
            await trio.sleep(100.0)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    bench.assert_settled(sent)
    received = Counter(marker for marker, _ in bench.provider.received)
    for done in bench.ends:
        times = received[done.attempt.lease.id]
        assert times <= 1
        assert times == 1 or not isinstance(done.outcome, Accepted)
        assert times == 0 or isinstance(done.outcome, Accepted | Uncertain)
    assert len(received) <= 20


def test_a_lane_opens_with_all_its_credits() -> None:
    lane: Lane = make_lane(concurrency_max=3)

    assert 3 == lane.slots_free


async def test_a_provider_without_an_envelope_gets_no_part_of_a_message(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """It would send to all in the visible To."""
    bench = Bench()
    bench.provider._settings = SimulatedSettings(own_envelope=False)
    bench.answer = lambda command: Intended("1@x.example", NOW, "", ((0, "r0@x.example"),), PACKED)
    await bench.start(nursery)
    lease = make_lease(recipients=3)

    bench.lane.offer(
        Attempt("attempt-1", lease, "primary", bench.outcomes.put_nowait), trio.current_time()
    )
    await trio.sleep(1.0)

    assert [NotAttempted(Why.UNABLE)] == bench.outcomes_seen
    assert (0, 1) == (bench.provider.calls, bench.provider.closed_count)


# The message's deadline


async def test_connecting_ends_at_the_messages_deadline(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench = Bench()
    bench.provider.connect_s = 1000.0
    await bench.start(nursery)

    (attempt,) = bench.send()
    attempt.lease = msgspec.structs.replace(attempt.lease, expires_at=NOW + 3.0)
    await trio.sleep(4.0)

    assert [NotAttempted(Why.EXPIRED)] == bench.outcomes_seen
    assert [] == bench.intents
    assert 3.0 == pytest.approx(bench.ends[0].ended_s)


async def test_a_provider_gets_the_deadline_by_the_monotonic_clock(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bench, mails = Bench(), list[Mail]()

    def keep(mail: Mail) -> Outcome:
        mails.append(mail)
        return DOWN

    bench.provider.behaviour.script.append(keep)
    await bench.start(nursery)
    await trio.sleep(100.0)

    (attempt,) = bench.send()
    attempt.lease = msgspec.structs.replace(attempt.lease, expires_at=NOW + 130.0)
    await trio.sleep(1.0)

    assert [130.0] == pytest.approx([mail.deadline_s for mail in mails])
