"""The ledger as a person reads it: the lines add up, and what is wrong stands out."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import rich.console

from mailactors.model.lifecycle import Status
from mailactors.observe.ledger import ledger_text

PLAIN: dict[str, Any] = {
    "holds": True,
    "accepted": 1245,
    "imbalance": 0,
    "states": {"bounced": 2, "deferred": 3, "held": 1, "sent": 1239},
    "in_flight": 4,
    "purged": 0,
    "declared_risks": 0,
    "risks": [],
    "pending": [
        {"stream": "bulk", "state": "deferred", "count": 3, "oldest_s": 7200.0, "unmoved_s": 59.0},
        {"stream": "otp", "state": "held", "count": 1, "oldest_s": 172_800.0, "unmoved_s": 600.0},
    ],
    "oldest_s": {"deferred": 7200.0, "held": 172_800.0},
    "alarms": [],
}


def shown(**changes: Any) -> list[str]:
    """Return the lines as they are printed, with single blanks."""
    out = io.StringIO()
    console = rich.console.Console(file=out, width=100, markup=False, highlight=False)
    console.print(ledger_text({**PLAIN, **changes}))
    return [re.sub(r"\s+", " ", line).strip() for line in out.getvalue().splitlines()]


def numbers(lines: list[str]) -> tuple[int, int]:
    """Return what was accepted, and the sum of the lines after it."""
    accepted = next(line for line in lines if line.endswith("deliveries accepted"))
    parts = [line for line in lines if re.match(r"[=+] -?[\d,]+", line)]
    as_number = [int(line.split()[1].replace(",", "")) for line in parts]
    return int(accepted.split()[0].replace(",", "")), sum(as_number)


def test_the_lines_add_up_before_everyones_eyes() -> None:
    assert [
        "1,245 deliveries accepted",
        "= 1,239 sent",
        "+ 2 bounced",
        "+ 3 deferred (in flight)",
        "+ 1 held (for a person)",
        "It adds up.",
    ] == shown()[:6]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accepted": 0, "states": {}, "pending": []},
        {"accepted": 12, "states": dict.fromkeys([state.value for state in Status], 1)},
        {"holds": False, "accepted": 1250, "imbalance": 5},
        {"holds": False, "accepted": 1240, "imbalance": -5},
        {"accepted": 1252, "states": {**PLAIN["states"], "of_a_newer_kind": 7}},
    ],
    ids=["plain", "empty", "every state", "lost", "made up", "unknown state"],
)
def test_whatever_there_is_the_lines_add_up(changes: dict[str, Any]) -> None:
    accepted, total = numbers(shown(**changes))

    assert accepted == total == changes.get("accepted", 1245)


def test_an_imbalance_stands_in_a_line_of_its_own() -> None:
    lines = shown(holds=False, accepted=1250, imbalance=5)

    assert "+ 5 in no state" in lines
    assert "It does not add up: +5 deliveries." in lines


def test_what_retention_deleted_is_told() -> None:
    assert "It adds up; 1,000 of them deleted since." in shown(purged=1000)


def test_what_waits_is_shown_with_its_ages() -> None:
    lines = [line.replace("│ ", "").strip("│ ") for line in shown()]

    assert "deferred bulk 3 2.0 h 59 s" in lines
    assert "held otp 1 2.0 d 10 min" in lines


def test_what_is_scheduled_stands_apart_and_has_no_age() -> None:
    states = {"scheduled": 2, "sent": 1243}
    pending = [
        {"stream": "otp", "state": "scheduled", "count": 2, "oldest_s": None, "unmoved_s": None}
    ]
    lines = [line.replace("│ ", "").strip("│ ") for line in shown(states=states, pending=pending)]

    assert "+ 2 scheduled (for later)" in lines
    assert "scheduled otp 2" in lines


def test_risks_are_shown_by_stream_and_provider_with_the_rest() -> None:
    risks = [{"stream": "otp", "provider": "primary", "count": 4}]
    lines = [line.replace("│ ", "").strip("│ ") for line in shown(declared_risks=5, risks=risks)]

    assert "No delivery was sent again that a provider may have accepted." in shown()
    assert "Sent again although a provider may have accepted them: 5" in lines
    assert "otp primary 4" in lines
    assert any(["not", "recorded", "1"] == line.split()[-3:] for line in lines)


def test_alarms_are_shown_with_what_should_have_happened() -> None:
    alarm = {
        "kind": "not_sent",
        "subject": "m1",
        "stream": "bulk",
        "state": None,
        "since": None,
        "raised_at": "2001-11-09T01:08:47.900Z",
        "detail": "provider x is free",
        "expected": "it goes out",
    }

    assert [
        "Stuck since 2001-11-09T01:08:47.900Z: not_sent m1 bulk provider x is free",
        "expected: it goes out",
    ] == shown(alarms=[alarm])[-2:]
    assert not any("Stuck" in line for line in shown(alarms=None))
