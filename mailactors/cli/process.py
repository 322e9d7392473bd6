"""The commands of a process and its files: serve, backup, config."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mailactors.cli.base import SERVICE, ConfigOption, JsonOption, app, configure, fail, show_json


@app.command(rich_help_panel=SERVICE)
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
    from mailactors.service import serve_gateway  # here: it brings the whole server

    serve_gateway(partial(configure, config, listen, spool), is_demo=config is None)


@app.command(rich_help_panel=SERVICE)
def backup(
    file: Annotated[Path, typer.Argument(help="The copy; it must not exist yet.")],
    config: ConfigOption = None,
    spool: Annotated[str | None, typer.Option(help="The spool's file, to copy.")] = None,
) -> None:
    """Copy the spool, consistently, while the gateway runs or not.

    The copy holds every message that was acknowledged before the command began.
    """
    from mailactors.spool.engines import backup_spool  # here, as is what follows

    source = configure(config, None, spool).service.spool
    if not Path(source).exists():
        fail(f"there is no spool {source}; name it with --spool or --config")
    import rich.progress

    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task(f"copying {source}")
        backup_spool(
            source,
            str(file),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"{file}: {file.stat().st_size:,} bytes")


@app.command("config", rich_help_panel=SERVICE)
def show_config(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check a configuration, and print it as it takes effect, as TOML, without its secrets.

    Secrets need not be there: those that are missing are named, with their variables. Files,
    folders and programs that it names are looked for. Exit code 0: it can be served; 1: it cannot.
    """
    from mailactors import config as configuration  # here, as everywhere

    missing: list[str] = []
    found = configure(config, None, None, missing)
    faults = configuration.check_files(found)
    for note in (*missing, *configuration.unused_providers(found)):
        print(f"mailactors: note: {note}", file=sys.stderr)
    if faults:
        raise configuration.ConfigError(str(config or "the configuration"), faults)
    if as_json:
        show_json(configuration.effective(found))
    else:
        print(configuration.as_toml(found))
