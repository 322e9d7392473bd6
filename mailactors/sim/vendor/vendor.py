"""A vendor: takes messages over, answers as its weather says, and writes down the truth.

It outlives the gateway's processes. What it has got stays its affair when whoever called it dies:
a call that is abandoned is never undone.
"""

from __future__ import annotations

import datetime
import math
from array import array
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

import msgspec

from mailactors.model.outcome import Reason
from mailactors.providers.port import Mail
from mailactors.sim.scenario.faults import Capacity, Dns, Throttle, Timed
from mailactors.sim.scenario.tables import ProviderPlan
from mailactors.sim.vendor.answers import (
    BAD_CONTENT,
    CONCURRENT,
    HANGS,
    NO_SUCH_USER,
    OTHER_PAYLOAD,
    THROTTLED,
    Answer,
    Said,
    decide_answer,
    decide_recipient,
)
from mailactors.sim.vendor.call import Call, Watch
from mailactors.sim.vendor.draws import Chance, Die, RareDie, latency_of, log_normal
from mailactors.sim.vendor.limits import Line, SlidingQuota, quotas_of
from mailactors.sim.vendor.memory import Book, Entry, digest_of
from mailactors.sim.vendor.timeline import Forecast, Weather
from mailactors.sim.world.truth import Truth
from mailactors.sim.world.world import EPOCH_S, World
from mailactors.spool.port import RecordDeliveryEvent

REFUSAL_S: Final = 0.02
"""How long a vendor takes to say "too fast", or that it does not know us."""


