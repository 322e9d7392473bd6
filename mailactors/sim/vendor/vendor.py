"""A vendor: it accepts messages, answers as its active faults say, and records the truth.

It outlives the gateway's processes: it carries on with a message whose body it has, even if the
process that sent it dies.
"""

from __future__ import annotations

import datetime
import math
from array import array
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, Literal

import msgspec

from mailactors.model.message import domain_of
from mailactors.model.outcome import Reason
from mailactors.providers.port import Capabilities, Mail
from mailactors.sim.scenario.faults import Auth, Capacity, Dns, ProviderFault, Slow, Throttle
from mailactors.sim.scenario.tables import ProviderPlan
from mailactors.sim.vendor import answers
from mailactors.sim.vendor.answers import Answer
from mailactors.sim.vendor.call import AttemptObserver, Call
from mailactors.sim.vendor.draws import Draw, ProviderDraws, RareDraw, latency_of
from mailactors.sim.vendor.limits import ServiceQueue, SlidingQuota, windows_of
from mailactors.sim.vendor.memory import Entry, VendorMemory, digest_of
from mailactors.sim.vendor.timeline import ActiveFaults, FaultTimeline, end_by_time
from mailactors.sim.world.entropy import log_normal
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import EPOCH_S, World
from mailactors.spool.port import RecordDeliveryEvent

CONNECT_S: Final = 0.001
"""How long a refused connection takes."""
SHORT_TEXT: Final = "too many open files"
"""What the gateway says where it has no descriptor for a connection."""
WORK_DRAW_MAX: Final = 0.9999
"""The draw of a latency that counts as a vendor's longest."""
REFUSAL_S: Final = 0.02
"""How long a vendor takes to refuse over a quota or over credentials."""


WORK_MAX_S: Final = Capabilities(own_envelope=True).work_max_s


def longest_s(plan: ProviderPlan, faults: tuple[ProviderFault, ...]) -> Iterator[float]:
    """Yield the longest times for which the vendor works on a message, queues apart."""
    yield log_normal(plan.latency_s.median, plan.latency_s.sigma, WORK_DRAW_MAX)
    for fault in faults:
        if isinstance(fault, Slow):
            yield fault.latency_s


