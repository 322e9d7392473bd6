"""The commands for providers and what waits for them: providers, pause, resume, reset, flush."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer

from mailactors.cli.base import (
    DEFAULT_URL,
    PROVIDERS,
    JsonOption,
    UrlOption,
    app,
    request,
    show_json,
    show_lines,
    terminal_width,
)
from mailactors.cli.texts import provider_lines

COMPLETE_WITHIN_S: Final = 1.0
"""How long a shell waits for the names of providers."""


def complete_provider(context: typer.Context, incomplete: str) -> list[str]:
    """Return the providers of the gateway that begin so; none where no gateway answers."""
    from mailactors.client.sync import (  # here: the other commands start faster without it
        Client,
        ClientError,
    )

    url = context.params.get("url") or DEFAULT_URL
    try:
        with Client(url, timeout_s=COMPLETE_WITHIN_S, retry_for_s=0.0) as client:
            found = client.request("GET", "/v1/providers")
    except ClientError:
        return []
    names = (each["name"] for each in found["providers"])
    return [name for name in names if name.startswith(incomplete)]


ProviderArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROVIDER",
        help="Its name in the configuration.",
        show_default=False,
        autocompletion=complete_provider,
    ),
]


@app.command(rich_help_panel=PROVIDERS)
def providers(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Show the providers as they are now: breakers, permits, what is in flight."""
    answer = request(url, "GET", "/v1/providers")
    if as_json:
        show_json(answer)
    else:
        show_lines(provider_lines(answer["providers"], terminal_width()))


@app.command(rich_help_panel=PROVIDERS)
def pause(
    provider: ProviderArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Give a provider nothing new; what is in flight goes on, and the next one takes the rest."""
    _control(provider, "pause", url, as_json)


@app.command(rich_help_panel=PROVIDERS)
def resume(
    provider: ProviderArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Give a paused provider messages again."""
    _control(provider, "resume", url, as_json)


@app.command(rich_help_panel=PROVIDERS)
def reset(
    provider: ProviderArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Close a provider's breaker, and forget its Retry-After and the pace learnt of it."""
    _control(provider, "reset", url, as_json)


def _control(provider: str, verb: str, url: str, as_json: bool) -> None:
    hints = {"overloaded": "nothing is known to have changed; look with: mailactors providers"}
    path = f"/v1/providers/{quote(provider, safe='')}/{verb}"
    answer = request(url, "POST", path, hints=hints)
    if as_json:
        show_json(answer)
    else:
        show_lines(provider_lines([answer], terminal_width()))


@app.command(rich_help_panel=PROVIDERS)
def flush(
    provider: Annotated[
        str, typer.Option(help="Only what it had last.", autocompletion=complete_provider)
    ] = "",
    stream: Annotated[str, typer.Option(help="Only this stream's.")] = "",
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make deferred deliveries due now; they go out as fast as the providers take them."""
    query = {"provider": provider, "stream": stream}
    answer = request(url, "POST", "/v1/flush", query=query)
    print(f"{answer['flushed']:,} deliveries are due now")
