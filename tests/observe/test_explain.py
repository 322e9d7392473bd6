"""Why is it late? One sentence for each state of a message, as a table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mailactors.dispatch.attempt import PassedOver
from mailactors.dispatch.evidence import Evidence
from mailactors.dispatch.passing import TRIED, LaneState
from mailactors.model.lifecycle import State
from mailactors.observe.explain import Now, Underway, explain
from mailactors.spool.port import DeliveryStatus, Event, MessageStatus

NOW = 1_800_000_000.0
"""08:00:00 UTC."""
OPEN_BEFORE = {"provider": "primary", "why": "breaker open", "until": NOW - 4.0}
WELL = (LaneState("primary"), LaneState("secondary"))
SHUT = (
    LaneState("primary", "breaker open", NOW + 9.0, True),
    LaneState("secondary", "breaker open", NOW + 5.0, True),
)
PAUSED = LaneState("primary", "paused by an operator")
NO_PERMIT = LaneState("primary", "no permit left of its quota", NOW + 30.0)
TRIED_PRIMARY = LaneState("primary", TRIED, is_spent=True)


def delivery(n: int = 0, state: State = State.READY, **changes: Any) -> DeliveryStatus:
    plain = DeliveryStatus(n, f"r{n}@x.example", state, "", 0, NOW - 10.0, NOW - 10.0, "")
    return msgspec.structs.replace(plain, **changes)


def message(*deliveries: DeliveryStatus, **changes: Any) -> MessageStatus:
    head = (
        1,
        "m1",
        "",
        "m1@mail.example",
        "bulk",
        "ann@y.example",
        "Hello",
        NOW - 10.0,
        NOW - 10.0,
    )
    plain = MessageStatus(*head, NOW + 3600.0, 0, 0, deliveries)
    return msgspec.structs.replace(plain, **changes)


def attempt(provider: str, rule: str, to: str, **facts: Any) -> Event:
    steps = {"next": {"0": to}, "rule": rule, "provider": provider}
    return Event(1, NOW - 5.0, "attempt", {**steps, **facts})


FAILED = attempt(
    "primary",
    "the provider failed: next lane at once",
    "leased",
    reason="451 4.3.0 later",
    outcome="deferred",
)
OVER = attempt(
    "secondary",
    "the provider failed: round 1 is over",
    "deferred",
    reason="421 busy",
    outcome="deferred",
)


def sent(**facts: Any) -> Event:
    rule = "the provider's answer: accepted"
    return attempt("secondary", rule, "sent", outcome="accepted", reason="42", **facts)


@pytest.mark.parametrize(
    ("given", "timeline", "here", "expected"),
    [
        # queued
        (
            delivery(),
            [],
            Now(WELL),
            "It is queued and waits for its turn with primary.",
        ),
        (
            delivery(state=State.LEASED),
            [],
            Now(SHUT),
            "It is queued and waits for a provider: both breakers are open; next probe 08:00:05Z.",
        ),
        (
            delivery(),
            [],
            Now(SHUT[:1]),
            "It is queued and waits for a provider: the breaker of primary is open; next probe"
            " 08:00:09Z.",
        ),
        (
            delivery(),
            [],
            Now((*SHUT, LaneState("third", "breaker half open, its probes under way", None, True))),
            "It is queued and waits for a provider: all 3 breakers are open; next probe 08:00:05Z.",
        ),
        (
            delivery(),
            [],
            Now((LaneState("only", "breaker half open, its probes under way", None, True),)),
            "It is queued and waits for a provider: the breaker of only is open; a probe is out.",
        ),
        (
            delivery(),
            [],
            Now((PAUSED, SHUT[1])),
            "It is queued and waits for a provider: primary: paused by an operator; secondary:"
            " breaker open until 08:00:05Z.",
        ),
        (
            delivery(due_at=NOW),
            [],
            Now((NO_PERMIT, WELL[1]), spill_after_s=2.0),
            "It is queued and waits for primary, its stream's first choice; primary: no permit left"
            " of its quota until 08:00:30Z; secondary takes it from 08:00:02Z on.",
        ),
        (
            delivery(),
            [],
            Now((NO_PERMIT, WELL[1]), spill_after_s=2.0),
            "It is queued and waits for its turn with secondary; primary: no permit left of its"
            " quota until 08:00:30Z.",
        ),
        (
            delivery(state=State.LEASED),
            [FAILED],
            Now((TRIED_PRIMARY, SHUT[1])),
            "It is queued and waits for a provider: the breaker of secondary is open; next probe"
            " 08:00:05Z; primary: tried in this round.",
        ),
        (
            delivery(due_at=NOW + 40.0),
            [],
            Now(WELL),
            "It is queued and is looked at again at 08:00:40Z: its domain defers, or other mail"
            " fills the memory.",
        ),
        (
            delivery(state=State.LEASED),
            [],
            Now(WELL, underway=(Underway("secondary", (PassedOver("primary", "no free slot"),)),)),
            "It is queued and is with secondary, for a connection; passed over: primary (no free"
            " slot).",
        ),
        (
            delivery(),
            [],
            Now(WELL, halted="the spool's disk is full"),
            "It is queued and waits: the spool's disk is full.",
        ),
        # processing
        (
            delivery(state=State.SENDING, provider="secondary"),
            [],
            Now(
                WELL,
                underway=(
                    Underway("secondary", (PassedOver("primary", "breaker open", NOW + 5.0),)),
                ),
            ),
            "It is being sent through secondary since 07:59:50Z; passed over: primary (breaker open"
            " until 08:00:05Z).",
        ),
        # deferred
        (
            delivery(state=State.DEFERRED, due_at=NOW + 2.0),
            [FAILED, OVER],
            Now(WELL),
            'It is deferred (rule "the provider failed: round 1 is over"; secondary: 421 busy), and'
            " waits for its next attempt until 08:00:02Z.",
        ),
        (
            delivery(state=State.DEFERRED, due_at=NOW + 2.0),
            [OVER],
            Now(SHUT),
            'It is deferred (rule "the provider failed: round 1 is over"; secondary: 421 busy), and'
            " waits for its next attempt until 08:00:02Z; both breakers are open; next probe"
            " 08:00:05Z.",
        ),
        (
            delivery(state=State.DEFERRED, due_at=NOW - 1.0),
            [OVER],
            Now(SHUT),
            'It is due again since 07:59:59Z (rule "the provider failed: round 1 is over";'
            " secondary: 421 busy) and waits for a provider: both breakers are open; next probe"
            " 08:00:05Z.",
        ),
        # uncertain
        (
            delivery(state=State.UNCERTAIN, provider="primary", due_at=NOW + 50.0),
            [attempt("primary", "the provider's answer: uncertain", "uncertain", reason="lost")],
            Now(WELL, evidence={"primary": Evidence(("a delivery event",), "resend after 60 s")}),
            "It may have been accepted by primary, whose answer was lost (rule \"the provider's"
            ' answer: uncertain"; primary: lost); waits for a delivery event until 08:00:50Z, else:'
            " resend after 60 s.",
        ),
        (
            delivery(state=State.UNCERTAIN, provider="gone"),
            [],
            Now(WELL),
            "It may have been accepted by gone, whose answer was lost; gone is not configured any"
            " more.",
        ),
        # held
        (
            delivery(state=State.HELD, provider="primary"),
            [
                Event(
                    2,
                    NOW,
                    "resolved",
                    {"rule": "uncertain and unsettled: hold", "next": {"0": "held"}},
                )
            ],
            Now(WELL),
            'It is held for a person since 07:59:50Z (rule "uncertain and unsettled: hold");'
            " settle it with: mailactors settle m1 --as sent, resend or failed.",
        ),
        # final
        (
            delivery(state=State.SENT, provider="secondary", attempts=2),
            [FAILED, sent(passed_over=[{"provider": "primary", "why": TRIED, "until": None}])],
            Now(WELL),
            "It was sent through secondary at 07:59:50Z, in 2 attempts (rule \"the provider's"
            ' answer: accepted"); passed over: primary (tried in this round: 451 4.3.0 later).',
        ),
        (
            delivery(state=State.SENT, provider="secondary", attempts=1),
            [sent(passed_over=[OPEN_BEFORE])],
            Now(WELL),
            "It was sent through secondary at 07:59:50Z, in 1 attempt (rule \"the provider's"
            ' answer: accepted"); passed over: primary (breaker open until 07:59:56Z).',
        ),
        (
            delivery(state=State.BOUNCED, provider="primary", error="550 5.1.1 no such user"),
            [
                attempt(
                    "primary",
                    "the provider's answer: rejected",
                    "bounced",
                    reason="550 5.1.1 no such user",
                )
            ],
            Now(WELL),
            'It bounced at 07:59:50Z with primary (rule "the provider\'s answer: rejected";'
            " primary: 550 5.1.1 no such user).",
        ),
        (
            delivery(state=State.FAILED, error="actors died on it 3 times"),
            [Event(3, NOW, "failed", {"error": "actors died on it 3 times"})],
            Now(WELL),
            "It failed at 07:59:50Z: actors died on it 3 times.",
        ),
        (
            delivery(state=State.EXPIRED, provider="secondary", error="421 busy", attempts=7),
            [
                OVER,
                Event(4, NOW, "expired", {"rule": "deadline"}),
                Event(5, NOW, "final_failure", {}),
            ],
            Now(SHUT),
            "It expired at its deadline, 09:00:00Z, after 7 attempts: 421 busy.",
        ),
        (
            delivery(state=State.SUPPRESSED),
            [Event(4, NOW, "suppressed", {"rule": "suppression list"})],
            Now(WELL),
            "It was not sent, for its address was on the suppression list at 07:59:50Z.",
        ),
        (delivery(state=State.CANCELLED), [], Now(WELL), "It was cancelled at 07:59:50Z."),
    ],
)
def test_every_state_is_explained(
    given: DeliveryStatus, timeline: list[Event], here: Now, expected: str
) -> None:
    assert expected == explain(message(given), timeline, here, NOW)


def test_what_is_scheduled_waits_for_its_time() -> None:
    later = delivery(due_at=NOW + 86_400.0)

    said = explain(message(later, not_before=NOW + 86_400.0), [], Now(WELL), NOW)

    assert said == "It is scheduled by its send_at, and waits until 2027-01-16 08:00:00Z."


def test_of_many_recipients_the_one_that_waits_is_explained() -> None:
    done = delivery(0, State.SENT, provider="primary", attempts=1)
    waits = delivery(1, State.DEFERRED, due_at=NOW + 60.0)
    gone = delivery(2, State.SENT, provider="primary", attempts=1)

    said = explain(message(done, waits, gone), [], Now(WELL), NOW)

    assert said == (
        "The delivery to r1@x.example is deferred, and waits for its next attempt until 08:01:00Z;"
        " of the others: 2 sent."
    )


def test_an_end_of_others_explains_nothing() -> None:
    done = delivery(0, State.SENT, provider="primary", attempts=1)
    late = delivery(1, State.EXPIRED)
    first = attempt("primary", "the provider's answer: accepted", "sent", outcome="accepted")
    timeline = [first, Event(2, NOW, "expired", {"rule": "deadline"})]

    alone = explain(message(done), timeline, Now(WELL), NOW)
    both = explain(message(done, late), timeline, Now(WELL), NOW)

    assert 'rule "the provider\'s answer: accepted"' in alone
    assert both.startswith("The delivery to r0@x.example was sent through primary")
    assert both.endswith("; of the others: 1 expired.")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("lanes", [(), WELL, SHUT, (PAUSED,), (TRIED_PRIMARY,), (NO_PERMIT,)])
def test_whatever_is_known_there_is_a_sentence(state: State, lanes: tuple[LaneState, ...]) -> None:
    one = delivery(state=state, provider="primary")

    said = explain(message(one), [], Now(lanes), NOW)

    assert said.startswith("It ")
    assert said.endswith(".")
    assert "  " not in said
    assert ": ;" not in said
