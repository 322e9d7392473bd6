"""A slow recipient domain may not take every slot of a lane, and trips no breaker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import trio
import trio.testing

from mailactors.config import ProviderSettings
from mailactors.dispatch.claims import WINDOW
from mailactors.model.message import Address, domain_of
from mailactors.model.outcome import Accepted, Outcome, Phase, Reason, Uncertain
from mailactors.providers.port import Capabilities, LookUpResult, Mail
from mailactors.runtime.ports import Ports
from mailactors.wiring import Gateway, build
from tests.gateways import NotingJournal, letter, make_config, make_ports, open_store

PROMPT_S = 0.1


class Vendor:
    """Answers after a time that depends on the recipient's domain. Fulfils the port."""

    def __init__(self, takes_s: Callable[[str], float], gives_up_s: float = 600.0) -> None:
        self.takes_s = takes_s
        self.gives_up_s = gives_up_s
        self.sent_s: dict[str, float] = {}
        """When it accepted each message, by subject."""

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
        takes_s = self.takes_s(domain_of(mail.envelope.recipients[0]))
        await trio.sleep(min(takes_s, self.gives_up_s))
        if takes_s > self.gives_up_s:
            return Uncertain(Phase.FINAL, Reason("no answer in time"))
        self.sent_s[mail.content.subject] = trio.current_time()
        return Accepted(mail.marker)


def slow(**domains: float) -> Callable[[str], float]:
    """Return how long answers take: the given times by a domain's first label, else a moment."""
    return lambda domain: domains.get(domain.partition(".")[0], PROMPT_S)


@contextlib.asynccontextmanager
async def running(vendors: Mapping[str, Vendor], ports: Ports) -> AsyncIterator[Gateway]:
    def make(name: str, _settings: ProviderSettings, _ports: Ports) -> Vendor:
        return vendors[name]

    config = make_config({name: {"kind": "simulated"} for name in vendors})
    with open_store() as store:
        gateway = build(config, ports, store, make)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: gateway.run(task_status=task_status))
            yield gateway
            await gateway.stop()


async def send(gateway: Gateway, count: int, *domains: str, stream: str | None = None) -> list[str]:
    """Submit letters to domains in turn; return their names."""
    names = []
    for number in range(count):
        domain = domains[number % len(domains)]
        name = f"{trio.current_time():.3f} {number} {domain} {stream}"
        to = (Address(f"bob{number}@{domain}.example"),)
        more = {} if stream is None else {"stream": stream}
        await gateway.door.submit(letter(name, to=to, subject=name, **more))
        names.append(name)
    return names


def sent(vendors: Mapping[str, Vendor], names: list[str]) -> int:
    return sum(name in vendor.sent_s for vendor in vendors.values() for name in names)


def opened(ports: Ports) -> list[str]:
    journal = ports.journal
    assert isinstance(journal, NotingJournal)
    return [str(each["provider"]) for each in journal.named("breaker.moved")]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [("primary",), ("primary", "secondary")], ids=len)
@pytest.mark.parametrize(
    ("slowness", "slow_domains"),
    [
        (slow(slow=20.0), ("slow",)),
        (slow(slow=20.0, late=25.0), ("slow", "late")),
        (slow(slow=9.0), ("slow",)),
    ],
    ids=["one", "two", "just-slow"],
)
@pytest.mark.parametrize("after_s", [0.0, 15.0, 60.0])
async def test_others_go_out_beside_a_slow_domain_and_no_breaker_opens(
    autojump_clock: trio.testing.MockClock,
    lanes: tuple[str, ...],
    slowness: Callable[[str], float],
    slow_domains: tuple[str, ...],
    after_s: float,
) -> None:
    vendors, ports = {name: Vendor(slowness) for name in lanes}, make_ports()
    async with running(vendors, ports) as gateway:
        await send(gateway, 200, *slow_domains)
        await trio.sleep(after_s)
        others = await send(gateway, 20, "quick")
        codes = await send(gateway, 20, "quick", "other", stream="otp")
        await trio.sleep(1.0)
        codes_sent = sent(vendors, codes)
        await trio.sleep(2.0)
        others_sent = sent(vendors, others)
        await trio.sleep(700.0)
        all_sent = sum(len(vendor.sent_s) for vendor in vendors.values())

    assert [] == opened(ports)
    assert (20, 20) == (codes_sent, others_sent)
    assert 240 == all_sent


