"""A vendor alone, under a clock that jumps: what a client of it sees, and what is true."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from mailactors.config import SmtpProviderSettings
from mailactors.model.message import Address, Content, Envelope
from mailactors.model.outcome import Deferred, NotAttempted, Outcome, Refusal, Rejected
from mailactors.providers.port import Mail, Provider
from mailactors.sim.scenario.tables import ProviderPlan
from mailactors.sim.vendor.call import AttemptObserver
from mailactors.sim.vendor.client import client_of
from mailactors.sim.vendor.vendor import Vendor
from mailactors.sim.world.scheduling import JumpingClock, run_seeded
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import World, make_world
from mailactors.spool.port import RecordDeliveryEvent

T = TypeVar("T")

NAME = "primary"
FLAT = {"latency_s": {"median": 0.1, "sigma": 0}}
"""Each answer takes a tenth of a second."""
SMTP = SmtpProviderSettings(host="primary.smtp.example", port=2525, tls="none")


class RecordingObserver(AttemptObserver):
    """Records what the checks would receive."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def began(self, provider: str) -> None:
        self.calls.append(("began", provider))

    def unused(self, provider: str, began_s: float) -> None:
        self.calls.append(("unused", provider, began_s))

    def sending(self, provider: str, number: int) -> None:
        self.calls.append(("sending", provider, number))

    def arrived(self, provider: str, number: int) -> None:
        self.calls.append(("arrived", provider, number))

    def throttled(self, provider: str, retry_after_s: float) -> None:
        self.calls.append(("throttled", provider, retry_after_s))


class Rig:
    """A world with one vendor and one client of it."""

    def __init__(self, plan: dict[str, Any], seed: int, clock: JumpingClock) -> None:
        self.world: World = make_world(seed, clock)
        self.truth = Truth((NAME,))
        self.observer = RecordingObserver()
        made = ProviderPlan.model_validate(plan)
        self.vendor = Vendor(NAME, made, made.faults, self.world, self.truth)
        self.vendor.on_event = self._send_event
        self.client: Provider = client_of(self.vendor, self.observer, SMTP)
        self.evidence: list[RecordDeliveryEvent] = []
        self.sent: dict[int, Outcome | Refusal] = {}
        self.took_s: dict[int, float] = {}

    async def send(self, number: int, **more: Any) -> Outcome | Refusal:
        """Make one attempt, and remember what came of it and how long it took."""
        began_s = trio.current_time()
        session = await self.client.connect()
        outcome: Outcome | Refusal
        if isinstance(session, Deferred | Rejected | NotAttempted):
            outcome = session
        else:
            outcome = await session.send(mail(number, **more))
        self.took_s[number] = trio.current_time() - began_s
        self.sent[number] = outcome
        return outcome

    async def send_many(self, count: int, gap_s: float = 0.0, first: int = 0) -> list[Any]:
        """Make attempts at once, or at intervals, and return their outcomes in order."""
        async with trio.open_nursery() as nursery:
            for number in range(first, first + count):
                nursery.start_soon(self.send, number)
                await trio.sleep(gap_s)
        return [self.sent[number] for number in range(first, first + count)]

    async def die(self, number: int, after_s: float) -> None:
        """Make one attempt in a process that dies after a while."""
        with trio.move_on_after(after_s):
            await self.send(number)

    @property
    def arrivals(self) -> dict[int, list[float]]:
        """What truly went out, and when."""
        every = self.truth.arrivals.items()
        return {number: [round(at_s, 6) for at_s in times] for number, times in every}

    async def _send_event(self, event: RecordDeliveryEvent) -> None:
        await trio.lowlevel.checkpoint()
        self.evidence.append(event)


def mail(number: int, recipient: str = "ann@example.com", text: str = "Hello.\n") -> Mail:
    """Return a message of the traffic as an attempt has it."""
    content = Content(
        Address("shop@sender.example"), (Address(recipient),), subject=str(number), text=text
    )
    envelope = Envelope("shop@sender.example", (recipient,))
    return Mail(f"{number + 1:032x}", f"{number}@sender.example", 1.8e9, envelope, content)


def with_vendor(
    body: Callable[[Rig], Awaitable[T]], plan: dict[str, Any] | None = None, seed: int = 1
) -> T:
    """Run a story with a vendor, its faults in the plan; virtual time begins at 0."""
    clock = JumpingClock()

    async def main() -> T:
        rig = Rig({**FLAT, **(plan or {})}, seed, clock)
        async with trio.open_nursery() as nursery:
            rig.world.spawn = nursery.start_soon
            result = await body(rig)
            nursery.cancel_scope.cancel()
        return result

    return run_seeded(main, clock, seed)


def fault(kind: str, at_s: float = 0.0, for_s: float | None = 1000.0, **more: Any) -> Any:
    """Return a plan with one fault, on from the beginning."""
    length = {} if for_s is None else {"for_s": for_s}
    return {"faults": [{"kind": kind, "at_s": at_s, **length, **more}]}
