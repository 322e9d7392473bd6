"""Servers that answer in odd ways: too early, two at a time, or not to what they offered."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mailactors.model.message import Envelope
from mailactors.model.outcome import Accepted, Deferred, Outcome, Rejected, Scope, Uncertain
from mailactors.providers.smtp import SmtpProvider
from mailactors.providers.smtp.provider import ACCEPTED_WITHIN_S, REFUSED_IN_A_ROW
from tests.providers.fake_relay import EHLO, FakeRelay, Fault, Script
from tests.providers.mails import ANN, BOB, CAT, make_mail, make_provider, open_session

NO_PIPELINING = EHLO.replace(b"250-PIPELINING\r\n", b"")
ANYBODY = [pytest.param(EHLO, id="pipelining"), pytest.param(NO_PIPELINING, id="one by one")]


async def send_one(nursery: trio.Nursery, script: Script, *recipients: str) -> Outcome:
    session = await open_session(make_provider(FakeRelay(nursery, script)))
    return await session.send(make_mail(*recipients))


async def test_refusal_whose_lines_have_two_codes_is_certain(nursery: trio.Nursery) -> None:
    outcome = await send_one(nursery, {".": b"550-5.7.1 spam, see\r\n554 5.7.1 the URL\r\n"})

    assert isinstance(outcome, Rejected)
    assert (Scope.MESSAGE, 554) == (outcome.scope, outcome.reason.code)


async def test_acceptance_whose_lines_have_two_codes_is_not_believed(nursery: trio.Nursery) -> None:
    outcome = await send_one(nursery, {".": b"250-2.0.0 queued\r\n550 5.7.1 or not\r\n"})

    assert isinstance(outcome, Uncertain)


@pytest.mark.parametrize("ehlo", ANYBODY)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
async def test_421_together_with_the_250_before_it_is_the_next_lanes(
    nursery: trio.Nursery, ehlo: bytes, verb: str
) -> None:
    script: Script = {"EHLO": ehlo, verb: b"250 2.1.0 Ok\r\n421 4.3.2 shutting down\r\n"}
    relay = FakeRelay(nursery, script)
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail(BOB, CAT))

    assert isinstance(outcome, Deferred)
    assert (Scope.PROVIDER, 421) == (outcome.scope, outcome.reason.code)
    assert [] == relay.messages


async def test_421_together_with_the_answer_to_mail_is_not_the_domains(
    nursery: trio.Nursery,
) -> None:
    outcome = await send_one(nursery, {"MAIL": b"250 Ok\r\n421 relay.example see you\r\n"})

    assert isinstance(outcome, Deferred)
    assert Scope.PROVIDER is outcome.scope


@pytest.mark.parametrize("ehlo", ANYBODY)
async def test_stray_354_after_a_refused_mail_gets_no_message(
    nursery: trio.Nursery, ehlo: bytes
) -> None:
    script: Script = {"EHLO": ehlo, "MAIL": b"550 5.7.1 not you\r\n", "RCPT": b"250 2.1.5 Ok\r\n"}
    relay = FakeRelay(nursery, script)
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail())

    assert isinstance(outcome, Rejected)
    assert Scope.PROVIDER is outcome.scope
    assert relay.messages in ([], [b""])


class SpeaksEarly:
    """A connector whose relay says something when part of the message has left, before the dot."""

    def __init__(self, relay: FakeRelay, says: bytes) -> None:
        self.relay, self.says = relay, says

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        stream = await self.relay.open_tcp(host, port)
        assert isinstance(stream, trio.StapledStream)
        send_all, far_end = stream.send_all, self.relay.far_ends[-1]

        async def speak_after(data: bytes | bytearray | memoryview) -> None:
            await send_all(data)
            if bytes(data).endswith(b"hello\r\n"):
                await far_end.send_all(self.says)

        stream.send_all = speak_after  # type: ignore[method-assign]
        return stream


async def send_to_early_speaker(nursery: trio.Nursery, says: bytes) -> tuple[Outcome, FakeRelay]:
    relay = FakeRelay(nursery)
    session = await open_session(make_provider(SpeaksEarly(relay, says)))
    return await session.send(make_mail()), relay


async def test_250_before_the_dot_is_no_acceptance(nursery: trio.Nursery) -> None:
    outcome, relay = await send_to_early_speaker(nursery, b"250 2.0.0 Ok: queued as EARLY\r\n")

    assert isinstance(outcome, Deferred)
    assert Scope.PROVIDER is outcome.scope
    assert [] == relay.messages  # the dot was never said


async def test_half_an_answer_before_the_dot_is_none_either(nursery: trio.Nursery) -> None:
    outcome, relay = await send_to_early_speaker(nursery, b"250 2.0")

    assert isinstance(outcome, Deferred)
    assert [] == relay.messages


async def test_refusal_before_the_dot_is_certain(nursery: trio.Nursery) -> None:
    outcome, relay = await send_to_early_speaker(nursery, b"552 5.3.4 too big\r\n")

    assert isinstance(outcome, Rejected)
    assert (Scope.MESSAGE, 552) == (outcome.scope, outcome.reason.code)
    assert [] == relay.messages


async def test_refusal_ends_a_write_that_would_not_end(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        relay = FakeRelay(nursery, {"DATA": Fault.KEEP_SILENT})
        near, far = trio.testing.lockstep_stream_pair()  # a write blocks until it is read

        async def serve() -> None:
            await far.send_all(b"220 hi\r\n")
            await far.receive_some()
            await far.send_all(EHLO)
            await far.receive_some()
            await far.send_all(b"250 ok\r\n250 ok\r\n354 go\r\n")
            await far.receive_some(10)
            await far.send_all(b"552 5.3.4 too big\r\n")

        class Lockstep:
            async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
                await trio.lowlevel.checkpoint()
                return near

        nursery.start_soon(serve)
        session = await open_session(make_provider(Lockstep()))
        outcome = await session.send(make_mail(text="x" * 50 + "\n"))

        assert isinstance(outcome, Rejected)
        assert 552 == outcome.reason.code
        assert trio.current_time() < 1.0
        assert 0 == relay.connections_count


# PIPELINING that does not work.


async def test_server_that_drops_pipelined_input_is_asked_one_by_one_the_next_time(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery, drops_input=True)
    provider = make_provider(relay)

    first = await (await open_session(provider)).send(make_mail())
    second = await (await open_session(provider)).send(make_mail())

    assert isinstance(first, Deferred)
    assert Scope.PROVIDER is first.scope
    assert Accepted("ABC123") == second
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "complaint",
    [
        b"554 SMTP synchronization error\r\n",
        b"503 5.5.0 Improper use of SMTP command pipelining\r\n",
        b"421 4.4.2 mail.example Error: timeout exceeded\r\n",
    ],
)
async def test_server_that_complains_of_pipelining_is_asked_one_by_one(
    nursery: trio.Nursery, complaint: bytes
) -> None:
    relay = FakeRelay(nursery, {"RCPT": [complaint, b"250 2.1.5 Ok\r\n"]})
    provider = make_provider(relay)

    await (await open_session(provider)).send(make_mail())
    outcome = await (await open_session(provider)).send(make_mail())

    assert Accepted("ABC123") == outcome
    assert not provider.pipelines


@pytest.mark.parametrize("script", [{"RCPT": Fault.HANG_UP}, {"RCPT": b"550 5.1.1 no\r\n"}, {}])
async def test_other_trouble_does_not_cost_the_pipelining(
    nursery: trio.Nursery, script: Script
) -> None:
    provider = make_provider(FakeRelay(nursery, script))

    await (await open_session(provider)).send(make_mail())

    assert provider.pipelines


# Others that get through.

NO_RELAY = b"550 5.7.1 Relaying denied\r\n"
NOT_OWNED = b"553 5.7.1 Sender address rejected: not owned by user\r\n"


async def send_from(provider: SmtpProvider, sender: str) -> Deferred | Rejected:
    mail = make_mail()
    envelope = Envelope(sender, mail.envelope.recipients)
    outcome = await (await open_session(provider)).send(
        type(mail)(mail.marker, mail.message_id, mail.date_s, envelope, mail.content)
    )
    assert isinstance(outcome, Deferred | Rejected)
    return outcome


async def test_sender_is_refused_for_good_once_another_gets_through(
    nursery: trio.Nursery,
) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    relay.script["MAIL"] = NOT_OWNED
    before = await send_from(provider, "eve@x.example")
    del relay.script["MAIL"]
    await (await open_session(provider)).send(make_mail())
    relay.script["MAIL"] = NOT_OWNED

    after = [await send_from(provider, "eve@x.example") for _ in range(REFUSED_IN_A_ROW + 2)]

    assert (Deferred, Scope.PROVIDER) == (type(before), before.scope)
    assert {(Rejected, Scope.MESSAGE)} == {(type(each), each.scope) for each in after}


async def test_sender_who_loses_an_identity_for_a_while_loses_no_mail(
    nursery: trio.Nursery,
) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())
    relay.script["MAIL"] = NOT_OWNED

    outcomes = [await send_from(provider, ANN) for _ in range(REFUSED_IN_A_ROW + 2)]

    assert {Deferred} == {type(each) for each in outcomes}


async def test_account_is_to_blame_when_all_its_senders_are_refused(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())
    relay.script["MAIL"] = NO_RELAY

    outcomes = [
        await send_from(provider, f"{n}@x.example") for n in range(REFUSED_IN_A_ROW) for _ in "ab"
    ]

    assert [Scope.MESSAGE] * 5 + [Scope.PROVIDER] == [each.scope for each in outcomes]


async def test_sender_is_not_the_account_while_others_get_through(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())
    relay.script["MAIL"] = NO_RELAY

    outcomes = [
        await (await open_session(provider)).send(make_mail()) for _ in range(REFUSED_IN_A_ROW + 1)
    ]

    assert [Deferred] * REFUSED_IN_A_ROW + [Rejected] == [type(each) for each in outcomes]
    scopes = [each.scope for each in outcomes if isinstance(each, Deferred | Rejected)]
    assert [Scope.MESSAGE] * REFUSED_IN_A_ROW + [Scope.PROVIDER] == scopes


async def test_acceptance_long_ago_says_nothing_of_the_account(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relay = FakeRelay(nursery)
    provider = make_provider(relay)
    await (await open_session(provider)).send(make_mail())
    relay.script["MAIL"] = NO_RELAY

    await trio.sleep(ACCEPTED_WITHIN_S + 1)
    outcome = await (await open_session(provider)).send(make_mail())

    assert isinstance(outcome, Rejected)
    assert Scope.PROVIDER is outcome.scope
    nursery.cancel_scope.cancel()


# One recipient that needs SMTPUTF8.

BJORN = "bjørn@z.example"
HIDDEN = make_mail(BOB).content


async def send_hidden(relay: FakeRelay, *recipients: str) -> Outcome:
    mail = make_mail(*recipients)
    session = await open_session(make_provider(relay))
    return await session.send(type(mail)(
        mail.marker, mail.message_id, mail.date_s, mail.envelope, HIDDEN
    ))  # fmt: skip


async def test_hidden_recipient_that_needs_smtputf8_is_served_alone(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)

    both = await send_hidden(relay, BOB, BJORN)
    alone = await send_hidden(relay, BJORN)

    assert isinstance(both, Accepted)
    left = both.refused[BJORN]
    assert isinstance(left, Deferred)
    assert left.at_once
    assert Accepted("ABC123") == alone
    mails = [line for line in relay.lines if line.startswith(b"MAIL")]
    assert [False, True] == [b"SMTPUTF8" in line for line in mails]


async def test_hidden_recipient_that_needs_smtputf8_is_refused_alone(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery, {"EHLO": b"250-relay.example\r\n250 8BITMIME\r\n"})

    outcome = await send_hidden(relay, BOB, BJORN)

    assert isinstance(outcome, Accepted)
    assert isinstance(outcome.refused[BJORN], Rejected)
    assert Scope.MESSAGE is outcome.refused[BJORN].scope
    assert 1 == len(relay.messages)


async def test_header_that_needs_smtputf8_needs_it_for_everybody(nursery: trio.Nursery) -> None:
    relay = FakeRelay(nursery)
    session = await open_session(make_provider(relay))

    outcome = await session.send(make_mail(BOB, BJORN))  # both are named in To

    assert Accepted("ABC123") == outcome
    assert any(b"SMTPUTF8" in line for line in relay.lines if line.startswith(b"MAIL"))
