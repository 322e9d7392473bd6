"""Facts of a timeline, as the public reads them."""

from __future__ import annotations

from mailactors.model.facts import public_facts, public_word
from mailactors.model.lifecycle import State, status_of


def test_every_stored_state_has_its_public_word() -> None:
    for state in State:
        assert status_of(state).value == public_word(state.value)
    assert "of_a_newer_kind" == public_word("of_a_newer_kind")


def test_a_report_has_public_words_in_its_story_too() -> None:
    event = {"kind": "attempt", "outcome": "deferred", "next": {"0": "leased", "1": "sent"}}
    facts = {"deliveries": [{"n": 0, "state": "failed"}], "story": [event, {"kind": "accepted"}]}

    shown = public_facts(facts)

    assert {
        "deliveries": [{"n": 0, "state": "failed"}],
        "story": [{**event, "next": {"0": "queued", "1": "sent"}}, {"kind": "accepted"}],
    } == shown
    assert {"0": "leased", "1": "sent"} == event["next"], "what is stored stays as it is"
