"""The watchdog in a whole gateway: real defects are named and cleared, and health is left alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from mailactors.dispatch import dispatcher
from mailactors.intake.registry import RegistryActor
from mailactors.model.message import Address
from mailactors.model.outcome import Deferred, Outcome, Phase, Reason, Rejected, Scope, Uncertain
from mailactors.observe.alarms import RULES, Alarm, AlarmKind, Finding
from mailactors.observe.logs import masked
from mailactors.observe.metrics import expose
from mailactors.observe.watchdog import LOOK_EVERY_S, facts_of
from mailactors.providers.port import Mail
from mailactors.spool.port import SpoolBrokenError, SpoolFullError
from mailactors.spool.sqlite import SqliteStore
from mailactors.wiring import Gateway, build
from tests.gateways import (
    EPOCH_S,
    InlineExecutor,
    NotingJournal,
    VirtualClock,
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

HOUR_S = 3600.0
LOST = Uncertain(Phase.FINAL, Reason("the connection was lost"))
GREY = Deferred(Scope.RECIPIENT, Reason("greylisted", 451), 600.0)
BUSY = Deferred(Scope.PROVIDER, Reason("busy", 503))


def change(store: SqliteStore, sql: str, *bindings: Any) -> None:
    """Plant a defect that no command would make, or take it away."""
    store._db.execute(sql, bindings)


def journal(gateway: Gateway) -> NotingJournal:
    found = gateway.ports.journal
    assert isinstance(found, NotingJournal)
    return found


def alarms(gateway: Gateway) -> list[dict[str, Any]]:
    return journal(gateway).named("watchdog.alarm")


def cleared(gateway: Gateway) -> list[str]:
    return [each["kind"] for each in journal(gateway).named("watchdog.cleared")]


async def one_alarm(gateway: Gateway, kind: AlarmKind, within_s: float = 20.0) -> dict[str, Any]:
    """Return the only alarm, once it is raised; not sooner than its kind may last in health."""
    rule = RULES[kind]
    await trio.sleep(max(0.0, rule.patience_s - 0.1))
    assert [] == alarms(gateway) or rule.patience_s == 0.0
    await trio.sleep(within_s)
    await trio.sleep(300.0)  # it is told once
    (alarm,) = alarms(gateway)
    assert (kind.value, rule.expected) == (alarm["kind"], alarm["expected"])
    assert [kind] == [each.fault.kind for each in gateway.watch.alarms()]
    return alarm


async def is_cleared(gateway: Gateway, kind: AlarmKind) -> None:
    """Wait until the alarm is over; it is told once."""
    await trio.sleep(3 * LOOK_EVERY_S)
    assert [kind.value] == cleared(gateway)
    assert [] == gateway.watch.alarms()
    await trio.sleep(60.0)
    assert 1 == len(alarms(gateway)) == len(cleared(gateway))


def pause(gateway: Gateway) -> None:
    for lane in gateway.lanes.values():
        lane.pause()


def resume(gateway: Gateway) -> None:
    for lane in gateway.lanes.values():
        lane.resume()


# What is found


async def test_a_lease_of_an_unknown_owner_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            (receipt,) = await submit(gateway, 1)
            await wait_for_states(gateway, leased=1)
            change(store, "UPDATE deliveries SET node = 'ghost'")
            alarm = await one_alarm(gateway, AlarmKind.LEASE_ORPHANED)

            assert (receipt.id, "queued", "leased to node 'ghost'", "transactional") == (
                *(alarm["id"], alarm["state"], alarm["detail"], alarm["stream"]),
            )
            assert 30.0 <= alarm["age_s"] <= 50.0
            change(store, "UPDATE deliveries SET node = 'single'")
            await is_cleared(gateway, AlarmKind.LEASE_ORPHANED)


async def test_a_lease_that_its_owner_lost_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            (receipt,) = await submit(gateway, 1)
            await wait_for_states(gateway, leased=1)
            change(store, "UPDATE deliveries SET epoch = epoch + 100")
            resume(gateway)  # it is withdrawn at its intent, and then nobody has it
            alarm = await one_alarm(gateway, AlarmKind.LEASE_ORPHANED)

            assert receipt.id == alarm["id"]
            gateway.supervisor.crash("dispatcher")  # its successor finds it
            await wait_for_states(gateway, sent=1)
            await is_cleared(gateway, AlarmKind.LEASE_ORPHANED)


async def test_an_intent_that_nobody_has_in_flight_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            (receipt,) = await submit(gateway, 1)
            await wait_for_states(gateway, leased=1)
            change(store, "UPDATE deliveries SET state = 'sending', attempt_id = 'ghost'")
            alarm = await one_alarm(gateway, AlarmKind.INTENT_ORPHANED)

            assert (receipt.id, "processing", "attempt ghost") == (
                *(alarm["id"], alarm["state"], alarm["detail"]),
            )
            gateway.supervisor.crash("dispatcher")  # its successor settles it
            await wait_for_states(gateway, uncertain=1)
            await is_cleared(gateway, AlarmKind.INTENT_ORPHANED)


@pytest.mark.slow
async def test_a_lane_that_never_ends_an_attempt_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.is_stalling = True
            (receipt,) = await submit(gateway, 1)
            alarm = await one_alarm(gateway, AlarmKind.ATTEMPT_STUCK)

            assert receipt.id == alarm["id"]
            assert alarm["detail"].endswith("with only, sending")
            provider(gateway, "only").behaviour.is_stalling = False
            gateway.supervisor.crash("provider:only")
            await is_cleared(gateway, AlarmKind.ATTEMPT_STUCK)


async def test_an_expiry_that_is_not_carried_out_is_named(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "UPKEEP_S", 1e9)
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            (receipt,) = await submit(gateway, 1, expires_in_s=1.0)
            await wait_for_states(gateway, leased=1)
            alarm = await one_alarm(gateway, AlarmKind.NOT_EXPIRED)

            assert (receipt.id, "queued") == (alarm["id"], alarm["state"])
            monkeypatch.undo()
            gateway.supervisor.crash("dispatcher")  # its successor looks at deadlines
            await wait_for_states(gateway, expired=1)
            await is_cleared(gateway, AlarmKind.NOT_EXPIRED)


async def test_what_is_due_and_nobody_leases_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            (receipt,) = await submit(gateway, 1, send_at=EPOCH_S + 10.0)
            change(store, "UPDATE deliveries SET stream = 'nobodys'")
            await trio.sleep(10)
            alarm = await one_alarm(gateway, AlarmKind.NOT_CLAIMED)

            assert (receipt.id, "queued") == (alarm["id"], alarm["state"])
            change(store, "UPDATE deliveries SET stream = 'transactional'")
            await gateway.door.submit(letter("another"))  # it makes the dispatcher look
            await wait_for_states(gateway, sent=2)
            await is_cleared(gateway, AlarmKind.NOT_CLAIMED)


@pytest.mark.parametrize(
    "defect", ["DELETE FROM doubts", "UPDATE doubts SET next_at = 9e999"], ids=["lost", "never"]
)
async def test_a_doubt_that_nobody_sees_to_is_named(defect: str, autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.script.append(LOST)
            (receipt,) = await submit(gateway, 1)
            await wait_for_states(gateway, uncertain=1)
            change(store, defect)
            alarm = await one_alarm(gateway, AlarmKind.NOT_SETTLED)

            assert (receipt.id, "uncertain", "no look-up or repeat is due") == (
                *(alarm["id"], alarm["state"], alarm["detail"]),
            )
            change(store, "UPDATE deliveries SET state = 'held'")
            await is_cleared(gateway, AlarmKind.NOT_SETTLED)


async def test_a_doubt_that_is_due_and_not_seen_to_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        config = make_config({"only": simulated(delivery_events=True)})
        async with running(config, store) as gateway:
            provider(gateway, "only").behaviour.script.append(LOST)
            (receipt,) = await submit(gateway, 1)
            await wait_for_states(gateway, uncertain=1)
            gateway.settler.due_at = float("inf")  # the settler has forgotten of it
            await trio.sleep(60)
            alarm = await one_alarm(gateway, AlarmKind.NOT_SETTLED)

            assert (receipt.id, "uncertain") == (alarm["id"], alarm["state"])
            gateway.settler.expect(0.0)
            await wait_for_states(gateway, sent=1)
            await is_cleared(gateway, AlarmKind.NOT_SETTLED)


@pytest.mark.parametrize(
    ("kind", "defect", "cure"),
    [
        (
            AlarmKind.COUNT_WRONG,
            "UPDATE messages SET open_count = 2",
            "UPDATE messages SET open_count = 1",
        ),
        (
            AlarmKind.FINAL_UNDATED,
            "UPDATE messages SET final_at = 1.0",
            "UPDATE messages SET final_at = NULL",
        ),
        (
            AlarmKind.LEDGER_IMBALANCE,
            "UPDATE messages SET recipients_total = 2",
            "UPDATE messages SET recipients_total = 1",
        ),
    ],
)
async def test_what_does_not_add_up_is_named(
    kind: AlarmKind, defect: str, cure: str, autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            (receipt,) = await submit(gateway, 1)
            await trio.sleep(60)
            change(store, defect)
            alarm = await one_alarm(gateway, kind)

            assert receipt.id == alarm["id"]
            change(store, cure)
            await is_cleared(gateway, kind)


async def test_a_delivery_without_its_message_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await submit(gateway, 2)
            await wait_for_states(gateway, sent=2)
            change(store, "DELETE FROM messages WHERE seq = 2")
            alarm = await one_alarm(gateway, AlarmKind.LEDGER_IMBALANCE)

            assert "message no. 2" == alarm["about"]
            change(store, "DELETE FROM deliveries WHERE seq = 2")
            await is_cleared(gateway, AlarmKind.LEDGER_IMBALANCE)


async def test_an_actor_that_handles_nothing_is_named(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_self: RegistryActor, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    monkeypatch.setattr(RegistryActor, "run", run)
    with open_store() as store:
        async with running(make_config(), store) as gateway, trio.open_nursery() as nursery:
            nursery.start_soon(give_up_on, gateway, 10.0)
            alarm = await one_alarm(gateway, AlarmKind.MAILBOX_STUCK)

            assert ("registry", "1 items wait") == (alarm["about"], alarm["detail"])
            monkeypatch.undo()
            gateway.supervisor.restart("registry")
            await is_cleared(gateway, AlarmKind.MAILBOX_STUCK)


async def give_up_on(gateway: Gateway, after_s: float) -> None:
    """Submit a message, and hang up."""
    with trio.move_on_after(after_s):
        await gateway.door.submit(letter())


async def test_an_event_loop_that_was_held_up_is_named(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await trio.sleep(60)
            autojump_clock.jump(30)
            await trio.sleep(1)
            (alarm,) = alarms(gateway)

            assert ("loop_blocked", "event loop") == (alarm["kind"], alarm["about"])
            await is_cleared(gateway, AlarmKind.LOOP_BLOCKED)


class Reading(InlineExecutor):
    """Answers questions, unless told not to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may_go_on = trio.Event()
        self.may_go_on.set()

    async def run(self, work: Callable[[], T]) -> T:
        if self.name == "reader":
            await self.may_go_on.wait()
        return await super().run(work)


