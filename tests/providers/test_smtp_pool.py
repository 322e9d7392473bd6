"""The provider's connections: reused, looked at, replaced, given up, closed."""

from __future__ import annotations

import pytest
import trio

from mailactors.model.outcome import Accepted, Deferred
from tests.providers.fake_relay import Answer, FakeRelay, Fault
from tests.providers.mails import CAT, make_mail, make_provider, open_session


async def test_reuses_the_connection_and_resets_what_was_left_open(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {f"RCPT TO:<{CAT}>": b"550 5.1.1 no\r\n", "DATA": [b"554 no\r\n"]})
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail(CAT))
    relay.script["DATA"] = b"354 go\r\n"

    outcomes = [await (await open_session(provider)).send(make_mail()) for _ in range(2)]

    assert [Accepted, Accepted] == [type(outcome) for outcome in outcomes]
    assert relay.connections_count == 1
    assert relay.lines.count(b"RSET") == 1


async def test_takes_leave_after_so_many_messages(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay, messages_per_connection_max=2)

    for _ in range(3):
        await (await open_session(provider)).send(make_mail())

    assert relay.connections_count == 2
    assert relay.lines.count(b"QUIT") == 1


async def test_connection_idle_for_too_long_is_not_reused(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay, idle_s=10)
    await (await open_session(provider)).aclose()

    await trio.sleep(11)
    await (await open_session(provider)).aclose()

    assert relay.connections_count == 2
    await provider.aclose()


@pytest.mark.parametrize("last_words", [b"", b"421 4.4.2 idle for too long\r\n", b"42"])
async def test_connection_that_ended_while_idle_is_not_reused(
    nursery: trio.Nursery, last_words: bytes
) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    await (await open_session(provider)).aclose()
    if last_words:
        await relay.far_ends[0].send_all(last_words)
    await trio.aclose_forcefully(relay.far_ends[0])

    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Accepted)
    assert relay.connections_count == 2


@pytest.mark.parametrize("farewell", [Fault.HANG_UP, b"421 4.4.2 idle for too long\r\n"])
async def test_reused_connection_that_dies_at_mail_is_replaced_once(
    nursery: trio.Nursery, farewell: Answer
) -> None:
    relay = FakeRelay(nursery, {"MAIL": [b"250 ok\r\n", farewell, b"250 ok\r\n"]})
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())

    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Accepted)
    assert relay.connections_count == 2
    assert len(relay.messages) == 2


async def test_new_connection_that_dies_at_mail_is_not_replaced(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {"MAIL": [Fault.HANG_UP, b"250 ok\r\n"]})

    outcome = await (await open_session(make_provider(relay))).send(make_mail())

    assert isinstance(outcome, Deferred)
    assert relay.connections_count == 1


async def test_cancellation_closes_the_connection(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {".": Fault.KEEP_SILENT})
    provider = make_provider(relay)
    session = await open_session(provider)

    with trio.move_on_after(5) as scope:
        await session.send(make_mail())

    assert scope.cancelled_caught
    assert provider.statistics() == {"idle_connections_count": 0}
    with pytest.raises(trio.BrokenResourceError):
        await relay.far_ends[0].send_all(b"250 late\r\n")
    nursery.cancel_scope.cancel()


async def test_aclose_takes_leave_and_keeps_no_connection(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    sessions = [await open_session(provider) for _ in range(2)]
    await sessions[0].aclose()

    await provider.aclose()
    await sessions[1].aclose()

    assert relay.lines.count(b"QUIT") == 2
