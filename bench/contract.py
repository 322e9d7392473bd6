"""Try the real service against its own OpenAPI document, with every check of Schemathesis.

    python3 -m venv /tmp/st && /tmp/st/bin/pip install "schemathesis>=4"
    python -m bench.contract --st /tmp/st/bin/st       # 2,500 cases and more, in four minutes

Schemathesis is a command here and no dependency: it would add some thirty packages to the lock
file. Left out, for a reason:

- the event stream, which never ends;
- `positive_data_acceptance`: addresses, subjects and headers obey grammars that no schema can say,
  so that what fits the schema may be refused with 422 and the place;
- `negative_data_rejection` for a batch: a faulty message refuses only itself, within a 200.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.bodies import CONFIG
from tests.servers import serving

SETTINGS = """
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/messages/batch"
checks.negative_data_rejection.enabled = false
"""


def main() -> None:
    """Run it, show what it prints, and end with its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--st", default="st", help="the command of Schemathesis")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--max-time", default="200", help="seconds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), CONFIG) as served:
        (Path(folder) / "schemathesis.toml").write_text(SETTINGS)
        command = [asked.st, "run", f"{served.url}/openapi.json", "--exclude-path", "/v1/events"]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "40"]
        command += ["--continue-on-failure", "--request-timeout", "10", "--seed", asked.seed]
        command += ["--max-time", asked.max_time]
        sys.exit(subprocess.run(command, cwd=folder, check=False).returncode)


if __name__ == "__main__":
    main()