class Vendor:
    """One simulated vendor, whatever the wire."""

    def __init__(
        self,
        name: str,
        plan: ProviderPlan,
        faults: tuple[ProviderFault, ...],
        world: World,
        truth: Truth,
    ) -> None:
        self.name = name
        self.plan = plan
        self.world = world
        self.truth = truth
        self.on_event: Callable[[RecordDeliveryEvent], Awaitable[None]] | None = None
        """Receives the vendor's delivery events; None: it sends none."""
        self._timeline = FaultTimeline(faults, end_by_time)
        self._draws = ProviderDraws(world.entropy, name)
        self._quotas = [SlidingQuota(*window) for window in windows_of(plan.quota)]
        self._throttles = {
            id(fault): SlidingQuota(1.0, fault.per_s)
            for fault in faults
            if isinstance(fault, Throttle)
        }
        self._queues: dict[int, ServiceQueue] = {}
        self._attempts = array("H")
        """Attempts so far, by a message's number."""
        self._memory = VendorMemory()
        self.work_max_s = plan.work_max_s or max([WORK_MAX_S, *longest_s(plan, faults)])
        """A message that it has not accepted so long after its client hung up is dropped, if it
        can be asked: a look-up would prove nothing otherwise."""
        self._remembers = plan.idempotency_window_s > 0 or plan.search_lag_s is not None
        self._in_progress: dict[str, Call] = {}
        """Calls that are not accepted yet, by marker, if the vendor recognises keys."""
        self._look_ups: dict[str, int] = {}
        """Look-ups so far, by marker."""
        self._reloaded_s = -math.inf

    def now_s(self) -> float:
        return self.world.clock.now_s()

    def active(self) -> ActiveFaults:
        return self._timeline.at(self.world.clock.now_s())

    def reads_for_s(self, octets: int) -> float:
        """Return how long the vendor reads so many octets of a connection."""
        now_s = self.now_s()
        times = (
            min(octets / each.octets_per_s, each.end_s - now_s) for each in self.active().trickles
        )
        return max(times, default=0.0)

    def reloaded(self) -> None:
        """Accept the credentials again: the gateway has reloaded its configuration."""
        self._reloaded_s = self.now_s()

    def unreachable(self, active: ActiveFaults) -> tuple[str, Dns | None] | None:
        """Return why a connection fails, and the fault if name resolution does; None: it succeeds.

        Name resolution comes first, then the connection, then the handshake.
        """
        if active.is_reachable:
            return None
        now_s = self.now_s()
        if active.shorts:
            return SHORT_TEXT, None
        for dns in active.dns:
            texts = {"nxdomain": "Name or service not known", "slow": "no connection in time"}
            return texts.get(dns.answer, "Temporary failure in name resolution"), dns
        if active.refuses or any(flap.is_down(now_s) for flap in active.flaps):
            return "connection refused", None
        for tls in active.tls:
            if tls.why == "expired":
                at = datetime.datetime.fromtimestamp(EPOCH_S + tls.at_s, datetime.UTC)
                problem = f"certificate has expired (not after {at:%Y-%m-%d %H:%M:%S} UTC)"
            else:
                problem = f"Hostname mismatch, certificate is not valid for '{self.name}'"
            return f"the certificate is not to be trusted: {problem}", None
        return None

    def accepts_credentials(self, active: ActiveFaults) -> bool:
        """Whether the vendor accepts the gateway's credentials."""
        return self.refusing(active) is None

    def refusing(self, active: ActiveFaults) -> Auth | None:
        """Return the fault by which the vendor refuses the gateway's account; None: it does not."""
        for auth in active.auths:
            if auth.until == "end" or self._reloaded_s <= auth.at_s:
                return auth
        return None

    def find(self, marker: str) -> str | None:
        """Return the vendor's id of a marker's message; None during the search lag as well."""
        entry, lag_s = self._memory.find(marker), self.plan.search_lag_s or 0.0
        if entry is None or self.now_s() < entry.taken_s + lag_s:
            return None
        return self.id_of(entry.number, entry.attempt)

    def id_of(self, number: int, attempt: int) -> str:
        return f"{self.name}-{number}-{attempt}"

    def latency_s(self, number: int) -> float:
        """Return how long the latest attempt of a message takes without a fault."""
        drawn = self._draws.attempt(number, self._attempts[number])
        return latency_of(self.plan.latency_s, drawn)

    def begin_look_up(self, active: ActiveFaults, marker: str) -> tuple[float, Reason | None]:
        """Return how long a look-up takes, in seconds, and why it fails; None: it succeeds."""
        count = self._look_ups[marker] = self._look_ups.get(marker, 0) + 1

        def draw(what: str) -> float:
            return self.world.entropy.draw("look_up", what, self.name, marker, count)

        latency = self.plan.latency_s
        latency_s = log_normal(latency.median, latency.sigma, draw("latency"))
        if active.slow:
            latency_s = active.slow[0].latency_s
        for errors in active.errors:
            if draw("errors") < errors.rate:
                return latency_s, Reason("simulated error", errors.code)
        if any(draw("stall") < stall.rate for stall in active.stalls):
            return math.inf, None
        if any(draw("lost") < loss.rate for loss in active.ambiguous):
            return latency_s, Reason("connection lost")
        if any(draw("garbage") < garbage.rate for garbage in active.garbage):
            return latency_s, Reason("garbage: the answer cannot be parsed")
        return latency_s, None

    def quota_refusal(self, active: ActiveFaults) -> Answer | None:
        """Return a 429 with the whole seconds to wait, or count a message and return None."""
        if not self._quotas and not active.throttles:
            return None
        now_s, throttles = self.now_s(), active.throttles
        quotas = [*self._quotas, *(self._throttles[id(each)] for each in throttles)]
        opens_at_s = max(quota.opens_at_s(now_s) for quota in quotas)
        if opens_at_s > now_s:
            wait_s = float(math.ceil(opens_at_s - now_s))
            wait_s = max([wait_s, *(each.retry_after_s for each in throttles)])
            return answers.refusal(answers.THROTTLED, "too many requests", retry_after_s=wait_s)
        for quota in quotas:
            quota.serve(now_s)
        return None

    def recipient_refusal(self, number: int, domain: str) -> Answer | None:
        """Return the vendor's refusal of a mailbox, which counts as an attempt; None: none."""
        active = self.active()
        if not active.rejects and not active.domains:
            return None
        attempt = self._seen(number) + 1
        found = answers.decide_recipient(active, self._draws, number, attempt, domain)
        if found is None:
            return None
        self._attempts[number] = attempt
        answer, is_false = found
        if answer is answers.NO_SUCH_USER:
            self.truth.rejected[number] = is_false
        return answer

    def begin(
        self,
        number: int,
        marker: str,
        recipients: tuple[str, ...],
        observer: AttemptObserver,
        patience_s: float,
        mail: Mail | None = None,
    ) -> Call:
        """Receive a message: decide the answer and its times.

        Args:
            number: the message's number in the traffic.
            patience_s: how long the client waits for the answer.
            mail: the whole request, to which a key belongs; None: there is no key.
        """
        active, now_s = self.active(), self.world.clock.now_s()
        call = Call(number, marker, recipients, observer, now_s, turn_s=now_s)
        call.attempt = self._attempts[number] = self._seen(number) + 1
        call.id = self.id_of(number, call.attempt)
        drawn = self._draws.attempt(number, call.attempt)
        poison = self.truth.poison.get(number) if self.truth.poison else None
        call.answer, is_false = answers.decide_answer(active, self._draws, drawn, number, poison)
        if call.answer is answers.BAD_CONTENT and poison is None:
            self.truth.rejected[number] = is_false
        if mail is not None and self.plan.idempotency_window_s:
            self._apply_key(call, mail, now_s)
        latency_s = latency_of(self.plan.latency_s, drawn)
        call.body_s = now_s + drawn[Draw.BODY] * latency_s
        if active.slow:
            latency_s = active.slow[0].latency_s
        for slow in active.slow_domains:
            if domain_of(recipients[0]) == slow.domain.lower():
                latency_s = slow.latency_s
        if active.capacities and not self._queue(call, active.capacities[0], patience_s):
            return call
        if call.answer.is_taken:
            call.taken_s = call.turn_s + latency_s
            if mail is not None and self.plan.idempotency_window_s:
                self._in_progress[call.marker] = call
        if call.answer.kind is not answers.AnswerKind.SILENT:
            call.answer_s = call.turn_s + latency_s
        return call

    def finish(self, call: Call, at_s: float) -> None:
        """Accept a message at its planned time."""
        call.is_over = True
        self._in_progress.pop(call.marker, None)
        self.truth.take(call.number, at_s)
        if self._remembers:
            entry = Entry(call.number, call.attempt, at_s, call.digest)
            self._memory.add(call.marker, entry)
        lie = call.answer.lie
        if lie is None:
            self._arrive(call, at_s)
            return
        self.world.journal.note("world.lied", provider=self.name, number=call.number)
        if isinstance(lie.then, str):
            return
        if lie.then.delay_s is not None:
            self.world.plan(at_s + lie.then.delay_s, partial(self._arrive, call))
        elif lie.then.bounce_after_s is not None:
            bounced = partial(self._report, call, "bounced")
            self.world.plan(at_s + lie.then.bounce_after_s, bounced)

    def abandon(self, call: Call) -> None:
        """Drop the client's connection: a message whose body has arrived still goes out."""
        if call.is_over or not call.answer.is_taken:
            return
        now_s = self.now_s()
        is_given_up = self.plan.search_lag_s is not None and call.taken_s > now_s + self.work_max_s
        is_served = call.keeps_abandoned or now_s >= call.turn_s
        if now_s >= call.body_s and is_served and not is_given_up:
            self.world.plan(call.taken_s, partial(self.finish, call))
        else:
            call.is_over = True
            self._in_progress.pop(call.marker, None)

    def _apply_key(self, call: Call, mail: Mail, now_s: float) -> None:
        """Answer a repeat under a known key without accepting the message again."""
        call.digest = digest_of(mail)
        if call.answer.kind is answers.AnswerKind.REFUSES:
            return
        entry = self._memory.find(call.marker)
        if entry is not None and now_s < entry.taken_s + self.plan.idempotency_window_s:
            if entry.digest != call.digest:
                call.answer = answers.OTHER_PAYLOAD
            else:
                call.answer = msgspec.structs.replace(call.answer, is_taken=False, lie=None)
                call.id = self.id_of(entry.number, entry.attempt)
        elif call.marker in self._in_progress:
            call.answer = answers.CONCURRENT

    def _queue(self, call: Call, capacity: Capacity, patience_s: float) -> bool:
        """Queue a call; return False if its client hangs up before its turn."""
        queue = self._queues.setdefault(id(capacity), ServiceQueue(capacity.per_s))
        turn_s = queue.reserve(call.begun_s, patience_s, capacity.keeps_abandoned)
        call.keeps_abandoned = capacity.keeps_abandoned
        if turn_s is None:
            call.answer = answers.HANGS
            return False
        call.turn_s = turn_s
        return True

    def _arrive(self, call: Call, at_s: float) -> None:
        self.truth.arrive(self.name, call.number, at_s)
        self.world.journal.note("world.arrived", provider=self.name, number=call.number)
        call.observer.arrived(self.name, call.number)
        events = self.plan.delivery_events
        if events is not None:
            draw = self._draws.rare(call.number, call.attempt)[RareDraw.EVENT]
            delay_s = log_normal(events.delay_median_s, events.delay_sigma, draw)
            self.world.plan(at_s + delay_s, partial(self._report, call, "delivered"))

    def _report(self, call: Call, kind: Literal["delivered", "bounced"], at_s: float) -> None:
        """Send a delivery event for each recipient, by the vendor's own clock."""
        if self.on_event is None or self.plan.delivery_events is None or self.world.is_over:
            return
        for recipient in call.recipients:
            event = RecordDeliveryEvent(call.marker, self.name, recipient, kind, EPOCH_S + at_s)
            self.world.spawn(self.on_event, event)

    def shape_of(self, call: Call) -> float:
        """Return the draw for what garbage looks like and how a connection is dropped."""
        return self._draws.rare(call.number, call.attempt)[RareDraw.SHAPE]

    def _seen(self, number: int) -> int:
        attempts = self._attempts
        while len(attempts) <= number:
            attempts.append(0)
        return attempts[number]
