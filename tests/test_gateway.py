"""The gateway as a whole, in virtual time: failover, deferral, uncertainty, deadlines, crashes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from mailactors.dispatch.attempt import Done
from mailactors.dispatch.provider import INTENT_WITHIN_S
from mailactors.intake.submission import (
    KeyConflictError,
    OverloadedError,
    StoppingError,
    SubmissionRejectedError,
)
from mailactors.model.message import Address
from mailactors.model.outcome import Accepted, Deferred, Phase, Reason, Rejected, Scope, Uncertain
from mailactors.runtime.reply import Reply
from mailactors.runtime.supervisor import RestartsExhaustedError
from mailactors.spool.actor import TRIES_MAX, Write
from mailactors.spool.port import CountCrash, SpoolFullError
from mailactors.wiring import Gateway, build
from tests.dispatch.makers import NotingEntropy
from tests.gateways import (
    CrashPlan,
    InlineExecutor,
    NotingJournal,
    letter,
    make_config,
    make_ports,
    open_store,
    provider,
    running,
    simulated,
    states,
    status,
    submit,
    wait_for_states,
)

T = TypeVar("T")

BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))
LOST = Uncertain(Phase.FINAL, Reason("the connection was lost"))


async def test_a_message_is_sent_through_the_primary(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            receipt = await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            message = await status(gateway, "1")

            assert receipt.id == message.id
            assert [d.provider for d in message.deliveries] == ["primary"]
            assert message.attempts == 1
            assert [(message.id, ("bob@example.com",))] == list(
                provider(gateway, "primary").received
            )


@pytest.mark.parametrize(
    ("down", "expected", "attempts"),
    [
        (["primary"], "secondary", 2),
        (["primary", "secondary"], "tertiary", 3),
    ],
)
async def test_a_message_goes_to_the_next_provider_at_once(
    down: list[str], expected: str, attempts: int, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            for name in down:
                provider(gateway, name).behaviour.is_refusing = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            message = await status(gateway, "1")

            assert expected == message.deliveries[0].provider
            assert attempts == message.attempts
            assert trio.current_time() < 1.0


@pytest.mark.parametrize("address", ["bob@shop.test", "bob@printer.local", "bob@localhost"])
async def test_addresses_to_try_things_out_are_sent_to_by_simulated_providers(
    address: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await gateway.door.submit(letter(to=(Address(address),)))
            await wait_for_states(gateway, sent=1)


async def test_with_one_provider_that_sends_they_are_refused(autojump_clock: MockClock) -> None:
    providers = {"a": simulated(), "b": {"kind": "smtp", "host": "relay.example"}}
    with open_store() as store:
        async with running(make_config(providers=providers), store) as gateway:
            with pytest.raises(SubmissionRejectedError):
                await gateway.door.submit(letter(to=(Address("bob@shop.test"),)))


async def test_when_all_are_down_it_is_deferred_by_the_table_and_sent_later(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            for name in gateway.lanes:
                provider(gateway, name).behaviour.is_refusing = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, deferred=1)
            assert (await status(gateway, "1")).attempts == 3
            await trio.sleep(2.0)  # the first wait is one second, the second two to four
            assert (await status(gateway, "1")).attempts == 6

            provider(gateway, "tertiary").behaviour.is_refusing = False
            await wait_for_states(gateway, within_s=10.0, sent=1)

            assert (await status(gateway, "1")).deliveries[0].provider == "tertiary"


async def test_after_retries_walks_the_table_on_one_provider_first(
    autojump_clock: MockClock,
) -> None:
    config = make_config(streams={"transactional": {"failover": "after_retries"}})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.is_refusing = True
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1)
            message = await status(gateway, "1")

            assert message.deliveries[0].provider == "secondary"
            assert message.attempts == 6  # one, four retries, then the next provider
            assert 1 + 2 + 4 + 8 <= trio.current_time() <= 1 + 4 + 16 + 32 + 1


async def test_a_patient_stream_fails_over_when_the_primary_is_dead(
    autojump_clock: MockClock,
) -> None:
    streams = {"mail": {"failover": "after_retries", "expires_after_s": 600.0}}
    with open_store() as store:
        async with running(make_config(streams=streams), store) as gateway:
            provider(gateway, "primary").behaviour.is_refusing = True
            await submit(gateway, 100)
            await wait_for_states(gateway, within_s=120, sent=100)

            assert 100 == len(provider(gateway, "secondary").received)


class SlowExecutor(InlineExecutor):
    """A disk that takes its time, so that questions and answers overlap."""

    async def run(self, work: Callable[[], T]) -> T:
        await trio.sleep(0.2)
        return work()


@pytest.mark.parametrize("after_s", [60.0 + tenths / 10 for tenths in range(16)])
async def test_no_doubt_is_forgotten_while_another_is_asked_about(
    after_s: float, autojump_clock: MockClock
) -> None:
    ports = dataclasses.replace(make_ports(), executor=SlowExecutor)
    with open_store() as store:
        async with running(make_config(), store, ports) as gateway:
            provider(gateway, "primary").behaviour.script.extend([LOST] * 2)
            await gateway.door.submit(letter("1"))
            await trio.sleep(after_s)
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, within_s=100, sent=2)

            assert 2 == (await gateway.spool.read(lambda spool: spool.ledger())).declared_risks


async def test_each_recipient_has_a_fate_of_its_own(autojump_clock: MockClock) -> None:
    to = tuple(Address(f"{name}@example.com") for name in ("good", "gone", "later"))
    mixed = Accepted(
        "42",
        refused={
            "gone@example.com": Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1")),
            "later@example.com": Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 300.0),
        },
    )
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            primary = provider(gateway, "primary")
            primary.behaviour.script.append(mixed)
            await gateway.door.submit(letter(to=to))
            await wait_for_states(gateway, sent=1, bounced=1, deferred=1)
            await trio.sleep(299)
            assert states(await status(gateway, "1")) == ["sent", "bounced", "deferred"]
            await wait_for_states(gateway, sent=2, bounced=1)

            assert primary.received[-1][1] == ("later@example.com",)
            assert len(primary.received) == 2


async def test_an_uncertain_message_is_resent_once_declared(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, within_s=2, sent=1)
            message = await status(gateway, "1")

            assert message.declared_risks == 1
            assert [1, 1] == [
                len(provider(gateway, name).received) for name in ("primary", "secondary")
            ]


async def test_a_stream_that_holds_never_resends(autojump_clock: MockClock) -> None:
    config = make_config(streams={"invoices": {"on_uncertain": "hold"}})
    with open_store() as store:
        async with running(config, store) as gateway:
            provider(gateway, "primary").behaviour.script.append(LOST)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, held=1)
            await trio.sleep(3_600)

            assert states(await status(gateway, "1")) == ["held"]
            assert sum(provider(gateway, name).calls for name in gateway.lanes) == 1


async def test_a_message_expires_where_it_waits(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            for name in gateway.lanes:
                provider(gateway, name).behaviour.is_refusing = True
            await gateway.door.submit(letter(expires_in_s=30))
            await wait_for_states(gateway, within_s=33, expired=1)
            attempts = (await status(gateway, "1")).attempts
            await trio.sleep(1000)

            assert attempts == (await status(gateway, "1")).attempts


async def test_a_message_that_every_provider_refuses_has_failed(
    autojump_clock: MockClock,
) -> None:
    too_large = Rejected(Scope.MESSAGE, Reason("too large", 552))
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            for name in gateway.lanes:
                provider(gateway, name).behaviour.script.append(too_large)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, failed=1)

            assert (await status(gateway, "1")).attempts == 3


async def test_a_quota_spills_to_the_next_provider(autojump_clock: MockClock) -> None:
    config = make_config({"primary": simulated(quota={"per_minute": 3}), "secondary": simulated()})
    with open_store() as store:
        async with running(config, store) as gateway:
            await submit(gateway, 5)
            await wait_for_states(gateway, sent=5)

            assert (
                provider(gateway, "primary").calls,
                provider(gateway, "secondary").calls,
            ) == (3, 2)


async def test_a_throttled_provider_is_left_alone_until_it_said(
    autojump_clock: MockClock,
) -> None:
    slow_down = Deferred(Scope.PROVIDER, Reason("slow down", 429), 20.0, throttled=True)
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.script.append(slow_down)
            await submit(gateway, 3)
            await trio.sleep(19.9)
            calls_before = provider(gateway, "only").calls
            await wait_for_states(gateway, sent=3)

            assert calls_before <= 3  # those in flight when it said so
            assert trio.current_time() >= 20


async def test_a_dead_provider_is_soon_left_alone(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([BUSY] * 1000)
            for n in range(200):
                await gateway.door.submit(letter(str(n)))
                await trio.sleep(0.05)
            await wait_for_states(gateway, sent=200)

            assert provider(gateway, "primary").calls <= 20
            notes = gateway.ports.journal
            assert isinstance(notes, NotingJournal)
            assert notes.named("breaker.moved")[0]["after"] == "open"


async def test_identical_submissions_at_once_make_one_message(autojump_clock: MockClock) -> None:
    ids: list[str] = []
    with open_store() as store:
        async with running(make_config(), store) as gateway:

            async def submit_one() -> None:
                ids.append((await gateway.door.submit(letter())).id)

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(submit_one)
            await wait_for_states(gateway, sent=1)

            assert len(set(ids)) == 1
            with pytest.raises(KeyConflictError):
                await gateway.door.submit(letter(text="another body"))


async def test_without_a_key_the_content_is_the_key_for_a_minute(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            first = await gateway.door.submit(letter(key=None, by_content=True))
            again = await gateway.door.submit(letter(key=None, by_content=True))

            assert (first.id, False, True) == (again.id, first.is_replay, again.is_replay)


async def test_after_the_door_is_closed_nothing_is_accepted(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            gateway.door.close()

            with pytest.raises(StoppingError):
                await gateway.door.submit(letter())


POINTS = [
    "spool__commit",
    "spool__committed",
    "registry__submit",
    "dispatcher__outcome",
    "limiter__attempt",
    "limiter__done",
    "breaker__attempt",
    "breaker__done",
    "provider__attempt",
    "provider__intended",
    "provider__sent",
]


@pytest.mark.parametrize("point", POINTS)
async def test_an_actor_that_crashes_loses_nothing_and_repeats_nothing_undeclared(
    point: str, autojump_clock: MockClock
) -> None:
    plan = CrashPlan(**{point: 2})
    with open_store() as store:
        async with running(make_config(), store, make_ports(plan)) as gateway:
            accepted = 0
            for n in range(20):
                accepted += await submit_until_accepted(gateway, str(n))
            await wait_for_states(gateway, sent=accepted)
            sent = [
                marker for name in gateway.lanes for marker, _ in provider(gateway, name).received
            ]
            risks = (await gateway.spool.read(lambda spool: spool.ledger())).declared_risks

            assert accepted == 20
            assert len(set(sent)) == 20
            assert len(sent) - 20 <= risks <= 4
            assert sum(plan.times.values()) == 0
            assert gateway.lanes.in_flight == []


async def submit_until_accepted(gateway: Gateway, name: str) -> int:
    """Submit as a client would, with the same key after an error."""
    for _ in range(5):
        try:
            await gateway.door.submit(letter(name))
        except OverloadedError:
            continue
        return 1
    return 0


async def test_past_the_limit_of_crashes_it_gives_up_and_a_restart_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "spool.db"
    with open_store(path) as store:
        gateway = build(make_config(), make_ports(CrashPlan(dispatcher__outcome=100)), store)
        with pytest.RaisesGroup(RestartsExhaustedError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: gateway.run(task_status=task_status))
                await submit(gateway, 10)
                await trio.sleep(60)
    with open_store(path) as store:
        async with running(make_config(), store) as gateway:
            await wait_for_states(gateway, within_s=200, sent=10)
            ledger = await gateway.spool.read(lambda spool: spool.ledger())

            assert ledger.is_balanced
            assert ledger.declared_risks > 0  # what was in flight when it gave up


async def test_a_start_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SpoolFullError("no room")

    ports = make_ports()
    assert isinstance(ports.journal, NotingJournal)
    with open_store() as store:
        async with trio.open_nursery() as nursery:  # one that is killed with leases in memory
            before = build(make_config(), make_ports(), store)
            await nursery.start(lambda task_status: before.run(task_status=task_status))
            for lane in before.lanes.values():
                lane.pause()
            await submit(before, 3)
            await wait_for_states(before, leased=3)
            nursery.cancel_scope.cancel()
        monkeypatch.setattr(store, "apply", full)
        async with running(make_config(), store, ports) as gateway:
            await trio.sleep(0.5)
            with pytest.raises(OverloadedError, match="full"):
                await gateway.door.submit(letter("refused"))
            await trio.sleep(200)
            monkeypatch.undo()
            await wait_for_states(gateway, sent=3)

    assert 3 == len(ports.journal.named("spool.recovery_waits"))
    assert not ports.journal.named("actor.crashed")


async def test_a_writer_that_dies_of_a_recovery_does_not_take_the_dispatcher_with_it(
    autojump_clock: MockClock,
) -> None:
    ports = make_ports(CrashPlan(spool__commit=TRIES_MAX))
    assert isinstance(ports.journal, NotingJournal)
    with open_store() as store:
        async with running(make_config(), store, ports) as gateway:
            await submit(gateway, 3)
            await wait_for_states(gateway, sent=3)

    assert {"spool"} == {facts["actor"] for facts in ports.journal.named("actor.crashed")}
    assert 1 == len(ports.journal.named("spool.answer_lost"))


class Disk:
    """The writer does nothing while the disk stands still."""

    def __init__(self) -> None:
        self.goes_on = trio.Event()
        self.goes_on.set()

    def executor(self, name: str) -> DiskExecutor:
        return DiskExecutor(name, self)

    def stop(self) -> None:
        self.goes_on = trio.Event()


class DiskExecutor(InlineExecutor):
    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name)
        self._disk = disk

    async def run(self, work: Callable[[], T]) -> T:
        if self.name == "spool":
            await self._disk.goes_on.wait()
        return await super().run(work)


ONE_SLOW = {"only": simulated(latency_s=5.0)}


async def test_a_stop_waits_until_outcomes_are_durable(autojump_clock: MockClock) -> None:
    disk = Disk()
    ports = dataclasses.replace(make_ports(), executor=disk.executor)
    with open_store() as store:
        async with running(make_config(ONE_SLOW), store, ports) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sending=1)
            disk.stop()
            gateway.spool.mailbox.put_nowait(Write(CountCrash(9, 0), Reply()))
            await trio.sleep(10)  # the outcome waits behind a commit that has begun
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.stop)
                await trio.sleep(1)
                disk.goes_on.set()

        assert {"sent": 1} == {state: n for state, n in store.ledger().states.items() if n}


async def test_a_stop_sends_nothing_new(autojump_clock: MockClock) -> None:
    settings = {"only": simulated(latency_s=5.0, concurrency_max=1)}
    with open_store() as store:
        async with running(make_config(settings), store) as gateway:
            await submit(gateway, 5)
            await wait_for_states(gateway, sending=1, leased=4)

            await gateway.stop()

            assert 1 == provider(gateway, "only").calls
        assert 1 == store.ledger().states["sent"]


async def test_an_intent_that_became_durable_too_late_is_void(autojump_clock: MockClock) -> None:
    disk = Disk()
    ports = dataclasses.replace(make_ports(), executor=disk.executor)
    with open_store() as store:
        async with running(make_config(ONE_SLOW), store, ports) as gateway:
            gateway.lanes["only"].pause()
            await gateway.door.submit(letter())
            await wait_for_states(gateway, leased=1)
            disk.stop()
            gateway.lanes["only"].resume()
            await trio.sleep(INTENT_WITHIN_S + 5)
            disk.goes_on.set()

            await wait_for_states(gateway, sent=1)

            assert 1 == provider(gateway, "only").calls


async def test_an_end_that_comes_twice_counts_once(autojump_clock: MockClock) -> None:
    ports = make_ports()
    assert isinstance(ports.journal, NotingJournal)
    with open_store() as store:
        async with running(make_config(ONE_SLOW), store, ports) as gateway:
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sending=1)
            (attempt,) = gateway.lanes["only"].in_flight.values()
            lost = Uncertain(Phase.FINAL, Reason("the actor died"))
            attempt.reply_to(Done(attempt, lost, trio.current_time()))
            await trio.sleep(10)

            assert ["uncertain"] == [
                facts["outcome"]
                for facts in ports.journal.named("attempt.done")
                if facts["attempt"] == 1
            ]


async def test_each_retry_of_a_message_has_a_draw_of_its_own(autojump_clock: MockClock) -> None:
    entropy = NotingEntropy()
    with open_store() as store:
        ports = dataclasses.replace(make_ports(), entropy=entropy)
        async with running(make_config({"only": simulated()}), store, ports) as gateway:
            down = Deferred(Scope.PROVIDER, Reason("busy", 503))
            provider(gateway, "only").behaviour.script.extend([down] * 3)
            await gateway.door.submit(letter())
            await wait_for_states(gateway, sent=1, within_s=3600)

    drawn = [key for key in entropy.keys if key[0] == "retry"]
    assert 4 == len(drawn) == len(set(drawn))
