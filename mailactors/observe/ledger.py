"""The ledger as text: the sum over all states, the declared risks, and what waits longest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import rich.console
import rich.table
import rich.text

from mailactors.model.lifecycle import FINAL, Status

_FINAL: Final = tuple(each.value for each in Status if each.value in FINAL)
_PENDING: Final = tuple(each.value for each in Status if each.value not in FINAL)
_NOTES: Final = {"held": " (for a person)", "scheduled": " (for later)"}
_STEPS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def ledger_text(ledger: Mapping[str, Any]) -> rich.console.Group:
    """Return what `GET /v1/ledger` answers as text for a person."""
    waiting = ("\nNot final yet:", _waiting(ledger)) if ledger["pending"] else ()
    return rich.console.Group(
        *(_sum(ledger), *_verdicts(ledger), *waiting, ""), *_risks(ledger), *_alarms(ledger)
    )


def _sum(ledger: Mapping[str, Any]) -> rich.table.Table:
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify)
    states = ledger["states"]
    shown = [state for state in (*_FINAL, *_PENDING) if states.get(state)]
    shown += [state for state in sorted(states) if state not in (*_FINAL, *_PENDING)]
    table.add_row("", f"{ledger['accepted']:,}", "deliveries accepted", style="bold")
    for sign, state in zip(("=", *"+" * len(shown)), shown, strict=False):
        note = "" if state in _FINAL else _NOTES.get(state, " (in flight)")
        table.add_row(sign, f"{states[state]:,}", state + note)
    if not shown:
        table.add_row("=", "0", "")
    if ledger["imbalance"]:
        table.add_row("+", f"{ledger['imbalance']:,}", "in no state", style="bold red")
    return table


def _verdicts(ledger: Mapping[str, Any]) -> Iterator[rich.text.Text]:
    yield _verdict(ledger)
    for each in ledger.get("audit", ()):
        words = f"{each['name']} is kept as {each['kept']:,}; {each['counted']:,} were counted."
        yield rich.text.Text(words, style="bold red")


def _verdict(ledger: Mapping[str, Any]) -> rich.text.Text:
    purged = f"; {ledger['purged']:,} of them deleted since" if ledger["purged"] else ""
    if not ledger["imbalance"]:
        return rich.text.Text(f"It adds up{purged}.", style="green")
    words = f"It does not add up: {ledger['imbalance']:+,} deliveries{purged}."
    return rich.text.Text(words, style="bold red")


def _waiting(ledger: Mapping[str, Any]) -> rich.table.Table:
    table = _table(("state", "stream"), ("deliveries", "oldest waits", "unmoved for"))
    place = {state: index for index, state in enumerate(_PENDING)}
    for each in sorted(ledger["pending"], key=lambda each: place.get(each["state"], len(place))):
        spans = (each["oldest_s"], each["unmoved_s"])
        ages = ["" if seconds is None else duration(seconds) for seconds in spans]
        table.add_row(each["state"], each["stream"], f"{each['count']:,}", *ages)
    return table


def _table(words: Sequence[str], numbers: Sequence[str]) -> rich.table.Table:
    table = rich.table.Table(*words)
    for title in numbers:
        table.add_column(title, justify="right")
    return table


def _risks(ledger: Mapping[str, Any]) -> Iterator[rich.console.RenderableType]:
    total, risks = ledger["declared_risks"], ledger["risks"]
    if not total and not risks:
        yield "No delivery was sent again that a provider may have accepted."
        return
    yield f"Sent again although a provider may have accepted them: {total:,}"
    table = _table(("stream", "provider"), ("deliveries",))
    for each in risks:
        table.add_row(each["stream"], each["provider"], f"{each['count']:,}")
    rest = total - sum(each["count"] for each in risks)
    if rest:
        table.add_row("", "not recorded", f"{rest:,}")
    yield table


def _alarms(ledger: Mapping[str, Any]) -> Iterator[rich.console.RenderableType]:
    for alarm in ledger["alarms"] or ():
        words = [alarm["kind"], alarm["subject"], alarm["stream"], alarm["state"], alarm["detail"]]
        line = " ".join(word for word in words if word)
        yield rich.text.Text(f"Stuck since {alarm['since'] or alarm['raised_at']}: {line}")
        yield rich.text.Text(f"  expected: {alarm['expected']}")


def duration(seconds: float) -> str:
    """Return a time span in the largest unit that it fills.

    >>> [duration(s) for s in (0.4, 59, 600, 9_000, 200_000)]
    ['0 s', '59 s', '10 min', '2.5 h', '2.3 d']
    """
    for length_s, unit in _STEPS:
        if seconds >= length_s:
            count = seconds / length_s
            return f"{count:.0f} {unit}" if unit == "min" else f"{count:.1f} {unit}"
    return f"{seconds:.0f} s"
