"""The commands for messages: send, status, show, cancel, retry, settle."""

from __future__ import annotations

import email.parser
import email.utils
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mailactors.cli.base import (
    DEFAULT_URL,
    MESSAGES,
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
from mailactors.cli.texts import message_lines, status_lines

if TYPE_CHECKING:
    from mailactors.client.sync import Mail

NameArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The gateway's id, or yours.", show_default=False)
]


class By(enum.StrEnum):
    """What makes a message the same as another; the client's `Key`, which takes time to import."""

    FRESH = "fresh"
    CONTENT = "content"


class Into(enum.StrEnum):
    """What a person settles a message as."""

    SENT = "sent"
    RESEND = "resend"
    FAILED = "failed"


@app.command(rich_help_panel=MESSAGES)
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
    key: Annotated[
        By, typer.Option(help="content: the same content within a minute is sent once.")
    ] = By.FRESH,
    retry_for: Annotated[float, typer.Option(min=0, help="Seconds to go on trying.")] = 2.0,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Submit a message; returns once it is durable.

    Each run sends a message, however often it has to try; with --id, each id sends one, and with
    --key content, each content within a minute.

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
    answer = talk(url, lambda client: client.send(**mail, key=key.value).receipt, retry_for)
    if as_json:
        show_json(answer)
    else:
        print(_accepted(answer["id"]))


@app.command(rich_help_panel=MESSAGES)
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
    answer = request(url, "GET", "/statuses", query=query)
    if as_json:
        show_json(answer)
    elif name is not None and not answer["statuses"]:
        _no_message(name)
    else:
        width = terminal_width()
        show_lines(line for each in answer["statuses"] for line in status_lines(each, width))


@app.command(rich_help_panel=MESSAGES)
def show(name: NameArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show a message: why it is where it is, what it waits for, and its timeline."""
    answer = request(url, "GET", _path(url, name))
    if as_json:
        show_json(answer)
    else:
        show_lines(message_lines(answer, terminal_width()))


@app.command(rich_help_panel=MESSAGES)
def cancel(name: NameArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Cancel what of a message is not being sent yet."""
    hints = {"too-late": f"see what became of it: mailactors show {name}"}
    answer = request(url, "POST", f"{_path(url, name)}/cancel", hints=hints)
    late = f"; too late for {answer['too_late']}" if answer["too_late"] else ""
    _done(
        answer, f"{answer['cancelled']} deliveries of {answer['id']} are cancelled{late}", as_json
    )


@app.command(rich_help_panel=MESSAGES)
def retry(name: NameArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Send once more, as a new message, what a final message did not get sent."""
    hints = {
        "not-retried": "what is uncertain or held is settled: mailactors settle ID --as …;"
        f" else see: mailactors show {name}"
    }
    answer = request(url, "POST", f"{_path(url, name)}/retry", hints=hints)
    _done(answer, _accepted(answer["id"]), as_json)


@app.command(rich_help_panel=MESSAGES)
def settle(
    name: NameArgument,
    into: Annotated[
        Into,
        typer.Option(
            "--as",
            help="What became of it: sent; or failed; or resend, a declared risk of a duplicate.",
        ),
    ],
    note: Annotated[str, typer.Option(help="Why, for the timeline.")] = "",
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Settle by hand what of a message is uncertain or held."""
    body = {"as": into.value, "note": note}
    hints = {"not-settled": f"see its state: mailactors show {name}"}
    answer = request(url, "POST", f"{_path(url, name)}/settle", body, hints=hints)
    left = f"; {len(answer['left'])} left alone" if answer["left"] else ""
    count = len(answer["settled"])
    _done(
        answer, f"{count} deliveries of {answer['id']} are settled as {into.value}{left}", as_json
    )


def _accepted(message_id: str) -> str:
    return f"accepted as {message_id}\nfollow it with: mailactors show {message_id}"


def _path(url: str, name: str) -> str:
    """Return where a message is, by our id, since a client's may have any character; or exit."""
    found = request(url, "GET", "/statuses", query={"id": name})["statuses"]
    if not found:
        _no_message(name)
    ours = next((each["id"] for each in found if each["id"] == name), found[0]["id"])
    return f"/v1/messages/{ours}"


def _no_message(name: str) -> NoReturn:
    fail(f"there is no message {name!r}; the latest are shown by: mailactors status")


def _done(answer: object, text: str, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        print(text)


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
