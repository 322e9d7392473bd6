"""The command line: serve a gateway, and talk to one that runs.

Exit codes: 0 done; 1 refused, or no gateway answers; 2 a command that is wrong in itself (and for
`ledger` and `simulate`, nothing usable to read); 130 interrupted.
"""

import os
import sys

# The help lists groups and commands in this order.
# isort: off
from mailactors.cli import process
from mailactors.cli import mail
from mailactors.cli import control
from mailactors.cli import operate
from mailactors.cli import suppress
from mailactors.cli import rehearse

# isort: on
from mailactors.cli.base import INSTALL_SERVER, UNUSABLE, app, fail, is_of_the_server
from mailactors.errors import MailactorsError

__all__ = ["app", "control", "mail", "main", "operate", "process", "rehearse", "suppress"]


def main() -> None:
    """Run the command line; an error of ours is printed as a sentence, not as a traceback."""
    try:
        app()
    except BrokenPipeError:  # `mailactors events | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MailactorsError, OSError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if not is_of_the_server(error.name or ""):
            raise
        missing = f"this command needs the server, and {error.name} is not installed"
        fail(f"{missing}; install it with: {INSTALL_SERVER}", UNUSABLE)