class VendorBase:
    """One provider of the world, without the ways to it."""

    def __init__(
        self, name: str, plan: ProviderPlan, faults: tuple[Timed, ...], world: World, truth: Truth
    ) -> None:
        self.name = name
        self.plan = plan
        self.world = world
        self.truth = truth
        self.testify: Callable[[RecordDeliveryEvent], Awaitable[None]] | None = None
        """Whom the vendor tells what became of a message; without anybody it keeps silent."""
        self._forecast = Forecast(faults)
        self._chance = Chance(world.entropy, name)
        self._quotas = quotas_of(plan.quota)
        self._throttles = {
            id(fault): SlidingQuota(1.0, fault.per_s)
            for fault in faults
            if isinstance(fault, Throttle)
        }
        self._lines: dict[int, Line] = {}
        self._attempts = array("H")
        """How often each message came, by its number."""
        self._book = Book()
        self._has_book = plan.idempotency_window_s > 0 or plan.search_lag_s is not None
        self._in_hand: dict[str, Call] = {}
        """What has come and is not taken over yet, by marker, where keys are recognised."""
        self._questions: dict[str, int] = {}
        """How often was asked for each marker."""
        self._reloaded_s = -math.inf

    # What anybody may ask

    def now_s(self) -> float:
        """Return the time."""
        return self.world.clock.now_s()

    def weather(self) -> Weather:
        """Return what is wrong now."""
        return self._forecast.at(self.world.clock.now_s())

    def reloaded(self) -> None:
        """The gateway has read its configuration anew: credentials are good again."""
        self._reloaded_s = self.now_s()

    def unreachable(self, weather: Weather) -> tuple[str, Dns | None] | None:
        """Return why no connection comes about, and the fault if it is the name's; None: it does.

        The name is resolved first, then comes the connection, then the handshake.
        """
        if weather.is_reachable:
            return None
        now_s = self.now_s()
        for dns in weather.dns:
            texts = {"nxdomain": "Name or service not known", "slow": "no connection in time"}
            return texts.get(dns.answer, "Temporary failure in name resolution"), dns
        if weather.refuses or any(flap.is_down(now_s) for flap in weather.flaps):
            return "connection refused", None
        for tls in weather.tls:
            if tls.why == "expired":
                at = datetime.datetime.fromtimestamp(EPOCH_S + tls.at_s, datetime.UTC)
                problem = f"certificate has expired (not after {at:%Y-%m-%d %H:%M:%S} UTC)"
            else:
                problem = f"Hostname mismatch, certificate is not valid for '{self.name}'"
            return f"the certificate is not to be trusted: {problem}", None
        return None

    def knows_us(self, weather: Weather) -> bool:
        """Whether our credentials are good."""
        return not any(
            auth.until == "end" or self._reloaded_s <= auth.at_s for auth in weather.auths
        )

    def find(self, marker: str) -> str | None:
        """Return the vendor's id of a marker's message; what came lately is not found yet."""
        entry, lag_s = self._book.find(marker), self.plan.search_lag_s or 0.0
        if entry is None or self.now_s() < entry.taken_s + lag_s:
            return None
        return self.id_of(entry.number, entry.attempt)

    def id_of(self, number: int, attempt: int) -> str:
        """Return what the vendor calls a message."""
        return f"{self.name}-{number}-{attempt}"

    def latency_s(self, number: int) -> float:
        """Return how long the latest attempt of a message takes in fair weather."""
        dice = self._chance.attempt(number, self._attempts[number])
        return latency_of(self.plan.latency_s, dice)

    def question(self, weather: Weather, marker: str) -> tuple[float, Reason | None]:
        """Return how long the answer to a question about a marker takes, and why there is none."""
        count = self._questions[marker] = self._questions.get(marker, 0) + 1

        def draw(what: str) -> float:
            return self.world.entropy.draw("look_up", what, self.name, marker, count)

        latency = self.plan.latency_s
        latency_s = log_normal(latency.median, latency.sigma, draw("latency"))
        if weather.slow:
            latency_s = weather.slow[0].latency_s
        for errors in weather.errors:
            if draw("errors") < errors.rate:
                return latency_s, Reason("simulated error", errors.code)
        if any(draw("stall") < stall.rate for stall in weather.stalls):
            return math.inf, None
        if any(draw("lost") < loss.rate for loss in weather.ambiguous):
            return latency_s, Reason("connection lost")
        if any(draw("garbage") < garbage.rate for garbage in weather.garbage):
            return latency_s, Reason("garbage: the answer cannot be parsed")
        return latency_s, None

    # A message

    def over_quota(self, weather: Weather) -> Answer | None:
        """Return a 429 with the whole seconds to wait, or count a message as served."""
        if not self._quotas and not weather.throttles:
            return None
        now_s, throttles = self.now_s(), weather.throttles
        quotas = [*self._quotas, *(self._throttles[id(each)] for each in throttles)]
        opens_at_s = max(quota.opens_at_s(now_s) for quota in quotas)
        if opens_at_s > now_s:
            wait_s = float(math.ceil(opens_at_s - now_s))
            wait_s = max([wait_s, *(each.retry_after_s for each in throttles)])
            return Answer(Said.NO, False, THROTTLED, "too many requests", retry_after_s=wait_s)
        for quota in quotas:
            quota.serve(now_s)
        return None

    def against(self, number: int, domain: str) -> Answer | None:
        """Return what the vendor has against a mailbox; a refusal is an attempt."""
        weather = self.weather()
        if not weather.rejects and not weather.domains:
            return None
        attempt = self._seen(number) + 1
        found = decide_recipient(weather, self._chance, number, attempt, domain)
        if found is None:
            return None
        self._attempts[number] = attempt
        answer, is_false = found
        if answer is NO_SUCH_USER:
            self.truth.rejected[number] = is_false
        return answer

    def begin(
        self,
        number: int,
        marker: str,
        recipients: tuple[str, ...],
        watch: Watch | None,
        patience_s: float,
        mail: Mail | None = None,
    ) -> Call:
        """Take a message in hand: say what will come of it, and when.

        Args:
            number: its place in the traffic.
            patience_s: how long whoever sent it waits for the answer.
            mail: the whole request; without it no key comes with it.
        """
        weather, now_s = self.weather(), self.world.clock.now_s()
        call = Call(number, marker, recipients, watch, now_s)
        call.attempt = self._attempts[number] = self._seen(number) + 1
        call.id = self.id_of(number, call.attempt)
        dice = self._chance.attempt(number, call.attempt)
        poison = self.truth.poison.get(number) if self.truth.poison else None
        call.answer, is_false = decide_answer(weather, self._chance, dice, number, poison)
        if call.answer is BAD_CONTENT and poison is None:
            self.truth.rejected[number] = is_false
        if mail is not None and self.plan.idempotency_window_s:
            self._recognise(call, mail, now_s)
        latency_s = latency_of(self.plan.latency_s, dice)
        call.body_s = now_s + dice[Die.BODY] * latency_s
        if weather.slow:
            latency_s = weather.slow[0].latency_s
        if weather.capacities and not self._stand(call, weather.capacities[0], patience_s):
            return call
        if call.answer.is_taken:
            call.out_s = call.turn_s + latency_s
            if mail is not None and self.plan.idempotency_window_s:
                self._in_hand[call.marker] = call
        if call.answer.said is not Said.NOTHING:
            call.answer_s = call.turn_s + latency_s
        return call

    def finish(self, call: Call, at_s: float) -> None:
        """Take a message over, at the time for which that was planned."""
        call.is_over = True
        self._in_hand.pop(call.marker, None)
        self.truth.take(call.number, at_s)
        if self._has_book:
            entry = Entry(call.number, call.attempt, at_s, call.digest)
            self._book.add(call.marker, entry)
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
        """Take note that nobody waits for the answer any more: what has come goes its way."""
        if call.is_over or not call.answer.is_taken:
            return
        now_s = self.now_s()
        if now_s >= call.body_s and (call.keeps_abandoned or now_s >= call.turn_s):
            self.world.plan(call.out_s, partial(self.finish, call))
        else:
            call.is_over = True
            self._in_hand.pop(call.marker, None)

    def _recognise(self, call: Call, mail: Mail, now_s: float) -> None:
        """See to it that a message that is known is not taken over again."""
        call.digest = digest_of(mail)
        if call.answer.said is Said.NO:
            return
        entry = self._book.find(call.marker)
        if entry is not None and now_s < entry.taken_s + self.plan.idempotency_window_s:
            if entry.digest != call.digest:
                call.answer = OTHER_PAYLOAD
            else:
                call.answer = msgspec.structs.replace(call.answer, is_taken=False, lie=None)
                call.id = self.id_of(entry.number, entry.attempt)
        elif call.marker in self._in_hand:
            call.answer = CONCURRENT

    def _stand(self, call: Call, capacity: Capacity, patience_s: float) -> bool:
        """Let a call wait for its turn; False when it will be gone by then."""
        line = self._lines.setdefault(id(capacity), Line(capacity.per_s))
        turn_s = line.stand(call.begun_s, patience_s, capacity.keeps_abandoned)
        call.keeps_abandoned = capacity.keeps_abandoned
        if turn_s is None:
            call.answer = HANGS
            return False
        call.turn_s = turn_s
        return True

    def _arrive(self, call: Call, at_s: float) -> None:
        """Let a message truly go out."""
        self.truth.arrive(self.name, call.number, at_s)
        self.world.journal.note("world.arrived", provider=self.name, number=call.number)
        if call.watch is not None:
            call.watch.arrived(self.name, call.number)
        events = self.plan.delivery_events
        if events is not None:
            draw = self._chance.rare(call.number, call.attempt)[RareDie.EVENT]
            delay_s = log_normal(events.delay_median_s, events.delay_sigma, draw)
            self.world.plan(at_s + delay_s, partial(self._report, call, "delivered"))

    def _report(self, call: Call, kind: Literal["delivered", "bounced"], at_s: float) -> None:
        """Tell what became of a message, by the vendor's own clock."""
        if self.testify is None or self.plan.delivery_events is None or self.world.is_over:
            return
        for recipient in call.recipients:
            event = RecordDeliveryEvent(call.marker, self.name, recipient, kind, EPOCH_S + at_s)
            self.world.spawn(self.testify, event)

    def shape_of(self, call: Call) -> float:
        """Return the draw for how garbage looks, and how a connection is dropped."""
        return self._chance.rare(call.number, call.attempt)[RareDie.SHAPE]

    def _seen(self, number: int) -> int:
        attempts = self._attempts
        while len(attempts) <= number:
            attempts.append(0)
        return attempts[number]