async def test_a_spool_that_answers_no_question_is_named(autojump_clock: MockClock) -> None:
    executors: dict[str, Reading] = {}

    def make(name: str) -> Reading:
        return executors.setdefault(name, Reading(name))

    ports = dataclasses.replace(make_ports(), executor=make)
    with open_store() as store:
        async with running(make_config(), store, ports) as gateway:
            await trio.sleep(60)
            executors["reader"].may_go_on = trio.Event()
            alarm = await one_alarm(gateway, AlarmKind.LOOK_STUCK)

            assert "spool reader" == alarm["about"]
            executors["reader"].may_go_on.set()
            await is_cleared(gateway, AlarmKind.LOOK_STUCK)


async def test_a_successor_raises_no_alarm_twice(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            await submit(gateway, 1)
            change(store, "UPDATE messages SET open_count = 2")
            await trio.sleep(20)
            gateway.supervisor.crash("watchdog")
            await trio.sleep(60)

            assert 1 == len(alarms(gateway))
            change(store, "UPDATE messages SET open_count = 1")
            await is_cleared(gateway, AlarmKind.COUNT_WRONG)


async def test_alarms_are_in_the_metrics(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            pause(gateway)
            await submit(gateway, 1)
            before = (await expose(gateway)).decode()
            change(store, "UPDATE messages SET open_count = 2")
            await trio.sleep(20)
            during = (await expose(gateway)).decode()
            change(store, "UPDATE messages SET open_count = 1")
            await trio.sleep(20)
            after = (await expose(gateway)).decode()

    now, ever = "mailactors_watchdog_alarms", "mailactors_watchdog_raised_total"
    shown = [
        [
            f'{name}{{kind="count_wrong"}} {count}.0' in text
            for name, count in zip((now, ever), counts, strict=True)
        ]
        for text, counts in ((before, (0, 0)), (during, (1, 1)), (after, (0, 1)))
    ]
    assert [[True, True]] * 3 == shown
    assert all(f'{now}{{kind="{kind}"}} 0.0' in after for kind in AlarmKind)
    assert "mailactors_watchdog_look_age_seconds" in after
    assert "mailactors_event_loop_lag_seconds 0.0" in after


# What is left alone


@contextlib.asynccontextmanager
async def healthy(config: Any, store: SqliteStore, ports: Any = None) -> AsyncIterator[Gateway]:
    """Run a gateway in which nothing may be found, though it is looked for all the time."""
    async with running(config, store, ports) as gateway:
        yield gateway
        await trio.sleep(2 * LOOK_EVERY_S)
        assert [] == alarms(gateway)
        assert gateway.watch.looked_s is not None
        assert trio.current_time() - gateway.watch.looked_s < 2 * LOOK_EVERY_S


async def come_to(gateway: Gateway, within_s: float, **counts: int) -> None:
    """Wait until the ledger shows exactly these counts, looking rarely."""
    with trio.fail_after(within_s):
        while True:
            ledger = await gateway.spool.read(lambda spool: spool.ledger())
            if {state: n for state, n in ledger.states.items() if n} == counts:
                return
            await trio.sleep(LOOK_EVERY_S)


def streams() -> dict[str, Any]:
    return {"otp": {"share": 16.0}, "main": {"share": 4.0}, "bulk": {"share": 1.0}}


@pytest.mark.slow
async def test_a_busy_gateway_is_left_alone(autojump_clock: MockClock) -> None:
    providers = {
        "primary": simulated(latency_s=0.5, error_rate=0.2, quota={"per_s": 2.0}),
        "secondary": simulated(latency_s=1.0, error_rate=0.1, concurrency_max=2),
        "tertiary": simulated(latency_s=2.0, error_rate=0.5, quota={"per_minute": 30}),
    }
    with open_store() as store:
        async with healthy(make_config(providers, streams=streams()), store) as gateway:
            for n in range(300):
                to = tuple(Address(f"{n}.{k}@example.com") for k in range(1 + n % 3))
                name = ("otp", "main", "bulk")[n % 3]
                await gateway.door.submit(letter(str(n), to=to, stream=name))
                await trio.sleep(0.1)
            await come_to(gateway, HOUR_S, sent=600)


@pytest.mark.slow
@pytest.mark.parametrize("per_s", [1.0, 0.2])
async def test_messages_that_wait_for_a_slow_lanes_permits_are_left_alone(
    per_s: float, autojump_clock: MockClock
) -> None:
    # Permits fall on whole seconds, as looks would if they were evenly spaced.
    config = make_config({"only": simulated(quota={"per_s": per_s})}, streams=streams())
    with open_store() as store:
        async with healthy(config, store) as gateway:
            for n in range(120):
                name = ("otp", "main", "bulk")[n % 3]
                await gateway.door.submit(letter(str(n), stream=name))
            await come_to(gateway, HOUR_S, sent=120)


@pytest.mark.slow
async def test_half_an_hour_without_any_provider_is_left_alone(autojump_clock: MockClock) -> None:
    with open_store() as store:
        two = {"primary": simulated(), "secondary": simulated()}
        async with healthy(make_config(two), store) as gateway:
            for name in gateway.lanes:
                provider(gateway, name).behaviour.is_refusing = True
            await submit(gateway, 700)  # more than the dispatcher wants in hand
            await trio.sleep(HOUR_S / 2)
            for name in gateway.lanes:
                provider(gateway, name).behaviour.is_refusing = False
            await come_to(gateway, HOUR_S, sent=700)


@pytest.mark.slow
async def test_a_restart_with_much_to_recover_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    config = make_config({"only": simulated(latency_s=1.0)})
    path = tmp_path / "spool.db"
    for life in range(3):
        with open_store(path) as store, contextlib.suppress(trio.Cancelled):
            gateway = build(config, make_ports(), store)
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status, g=gateway: g.run(task_status=task_status))
                for n in range(200):
                    await gateway.door.submit(letter(f"{life}.{n}"))
                await trio.sleep(3)
                nursery.cancel_scope.cancel()  # as if killed: nothing is stopped in order
            assert [] == alarms(gateway)
    with open_store(path) as store:
        async with healthy(config, store) as gateway:
            await come_to(gateway, HOUR_S, sent=600)

            assert journal(gateway).named("spool.recovered")


@pytest.mark.slow
async def test_a_long_deferral_is_left_alone(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with healthy(make_config(), store) as gateway:
            provider(gateway, "primary").behaviour.script.extend([GREY] * 3)
            await submit(gateway, 1)
            await come_to(gateway, HOUR_S, sent=1)

            assert 4 == provider(gateway, "primary").calls


@pytest.mark.slow
async def test_a_held_message_is_left_alone(autojump_clock: MockClock) -> None:
    config = make_config({"only": simulated()}, streams={"invoices": {"on_uncertain": "hold"}})
    with open_store() as store:
        async with healthy(config, store) as gateway:
            provider(gateway, "only").behaviour.script.append(LOST)
            await submit(gateway, 1, expires_in_s=HOUR_S / 4)
            await trio.sleep(HOUR_S / 2)

            assert ["held"] == states(await status(gateway, "0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "is_mute"),
    [({}, False), ({"look_up_lag_s": 20.0}, True), ({"idempotency_window_s": 600.0}, False)],
    ids=["resend", "no answer to look-ups", "by key"],
)
@pytest.mark.slow
async def test_many_doubts_at_once_are_left_alone(
    settings: dict[str, Any], is_mute: bool, autojump_clock: MockClock
) -> None:
    def lose(_mail: Mail) -> Outcome:
        return LOST

    config = make_config({"only": simulated(latency_s=0.2, **settings)})
    with open_store() as store:
        async with healthy(config, store) as gateway:
            only = provider(gateway, "only")
            only.behaviour.script.extend([lose] * 100)
            only.behaviour.is_mute = is_mute
            await submit(gateway, 100)
            await come_to(gateway, 2 * HOUR_S, sent=100)


class SteppedClock(VirtualClock):
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def wall_time(self) -> float:
        return super().wall_time() + self.step_s


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_a_step_of_the_wall_clock_is_named_and_nothing_else(
    step_s: float, autojump_clock: MockClock
) -> None:
    clock = SteppedClock()
    ports = dataclasses.replace(make_ports(), clock=clock)
    providers = {"only": simulated(latency_s=1.0, quota={"per_s": 2.0})}
    with open_store() as store:
        async with running(make_config(providers), store, ports) as gateway:
            only = provider(gateway, "only")
            only.behaviour.script.extend([LOST, GREY, BUSY, LOST, GREY])
            await submit(gateway, 200)
            await gateway.door.submit(letter("short", expires_in_s=HOUR_S / 4))
            await gateway.door.submit(letter("later", send_at=clock.wall_time() + HOUR_S / 4))
            await trio.sleep(30)
            clock.step_s = step_s
            await trio.sleep(1.2 * HOUR_S)
            clock.step_s = 0.0
            await trio.sleep(HOUR_S / 4)
            ledger = await gateway.spool.read(lambda spool: spool.ledger())

            assert 202 == ledger.states["sent"] + ledger.states.get("expired", 0)
            assert {AlarmKind.CLOCK_JUMPED.value} == {each["kind"] for each in alarms(gateway)}


@pytest.mark.slow
async def test_paused_providers_are_left_alone(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with healthy(make_config(), store) as gateway:
            pause(gateway)
            await submit(gateway, 600)
            await trio.sleep(HOUR_S / 4)
            resume(gateway)
            await come_to(gateway, 600.0, sent=600)


@pytest.mark.slow
async def test_a_full_disk_is_told_by_the_spool_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SpoolFullError("no room")

    with open_store() as store:
        async with healthy(make_config({"only": simulated(latency_s=5.0)}), store) as gateway:
            await submit(gateway, 40)
            await trio.sleep(2)
            monkeypatch.setattr(store, "apply", full)
            await trio.sleep(600)
            assert journal(gateway).named("spool.full")
            monkeypatch.undo()
            await wait_for_states(gateway, sent=40)


async def test_a_bounce_an_expiry_and_a_cancel_are_left_alone(autojump_clock: MockClock) -> None:
    gone = Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1"))
    with open_store() as store:
        async with healthy(make_config({"only": simulated()}), store) as gateway:
            provider(gateway, "only").behaviour.script.append(gone)
            await submit(gateway, 1)
            await wait_for_states(gateway, bounced=1)
            pause(gateway)
            await gateway.door.submit(letter("brief", expires_in_s=10.0))
            await trio.sleep(120)

            assert ["expired"] == states(await status(gateway, "brief"))


async def test_a_broken_spool_is_left_to_its_writer(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SpoolBrokenError("the disk")

    with open_store() as store:
        async with running(make_config(), store) as gateway:
            await trio.sleep(20)
            looked_s = gateway.watch.looked_s
            monkeypatch.setattr(SqliteStore, "inspect", broken)
            await trio.sleep(60)

            assert looked_s == gateway.watch.looked_s
            assert [] == alarms(gateway)
            assert [] == journal(gateway).named("actor.crashed")


@pytest.mark.parametrize("kind", AlarmKind)
@pytest.mark.parametrize("seq", [0, 7])
def test_an_alarm_in_the_log_names_what_it_is_about(kind: AlarmKind, seq: int) -> None:
    finding = Finding(kind, "registry", seq=seq, detail="1 items wait", since=1.0)
    alarm = Alarm(finding, raised_at=2.0, raised_s=2.0)

    facts = facts_of(alarm, 3.0)

    logged = {name: masked(name, value) for name, value in facts.items()}
    assert "registry" in logged.values()
    assert "***" not in logged.values()
