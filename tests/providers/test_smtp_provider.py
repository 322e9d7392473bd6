"""The provider against a relay in memory: outcomes, timeouts, settings."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pydantic
import pytest
import trio
import trio.testing

from mailactors.model.mime import LARGE_OCTETS
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Phase,
    Rejected,
    Scope,
    Uncertain,
)
from mailactors.providers.smtp import SmtpProvider, SmtpSettings
from mailactors.providers.smtp.budget import WINDOW_S
from mailactors.providers.smtp.transport import Connection, LostError
from mailactors.runtime.ports import SystemClock
from tests.providers.fake_relay import EHLO, FakeRelay, Fault, Script
from tests.providers.mails import ANN, BOB, CAT, make_mail, make_provider, open_session

T = TypeVar("T")

NO_PIPELINING = EHLO.replace(b"250-PIPELINING\r\n", b"")


async def send_one(nursery: trio.Nursery, script: Script, *recipients: str) -> Outcome:
    session = await open_session(make_provider(FakeRelay(nursery, script)))
    return await session.send(make_mail(*recipients))


async def test_accepts_with_the_servers_own_id(nursery: trio.Nursery) -> None:
    outcome = await send_one(nursery, {})

    assert Accepted("ABC123") == outcome


async def test_reports_each_refused_recipient_inside_an_acceptance(nursery: trio.Nursery) -> None:
    script = {f"RCPT TO:<{CAT}>": b"550 5.1.1 no such user\r\n"}

    outcome = await send_one(nursery, script, BOB, CAT)

    assert isinstance(outcome, Accepted)
    assert list(outcome.refused) == [CAT]
    assert isinstance(outcome.refused[CAT], Rejected)
    assert outcome.refused[CAT].scope is Scope.RECIPIENT
    assert outcome.refused[CAT].reason.enhanced == "5.1.1"


@pytest.mark.parametrize("ehlo", [EHLO, NO_PIPELINING], ids=["pipelining", "one by one"])
async def test_nobody_accepted_sends_nothing(nursery: trio.Nursery, ehlo: bytes) -> None:
    script = {
        "EHLO": ehlo,
        f"RCPT TO:<{BOB}>": b"450 4.2.2 mailbox full\r\n",
        f"RCPT TO:<{CAT}>": b"550 5.1.1 no such user\r\n",
    }
    relay = FakeRelay(nursery, script)
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail(BOB, CAT))

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.RECIPIENT
    assert {BOB: Deferred, CAT: Rejected} == {r: type(o) for r, o in outcome.refused.items()}
    assert relay.messages in ([], [b""])  # with pipelining the server may insist on a lone dot


@pytest.mark.parametrize(
    ("verb", "phase"),
    [("EHLO", Phase.HELLO), ("greeting", Phase.GREETING)],
)
@pytest.mark.parametrize("fault", list(Fault))
async def test_lost_while_connecting_is_a_refusal(
    nursery: trio.Nursery, autojump_clock: object, verb: str, phase: Phase, fault: Fault
) -> None:
    refusal = await make_provider(FakeRelay(nursery, {verb: fault})).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert refusal.reason.text.startswith(f"{phase.value}: ")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_lost_before_the_body_is_certainly_not_sent(
    nursery: trio.Nursery, autojump_clock: object, verb: str, fault: Fault
) -> None:
    outcome = await send_one(nursery, {verb: fault})

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.PROVIDER
    nursery.cancel_scope.cancel()


async def test_lost_after_the_final_dot_is_uncertain(nursery: trio.Nursery) -> None:
    script: Script = {".": Fault.HANG_UP, f"RCPT TO:<{CAT}>": b"550 5.1.1 no such user\r\n"}

    outcome = await send_one(nursery, script, BOB, CAT)

    assert isinstance(outcome, Uncertain)
    assert outcome.phase is Phase.FINAL
    assert list(outcome.refused) == [CAT]


async def test_waits_600_seconds_for_the_answer_to_the_final_dot(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    session = await open_session(make_provider(FakeRelay(nursery, {".": Fault.KEEP_SILENT})))
    begun_s = trio.current_time()

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Uncertain)
    assert trio.current_time() - begun_s == pytest.approx(600)
    nursery.cancel_scope.cancel()


async def test_garbage_after_the_dot_is_uncertain_and_before_it_is_not(
    nursery: trio.Nursery,
) -> None:
    after = await send_one(nursery, {".": b"\x00\xff\r\n"})
    senseless = await send_one(nursery, {".": b"354 more?\r\n"})
    before = await send_one(nursery, {"DATA": b"250 sure\r\n"})

    assert isinstance(after, Uncertain)
    assert isinstance(senseless, Uncertain)
    assert isinstance(before, Deferred)
    assert "garbage" in before.reason.text


async def test_refusal_after_the_dot_is_certain(nursery: trio.Nursery) -> None:
    later = await send_one(nursery, {".": b"451 4.3.0 queue file write error\r\n"})
    never = await send_one(nursery, {".": b"554 5.7.1 spam\r\n"})
    closing = await send_one(nursery, {".": b"421 4.3.2 shutting down\r\n"})

    assert isinstance(later, Deferred)
    assert isinstance(never, Rejected)
    assert never.scope is Scope.MESSAGE
    assert isinstance(closing, Deferred)


async def test_refusal_that_comes_before_the_message_counts_for_it(nursery: trio.Nursery) -> None:
    outcome = await send_one(nursery, {"DATA": b"354 go on\r\n550 5.7.1 changed my mind\r\n"})

    assert isinstance(outcome, Rejected)
    assert outcome.scope is Scope.MESSAGE


async def test_hang_up_over_one_recipient_is_about_its_domain(nursery: trio.Nursery) -> None:
    outcome = await send_one(nursery, {f"RCPT TO:<{CAT}>": b"421 4.7.0 not you\r\n"}, BOB, CAT)

    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.DOMAIN


class BreaksOn:
    """A connector whose streams break at the write of certain octets, before or after it left."""

    def __init__(self, relay: FakeRelay, octets: bytes, *, has_left: bool) -> None:
        self.relay, self.octets, self.has_left = relay, octets, has_left

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        stream = await self.relay.open_tcp(host, port)
        assert isinstance(stream, trio.StapledStream)
        send_all = stream.send_all

        async def break_instead(data: bytes | bytearray | memoryview) -> None:
            is_it = bytes(data).endswith(self.octets)
            if not is_it or self.has_left:
                await send_all(data)
            if is_it:
                raise trio.BrokenResourceError("cut")

        stream.send_all = break_instead  # type: ignore[method-assign]
        return stream


async def test_write_that_breaks_before_the_dot_is_certain(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    connector = BreaksOn(FakeRelay(nursery), b"hello\r\n", has_left=True)
    session = await open_session(make_provider(connector))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Deferred)
    assert outcome.reason.text.startswith("body: ")


@pytest.mark.parametrize("has_left", [True, False])
async def test_write_of_the_dot_that_breaks_is_uncertain(
    nursery: trio.Nursery, autojump_clock: object, has_left: bool
) -> None:
    connector = BreaksOn(FakeRelay(nursery, {".": Fault.HANG_UP}), b".\r\n", has_left=has_left)
    session = await open_session(make_provider(connector))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Uncertain)


async def test_answer_is_believed_even_if_the_write_of_the_dot_broke(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    connector = BreaksOn(FakeRelay(nursery), b".\r\n", has_left=True)
    session = await open_session(make_provider(connector))

    outcome = await session.send(make_mail())

    assert Accepted("ABC123") == outcome


async def test_greeting_is_waited_for_and_no_longer(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, {"greeting": Fault.KEEP_SILENT})
    provider = make_provider(relay, connect_timeout_s=7)
    begun_s = trio.current_time()

    refusal = await provider.connect()

    assert isinstance(refusal, Deferred)
    assert trio.current_time() - begun_s == pytest.approx(7)
    nursery.cancel_scope.cancel()


async def test_connecting_is_given_up_in_time(autojump_clock: object) -> None:
    class Nowhere:
        async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError

    refusal = await make_provider(Nowhere(), connect_timeout_s=3).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.reason.text == "connect: no connection within 3 s"


async def test_unknown_name_is_the_providers_trouble() -> None:
    class Unknown:
        async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise OSError(-2, "Name or service not known")

    refusal = await make_provider(Unknown()).connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert "Name or service not known" in refusal.reason.text


async def test_starttls_that_is_not_offered_gets_nothing(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay, tls="starttls", username="u", password="hunter2")

    refusal = await provider.connect()

    assert isinstance(refusal, Deferred)
    assert refusal.scope is Scope.PROVIDER
    assert relay.lines == [b"EHLO [127.0.0.1]", b"QUIT"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(b"535 5.7.8 no\r\n", Rejected), (b"454 4.7.0 later\r\n", Deferred)],
)
async def test_login_refused(nursery: trio.Nursery, reply: bytes, kind: type) -> None:
    script = {"EHLO": b"250-relay\r\n250 AUTH PLAIN\r\n", "AUTH": reply}
    settings = {"host": "localhost", "username": "u", "password": "hunter2"}

    refusal = await make_provider(FakeRelay(nursery, script), **settings).connect()

    assert isinstance(refusal, kind)
    assert isinstance(refusal, Deferred | Rejected)
    assert refusal.scope is Scope.PROVIDER


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: x\r\n\r\na\nb\r\n",
        b"Subject: x\r\n\r\na\rb\r\n",
        b"Subject: x\r\n\r\na\0b\r\n",
        b"Subject: x\r\n\r\na\r\n.\n.\r\nb\r\n",
        b"Subject: x\r\n\r\n" + b"a" * 999 + b"\r\n",
        b"Subject: x\r\n\r\n" + b"a\r\n" * 40_000,
    ],
    ids=["LF", "CR", "NUL", "smuggling", "long line", "over SIZE"],
)
async def test_what_cannot_be_sent_is_the_messages_fault(nursery: trio.Nursery, raw: bytes) -> None:
    relay = FakeRelay(nursery)
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail(raw=raw))

    assert isinstance(outcome, Rejected)
    assert outcome.scope is Scope.MESSAGE
    assert relay.lines == [b"EHLO [127.0.0.1]"]


class Rendering:
    """An executor that counts what it runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, work: Callable[[], T]) -> T:
        self.runs += 1
        await trio.lowlevel.checkpoint()
        return work()

    def close(self) -> None:
        """Nothing to give back."""


