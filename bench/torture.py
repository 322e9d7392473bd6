"""Kill the real service a thousand times under load, and count what is lost and what is repeated.

    python -m bench.torture --cycles 1000          # about half an hour; every promise is checked
    python -m bench.torture --cycles 1000 --folder /var/tmp/run    # stopped, it goes on from there

Each cycle is a life of `mailactors serve` with two SMTP providers, which ends by SIGKILL, at a
random moment or at a named point of a message's way, or by a disk that fails. Everything stays on
127.0.0.1 and is ended at the end, at Ctrl-C too. Exit code 0: every promise held; 1: one was
broken; 130: stopped before the end. The folder is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import rich.console
import rich.progress
import rich.table

from tests.torture.rig import Count, Cycle, Rig


def main() -> int:
    """Run what was asked for; print the figures as a table, and as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=90.0, help="stop killing after these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stop-s", type=float, default=30.0, help="how long a SIGSTOP lasts")
    parser.add_argument("--folder", type=Path, help="where to run, or to go on")
    parser.add_argument("--json", type=Path, help="write the figures there")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    console = rich.console.Console()
    console.print(f"in {folder}")
    rig = Rig(folder, seed=asked.seed, stop_s=asked.stop_s)
    try:
        count = run(rig, asked.cycles, time.monotonic() + asked.minutes * 60, console)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with --folder {folder}")
        return 130
    show(count, console)
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(count), indent=2))
    return 1 if count.violations else 0


def run(rig: Rig, cycles: int, until_s: float, console: rich.console.Console) -> Count:
    """Run with a bar that moves."""
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("lives", total=cycles)

        def tell(cycle: Cycle) -> None:
            description = f"{cycle.point}: {cycle.open_intents} intents open"
            progress.update(task, completed=cycle.number + 1, description=description)

        count = rig.run(cycles, until_s, tell)
        progress.update(task, description="drained and counted")
    return count


def show(count: Count, console: rich.console.Console) -> None:
    """Print the figures."""
    table = rich.table.Table(title="never lost, never twice")
    table.add_column("what")
    table.add_column("count", justify="right")
    for what, figure in (
        ("lives", count.cycles),
        ("  ended by SIGKILL", count.kills),
        ("    with intents open", count.kills_with_open_intents),
        *((f"  {point}", number) for point, number in count.by_point.items()),
        ("messages acknowledged", count.acknowledged),
        ("messages in the spool", count.messages),
        *((f"  {state}", number) for state, number in count.states.items()),
        ("    held, and a relay has it", count.held_stored),
        ("  given up: deaths while it alone was sent", count.given_up),
        ("uncertain attempts", count.uncertain),
        ("declared risks", count.declared_risks),
        ("copies at the relays", count.copies),
        ("  repeated, declared", count.duplicates_declared),
        ("  repeated, NOT declared", count.duplicates_undeclared),
        ("acknowledged, NOT in the spool", count.missing_in_spool),
        ("sent, NOT at the relays", count.missing_at_relays),
    ):
        table.add_row(what, f"{figure:,}")
    console.print(table)
    console.print(f"{count.took_s:,.0f} s; {count.took_s / max(1, count.cycles):.2f} s a life")
    for violation in count.violations:
        console.print(f"BROKEN: {violation}", markup=False, style="bold red")


if __name__ == "__main__":
    sys.exit(main())
