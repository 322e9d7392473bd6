"""A small message and its dot in one write: what is certain when the connection breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from mailactors.model.outcome import Accepted, Deferred, Outcome, Phase, Scope, Uncertain
from mailactors.providers.smtp.session import SmtpSession
from mailactors.providers.smtp.transport import AT_ONCE_OCTETS_MAX
from mailactors.runtime.plain import PlainSocket
from tests.providers.fake_relay import FakeRelay, Fault
from tests.providers.mails import make_mail, make_provider, open_session

DOT = b".\r\n"


class SocketRelay(FakeRelay):
    """The relay over real sockets."""

    near_ends: list[trio.SocketStream]

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        near, far = (trio.SocketStream(each) for each in trio.socket.socketpair())
        self.connections_count += 1
        self.near_ends.append(near)
        self.nursery.start_soon(self._serve, far)
        return near


@pytest.fixture
async def relay(nursery: trio.Nursery) -> AsyncIterator[SocketRelay]:
    """A relay that lets every message through."""
    made = SocketRelay(nursery)
    made.near_ends = []
    yield made
    for near in made.near_ends:
        await near.aclose()
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every write that the client made, as far as the kernel took it."""
    made: list[bytes] = []
    write_now = PlainSocket.write_now

    def noting(self: PlainSocket, data: bytes | memoryview) -> int:
        taken = write_now(self, data)
        made.append(bytes(data[:taken]))
        return taken

    monkeypatch.setattr(PlainSocket, "write_now", noting)
    return made


async def test_a_small_message_goes_with_its_dot(relay: SocketRelay, writes: list[bytes]) -> None:
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Accepted)
    assert writes[-1].endswith(b"hello\r\n.\r\n")
    assert 1 == sum(each.endswith(DOT) for each in writes)
    assert relay.messages[0].endswith(b"hello")


async def test_a_large_message_is_written_before_its_dot(
    relay: SocketRelay, writes: list[bytes]
) -> None:
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail(text="x" * AT_ONCE_OCTETS_MAX))

    assert isinstance(outcome, Accepted)
    assert DOT == writes[-1]
    assert 1 == len(relay.messages)


async def send_with_taken(
    relay: SocketRelay, monkeypatch: pytest.MonkeyPatch, count: Callable[[int], int], then: str
) -> Outcome:
    """Send where the kernel takes so much of the message with its dot; `then` go on, or break."""
    session = await open_session(make_provider(relay))
    write_now = PlainSocket.write_now
    is_short = False

    def short(self: PlainSocket, data: bytes | memoryview) -> int:
        nonlocal is_short
        if is_short and then == "break":
            raise trio.BrokenResourceError("socket connection broken: reset")
        if is_short or not bytes(data).endswith(b"\r\n.\r\n"):
            return write_now(self, data)
        is_short = True
        return write_now(self, data[: count(len(data))])

    monkeypatch.setattr(PlainSocket, "write_now", short)
    monkeypatch.setattr("mailactors.providers.smtp.transport.LAST_WORDS_TIMEOUT_S", 0.01)
    return await session.send(make_mail())


TAKEN = {
    "nothing": lambda octets: 0,
    "one octet": lambda octets: 1,
    "half": lambda octets: octets // 2,
    "all but the dot": lambda octets: octets - 3,
    "a part of the dot": lambda octets: octets - 2,
    "all but the last octet": lambda octets: octets - 1,
}


@pytest.mark.parametrize("taken", TAKEN)
async def test_what_the_kernel_did_not_take_follows(
    relay: SocketRelay, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    outcome = await send_with_taken(relay, monkeypatch, TAKEN[taken], "go on")

    assert isinstance(outcome, Accepted)
    assert 1 == len(relay.messages)
    assert relay.messages[0].endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_break_is_certain_before_the_dot_and_uncertain_after(
    relay: SocketRelay, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    outcome = await send_with_taken(relay, monkeypatch, TAKEN[taken], "break")

    if "dot" in taken or taken == "all but the last octet":  # the dot's own write counts as made
        assert isinstance(outcome, Uncertain)
        assert Phase.FINAL is outcome.phase
    else:
        assert isinstance(outcome, Deferred)
        assert Scope.PROVIDER is outcome.scope
        assert [] == relay.messages


async def test_a_relay_that_hangs_up_after_the_dot_leaves_it_uncertain(
    relay: SocketRelay,
) -> None:
    relay.script["."] = Fault.HANG_UP
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Uncertain)
    assert 1 == len(relay.messages)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"452 4.3.1 no room\r\n", 452),
        (b"421 4.3.2 going\r\n", 421),
        (b"250 2.0.0 too early\r\n", None),
        (b"25", None),
        (b"nonsense\r\n", None),
    ],
)
async def test_what_was_said_before_the_dot_is_read_before_it(
    relay: SocketRelay, monkeypatch: pytest.MonkeyPatch, said: bytes, expected: int | None
) -> None:
    session = await open_session(make_provider(relay))
    monkeypatch.setattr("mailactors.providers.smtp.transport.LAST_WORDS_TIMEOUT_S", 0.01)
    read_now, is_said = PlainSocket.read_now, False

    def after_354(self: PlainSocket) -> bytes | None:
        nonlocal is_said
        data = read_now(self)
        if data is None and not is_said:
            is_said = True
            return said
        return data

    monkeypatch.setattr(PlainSocket, "read_now", after_354)

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Deferred)
    assert expected == outcome.reason.code
    assert [] == relay.messages


async def test_a_session_that_stands_ready_is_used_again(relay: SocketRelay) -> None:
    provider = make_provider(relay)
    first = await open_session(provider)

    none_yet = provider.take_ready()
    await first.send(make_mail())
    ready = provider.take_ready()

    assert none_yet is None
    assert isinstance(ready, SmtpSession)
    assert isinstance(await ready.send(make_mail()), Accepted)
    assert (1, 2) == (relay.connections_count, len(relay.messages))
    assert provider.take_ready() is not None
    assert provider.take_ready() is None