async def test_what_is_large_is_rendered_beside_the_event_loop(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {"EHLO": b"250 relay.example\r\n"})
    provider = make_provider(relay)
    provider.executor = rendering = Rendering()

    small = await (await open_session(provider)).send(make_mail())
    assert rendering.runs == 0
    large = await (await open_session(provider)).send(make_mail(text="x" * LARGE_OCTETS))
    broken = await (await open_session(provider)).send(make_mail(raw=b"a\nb" * LARGE_OCTETS))

    assert rendering.runs == 2
    assert isinstance(small, Accepted)
    assert isinstance(large, Accepted)
    assert isinstance(broken, Rejected)
    assert broken.scope is Scope.MESSAGE


async def test_eight_bits_and_unicode_need_their_extensions(nursery: trio.Nursery) -> None:
    provider = make_provider(FakeRelay(nursery, {"EHLO": b"250 relay.example\r\n"}))
    eight_bit = await (await open_session(provider)).send(make_mail(raw=b"A: b\r\n\r\n\xff\r\n"))
    unicode = await (await open_session(provider)).send(make_mail("bjørn@y.example"))

    assert isinstance(eight_bit, Rejected)
    assert "8BITMIME" in eight_bit.reason.text
    assert isinstance(unicode, Rejected)
    assert "SMTPUTF8" in unicode.reason.text


