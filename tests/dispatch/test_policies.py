"""What a gateway does, in virtual time, at providers that are too small, dead, or bad at once."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from mailactors.config import ProviderSettings
from mailactors.dispatch.breaker import DEAD_IN_A_ROW
from mailactors.dispatch.concurrency import FLOOR, RAMP_S
from mailactors.dispatch.retry import SPILL_AFTER_S
from mailactors.model.message import Address
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    Outcome,
    Reason,
    Refusal,
    Scope,
)
from mailactors.providers.port import Capabilities, LookUpResult, Mail
from mailactors.runtime.ports import Ports
from mailactors.wiring import Gateway, build
from tests.gateways import (
    NotingJournal,
    letter,
    make_config,
    make_ports,
    open_store,
    wait_for_states,
)

LATENCY_S = 0.15


class Vendor:
    """A provider whose answers a test scripts. Fulfils the port."""

    def __init__(self) -> None:
        self.per_s: int | None = None
        self.is_up = True
        self.defers = ""
        """A recipient domain that is deferred."""
        self.errors = 0.0
        """The share of messages that is answered with an error, evenly spread."""
        self.served_s: deque[float] = deque()
        self.asked_s: list[float] = []
        self.refused = 0
        self.closed_s = -1.0
        self.early = 0
        self._owed = 0.0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(own_envelope=True)

    async def connect(self) -> VendorSession | Refusal:
        self.asked_s.append(trio.current_time())
        self.early += trio.current_time() < self.closed_s
        await trio.lowlevel.checkpoint()
        if not self.is_up:
            return Deferred(Scope.PROVIDER, Reason("connection refused"))
        return VendorSession(self)

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    def take_ready(self) -> None:
        return None

    async def look_up(self, marker: str) -> LookUpResult:
        raise NotImplementedError(marker)

    async def release(self) -> None:
        """Nothing to give back."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def answer(self, mail: Mail) -> Outcome:
        now_s = trio.current_time()
        while self.served_s and self.served_s[0] <= now_s - 1.0:
            self.served_s.popleft()
        if self.per_s is not None and len(self.served_s) >= self.per_s:
            wait_s = float(math.ceil(self.served_s[-self.per_s] + 1.0 - now_s))
            self.refused += 1
            await trio.sleep(0.02)
            self.closed_s = max(self.closed_s, trio.current_time() + wait_s)
            return Deferred(Scope.PROVIDER, Reason("slow down", 429), wait_s, throttled=True)
        self.served_s.append(now_s)
        await trio.sleep(LATENCY_S)
        if self.defers and mail.envelope.recipients[0].endswith(f"@{self.defers}"):
            return Deferred(Scope.DOMAIN, Reason("not now", 421))
        self._owed += self.errors
        if self._owed >= 1.0:
            self._owed -= 1.0
            return Deferred(Scope.PROVIDER, Reason("unavailable", 503))
        return Accepted(f"{len(self.asked_s)}")

    def asked_since(self, since_s: float) -> int:
        return sum(1 for at_s in self.asked_s if at_s >= since_s)

    def peak_per_s(self, since_s: float) -> int:
        """Return the most attempts in any second."""
        recent: deque[float] = deque()
        highest = 0
        for at_s in (each for each in self.asked_s if each >= since_s):
            recent.append(at_s)
            while recent[0] <= at_s - 1.0:
                recent.popleft()
            highest = max(highest, len(recent))
        return highest


class VendorSession:
    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor

    async def send(self, mail: Mail) -> Outcome:
        return await self._vendor.answer(mail)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def running(vendors: dict[str, Vendor], ports: Ports) -> AsyncIterator[Gateway]:
    """Run a gateway over scripted vendors."""

    def make(name: str, _settings: ProviderSettings, _ports: Ports) -> Vendor:
        return vendors[name]

    config = make_config({name: {"kind": "simulated"} for name in vendors})
    with open_store() as store:
        gateway = build(config, ports, store, make)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            yield gateway
            await gateway.stop()


async def send(gateway: Gateway, count: int, per_s: float, domain: str = "example.com") -> None:
    """Submit letters evenly; names go on from call to call."""
    for _ in range(count):
        name = f"{trio.current_time():.6f} {domain}"
        await gateway.door.submit(letter(name, to=(Address(f"bob@{domain}"),)))
        await trio.sleep(1.0 / per_s)


