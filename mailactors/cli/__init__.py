"""The command line: serve a gateway, and talk to one that runs."""

from mailactors.cli import process  # noqa: I001  # the help lists commands in this order
from mailactors.cli import mail
from mailactors.cli import operate
from mailactors.cli import rehearse
from mailactors.cli.base import INSTALL_SERVER, UNUSABLE, app, fail, is_of_the_server
from mailactors.errors import MailactorsError

__all__ = ["app", "mail", "main", "operate", "process", "rehearse"]


def main() -> None:
    """Run the command line; an error of ours is printed as a sentence, not as a traceback."""
    try:
        app()
    except (MailactorsError, OSError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if not is_of_the_server(error.name or ""):
            raise
        missing = f"this command needs the server, and {error.name} is not installed"
        fail(f"{missing}; install it with: {INSTALL_SERVER}", UNUSABLE)