async def test_parameters_are_said_when_they_are_offered(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    raw = b"A: b\r\n\r\n\xff\r\n"

    await (await open_session(make_provider(relay))).send(make_mail("bjørn@y.example", raw=raw))

    assert f"MAIL FROM:<{ANN}> SIZE=11 BODY=8BITMIME SMTPUTF8".encode() in relay.lines
    assert "RCPT TO:<bjørn@y.example>".encode() in relay.lines


async def test_raw_message_arrives_octet_for_octet(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    raw = b".A: b\r\n\r\n.\r\n..\r\nx.\r\n"

    await (await open_session(make_provider(relay))).send(make_mail(raw=raw))

    assert relay.messages == [b"..A: b\r\n\r\n..\r\n...\r\nx."]


async def test_flood_of_nonsense_is_bounded(nursery: trio.Nursery) -> None:
    refusal = await make_provider(FakeRelay(nursery, {"greeting": b"x" * 10_000_000})).connect()

    assert isinstance(refusal, Deferred)
    assert len(refusal.reason.text) < 600


async def test_stalled_write_of_a_body_is_given_up(autojump_clock: object) -> None:
    near, far = trio.testing.lockstep_stream_pair()  # a write blocks until it is read
    patience = make_provider().patience(3, 0.0, math.inf)
    connection = Connection(near, "x", connect_timeout_s=30, command_timeout_s=300)
    begun_s = trio.current_time()

    with pytest.raises(LostError) as caught, connection.attempt(patience) as limit:
        await connection.send_message(b"x\r\n", patience, limit)

    assert caught.value.phase is Phase.BODY
    assert WINDOW_S <= trio.current_time() - begun_s <= WINDOW_S + 1
    await far.aclose()


@pytest.mark.parametrize(
    "wrong",
    [
        {"hello_name": "x\r\nMAIL FROM:<a@b>"},
        {"host": "relay.example\r\n"},
        {"host": "relay..example"},
        {"host": ".example"},
        {"host": "[::1]"},
        {"username": "u"},
        {"password": "secret-canary"},
        {"username": "u\0", "password": "secret-canary"},
        {"username": "u", "password": "secret-canary\r\n"},
        {"username": "u", "password": "secret-canary", "tls": "none"},
        {"verify": False},
        {"port": 0},
    ],
)
def test_settings_refuse_what_is_not_safe(wrong: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        SmtpSettings.model_validate({"host": "relay.example"} | wrong)

    assert "secret-canary" not in str(caught.value)


def test_settings_have_safe_defaults() -> None:
    make = partial(SmtpSettings, host="relay.example")

    assert (make().tls, make().port) == ("starttls", 587)
    assert make(tls="implicit").port == 465
    assert make(tls="implicit", port=4465).port == 4465
    assert "hunter2" not in repr(make(username="u", password=pydantic.SecretStr("hunter2")))


def test_missing_ca_file_is_told_at_once() -> None:
    settings = SmtpSettings(host="relay.example", ca_file="does-not-exist.pem")

    with pytest.raises((OSError, ssl.SSLError)):
        SmtpProvider("relay", settings, SystemClock(), None)  # type: ignore[arg-type]
