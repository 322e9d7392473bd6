"""The ledger as text: the sum over all states, the declared risks, and what waits longest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    return rich.console.Group(*_parts(ledger))


def _parts(ledger: Mapping[str, Any]) -> Iterator[rich.console.RenderableType]:
    yield _sum(ledger)
    yield _verdict(ledger)
    if ledger["pending"]:
        yield "\nNot final yet:"
        yield _waiting(ledger)
    yield ""
    yield from _risks(ledger)
    yield from _alarms(ledger)


def _sum(ledger: Mapping[str, Any]) -> rich.table.Table:
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    states = dict(ledger["states"])
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


def _verdict(ledger: Mapping[str, Any]) -> rich.text.Text:
    purged = f"; {ledger['purged']:,} of them deleted since" if ledger["purged"] else ""
    if ledger["holds"]:
        return rich.text.Text(f"It adds up{purged}.", style="green")
    words = f"It does not add up: {ledger['imbalance']:+,} deliveries{purged}."
    return rich.text.Text(words, style="bold red")


def _waiting(ledger: Mapping[str, Any]) -> rich.table.Table:
    table = rich.table.Table()
    for title in ("state", "stream"):
        table.add_column(title)
    for title in ("deliveries", "oldest waits", "unmoved for"):
        table.add_column(title, justify="right")
    in_order = sorted(ledger["pending"], key=lambda each: _place(each["state"]))
    for each in in_order:
        ages = (_age(each["oldest_s"]), _age(each["unmoved_s"]))
        table.add_row(each["state"], each["stream"], f"{each['count']:,}", *ages)
    return table


def _age(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _place(state: str) -> int:
    return _PENDING.index(state) if state in _PENDING else len(_PENDING)


def _risks(ledger: Mapping[str, Any]) -> Iterator[rich.console.RenderableType]:
    total, risks = ledger["declared_risks"], ledger["risks"]
    if not total and not risks:
        yield "No delivery was sent again that a provider may have accepted."
        return
    yield f"Sent again although a provider may have accepted them: {total:,}"
    table = rich.table.Table()
    table.add_column("stream")
    table.add_column("provider")
    table.add_column("deliveries", justify="right")
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
