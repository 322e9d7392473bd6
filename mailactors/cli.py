"""The command line: serve a gateway, and talk to one that runs."""

from __future__ import annotations

import email.parser
import email.utils
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import rich.console
import typer

from mailactors import __version__
from mailactors.config import Config, ConfigError, effective, load_config
from mailactors.errors import MailactorsError
from mailactors.observe.statuses import statuses_table
from mailactors.service import serve_gateway
from mailactors.spool.engines import backup_spool, read_spool

if TYPE_CHECKING:
    from mailactors.client import Client, Mail

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8025"
SEEDS_MAX: Final = 100_000
REQUEST_WITHIN_S: Final = 15.0
AUDIT: Final = {"audit": "true"}
UNUSABLE: Final = 2
"""Exit code when there is nothing to ask."""

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

    SIGHUP reloads the configuration: providers, streams and limits; a bad file changes nothing.

    Without --config: on loopback, with three simulated providers that send nothing, and a spool
    in the current folder.
    """
    serve_gateway(partial(_configure, config, listen, spool), is_demo=config is None)


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
            _fail("--subject and --body are part of the --eml file")
        mail = _eml_mail(eml, to or [], sender)
    elif to:
        mail = {"to": to, "subject": subject, "text": sys.stdin.read() if body is None else body}
        mail["sender"] = sender
    else:
        raise typer.BadParameter("name one or more recipients", param_hint="TO...")
    mail |= {"id": client_id, "stream": stream}
    answer = _talk(url, lambda client: _send(client, mail), retry_for)
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
    answer = _talk(url, lambda client: client.request("GET", "/statuses", query=query))
    if as_json:
        print(json.dumps(answer))
    elif name is not None and not answer["statuses"]:
        _fail(f"there is no message {name!r}")
    else:
        _print_statuses(answer["statuses"])


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy; it must not exist yet.")],
    config: ConfigOption = None,
    spool: Annotated[str | None, typer.Option(help="The spool's file, to copy.")] = None,
) -> None:
    """Copy the spool, consistently, while the gateway runs or not.

    The copy holds every message that was acknowledged before the command began.
    """
    source = _configure(config, None, spool).service.spool
    if not Path(source).exists():
        _fail(f"there is no spool {source}; name it with --spool or --config")
    import rich.progress  # here: the other commands start faster without it

    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task(f"copying {source}")
        backup_spool(
            source,
            str(file),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"{file}: {file.stat().st_size:,} bytes")


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
            answer = _talk(asked, lambda client: client.request("GET", "/v1/ledger", query=AUDIT))
    except (MailactorsError, OSError) as error:
        _fail(str(error), UNUSABLE)
    except SystemExit:
        sys.exit(UNUSABLE)
    if as_json:
        print(json.dumps(answer))
    else:
        from mailactors.observe.ledger import ledger_text  # here, for the other commands' sake

        rich.console.Console(highlight=False, emoji=False, markup=False).print(ledger_text(answer))
    sys.exit(0 if answer["holds"] else 1)


@app.command()
def simulate(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Scenario files, or folders of them.")
    ] = None,
    config: ConfigOption = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's own.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several, such as 1-20.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process.")] = 1,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Policies on the same faults and seeds, by commas: default (this gateway),"
            " files of its configuration, and what people have: naive (five tries in memory"
            " with one provider), retry (the same for longer), fallback (five rounds over all)."
        ),
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the runs there; - is standard output.")
    ] = None,
    html_to: Annotated[
        str | None, typer.Option("--html", help="Write a page there, with charts; it needs no net.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="A file of finished runs: those in it are not made again, new ones are"
            " appended. Runs of another version, file, policy or seed are other runs."
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a scenario, and end.")
    ] = False,
) -> None:
    """Rehearse: run scenarios in virtual time, check the invariants, compare with the expectations.

    Exit code 0: all passed; 1: an expectation or an invariant was violated, or a run died; 2: a
    file is not usable; 130: interrupted, what was finished is shown.
    """
    if seed is not None and seeds is not None:
        raise typer.BadParameter("give --seed or --seeds, not both", param_hint="--seeds")
    from mailactors.sim import command  # here: the other commands start faster without it

    if schema:
        command.print_schema()
        return
    if not paths:
        raise typer.BadParameter("name one or more scenarios", param_hint="PATHS...")
    options = command.Options(
        paths,
        config=None if config is None else str(config),
        seeds=[seed] if seed is not None else _seeds(seeds),
        policies=[each.strip() for each in (compare or "").split(",") if each.strip()],
        jobs=jobs,
        json_to=json_to,
        html_to=html_to,
        resume=resume,
    )
    try:
        code = command.simulate(options)
    except ConfigError as error:
        print(f"mailactors: {error}", file=sys.stderr)
        code = command.BAD_FILE
    sys.exit(code)


@app.command()
def flush(
    provider: Annotated[str, typer.Option(help="Only what it had last.")] = "",
    stream: Annotated[str, typer.Option(help="Only this stream's.")] = "",
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make deferred deliveries due now; they go out as fast as the providers take them."""
    query = {"provider": provider, "stream": stream}
    answer = _talk(url, lambda client: client.request("POST", "/v1/flush", query=query))
    print(f"{answer['flushed']:,} deliveries are due now")


