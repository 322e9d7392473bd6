"""Access tokens for XOAUTH2, printed by a command of the operator's.

Owns the token until a server refuses it. Never logs one, nor anything that the command printed.

Source: developers.google.com/gmail/imap/xoauth2-protocol; RFC 6750 §2.1 (what a token looks like).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Final

import trio

from mailactors.errors import MailactorsError
from mailactors.runtime.shortage import is_shortage

TOKEN_WITHIN_S: Final = 30.0
"""For the command: it may have to ask an authority on the network."""
TOKENS_REMEMBERED: Final = 8

_TOKEN: Final = re.compile(rb"[\x21-\x7e]{1,8192}")


class TokenError(MailactorsError):
    """There is no token: the command failed, took too long or printed something else.

    `is_ours`: this process lacks what it takes to run a command.
    """

    def __init__(self, text: str, *, is_ours: bool = False) -> None:
        super().__init__(text)
        self.is_ours = is_ours


class TokenSource:
    """Runs the command when there is no token, and again when the last one was refused."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._lock = trio.Lock()
        self._token = ""
        self.used: tuple[str, ...] = ()
        """The latest tokens, to be masked where a server repeats one."""

    async def token(self, refused: str = "") -> str:
        """Return a token that is not the refused one, from memory or the command.

        Raises: TokenError
        """
        async with self._lock:
            if self._token in ("", refused):
                self._token = ""
                self._token = await self._run()
                self.used = (*self.used[1 - TOKENS_REMEMBERED :], self._token)
            return self._token

    async def _run(self) -> str:
        try:
            with trio.fail_after(TOKEN_WITHIN_S):
                done = await trio.run_process(
                    self._command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
                )
        except trio.TooSlowError:
            raise TokenError(f"the token command took more than {TOKEN_WITHIN_S:g} s") from None
        except OSError as error:
            text = f"the token command cannot be run: {error.strerror}"
            raise TokenError(text, is_ours=is_shortage(error)) from None
        if done.returncode:
            raise TokenError(f"the token command ended with status {done.returncode}")
        token = done.stdout.strip()
        if not _TOKEN.fullmatch(token):
            raise TokenError("the token command printed no token")
        return token.decode("ascii")
