"""What all commands share: the application, their options, and how they ask a gateway."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from mailactors import __version__
from mailactors.cli.texts import WIDTH_MIN

if TYPE_CHECKING:
    from mailactors.client.sync import Client
    from mailactors.config import Config

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8625"
REQUEST_WITHIN_S: Final = 15.0
UNUSABLE: Final = 2
"""Exit code when there is nothing to ask, or what answers cannot be loaded."""
INSTALL_SERVER: Final = "pip install 'mailactors[serve]'"
SERVER_PACKAGES: Final = frozenset(
    (
        *("apsw", "email_validator", "h11", "hypercorn", "prometheus_client", "pydantic"),
        *("pydantic_settings", "quart", "quart_trio", "structlog", "tomli_w", "trio"),
    )
)
"""What `mailactors[serve]` brings; the client and what asks a gateway do without."""

MESSAGES: Final = "Messages"
PROVIDERS: Final = "Providers"
SERVICE: Final = "Service"
"""The groups of commands in the help."""

app = typer.Typer(
    name="mailactors",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An email gateway: one endpoint in front of many providers. Accepts durably, fails over,"
    " never repeats a message without having declared the risk.",
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file; without one, the defaults.")
]
UrlOption = Annotated[str, typer.Option(envvar="MAILACTORS_URL", help="Where the gateway listens.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _version(is_asked: bool) -> None:
    if is_asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def configure(
    path: Path | None, listen: str | None, spool: str | None, missing: list[str] | None = None
) -> Config:
    """Return the configuration of a file, if any, with what the command line says instead.

    Secrets that are not there are a fault, or lines in `missing`.
    """
    from mailactors.config import load_config  # here: what asks a gateway starts faster without it

    given = {"listen": listen, "spool": spool}
    service = {name: value for name, value in given.items() if value is not None}
    return load_config(None if path is None else str(path), service, missing)


def talk(
    url: str,
    ask: Callable[[Client], T],
    retry_for_s: float = 0.0,
    hints: Mapping[str, str] | None = None,
) -> T:
    """Ask the gateway; print why and exit when it does not answer or refuses.

    Args:
        hints: by a problem's slug, what to do next.
    """
    from mailactors.client.sync import (  # here: the other commands start faster without it
        Client,
        ClientError,
        NotAGatewayError,
        RejectedError,
        UnavailableError,
    )

    try:
        with Client(
            url, timeout_s=REQUEST_WITHIN_S, retry_for_s=retry_for_s, agent="mailactors-cli"
        ) as client:
            return ask(client)
    except NotAGatewayError:
        fail(f"what answers at {url} is no gateway")
    except UnavailableError as error:
        if error.problem is None:
            fail(f"no gateway answers at {url} ({error}); start one with: mailactors serve")
        fail(str(error))
    except ClientError as error:
        kind = error.problem.type if isinstance(error, RejectedError) else ""
        hint = (hints or {}).get(kind.rpartition(":")[2], "")
        fail(f"{error}\n  {hint}" if hint else str(error))


def request(
    url: str,
    method: str,
    path: str,
    body: object = None,
    query: Mapping[str, str | int] | None = None,
    hints: Mapping[str, str] | None = None,
) -> Any:
    """Return the JSON that a route answers; print why and exit when there is none."""
    return talk(url, lambda client: client.request(method, path, body, query), hints=hints)


def show_lines(lines: Iterable[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        print(line)


def show_json(answer: object) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer))


def terminal_width() -> int:
    """Return the columns of the terminal, or 80; COLUMNS says otherwise."""
    return max(WIDTH_MIN, shutil.get_terminal_size().columns)


def is_of_the_server(module: str) -> bool:
    """Say whether a module comes with `mailactors[serve]`."""
    return module.partition(".")[0] in SERVER_PACKAGES


def fail(text: str, code: int = 1) -> NoReturn:
    """Print why a command did nothing, and exit."""
    print(f"mailactors: {text}", file=sys.stderr)
    sys.exit(code)
