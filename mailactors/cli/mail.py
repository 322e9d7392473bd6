"""The commands for messages: send, status."""

from __future__ import annotations

import email.parser
import email.utils
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.console
import typer

from mailactors.cli.base import DEFAULT_URL, JsonOption, UrlOption, app, fail, talk
from mailactors.observe.statuses import statuses_table

if TYPE_CHECKING:
    from mailactors.client.sync import Client, Mail


@app.command()
def send(
    to: Annotated[
        list[str] | None, typer.Argument(help="One or more recipients.", show_default=False)
    ] = None,
    subject: Annotated[str, typer.Option("--subject", "-s")] = "",
    body: Annotated[str | None, typer.Option("--body", "-b", help="Or standard input.")] = None,
    client_id: Annotated[
        str | None, typer.Option("--id", help="Your id for it; the same again sends nothing.")
    ] = None,
    sender: Annotated[str | None, typer.Option("--from")] = None,
    stream: Annotated[str | None, typer.Option(help="Such as transactional, otp or bulk.")] = None,
    eml: Annotated[
        Path | None, typer.Option(help="A MIME message to send as it is; - is standard input.")
    ] = None,
    retry_for: Annotated[float, typer.Option(min=0, help="Seconds to go on trying.")] = 2.0,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Submit a message; returns once it is durable.

    Each run sends a message, however often it has to try; with --id, each id sends one.

    With --eml, recipients and sender are those of To, Cc and From, unless given here. The file is
    passed on as it is, but for line ends (CRLF), a byte order mark and the first line of an mbox.
    A file with a Bcc header is refused: every recipient would see it.
    """
    if eml is not None:
        if subject or body is not None:
            fail("--subject and --body are part of the --eml file")
        mail = _eml_mail(eml, to or [], sender)
    elif to:
        mail = {"to": to, "subject": subject, "text": sys.stdin.read() if body is None else body}
        mail["sender"] = sender
    else:
        raise typer.BadParameter("name one or more recipients", param_hint="TO...")
    mail |= {"id": client_id, "stream": stream}
    answer = talk(url, lambda client: _send(client, mail), retry_for)
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"accepted as {answer['id']}; follow it with: mailactors status {answer['id']}")


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(help="The gateway's id or yours; else the latest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Show messages: their status, the provider, and the number of attempts."""
    query: dict[str, str | int] = {"limit": limit} if name is None else {"id": name}
    answer = talk(url, lambda client: client.request("GET", "/statuses", query=query))
    if as_json:
        print(json.dumps(answer))
    elif name is not None and not answer["statuses"]:
        fail(f"there is no message {name!r}")
    else:
        _print_statuses(answer["statuses"])


def _send(client: Client, mail: Mail) -> dict[str, Any]:
    from mailactors.client.sync import Key

    return client.send(**mail, key=Key.FRESH).receipt


def _eml_mail(path: Path, to: list[str], sender: str | None) -> Mail:
    """Return a file as a mail: its message, its headers' recipients and sender unless given."""
    from mailactors.model import raw  # here: the other commands start faster without it
    from mailactors.model.headers import HEADER_BLOCK_OCTETS_MAX, UnrenderableError

    try:
        file = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        data, changes = raw.mend_file(file)
    except UnrenderableError as error:
        fail(f"{path} {error.problem}")
    if changes:
        print(f"mailactors: {path}: {', '.join(changes)}", file=sys.stderr)
    head = raw.header_section(data)[:HEADER_BLOCK_OCTETS_MAX].decode(errors="replace")
    headers = email.parser.HeaderParser().parsestr(head)
    if "Bcc" in headers:
        problem = "has a Bcc header, which every recipient would see"
        fail(f"{path} {problem}; take it out, and name all recipients as arguments")

    def named(*names: str) -> list[str]:
        values = [value for name in names for value in headers.get_all(name, [])]
        return [address for _, address in email.utils.getaddresses(values) if address]

    recipients = to or named("To", "Cc")
    authors = [sender] if sender else named("From")
    if len(authors) != 1:
        authors = named("Sender")
    if not recipients:
        fail(f"{path} names nobody in To or Cc that could be read; name recipients as arguments")
    if len(authors) != 1:
        fail(f"{path} has no single author in From; name a sender with --from")
    return {"to": recipients, "sender": authors[0], "raw": data}


def _print_statuses(statuses: list[dict[str, Any]]) -> None:
    rich.console.Console(markup=False, highlight=False, emoji=False).print(statuses_table(statuses))