@app.command("config")
def show_config(config: ConfigOption = None) -> None:
    """Print the configuration as it takes effect, secrets masked, and what evidence can come."""
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
    """Run the command line; an error of ours is printed as a sentence, not as a traceback."""
    try:
        app()
    except (MailactorsError, OSError) as error:
        _fail(str(error))


def _configure(path: Path | None, listen: str | None, spool: str | None) -> Config:
    given = {"listen": listen, "spool": spool}
    service = {name: value for name, value in given.items() if value is not None}
    return load_config(None if path is None else str(path), service)


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise typer.BadParameter("is A-B, such as 1-20", param_hint="--seeds")
    if int(last) - int(first) >= SEEDS_MAX:
        raise typer.BadParameter(f"are more than {SEEDS_MAX:,} seeds", param_hint="--seeds")
    return list(range(int(first), int(last) + 1))


def _read_ledger(path: Path) -> dict[str, Any]:
    """Return what a gateway on this spool would answer."""
    import msgspec  # here, and ours: the other commands start faster without them

    from mailactors.api import views
    from mailactors.runtime.ports import SystemClock

    now = SystemClock().wall_time()
    found, pending = read_spool(str(path), partial(views.ask_ledger, now=now, audit=True))
    answer: dict[str, Any] = msgspec.to_builtins(views.ledger_view(found, pending, None, now))
    return answer


async def _send(client: Client, mail: Mail) -> dict[str, Any]:
    from mailactors.client import Key

    return (await client.send(**mail, key=Key.FRESH)).receipt


def _talk(url: str, ask: Callable[[Client], Awaitable[T]], retry_for_s: float = 0.0) -> T:
    """Ask the gateway; print why and exit when it does not answer or refuses."""
    import anyio  # here, and the client: the other commands start faster without them

    from mailactors.client import Client, ClientError, NotAGatewayError, UnavailableError

    async def main() -> T:
        client_ = partial(Client, url, timeout_s=REQUEST_WITHIN_S, agent="mailactors-cli")
        async with client_(retry_for_s=retry_for_s) as client:
            return await ask(client)

    try:
        return anyio.run(main, backend="trio")
    except NotAGatewayError:
        _fail(f"what answers at {url} is no gateway")
    except UnavailableError as error:
        if error.problem is None:
            _fail(f"no gateway answers at {url} ({error}); start one with: mailactors serve")
        _fail(str(error))
    except ClientError as error:
        _fail(str(error))


def _eml_mail(path: Path, to: list[str], sender: str | None) -> Mail:
    """Return a file as a mail: its message, its headers' recipients and sender unless given."""
    from mailactors.model import raw  # here: the other commands start faster without it
    from mailactors.model.headers import HEADER_BLOCK_OCTETS_MAX, UnrenderableError

    try:
        file = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        data, changes = raw.mend_file(file)
    except UnrenderableError as error:
        _fail(f"{path} {error.problem}")
    if changes:
        print(f"mailactors: {path}: {', '.join(changes)}", file=sys.stderr)
    head = raw.header_section(data)[:HEADER_BLOCK_OCTETS_MAX].decode(errors="replace")
    headers = email.parser.HeaderParser().parsestr(head)
    if "Bcc" in headers:
        problem = "has a Bcc header, which every recipient would see"
        _fail(f"{path} {problem}; take it out, and name all recipients as arguments")

    def named(*names: str) -> list[str]:
        values = [value for name in names for value in headers.get_all(name, [])]
        return [address for _, address in email.utils.getaddresses(values) if address]

    recipients = to or named("To", "Cc")
    authors = [sender] if sender else named("From")
    if len(authors) != 1:
        authors = named("Sender")
    if not recipients:
        _fail(f"{path} names nobody in To or Cc that could be read; name recipients as arguments")
    if len(authors) != 1:
        _fail(f"{path} has no single author in From; name a sender with --from")
    return {"to": recipients, "sender": authors[0], "raw": data}


def _print_statuses(statuses: list[dict[str, Any]]) -> None:
    rich.console.Console(markup=False, highlight=False, emoji=False).print(statuses_table(statuses))


def _fail(text: str, code: int = 1) -> NoReturn:
    print(f"mailactors: {text}", file=sys.stderr)
    sys.exit(code)
