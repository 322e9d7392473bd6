"""One process's client of a vendor; it is lost with the process.

On the wire `port` there is no adapter: the client returns the outcome that the adapter of a
vendor's HTTP API would return.
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
from mailactors.sim.vendor.call import AttemptObserver, Call, number_of
from mailactors.sim.vendor.smtp_client import WireProvider
from mailactors.sim.vendor.vendor import REFUSAL_S, Vendor
from mailactors.sim.world.scheduling import sleep, sleep_until

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
CONNECT_WITHIN_S: Final = 30.0
"""How long the adapter waits for a connection."""
ANSWER_WITHIN_S: Final = 60.0
"""How long the adapter waits for an answer before it calls the attempt uncertain."""
LOOK_UP_WITHIN_S: Final = 30.0
"""How long it waits for the answer to a look-up."""


def client_of(
    vendor: Vendor, observer: AttemptObserver | None, settings: ProviderSettings | None = None
) -> Provider:
    """Return one process's client of a vendor.

    On an SMTP wire it takes the settings of the gateway's own SMTP client.
    """
    if vendor.plan.wire == "port":
        return VendorClient(vendor, observer)
    assert isinstance(settings, SmtpProviderSettings), "an SMTP wire needs SMTP settings"
    return WireProvider(vendor, settings, observer)


class VendorClient:
    """One process's adapter to a vendor."""

    def __init__(self, vendor: Vendor, observer: AttemptObserver | None) -> None:
        self.vendor = vendor
        self.observer = observer
        plan = vendor.plan
        self._capabilities = Capabilities(
            own_envelope=True,
            idempotency_window_s=plan.idempotency_window_s,
            look_up_lag_s=plan.search_lag_s,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Partial envelopes, and the keys and look-ups of the vendor's plan."""
        return self._capabilities

    async def connect(self) -> VendorSession | Refusal:
        """Return a session, or why the vendor cannot be reached."""
        vendor, observer = self.vendor, self.observer
        now_s = vendor.now_s()
        vendor.truth.attempt(vendor.name, now_s)
        if observer is not None:
            observer.began(vendor.name)
        try:
            reason = await self._connect_failure()
        except trio.Cancelled:
            self.give_back(now_s)  # a deadline ended it: no attempt
            raise
        if reason is not None:
            return Deferred(Scope.PROVIDER, reason)
        return VendorSession(self, now_s)

    async def look_up(self, marker: str) -> LookUpResult:
        """Ask the vendor whether it has a message; its active faults apply."""
        vendor = self.vendor
        reason = await self._connect_failure()
        if reason is not None:
            return LookUpFailed(reason)
        active = vendor.active()
        if not vendor.accepts_credentials(active):
            await sleep(REFUSAL_S)
            return LookUpFailed(Reason(BAD_KEY.text, BAD_KEY.code))
        latency_s, failure = vendor.begin_look_up(active, marker)
        if latency_s >= LOOK_UP_WITHIN_S:
            await sleep(LOOK_UP_WITHIN_S)
            return LookUpFailed(Reason("no answer in time"))
        await sleep(latency_s)
        if failure is not None:
            return LookUpFailed(failure)
        found = vendor.find(marker)
        return NotFound() if found is None else Found(found)

    async def release(self) -> None:
        """Do nothing: nothing is kept."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""
        await trio.lowlevel.checkpoint()

    def give_back(self, began_s: float) -> None:
        """Return a session unused: it was no attempt."""
        self.vendor.truth.give_back(self.vendor.name, began_s)
        if self.observer is not None:
            self.observer.unused(self.vendor.name, began_s)

    async def answer(self, mail: Mail) -> Outcome:
        """Send a message and return the outcome."""
        vendor, observer, number = self.vendor, self.observer, number_of(mail)
        recipients = mail.envelope.recipients
        if observer is not None:
            observer.sending(vendor.name, number)
        active = vendor.active()
        if not vendor.accepts_credentials(active):
            await sleep(REFUSAL_S)
            return outcome_of(BAD_KEY, "", recipients)
        refusal = vendor.quota_refusal(active)
        if refusal is not None:
            await sleep(REFUSAL_S)
            if observer is not None:
                observer.throttled(vendor.name, refusal.retry_after_s or 0.0)
            return outcome_of(refusal, "", recipients)
        refusal = vendor.recipient_refusal(number, domain_of(recipients[0]))
        if refusal is not None:
            await sleep(vendor.latency_s(number))
            return outcome_of(refusal, "", recipients)
        call = vendor.begin(number, mail.marker, recipients, observer, ANSWER_WITHIN_S, mail)
        try:
            return await self._wait(call)
        finally:
            vendor.abandon(call)

    async def _wait(self, call: Call) -> Outcome:
        """Wait for the answer as long as an adapter does; the vendor accepts it meanwhile."""
        hang_up_s = call.begun_s + ANSWER_WITHIN_S
        if call.taken_s < hang_up_s:
            await sleep_until(call.taken_s)
            self.vendor.finish(call, call.taken_s)
        if call.answer_s >= hang_up_s:
            await sleep_until(hang_up_s)
            return Uncertain(Phase.FINAL, Reason("no answer in time"))
        if call.answer_s > call.taken_s or call.taken_s >= hang_up_s:
            await sleep_until(call.answer_s)
        return outcome_of(call.answer, call.id, call.recipients)

    async def _connect_failure(self) -> Reason | None:
        """Return why there is no connection, after the time that an adapter needs to find out."""
        vendor = self.vendor
        found = vendor.unreachable(vendor.active())
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
        """Send a message and return the outcome."""
        return await self._client.answer(mail)

    async def aclose(self) -> None:
        """Return the session unused."""
        self._client.give_back(self._began_s)
        await trio.lowlevel.checkpoint()
