"""One process's client of a vendor; it is lost with the process.

On the wire `port` there is no adapter: the client returns the outcome that the adapter of a
vendor's HTTP API would return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import msgspec
import trio

from mailactors.config import ProviderSettings, SmtpProviderSettings
from mailactors.model.message import domain_of
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.providers.port import (
    Capabilities,
    Found,
    LookUpFailed,
    LookUpResult,
    Mail,
    NotFound,
    Provider,
    Session,
)
from mailactors.providers.smtp import SmtpProvider
from mailactors.sim.vendor.answers import BAD_KEY, outcome_of
from mailactors.sim.vendor.call import AttemptObserver, Call, number_of
from mailactors.sim.vendor.smtp_client import SENDING, WireConnector
from mailactors.sim.vendor.vendor import CONNECT_S, REFUSAL_S, SHORT_TEXT, Vendor
from mailactors.sim.world.scheduling import sleep, sleep_until

CONNECT_WITHIN_S: Final = 30.0
"""How long the adapter waits for a connection."""
ANSWER_WITHIN_S: Final = 60.0
"""How long the adapter waits for an answer before it calls the attempt uncertain."""
LOOK_UP_WITHIN_S: Final = 30.0
"""How long it waits for the answer to a look-up."""


def client_of(
    vendor: Vendor, observer: AttemptObserver, settings: ProviderSettings | None = None
) -> Provider:
    """Return one process's client of a vendor.

    On an SMTP wire it takes the settings of the gateway's own SMTP client.
    """
    if vendor.plan.wire == "port":
        return ObservedClient(vendor, observer, VendorClient(vendor, observer))
    assert isinstance(settings, SmtpProviderSettings), "an SMTP wire needs SMTP settings"
    connector = WireConnector(vendor, observer)
    smtp = SmtpProvider(vendor.name, settings, vendor.world.clock, connector)
    return ObservedClient(vendor, observer, smtp)


class ObservedClient:
    """Records the attempts of a client, and reports them to the observer."""

    def __init__(self, vendor: Vendor, observer: AttemptObserver, inner: Provider) -> None:
        self.vendor = vendor
        self.observer = observer
        has_events = vendor.plan.delivery_events is not None
        self.capabilities = msgspec.structs.replace(inner.capabilities, delivery_events=has_events)
        self.secrets = inner.secrets
        self.look_up, self.release, self.aclose = inner.look_up, inner.release, inner.aclose
        self._connect, self._take_ready = inner.connect, inner.take_ready

    async def connect(self) -> ObservedSession | Refusal | NotAttempted:
        name, began_s = self.vendor.name, self.vendor.now_s()
        self.vendor.truth.attempt(name, began_s)
        self.observer.began(name)
        try:
            session = await self._connect()
        except trio.Cancelled:
            self.give_back(began_s)  # a deadline ended it: no attempt
            raise
        if isinstance(session, NotAttempted):
            self.give_back(began_s)
            return session
        if isinstance(session, Deferred | Rejected):
            self.observer.failed(name)
            return session
        return ObservedSession(self, session, began_s)

    def take_ready(self) -> ObservedSession | None:
        session = self._take_ready()
        if session is None:
            return None
        began_s = self.vendor.now_s()
        self.vendor.truth.attempt(self.vendor.name, began_s)
        self.observer.began(self.vendor.name)
        return ObservedSession(self, session, began_s)

    def give_back(self, began_s: float) -> None:
        """Note that what began then was no attempt."""
        self.vendor.truth.give_back(self.vendor.name, began_s)
        self.observer.unused(self.vendor.name, began_s)


@dataclass(slots=True, eq=False)
class ObservedSession:
    """A session of an observed client."""

    client: ObservedClient
    inner: Session
    began_s: float

    async def send(self, mail: Mail) -> Outcome:
        name, observer, number = self.client.vendor.name, self.client.observer, number_of(mail)
        observer.sending(name, number)
        token = SENDING.set(number)
        try:
            outcome = await self.inner.send(mail)
        finally:
            SENDING.reset(token)
        if isinstance(outcome, NotAttempted):
            self.client.give_back(self.began_s)
        elif not isinstance(outcome, Accepted):
            observer.failed(name)
        return outcome

    async def aclose(self) -> None:
        """Return the session unused: it was no attempt."""
        self.client.give_back(self.began_s)
        await self.inner.aclose()


class VendorClient:
    """One process's adapter to a vendor; it has no connection, so that it is its own session."""

    def __init__(self, vendor: Vendor, observer: AttemptObserver) -> None:
        self.vendor = vendor
        self.observer = observer
        self.secrets: tuple[str, ...] = ()
        self.capabilities = Capabilities(
            own_envelope=True,
            idempotency_window_s=vendor.plan.idempotency_window_s,
            look_up_lag_s=vendor.plan.search_lag_s,
            work_max_s=vendor.work_max_s,
        )

    async def connect(self) -> Self | Refusal | NotAttempted:
        if self.vendor.active().shorts:
            await trio.lowlevel.checkpoint()
            return NotAttempted(Why.RESOURCES, text=f"connect: {SHORT_TEXT}")
        reason = await self._connect_failure()
        return self if reason is None else Deferred(Scope.PROVIDER, reason)

    def take_ready(self) -> Self | None:
        return self if self.vendor.unreachable(self.vendor.active()) is None else None

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

    async def send(self, mail: Mail) -> Outcome:
        vendor, number, recipients = self.vendor, number_of(mail), mail.envelope.recipients
        active = vendor.active()
        if not vendor.accepts_credentials(active):
            await sleep(REFUSAL_S)
            return outcome_of(BAD_KEY, "", recipients)
        refusal = vendor.quota_refusal(active)
        if refusal is not None:
            await sleep(REFUSAL_S)
            self.observer.throttled(vendor.name, refusal.retry_after_s or 0.0)
            return outcome_of(refusal, "", recipients)
        refusal = vendor.recipient_refusal(number, domain_of(recipients[0]))
        if refusal is not None:
            await sleep(vendor.latency_s(number))
            return outcome_of(refusal, "", recipients)
        call = vendor.begin(number, mail.marker, recipients, self.observer, ANSWER_WITHIN_S, mail)
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
