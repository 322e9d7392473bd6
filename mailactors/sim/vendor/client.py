"""The ways to a vendor: what one process of the gateway has in hand, and loses when it dies.

On the wire `port` the world answers in the adapter's place, with what an adapter of a vendor's HTTP
API would make of it.
"""

from __future__ import annotations

from typing import Final

import trio

from mailactors.config import ProviderSettings, SmtpProviderSettings
from mailactors.model.message import domain_of
from mailactors.model.outcome import (
    Deferred,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Scope,
    Uncertain,
)
from mailactors.providers.port import (
    Capabilities,
    Found,
    LookUpFailed,
    LookUpResult,
    Mail,
    NotFound,
    Provider,
)
from mailactors.sim.vendor.answers import BAD_KEY, outcome_of
from mailactors.sim.vendor.call import Call, Watch, number_of
from mailactors.sim.vendor.smtp_client import WireProvider
from mailactors.sim.vendor.vendor import REFUSAL_S, VendorBase
from mailactors.sim.world.scheduling import sleep, sleep_until

__all__ = ["Vendor", "VendorClient", "VendorSession", "Watch", "number_of"]

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
CONNECT_WITHIN_S: Final = 30.0
"""How long the adapter waits for a connection."""
ANSWER_WITHIN_S: Final = 60.0
"""How long the adapter waits for an answer before it calls the attempt uncertain."""
LOOK_UP_WITHIN_S: Final = 30.0
"""How long it waits for the answer to a question."""


class Vendor(VendorBase):
    """A provider of the world, and how a process gets its way to it."""

    def client(self, watch: Watch | None, settings: ProviderSettings | None = None) -> Provider:
        """Return a process's way to the vendor.

        On an SMTP wire it takes the settings of the gateway's own SMTP client.
        """
        if self.plan.wire == "port":
            return VendorClient(self, watch)
        assert isinstance(settings, SmtpProviderSettings), "an SMTP wire needs SMTP settings"
        return WireProvider(self, settings, watch)


class VendorClient:
    """One process's adapter to a vendor."""

    def __init__(self, vendor: VendorBase, watch: Watch | None) -> None:
        self.vendor = vendor
        self.watch = watch
        plan = vendor.plan
        self._capabilities = Capabilities(
            own_envelope=True,
            idempotency_window_s=plan.idempotency_window_s,
            look_up_lag_s=plan.search_lag_s,
        )
        self._look_ups = 0

    @property
    def capabilities(self) -> Capabilities:
        """Carries partial envelopes; recognises and finds what the vendor's plan says."""
        return self._capabilities

    async def connect(self) -> VendorSession | Refusal:
        """Return a session, unless there is no way to the vendor now."""
        vendor, watch = self.vendor, self.watch
        now_s = vendor.now_s()
        vendor.truth.attempt(vendor.name, now_s)
        if watch is not None:
            watch.began(vendor.name)
        reason = await self._obstacle()
        if reason is not None:
            return Deferred(Scope.PROVIDER, reason)
        return VendorSession(self, now_s)

    async def look_up(self, marker: str) -> LookUpResult:
        """Ask the vendor, in whatever weather."""
        vendor = self.vendor
        reason = await self._obstacle()
        if reason is not None:
            return LookUpFailed(reason)
        weather = vendor.weather()
        if not vendor.knows_us(weather):
            await sleep(REFUSAL_S)
            return LookUpFailed(Reason(BAD_KEY.text, BAD_KEY.code))
        self._look_ups += 1
        latency_s, failure = vendor.question(weather, marker)
        if latency_s >= LOOK_UP_WITHIN_S:
            await sleep(LOOK_UP_WITHIN_S)
            return LookUpFailed(Reason("no answer in time"))
        await sleep(latency_s)
        if failure is not None:
            return LookUpFailed(failure)
        found = vendor.find(marker)
        return NotFound() if found is None else Found(found)

    async def aclose(self) -> None:
        """Nothing to close."""
        await trio.lowlevel.checkpoint()

    def give_back(self, began_s: float) -> None:
        """Take note that a session was not used: it was no attempt."""
        self.vendor.truth.give_back(self.vendor.name, began_s)
        if self.watch is not None:
            self.watch.unused(self.vendor.name, began_s)

    async def answer(self, mail: Mail) -> Outcome:
        """Send a message, and understand the answer."""
        vendor, watch, number = self.vendor, self.watch, number_of(mail)
        recipients = mail.envelope.recipients
        if watch is not None:
            watch.sending(vendor.name, number)
        weather = vendor.weather()
        if not vendor.knows_us(weather):
            await sleep(REFUSAL_S)
            return outcome_of(BAD_KEY, "", recipients)
        refusal = vendor.over_quota(weather)
        if refusal is not None:
            await sleep(REFUSAL_S)
            if watch is not None:
                watch.throttled(vendor.name, refusal.retry_after_s or 0.0)
            return outcome_of(refusal, "", recipients)
        refusal = vendor.against(number, domain_of(recipients[0]))
        if refusal is not None:
            await sleep(vendor.latency_s(number))
            return outcome_of(refusal, "", recipients)
        call = vendor.begin(number, mail.marker, recipients, watch, ANSWER_WITHIN_S, mail)
        try:
            return await self._wait(call)
        finally:
            vendor.abandon(call)

    async def _wait(self, call: Call) -> Outcome:
        """Wait for the answer as long as an adapter does; meanwhile the vendor does its work."""
        hang_up_s = call.begun_s + ANSWER_WITHIN_S
        if call.out_s < hang_up_s:
            await sleep_until(call.out_s)
            self.vendor.finish(call, call.out_s)
        if call.answer_s >= hang_up_s:
            await sleep_until(hang_up_s)
            return Uncertain(Phase.FINAL, Reason("no answer in time"))
        if call.answer_s > call.out_s or call.out_s >= hang_up_s:
            await sleep_until(call.answer_s)
        return outcome_of(call.answer, call.id, call.recipients)

    async def _obstacle(self) -> Reason | None:
        """Return why there is no connection, once an adapter knows."""
        vendor = self.vendor
        found = vendor.unreachable(vendor.weather())
        if found is None:
            return None
        text, dns = found
        is_slow = dns is not None and dns.answer == "slow"
        await sleep(CONNECT_WITHIN_S if is_slow else CONNECT_S)
        return Reason(f"connect: {text}")


class VendorSession:
    """A session with a vendor."""

    __slots__ = ("_began_s", "_client")

    def __init__(self, client: VendorClient, began_s: float) -> None:
        self._client = client
        self._began_s = began_s

    async def send(self, mail: Mail) -> Outcome:
        """Let the vendor answer."""
        return await self._client.answer(mail)

    async def aclose(self) -> None:
        """Give the session back unused."""
        self._client.give_back(self._began_s)
        await trio.lowlevel.checkpoint()
