"""A limit of one recipient, domain or sender costs others nothing; a provider's is still learnt."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from mailactors.config import ProviderSettings
from mailactors.dispatch.claims import WINDOW
from mailactors.dispatch.retry import THROTTLES_MAX
from mailactors.model.message import Address
from mailactors.model.outcome import Accepted, Deferred, Outcome, Reason, Scope
from mailactors.providers.port import Capabilities, LookUpResult, Mail
from mailactors.runtime.ports import Ports
from mailactors.wiring import Gateway, build
from tests.gateways import letter, make_config, make_ports, open_store

TOO_FAST = Deferred(
    Scope.PROVIDER, Reason("rate limit exceeded for this recipient", 450, "4.7.1"), throttled=True
)
Rule = Callable[[Mail], bool]


def to_one(mail: Mail) -> bool:
    return mail.envelope.recipients[0] == "limited0@limited.example"


def to_domain(mail: Mail) -> bool:
    return mail.envelope.recipients[0].endswith("@limited.example")


def by_tenant(mail: Mail) -> bool:
    return mail.envelope.sender == "tenant@limited.example"


class Vendor:
    """Refuses as too fast what a rule names; answers all else in time. Fulfils the port."""

    def __init__(self, is_limited: Rule) -> None:
        self.is_limited = is_limited
        self.sent_s: dict[str, float] = {}
        """When it accepted each message, by subject."""
        self.refused = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(own_envelope=True)

    async def connect(self) -> Vendor:
        await trio.lowlevel.checkpoint()
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    def take_ready(self) -> None:
        return None

    async def look_up(self, marker: str) -> LookUpResult:
        raise NotImplementedError(marker)

    async def release(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send(self, mail: Mail) -> Outcome:
        await trio.sleep(0.05)
        if self.is_limited(mail):
            self.refused += 1
            return TOO_FAST
        self.sent_s[mail.content.subject] = trio.current_time()
        return Accepted(mail.marker)


@contextlib.asynccontextmanager
async def running(
    vendors: dict[str, Vendor], ports: Ports, **stream: float
) -> AsyncIterator[Gateway]:
    def make(name: str, _settings: ProviderSettings, _ports: Ports) -> Vendor:
        return vendors[name]

    tables = {"streams": {"transactional": stream}} if stream else {}
    config = make_config({name: {"kind": "simulated"} for name in vendors}, **tables)
    with open_store() as store:
        gateway = build(config, ports, store, make)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            yield gateway
            await gateway.stop()


async def send(gateway: Gateway, name: str, sender: str, recipient: str) -> None:
    submission = letter(name, sender=Address(sender), to=(Address(recipient),), subject=name)
    await gateway.door.submit(submission)


async def mix(gateway: Gateway, rule: Rule, limited: int, innocent: int, first: int = 0) -> None:
    """Submit limited messages first, then those of others, which they must not delay."""
    for number in range(first, first + limited):
        recipient = "limited0@limited.example" if rule is to_one else f"l{number}@limited.example"
        sender = "tenant@limited.example" if rule is by_tenant else "ann@own.example"
        if rule is by_tenant:
            recipient = f"bob{number}@b{number % 7}.example"
        await send(gateway, f"limited {number}", sender, recipient)
    for number in range(first, first + innocent):
        recipient = f"bob{number}@b{number % 7}.example"
        await send(gateway, f"innocent {number}", "ann@own.example", recipient)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [to_one, to_domain, by_tenant])
@pytest.mark.parametrize("limited", [1, 5, 100])
async def test_an_own_limit_costs_others_nothing(
    autojump_clock: trio.testing.MockClock, rule: Rule, limited: int
) -> None:
    vendor = Vendor(rule)
    async with running({"primary": vendor}, make_ports()) as gateway:
        await mix(gateway, rule, limited, 200)
        await trio.sleep(30.0)
        sent_early = len(vendor.sent_s)
        for number in range(200, 260):
            await send(gateway, f"late {number}", "ann@own.example", f"eve{number}@c.example")
            await trio.sleep(0.5)
        await trio.sleep(2.0)
        pace = gateway.lanes["primary"].limiter_status.value.learnt
        ledger = await gateway.spool.read(lambda spool: spool.ledger())
        refused = vendor.refused

    assert 200 == sent_early
    assert 260 == len(vendor.sent_s) == ledger.states["sent"]
    assert pace is None
    assert limited == sum(ledger.states.values()) - ledger.states["sent"]
    assert refused <= 20 * limited


@pytest.mark.slow
@pytest.mark.parametrize("rule", [to_one, to_domain, by_tenant])
async def test_what_has_a_limit_of_its_own_goes_by_the_next_lane(
    autojump_clock: trio.testing.MockClock, rule: Rule
) -> None:
    vendors = {"primary": Vendor(rule), "secondary": Vendor(lambda _mail: False)}
    async with running(vendors, make_ports()) as gateway:
        await mix(gateway, rule, 20, 100)
        await trio.sleep(60.0)

    assert 120 == sum(len(vendor.sent_s) for vendor in vendors.values())
    assert 20 <= len(vendors["secondary"].sent_s)


@pytest.mark.slow
async def test_a_message_that_is_throttled_alone_waits_on_disk_in_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendor = Vendor(to_one)
    async with running({"primary": vendor}, make_ports()) as gateway:
        await mix(gateway, to_one, 1, 0)
        await trio.sleep(600.0)
        refused = vendor.refused
        vendor.is_limited = lambda _mail: False
        await trio.sleep(700.0)

    assert THROTTLES_MAX <= refused <= 130
    assert 1 == len(vendor.sent_s)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [to_one, to_domain, by_tenant])
async def test_what_waits_over_its_own_limit_is_tried_before_its_deadline(
    autojump_clock: trio.testing.MockClock, rule: Rule
) -> None:
    vendor = Vendor(rule)
    async with running({"primary": vendor}, make_ports(), expires_after_s=1200.0) as gateway:
        for number in range(30):
            await mix(gateway, rule, 1, 1, number)
            await trio.sleep(2.0)
        await trio.sleep(900.0)
        vendor.is_limited = lambda _mail: False
        await trio.sleep(600.0)
        ledger = await gateway.spool.read(lambda spool: spool.ledger())

    assert {"sent": 60} == ledger.states


@pytest.mark.slow
@pytest.mark.parametrize("rule", [to_one, to_domain, by_tenant])
async def test_a_window_full_of_a_limited_subject_keeps_nobody_waiting(
    autojump_clock: trio.testing.MockClock, rule: Rule
) -> None:
    vendor = Vendor(rule)
    async with running({"primary": vendor}, make_ports()) as gateway:
        await mix(gateway, rule, WINDOW + 200, 0)
        await trio.sleep(30.0)
        await mix(gateway, rule, 0, 10, WINDOW + 200)
        await trio.sleep(60.0)
        sent = len(vendor.sent_s)

    assert 10 == sent
