"""The commands for the addresses that get no mail: suppress add, remove, list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mailactors.cli.base import (
    DEFAULT_URL,
    SERVICE,
    JsonOption,
    UrlOption,
    app,
    request,
    show_json,
    show_lines,
    terminal_width,
)
from mailactors.cli.texts import clean, fit

PATH = "/v1/suppressions"
PAGE = 1000

group = typer.Typer(no_args_is_help=True, help="The addresses that get no mail.")
app.add_typer(group, name="suppress", rich_help_panel=SERVICE)

AddressArgument = Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False)]


@group.command()
def add(
    address: AddressArgument,
    reason: Annotated[str, typer.Option(help="Why; shown in the list.")] = "",
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Send an address no mail from now on; the first reason stands."""
    answer = request(url, "POST", PATH, {"address": address, "reason": reason})
    if as_json:
        show_json(answer)
    else:
        print(f"{answer['address']} gets no mail{_because(answer)}")


@group.command()
def remove(
    address: AddressArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Send an address mail again; what was suppressed meanwhile is sent by `retry`."""
    answer = request(url, "DELETE", PATH, query={"address": address})
    if as_json:
        show_json(answer)
    elif answer["was_suppressed"]:
        print(f"{answer['address']} gets mail again; what was suppressed: mailactors retry ID")
    else:
        print(f"{answer['address']} was not on the list")


@group.command("list")
def list_(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List the addresses that get no mail, with reason, source and date."""
    if as_json:
        show_json({"suppressions": list(_pages(url))})
    else:
        width = terminal_width()
        show_lines(fit(f"{clean(each['address'])}{_because(each)}", width) for each in _pages(url))


def _pages(url: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = request(url, "GET", PATH, query={"limit": PAGE, "cursor": cursor})
        yield from page["suppressions"]
        if page["next"] is None:
            return
        cursor = page["next"]


def _because(entry: dict[str, Any]) -> str:
    reason = f": {clean(entry['reason'])}" if entry["reason"] else ""
    return f"  ({clean(entry['source'])}, {entry['created_at'][:10]}{reason})"
