"""The command that rehearses: simulate."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from mailactors.cli.base import SERVICE, ConfigOption, app

SEEDS_MAX: Final = 100_000

CompareOption = Annotated[
    str | None,
    typer.Option(
        help="Policies on the same faults and seeds, by commas: default (this gateway),"
        " files of its configuration, and what people have: naive (five tries in memory"
        " with one provider), retry (the same for longer), fallback (five rounds over all)."
        " With --config, that file is one more, and gives the others their providers."
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        help="A file of finished runs: those in it are not made again, new ones are"
        " appended. Runs of another version, file, policy or seed are other runs."
    ),
]
QuickOption = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="A tenth of the traffic, for an answer in seconds. Quotas and vendors' limits"
        " stay, so what is short of room at full size is not short here; limits of latency,"
        " attempts and rates are not checked.",
    ),
]


@app.command(rich_help_panel=SERVICE)
def simulate(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Scenario files, or folders of them.")
    ] = None,
    config: ConfigOption = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's own.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several, such as 1-20.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process.")] = 1,
    compare: CompareOption = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the runs there; - is standard output.")
    ] = None,
    html_to: Annotated[
        str | None, typer.Option("--html", help="Write a page there, with charts; it needs no net.")
    ] = None,
    resume: ResumeOption = None,
    is_quick: QuickOption = False,
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
    from mailactors.config import ConfigError
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
        is_quick=is_quick,
    )
    try:
        code = command.simulate(options)
    except ConfigError as error:
        print(f"mailactors: {error}", file=sys.stderr)
        code = command.BAD_FILE
    sys.exit(code)


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise typer.BadParameter("is A-B, such as 1-20", param_hint="--seeds")
    if int(last) - int(first) >= SEEDS_MAX:
        raise typer.BadParameter(f"are more than {SEEDS_MAX:,} seeds", param_hint="--seeds")
    return list(range(int(first), int(last) + 1))
