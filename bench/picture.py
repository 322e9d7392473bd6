"""Draw the README's pictures from real runs: the first message, and a rehearsal.

    python -m bench.picture              # writes .github/first-run.svg
    python -m bench.picture run.html     # writes .github/rehearsal.png: a page of `simulate --html`

Everything in the picture was said by the service; only the prompt lines are ours.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import rich.console
import rich.text

from tests.chromium import browsing
from tests.servers import Served, serving, wait_until

REHEARSAL = Path(__file__).parent.parent / ".github" / "rehearsal.png"
PICTURE = Path(__file__).parent.parent / ".github" / "first-run.svg"
CONFIG = """
[service]
listen = "127.0.0.1:8625"
[providers.primary]
kind = "simulated"
error_rate = 0.4
[providers.secondary]
kind = "simulated"
latency_s = 0.25
[providers.tertiary]
kind = "simulated"
"""
PEOPLE = ("chahak", "amir", "bea", "chen", "dilek", "efe")


def main() -> None:
    """Write the first picture, or the second one from the page that is named."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder, browsing(Path(folder)) as tab:
            tab.open(Path(sys.argv[1]).resolve(), width=1100, height=900)
            tab.screenshot(REHEARSAL, height_max=1890)
        return
    draw_first_message()


def draw_first_message() -> None:
    """Run the service, and write what it said as an SVG that loads nothing from elsewhere."""
    console = rich.console.Console(record=True, width=104, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), CONFIG) as served:
        show_first_message(console, served)
        show_statuses(console, served)
    PICTURE.parent.mkdir(exist_ok=True)
    svg = console.export_svg(title="mailactors")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL))


def show_first_message(console: rich.console.Console, served: Served) -> None:
    """Submit the README's example."""
    body = {
        "id": "1",
        "to": "chahak@example.com",
        "subject": "Hello",
        "body": "This is a test email.",
    }
    _prompt(console, f"curl {served.url}/send-email -H 'Content-Type: application/json' \\")
    console.print(f"       -d '{json.dumps(body)}'", highlight=False)
    status, answer = served.call("POST", "/send-email", body)
    console.print(f"[bold]{status}[/] {json.dumps(answer)}\n", highlight=False)


def show_statuses(console: rich.console.Console, served: Served) -> None:
    """Submit some more, wait until they are sent, and show the command line's table."""
    for number, name in enumerate(PEOPLE[1:], start=2):
        body = {"id": str(number), "to": f"{name}@example.com", "subject": "Hi", "body": "Hi."}
        served.call("POST", "/send-email", body)
    wait_until(lambda: all_sent(served))
    _prompt(console, "mailactors status")
    command = [sys.executable, "-m", "mailactors", "status", "--url", served.url]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "104", "FORCE_COLOR": "1", "PATH": ""},
    )
    console.print(rich.text.Text.from_ansi(done.stdout))


def all_sent(served: Served) -> bool:
    """Say whether every message is sent."""
    _, page = served.call("GET", "/statuses")
    return {"sent"} == {each["status"] for each in page["statuses"]}


def _prompt(console: rich.console.Console, command: str) -> None:
    console.print(f"[bold green]$[/] {command}", highlight=False)


if __name__ == "__main__":
    main()
