"""The commands for the service as a whole: events, reload, ledger, completion."""

from __future__ import annotations

import enum
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import rich.console
import typer

from mailactors.cli.base import (
    DEFAULT_URL,
    SERVICE,
    UNUSABLE,
    JsonOption,
    UrlOption,
    app,
    fail,
    request,
    show_json,
    show_lines,
    talk,
    terminal_width,
)
from mailactors.cli.texts import event_line
from mailactors.errors import MailactorsError

if TYPE_CHECKING:
    from mailactors.client.sync import Client

RECONNECT_FOR_S: Final = 300.0
"""For how long a follower of events tries to reach a gateway that has gone."""
INTERRUPTED: Final = 130
AUDIT: Final = {"audit": "true"}


class Shell(enum.StrEnum):
    """The shells that may complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(rich_help_panel=SERVICE)
def events(
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after this event; else with what comes.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Follow what happens, a line an event, until Ctrl-C; a lost connection is opened again.

    With --json, each line is an event with its `seq`, which --after takes.
    """
    width = terminal_width()

    def follow(client: Client) -> None:
        client.request("GET", "/healthz")  # at once where there is no gateway
        with Client(url, retry_for_s=RECONNECT_FOR_S) as patient:
            for event in patient.events(after):
                if as_json:
                    line = json.dumps({"seq": event.seq, "kind": event.kind, "data": event.data})
                else:
                    line = event_line(event.kind, event.data, width)
                print(line, flush=True)

    from mailactors.client.sync import Client  # here: the other commands start faster without it

    try:
        talk(url, follow)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.command(rich_help_panel=SERVICE)
def reload(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Have the service take over its configuration file; a faulty one changes nothing."""
    hints = {"configuration": "nothing has changed; check a file with: mailactors config -c FILE"}
    answer = request(url, "POST", "/v1/reload", hints=hints)
    if as_json:
        show_json(answer)
    else:
        show_lines(["the configuration is taken over", *(f"  {note}" for note in answer["notes"])])


@app.command(rich_help_panel=SERVICE)
def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(help="The shell.", show_default=False)],
) -> None:
    """Print a script that lets a shell complete commands, options and providers.

    bash: mailactors completion bash > ~/.local/share/bash-completion/completions/mailactors

    zsh: mailactors completion zsh > a file named _mailactors in a folder of $fpath

    fish: mailactors completion fish > ~/.config/fish/completions/mailactors.fish
    """
    from typer.completion import show_callback  # what --show-completion calls, which guesses

    show_callback(context, context.command.params[0], shell.value)


@app.command(rich_help_panel=SERVICE)
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
            answer = talk(asked, lambda client: client.request("GET", "/v1/ledger", query=AUDIT))
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


def _read_ledger(path: Path) -> dict[str, Any]:
    """Return what a gateway on this spool would answer."""
    import msgspec  # here, and ours: the other commands start faster without them

    from mailactors.api import views
    from mailactors.runtime.ports import SystemClock
    from mailactors.spool.engines import read_spool

    now = SystemClock().wall_time()
    found, pending = read_spool(str(path), partial(views.ask_ledger, now=now, audit=True))
    answer: dict[str, Any] = msgspec.to_builtins(views.ledger_view(found, pending, None, now))
    return answer
