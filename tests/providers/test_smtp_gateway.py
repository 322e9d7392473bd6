"""Two relays and a whole gateway: what a refusal by the first one does to the mail."""

from __future__ import annotations

import dataclasses

import pytest
import trio

from mailactors.config import Config
from mailactors.model.message import Address
from mailactors.wiring import Gateway
from tests.gateways import (
    letter,
    make_config,
    make_ports,
    open_store,
    running,
    states,
    status,
    wait_for_states,
)
from tests.providers.fake_relay import FakeRelay, Script

BOB, CAT, DAN = "bob@example.com", "cat@example.net", "dan@example.org"
ALL = tuple(map(Address, (BOB, CAT, DAN)))


class Relays:
    """A connector that finds its relays by host name."""

    def __init__(self, nursery: trio.Nursery, **scripts: Script) -> None:
        self.relays = {name: FakeRelay(nursery, script) for name, script in scripts.items()}

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        return await self.relays[host.partition(".")[0]].open_tcp(host, port)

    def messages(self) -> dict[str, int]:
        return {name: len(relay.messages) for name, relay in self.relays.items()}


def config_of(relays: Relays) -> Config:
    plain = {"kind": "smtp", "tls": "none", "hello_name": "[127.0.0.1]"}
    return make_config({name: {**plain, "host": f"{name}.example"} for name in relays.relays})


async def deliver(relays: Relays, /, *, count: int = 1, **states_wanted: int) -> list[str]:
    """Submit letters to Bob, and return the first one's states when all are as wanted."""
    ports = dataclasses.replace(make_ports(), connector=relays)
    with open_store() as store:
        async with running(config_of(relays), store, ports) as gateway:
            for number in range(count):
                await gateway.door.submit(letter(str(number)))
            await wait_for_states(gateway, **states_wanted)
            return states(await status(gateway, "0"))


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("DATA", b"550 5.4.5 Daily user sending limit exceeded\r\n"),
        (".", b"550 5.7.0 Requested action not taken: too many emails per second\r\n"),
        ("RCPT", b"550 Domain x.example has exceeded the max emails per hour (9/5) allowed\r\n"),
        ("MAIL", b"550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)\r\n"),
        (
            "RCPT",
            b"550-Please turn on SMTP Authentication\r\n550 in your mail client\r\n",
        ),
        (".", b"554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException\r\n"),
        ("RCPT", b'451 4.7.1 Ratelimit "user" exceeded\r\n'),
        ("RCPT", b"504 5.5.2 <vm>: Helo command rejected: need fully-qualified hostname\r\n"),
        ("RCPT", b"450 4.7.1 <vm>: Helo command rejected: Host not found\r\n"),
        ("RCPT", b"550 Requested action not taken: mailbox unavailable\r\n"),
        ("MAIL", b"250 2.1.0 Ok\r\n421 4.3.2 shutting down\r\n"),
        ("RCPT", b"550-5.7.1 not through us\r\n554 5.7.1 ever\r\n"),
        (".", b"530 From/Sender name is not valid\r\n"),
        (".", b"554 Message rejected: Sending paused for this account.\r\n"),
        (".", b"550 message sending for this account is disabled\r\n"),
        ("RCPT", b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n"),
        ("RCPT", b"550-Verification failed for <a@b.example>\r\n550 Sender verify failed\r\n"),
        ("RCPT", b"550 5.1.0 x policy violation\r\n"),
    ],
)
async def test_other_relay_takes_what_this_one_refuses(
    nursery: trio.Nursery, autojump_clock: object, verb: str, says: bytes
) -> None:
    relays = Relays(nursery, primary={verb: says}, secondary={})

    began_s = trio.current_time()
    assert ["sent"] == await deliver(relays, sent=1)

    assert trio.current_time() - began_s < 5.0
    assert 1 == relays.messages()["secondary"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("MAIL", b"553 5.7.1 Sender address rejected: not owned by user\r\n"),
        (".", b"554 Message rejected: Email address is not verified.\r\n"),
        ("RCPT", b"550-Requested action not taken: mailbox unavailable\r\n550 Try again later\r\n"),
    ],
)
async def test_one_refusal_of_a_sender_or_rate_leaves_the_only_lane_open(
    nursery: trio.Nursery, autojump_clock: object, verb: str, says: bytes
) -> None:
    relays = Relays(nursery, only={verb: [says, b"250 2.0.0 Ok: queued as X\r\n"]})

    began_s = trio.current_time()
    assert ["sent"] == await deliver(relays, count=2, sent=2)

    assert trio.current_time() - began_s < 30.0
    nursery.cancel_scope.cancel()


async def test_mailbox_that_each_relay_refuses_has_bounced(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    unclear: Script = {"RCPT": b"550 Requested action not taken: mailbox unavailable\r\n"}
    relays = Relays(nursery, primary=unclear, secondary=unclear)

    assert ["bounced"] == await deliver(relays, bounced=1)
    nursery.cancel_scope.cancel()


async def test_mailbox_that_is_surely_gone_bounces_at_the_first_relay(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    relays = Relays(nursery, primary={"RCPT": b"550 5.1.1 no such user\r\n"}, secondary={})

    assert ["bounced"] == await deliver(relays, bounced=1)
    assert 0 == relays.relays["secondary"].connections_count
    nursery.cancel_scope.cancel()


async def to_all(relays: Relays, /, **states_wanted: int) -> list[str]:
    ports = dataclasses.replace(make_ports(), connector=relays)
    with open_store() as store:
        async with running(config_of(relays), store, ports) as gateway:
            await gateway.door.submit(letter(to=ALL))
            await wait_for_states(gateway, **states_wanted)
            return await _states_of_all(gateway)


async def _states_of_all(gateway: Gateway) -> list[str]:
    return states(await status(gateway, "1"))


@pytest.mark.parametrize(
    "says", [b"452 4.5.3 Too many recipients\r\n", b"550 too many recipients\r\n"]
)
async def test_relay_that_takes_one_recipient_a_transaction_gets_all_of_them(
    nursery: trio.Nursery, autojump_clock: object, says: bytes
) -> None:
    taken = b"250 2.1.5 Ok\r\n"
    relays = Relays(nursery, only={"RCPT": [taken, says, says, taken, says, taken]})

    began_s = trio.current_time()
    assert ["sent"] * 3 == await to_all(relays, sent=3)

    assert trio.current_time() - began_s < 1.0
    assert 3 == relays.messages()["only"]
    nursery.cancel_scope.cancel()


async def test_refusal_after_the_dot_takes_only_whom_it_names(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    final = [f"550 5.1.1 <{CAT}> no such user\r\n".encode(), b"250 2.0.0 Ok: queued as X\r\n"]
    relays = Relays(nursery, only={".": final})

    assert ["sent", "bounced", "sent"] == await to_all(relays, sent=2, bounced=1)
    nursery.cancel_scope.cancel()


async def test_hidden_recipient_who_needs_smtputf8_holds_nobody_up(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    plain: Script = {"EHLO": b"250-relay.example\r\n250 8BITMIME\r\n"}
    relays = Relays(nursery, primary=plain, secondary={})
    ports = dataclasses.replace(make_ports(), connector=relays)
    with open_store() as store:
        async with running(config_of(relays), store, ports) as gateway:
            await gateway.door.submit(letter(bcc=(Address("bjørn@example.org"),)))
            await wait_for_states(gateway, sent=2)

    assert {"primary": 1, "secondary": 1} == relays.messages()
    nursery.cancel_scope.cancel()
