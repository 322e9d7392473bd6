"""The command line: serve a gateway, and talk to one that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import rich.console
import rich.table
import typer

from mailactors import __version__
from mailactors.config import Config, effective, load_config
from mailactors.errors import MailactorsError
from mailactors.service import serve_gateway

DEFAULT_URL: Final = "http://127.0.0.1:8025"
REQUEST_WITHIN_S: Final = 15.0

app = typer.Typer(
    name="mailactors",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An email gateway: one endpoint in front of many providers. Accepts durably, fails over,"
    " never repeats a message without having declared the risk.",
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file; without one, the defaults.")
]
UrlOption = Annotated[str, typer.Option(envvar="MAILACTORS_URL", help="Where the gateway listens.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def serve(
    config: ConfigOption = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT, instead of the file's.")] = None,
    spool: Annotated[str | None, typer.Option(help="The spool's file, made if missing.")] = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT; a second signal ends it at once.

    Without --config: on loopback, with three simulated providers that send nothing, and a spool
    in the current folder.
    """
    settings = _configure(config, listen, spool)
    serve_gateway(settings, is_demo=config is None)


@app.command()
def send(
    to: Annotated[list[str], typer.Argument(help="One or more recipients.")],
    subject: Annotated[str, typer.Option("--subject", "-s")] = "",
    body: Annotated[str | None, typer.Option("--body", "-b", help="Or standard input.")] = None,
    message_id: Annotated[
        str | None, typer.Option("--id", help="Your name for it; the same again sends nothing.")
    ] = None,
    sender: Annotated[str | None, typer.Option("--from")] = None,
    stream: Annotated[str | None, typer.Option(help="Such as transactional, otp or bulk.")] = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Submit a message; returns once it is durable."""
    text = sys.stdin.read() if body is None else body
    fields = {"to": to, "subject": subject, "text": text, "id": message_id}
    fields |= {"from": sender, "stream": stream}
    request = {name: value for name, value in fields.items() if value is not None}
    answer = _request("POST", url, "/v1/messages", request)
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"accepted as {answer['id']}; follow it with: mailactors status {answer['id']}")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="An id; without one, the latest.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Show messages: where they are, through whom, after how many attempts."""
    query: dict[str, str | int] = {"limit": limit} if name is None else {"id": name}
    answer = _request("GET", url, "/statuses", query=query)
    if as_json:
        print(json.dumps(answer))
    elif name is not None and not answer["statuses"]:
        _fail(f"there is no message {name!r}")
    else:
        _print_statuses(answer["statuses"])


@app.command("config")
def show_config(config: ConfigOption = None) -> None:
    """Print the configuration as it takes effect, secrets masked."""
    print(json.dumps(effective(_configure(config, None, None)), indent=2))


def _version(is_asked: bool) -> None:
    if is_asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what is wrong is said in words, not in a traceback."""
    try:
        app()
    except (MailactorsError, OSError) as error:
        _fail(str(error))


def _configure(path: Path | None, listen: str | None, spool: str | None) -> Config:
    given = {"listen": listen, "spool": spool}
    service = {name: value for name, value in given.items() if value is not None}
    return load_config(None if path is None else str(path), service)


def _request(
    method: str,
    url: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, str | int] | None = None,
) -> Any:
    """Ask the gateway; end with a clear word when it does not answer or refuses."""
    import httpx2  # here: the other commands start faster without it

    try:
        with httpx2.Client(trust_env=False, timeout=REQUEST_WITHIN_S) as client:
            answer = client.request(method, url.rstrip("/") + path, json=body, params=query)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        _fail(f"no gateway answers at {url} ({error}); start one with: mailactors serve")
    if not answer.is_success:
        _fail(_problem_text(answer.status_code, answer.text))
    try:
        return answer.json()
    except ValueError:
        _fail(f"what answers at {url} is no gateway")


def _problem_text(status_code: int, text: str) -> str:
    """Return what a problem document says, or the bare status."""
    try:
        problem = json.loads(text)
        lines = [f"{problem['title']}: {problem.get('detail', '')}".rstrip(": ")]
        lines += [f"  {fault['pointer']}: {fault['detail']}" for fault in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {status_code}"
    return "\n".join(lines)


def _print_statuses(statuses: list[dict[str, Any]]) -> None:
    table = rich.table.Table()
    for title in ("id", "to", "status", "provider", "attempts", "updated", "error"):
        table.add_column(title, overflow="fold")  # an id that is cut is of no use
    for each in statuses:
        recipients = ", ".join(each["to"]) if isinstance(each["to"], list) else each["to"]
        cells = (each["id"], recipients, each["status"], each["provider"] or "")
        table.add_row(*cells, str(each["attempts"]), each["updated_at"], each["error"] or "")
    # What a provider says is no markup.
    rich.console.Console(markup=False, highlight=False, emoji=False).print(table)


def _fail(text: str) -> NoReturn:
    print(f"mailactors: {text}", file=sys.stderr)
    sys.exit(1)
