"""What a timeline's facts say, in the public's words: they are stored with the spool's states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailactors.model.lifecycle import State, status_of

_PUBLIC: Final = {state.value: status_of(state).value for state in State}


def public_word(state: str) -> str:
    """Return a stored state's public name; a word that is no state stays as it is.

    >>> public_word("leased"), public_word("lost")
    ('queued', 'lost')
    """
    return _PUBLIC.get(state, state)


def public_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's facts with public states.

    `next` maps deliveries to states (and `N.due_at` to times); `story` is the events of a report.

    >>> public_facts({"round": 1, "next": {"0": "leased", "1": "deferred", "1.due_at": 7.0}})
    {'round': 1, 'next': {'0': 'queued', '1': 'deferred', '1.due_at': 7.0}}
    """
    shown = dict(facts)
    if isinstance(steps := facts.get("next"), dict):
        shown["next"] = {name: _PUBLIC.get(value, value) for name, value in steps.items()}
    if isinstance(story := facts.get("story"), list):
        shown["story"] = [public_facts(event) for event in story]
    return shown
