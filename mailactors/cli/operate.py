"""The commands of an operator: ledger, flush."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import rich.console
import typer

from mailactors.cli.base import DEFAULT_URL, UNUSABLE, JsonOption, UrlOption, app, fail, talk
from mailactors.errors import MailactorsError


@app.command()
def ledger(
    spool: Annotated[
        Path | None,
        typer.Option(help="A spool's file, read as it is, also while no gateway runs."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help=f"A gateway to ask; MAILACTORS_URL, or {DEFAULT_URL}."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Account for every delivery ever accepted, and for each that may have been sent twice.

    Exit code 0: the sums agree; 1: they do not; 2: there is no gateway, or no usable spool.
    """
    if spool is not None and url is not None:
        raise typer.BadParameter("give --spool or --url, not both", param_hint="--spool")
    asked = url or os.environ.get("MAILACTORS_URL") or DEFAULT_URL
    try:
        if spool is not None:
            answer = _read_ledger(spool)
        else:
            answer = talk(asked, lambda client: client.request("GET", "/v1/ledger"))
    except (MailactorsError, OSError) as error:
        fail(str(error), UNUSABLE)
    except SystemExit:
        sys.exit(UNUSABLE)
    if as_json:
        print(json.dumps(answer))
    else:
        from mailactors.observe.ledger import ledger_text  # here, for the other commands' sake

        rich.console.Console(highlight=False, emoji=False, markup=False).print(ledger_text(answer))
    sys.exit(0 if answer["holds"] else 1)


@app.command()
def flush(
    provider: Annotated[str, typer.Option(help="Only what it had last.")] = "",
    stream: Annotated[str, typer.Option(help="Only this stream's.")] = "",
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make deferred deliveries due now; they go out as fast as the providers take them."""
    query = {"provider": provider, "stream": stream}
    answer = talk(url, lambda client: client.request("POST", "/v1/flush", query=query))
    print(f"{answer['flushed']:,} deliveries are due now")


def _read_ledger(path: Path) -> dict[str, Any]:
    """Return what a gateway on this spool would answer."""
    import msgspec  # here, and ours: the other commands start faster without them

    from mailactors.api import views
    from mailactors.runtime.ports import SystemClock
    from mailactors.spool.engines import read_spool

    now = SystemClock().wall_time()
    found, pending = read_spool(str(path), partial(views.ask_ledger, now=now))
    answer: dict[str, Any] = msgspec.to_builtins(views.ledger_view(found, pending, None, now))
    return answer
