"""Streams, times and envelopes in virtual time: who goes first, when, to whom, and until when."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from mailactors.model.message import Address
from mailactors.model.outcome import Accepted, Deferred, Reason, Rejected, Scope
from mailactors.spool.port import AcceptMany, Command, Result
from mailactors.wiring import Gateway
from tests.gateways import (
    letter,
    make_config,
    open_store,
    provider,
    running,
    simulated,
    states,
    status,
    wait_for_states,
)

LATER = Deferred(Scope.RECIPIENT, Reason("mailbox busy", 450), 300.0)
GONE = Rejected(Scope.RECIPIENT, Reason("no such user", 550, "5.1.1"))
BULK = 50_000
BATCH = 1000


@pytest.mark.slow
async def test_a_sign_in_code_overtakes_a_mountain_of_bulk_mail(
    autojump_clock: MockClock,
) -> None:
    config = make_config(
        {"only": simulated(latency_s=0.2, concurrency_max=8)},
        streams={"bulk": {"share": 1.0}, "otp": {"share": 16.0, "expires_after_s": 600}},
    )
    with open_store() as store:
        async with running(config, store) as gateway:
            for start in range(0, BULK, BATCH):
                numbers = range(start, start + BATCH)
                await gateway.door.submit_many([letter(f"bulk {n}") for n in numbers])
            submitted_s = trio.current_time()
            await gateway.door.submit(letter("code", stream="otp"))
            await wait_until_sent(gateway, "code")
            took_s = trio.current_time() - submitted_s
            ledger = await gateway.spool.read(lambda spool: spool.ledger())

    assert took_s < 1.0
    assert sum(ledger.states.values()) - ledger.states["sent"] > BULK * 0.9


async def wait_until_sent(gateway: Gateway, name: str) -> None:
    while True:
        if states(await status(gateway, name)) == ["sent"]:
            return
        await trio.sleep(0.01)


async def test_a_partial_envelope_never_goes_where_the_visible_to_would_be_rewritten(
    autojump_clock: MockClock,
) -> None:
    to = (Address("now@example.com"), Address("later@example.com"))
    config = make_config({"smtp": simulated(), "json": simulated(own_envelope=False)})
    with open_store() as store:
        async with running(config, store) as gateway:
            smtp = provider(gateway, "smtp")
            smtp.behaviour.script.append(Accepted("1", {"later@example.com": LATER}))
            await gateway.door.submit(letter(to=to))
            await wait_for_states(gateway, sent=1, deferred=1)
            smtp.behaviour.is_refusing = True
            await trio.sleep(1000)
            calls_while_away = provider(gateway, "json").calls
            smtp.behaviour.is_refusing = False
            await wait_for_states(gateway, within_s=2000, sent=2)

            assert 0 == calls_while_away
            assert ("later@example.com",) == smtp.received[-1][1]


async def test_a_whole_message_may_go_through_a_json_api(autojump_clock: MockClock) -> None:
    to = (Address("a@example.com"), Address("b@example.com"))
    with open_store() as store:
        async with running(make_config({"json": simulated(own_envelope=False)}), store) as gateway:
            await gateway.door.submit(letter(to=to))
            await wait_for_states(gateway, sent=2)

            assert ("a@example.com", "b@example.com") == provider(gateway, "json").received[0][1]


async def test_send_at_is_kept_over_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "spool.db"
    with open_store(path) as store:
        async with running(make_config(), store) as gateway:
            at = gateway.ports.clock.wall_time() + 3600.0
            await gateway.door.submit(letter(send_at=at))
            await trio.sleep(1800)
            assert ["ready"] == states(await status(gateway, "1"))
    with open_store(path) as store:
        async with running(make_config(), store) as gateway:
            await trio.sleep(1799)
            early = states(await status(gateway, "1"))
            await wait_for_states(gateway, within_s=5, sent=1)

            assert ["ready"] == early
            assert 0 <= gateway.ports.clock.wall_time() - at < 2


def refuse_all(gateway: Gateway) -> None:
    for name in gateway.lanes:
        provider(gateway, name).behaviour.is_refusing = True


def defer_long(gateway: Gateway) -> None:
    for name in gateway.lanes:
        provider(gateway, name).behaviour.script.extend([LATER] * 5)


def pause_all(gateway: Gateway) -> None:
    for lane in gateway.lanes.values():
        lane.pause()


@pytest.mark.parametrize("obstacle", [refuse_all, defer_long, pause_all])
async def test_a_message_expires_wherever_it_is_stuck(
    obstacle: Callable[[Gateway], None], autojump_clock: MockClock
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            obstacle(gateway)
            await gateway.door.submit(letter(expires_in_s=120))
            await trio.sleep(118)
            assert states(await status(gateway, "1")) in (["deferred"], ["leased"])
            await wait_for_states(gateway, within_s=5, expired=1)


async def test_a_message_that_waits_for_a_quota_expires(autojump_clock: MockClock) -> None:
    with open_store() as store:
        async with running(
            make_config({"only": simulated(quota={"per_hour": 1})}), store
        ) as gateway:
            await gateway.door.submit(letter("first"))
            await gateway.door.submit(letter("second", expires_in_s=60))
            await wait_for_states(gateway, within_s=65, sent=1, expired=1)

            assert ["sent"] == states(await status(gateway, "first"))


async def test_a_message_expires_while_nobody_serves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "spool.db"
    with open_store(path) as store:
        async with running(make_config(), store) as gateway:
            pause_all(gateway)
            await gateway.door.submit(letter(expires_in_s=120))
    await trio.sleep(300)
    with open_store(path) as store:
        async with running(make_config(), store) as gateway:
            await wait_for_states(gateway, within_s=5, expired=1)

            assert 0 == sum(provider(gateway, name).calls for name in gateway.lanes)


async def test_a_message_that_expires_on_its_way_to_the_intent_is_not_sent(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config({"only": simulated()}), store) as gateway:
            lane = gateway.lanes["only"]
            connect = lane.provider.connect

            async def slowly() -> object:
                await trio.sleep(10)
                return await connect()

            lane.provider.connect = slowly  # type: ignore[method-assign,assignment]  # a slow handshake
            lane.provider.take_ready = lambda: None  # type: ignore[method-assign]
            await gateway.door.submit(letter(expires_in_s=5))
            await wait_for_states(gateway, within_s=20, expired=1)
            await trio.sleep(20)

            assert 0 == provider(gateway, "only").calls
            assert [] == gateway.lanes.in_flight


async def test_a_paused_provider_is_left_out_until_it_is_resumed(
    autojump_clock: MockClock,
) -> None:
    with open_store() as store:
        async with running(make_config(), store) as gateway:
            gateway.lanes["primary"].pause()
            await trio.sleep(0.1)
            await gateway.door.submit(letter("1"))
            await wait_for_states(gateway, sent=1)
            gateway.lanes["primary"].resume()
            await trio.sleep(0.1)
            await gateway.door.submit(letter("2"))
            await wait_for_states(gateway, sent=2)

            assert "secondary" == (await status(gateway, "1")).deliveries[0].provider
            assert "primary" == (await status(gateway, "2")).deliveries[0].provider


async def test_a_batch_is_one_commit_with_an_answer_for_each(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[Command]] = []
    with open_store() as store:
        apply = store.apply

        def noting(commands: Sequence[Command], now: float) -> list[Result]:
            groups.append(list(commands))
            return apply(commands, now)

        monkeypatch.setattr(store, "apply", noting)
        async with running(make_config(), store) as gateway:
            answers = await gateway.door.submit_many(
                [letter("1"), letter("bad", to=(Address("nobody"),)), letter("1"), letter("2")]
            )
            kinds = [type(answer).__name__ for answer in answers]
            await wait_for_states(gateway, sent=2)
    accepting = [group for group in groups if any(isinstance(c, AcceptMany) for c in group)]

    assert ["Receipt", "SubmissionRejectedError", "Receipt", "Receipt"] == kinds
    assert answers[0].id == answers[2].id  # type: ignore[union-attr]  # receipts, as above
    assert 1 == len(accepting)
