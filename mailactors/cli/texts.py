"""What the commands print, as lines that fit a terminal. Plain functions.

What comes from clients and providers is data: no markup is read in it, and what is not printable
is shown as a question mark. An id is never cut.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

WIDTH_MIN: Final = 60
_TIMELINE: Final = " " * 11
"""Beneath the time of a line of the timeline."""


def clean(text: object) -> str:
    """Return a text in one line, with a question mark for each character that is not printable.

    >>> clean("a\\tb\\n\\x1b[31mred")
    'a b ?[31mred'
    """
    words = " ".join(str(text).split())
    return "".join(each if each.isprintable() else "?" for each in words)


def fit(text: str, width: int) -> str:
    """Return a text that is no wider than so many columns, cut with an ellipsis.

    >>> fit("a long subject", 8), fit("short", 8), fit("日本語の件名", 8)
    ('a long …', 'short', '日本語 …')
    """
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def status_lines(status: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield a message's status: a line with its id, one with its subject, one with its error."""
    provider = clean(status["provider"] or "-")
    tail = f"{provider}, {_attempts(status['attempts'])}"
    head = f"{clean(status['id'])}  {status['status']:<10} "
    yield fit(head + tail, max(width - 11, cell_len(head))) + f"  {clock(status['updated_at'])}"
    to, *more = [clean(each) for each in status["to"]] or [""]
    yours = f"[{clean(status['client_id'])}] " if status["client_id"] else ""
    others = f" +{len(more)}" if more else ""
    subject = clean(status.get("subject") or "(no subject)")
    yield fit(f"  {yours}{to}{others}: {subject}", width)
    if status["error"]:
        yield fit(f"  {clean(status['error'])}", width)


def message_lines(message: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield all that is known of a message: what it is, why it is so, and its timeline."""
    yield f"{clean(message['id'])}  {message['status']}  {clean(message['stream'])}"
    about = {"your id": message["client_id"], "from": message["from"]}
    about |= {"subject": message["subject"], "accepted": message["accepted_at"]}
    about |= {"expires": message["expires_at"], "retry of": message["retry_of"]}
    for name, value in about.items():
        if value:
            yield fit(f"{name:<9} {clean(value)}", width)
    yield ""
    yield from textwrap.wrap(clean(message["explanation"]), width, break_on_hyphens=False)
    yield ""
    for each in message["deliveries"]:
        via = f"{clean(each['provider'] or '-')}, {_attempts(each['attempts'])}"
        then = f", next {clock(each['next_at'])}" if each["next_at"] else ""
        yield fit(f"{clean(each['recipient'])}  {each['status']}  {via}{then}", width)
        if each["error"]:
            yield fit(f"  {clean(each['error'])}", width)
    yield ""
    for entry in message["timeline"]:
        yield from _timeline_lines(entry, width)


def _timeline_lines(entry: Mapping[str, Any], width: int) -> Iterator[str]:
    words = [entry["provider"], entry["outcome"]]
    said = " ".join(clean(each) for each in words if each)
    yield fit(f"{clock(entry['at'])}  {entry['kind']}{f': {said}' if said else ''}", width)
    for each in entry["passed_over"]:
        until = f" until {clock(each['until'])}" if each["until"] else ""
        yield fit(f"{_TIMELINE}passed over {each['provider']}: {clean(each['why'])}{until}", width)
    for text in (entry["reason"], entry["rule"]):
        if text:
            yield fit(_TIMELINE + clean(text), width)


def provider_lines(providers: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    """Yield a line a provider: its breaker, what holds it back, and what is in flight."""
    longest = max((cell_len(clean(each["name"])) for each in providers), default=0)
    for each in providers:
        name, breaker = clean(each["name"]), each["breaker"]
        said = ["paused" if each["paused"] else "", "dead: probes only" if each["dead"] else ""]
        if each["breaker_opens_in_s"] is not None:
            said.append(f"next probe in {each['breaker_opens_in_s']:.1f} s")
        if each["next_permit_in_s"] and not each["paused"]:
            said.append(f"next permit in {each['next_permit_in_s']:.1f} s")
        if each["learnt_pace_per_s"]:
            said.append(f"learnt pace {each['learnt_pace_per_s']:g}/s")
        said.append(f"{each['in_flight']} of {each['concurrency']} in flight")
        facts = ", ".join(filter(None, said))
        yield fit(f"{name}{' ' * (longest - cell_len(name))}  breaker {breaker:<9}  {facts}", width)


def event_line(kind: str, data: Mapping[str, Any], width: int) -> str:
    """Return an event in a line: when, what, of which message."""
    facts = data.get("facts", {})
    words = [facts.get("provider"), facts.get("outcome"), facts.get("reason") or facts.get("rule")]
    said = " ".join(clean(each) for each in words if each)
    return fit(f"{clock(data['at'])}  {clean(data['id'])}  {clean(kind)}  {said}".rstrip(), width)


def clock(rfc3339: str) -> str:
    """Return the time of day of an RFC 3339 text.

    >>> clock("2001-11-09T01:08:47.900Z")
    '01:08:47Z'
    """
    return clean(rfc3339[11:19]) + "Z"


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"