def events(ports: Ports) -> Counter[str]:
    journal = ports.journal
    assert isinstance(journal, NotingJournal)
    return Counter(event for event, _ in journal.notes)


def notes(ports: Ports, event: str) -> list[dict[str, Any]]:
    journal = ports.journal
    assert isinstance(journal, NotingJournal)
    return journal.named(event)


@pytest.mark.slow
async def test_unknown_quotas_are_learnt_and_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendors, ports = {"primary": Vendor(), "secondary": Vendor()}, make_ports()
    vendors["primary"].per_s, vendors["secondary"].per_s = 10, 6

    async with running(vendors, ports) as gateway:
        await send(gateway, 240, 20.0)
        await wait_for_states(gateway, sent=240)
        took_s = trio.current_time()

    assert sum(vendor.refused for vendor in vendors.values()) <= 20
    assert 0 == sum(vendor.early for vendor in vendors.values())
    assert took_s <= 240 / (0.9 * 16.0) + 1.0 + SPILL_AFTER_S
    assert 0 == events(ports)["breaker.moved"]
    learnt = {each["provider"]: each["per_s"] for each in notes(ports, "pace.learnt")}
    assert {"primary": 9.5, "secondary": 5.7} == learnt


@pytest.mark.slow
async def test_a_total_outage_costs_a_few_attempts_and_recovery_climbs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendors, ports = {"primary": Vendor(), "secondary": Vendor()}, make_ports()

    async with running(vendors, ports) as gateway:
        await send(gateway, 40, 20.0)
        for vendor in vendors.values():
            vendor.is_up = False
        down_s = trio.current_time()
        await send(gateway, 700, 20.0)
        for vendor in vendors.values():
            vendor.is_up = True
        heal_s = trio.current_time()
        asked_while_down = [vendor.asked_since(down_s) for vendor in vendors.values()]
        await wait_for_states(gateway, sent=740)

    opened = len(notes(ports, "breaker.moved"))
    assert max(asked_while_down) <= DEAD_IN_A_ROW + 5 + opened
    assert events(ports)["panic.entered"] == events(ports)["panic.left"] == 1
    for vendor in (each for each in vendors.values() if each.asked_since(heal_s)):
        first_s = min(at_s for at_s in vendor.asked_s if at_s >= heal_s)
        ceiling_per_s = 32 / LATENCY_S
        assert vendor.peak_per_s(heal_s) <= ceiling_per_s + 1
        early = sum(1 for at_s in vendor.asked_s if first_s <= at_s < first_s + 2.0)
        assert early <= 2.0 * ceiling_per_s * (FLOOR / 32 + 2.0 / RAMP_S)


@pytest.mark.slow
async def test_when_all_are_bad_the_least_bad_are_used_and_nothing_waits_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendors, ports = {"primary": Vendor(), "secondary": Vendor()}, make_ports()
    for vendor in vendors.values():
        vendor.errors = 0.6

    async with running(vendors, ports) as gateway:
        await send(gateway, 300, 20.0)
        for vendor in vendors.values():
            vendor.errors = 0.0
        await wait_for_states(gateway, within_s=60.0, sent=300)

    said = events(ports)
    assert said["panic.entered"] == said["panic.left"] >= 1
    assert said["attempt.panic"] >= 100
    assert sum(len(vendor.asked_s) for vendor in vendors.values()) <= 2.6 * 300


@pytest.mark.slow
async def test_a_domain_that_defers_costs_what_comes_in_for_it_and_others_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendors, ports = {"primary": Vendor(), "secondary": Vendor()}, make_ports()
    for vendor in vendors.values():
        vendor.defers = "big.example"

    async with running(vendors, ports) as gateway:
        await send(gateway, 100, 20.0, "big.example")
        await trio.sleep(240.0)
        retried = sum(len(vendor.asked_s) for vendor in vendors.values()) - 100
        await send(gateway, 20, 20.0, "small.example")
        await trio.sleep(1.0)
        ledger = await gateway.spool.read(lambda spool: spool.ledger())
        sent_meanwhile = ledger.states["sent"]
        for vendor in vendors.values():
            vendor.defers = ""
        await wait_for_states(gateway, sent=120)

    assert 20 == sent_meanwhile
    assert 20 <= retried <= 250  # once a second at most, and it is asked again
    assert 0 == events(ports)["breaker.moved"]
    assert 1 == events(ports)["domain.deferring"] == events(ports)["domain.lifted"]