@pytest.mark.slow
async def test_a_domain_that_was_prompt_and_turns_slow_leaves_slots_to_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendor, ports = Vendor(slow()), make_ports()
    async with running({"primary": vendor}, ports) as gateway:
        await send(gateway, 100, "big")
        await trio.sleep(5.0)
        vendor.takes_s = slow(big=20.0)
        await send(gateway, 200, "big")
        others = await send(gateway, 20, "quick")
        await trio.sleep(2.0)
        others_sent = sent({"primary": vendor}, others)
        await trio.sleep(30.0)

    assert 20 == others_sent
    assert [] == opened(ports)


@pytest.mark.slow
@pytest.mark.parametrize("domains", [("one",), ("a", "b", "c", "d", "e", "f")], ids=len)
async def test_a_provider_that_is_slow_for_all_still_opens_its_breaker(
    autojump_clock: trio.testing.MockClock, domains: tuple[str, ...]
) -> None:
    vendors, ports = {"primary": Vendor(slow()), "secondary": Vendor(slow())}, make_ports()
    async with running(vendors, ports) as gateway:
        await send(gateway, 40, *domains)
        await trio.sleep(10.0)
        vendors["primary"].takes_s = lambda _domain: 29.0
        for _ in range(60):
            await send(gateway, 20, *domains)
            await trio.sleep(1.0)
        await trio.sleep(40.0)
        last = list(vendors["secondary"].sent_s.values())
        all_sent = sum(len(vendor.sent_s) for vendor in vendors.values())

    assert "primary" in opened(ports)
    assert "secondary" not in opened(ports)
    assert 1240 == all_sent
    assert len(last) >= 1000


@pytest.mark.slow
async def test_a_domain_so_slow_that_answers_are_lost_opens_nothing_while_others_are_served(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendor, ports = Vendor(slow(slow=90.0), gives_up_s=60.0), make_ports()
    async with running({"primary": vendor}, ports) as gateway:
        await send(gateway, 100, "slow")
        others = []
        for _ in range(90):
            others += await send(gateway, 2, "quick", "other")
            await trio.sleep(1.0)
        others_sent = sent({"primary": vendor}, others)

    assert [] == opened(ports)
    assert len(others) - 2 <= others_sent


@pytest.mark.slow
async def test_one_domain_alone_has_nearly_all_slots_once_it_answers_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    vendor, ports = Vendor(slow(one=0.5)), make_ports()
    async with running({"primary": vendor}, ports) as gateway:
        await send(gateway, 280, "one")
        await trio.sleep(6.0)
        in_time = len(vendor.sent_s)

    assert 280 == in_time


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [("primary",), ("primary", "secondary")], ids=len)
async def test_a_window_full_of_a_slow_domain_keeps_nobody_waiting(
    autojump_clock: trio.testing.MockClock, lanes: tuple[str, ...]
) -> None:
    vendors = {name: Vendor(slow(slow=20.0)) for name in lanes}
    async with running(vendors, make_ports()) as gateway:
        stuck = await send(gateway, WINDOW + 200, "slow")
        await trio.sleep(30.0)
        others = await send(gateway, 10, "quick")
        await trio.sleep(5.0)
        others_sent = sent(vendors, others)
        before = sent(vendors, stuck)
        await trio.sleep(400.0)
        went_on = sent(vendors, stuck) - before
        for vendor in vendors.values():
            vendor.takes_s = lambda _domain: PROMPT_S
        await trio.sleep(200.0)
        all_sent = sent(vendors, stuck)

    assert 10 == others_sent
    assert went_on >= 200
    assert WINDOW + 200 == all_sent
