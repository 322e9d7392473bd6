"""A relay that remembers: aiosmtpd in a process of its own, which stores what it accepts.

What is stored is on its log before the answer goes out, one JSON line a message. By the recipient's
local part, before the first "+", a message meets its fate:

| local part | fate |
|---|---|
| `lose` | it is stored, and the connection ends where the answer to the final dot would be |
| `lose1` | so at the first time; after that it is accepted |
| `slow` | the answer takes two seconds |
| anything else | as the options say |

    python -m tests.torture.peer OPTIONS    # JSON of `Options`; prints its port
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from aiosmtpd.smtp import SMTP

from tests.providers.peers import HOST
from tests.torture.stored import Stored, count_copies, read_log
from tests.torture.zygote import ROOT

SLOW_S: Final = 2.0
_MESSAGE_ID: Final = re.compile(rb"^Message-ID: <([^>]+)>", re.IGNORECASE | re.MULTILINE)


class Options(msgspec.Struct, frozen=True):
    """How a peer behaves. Shares are of messages.

    `answer_s` is a range of seconds: half of it passes before the message is stored, half after.
    """

    log: str
    seed: int = 0
    answer_s: tuple[float, float] = (0.0, 0.0)
    lose_share: float = 0.0
    defer_share: float = 0.0
    port: int = 0


@dataclass(frozen=True)
class StoringPeer:
    """A running peer."""

    port: int
    log: Path
    process: subprocess.Popen[str]

    @property
    def stored(self) -> list[Stored]:
        """Everything that was stored so far."""
        return read_log(self.log)

    def copies(self, recipient: str) -> list[str]:
        """Return the Message-ID of each copy that a recipient has got."""
        return [each.message_id for each in self.stored if each.recipient == recipient]


@contextlib.contextmanager
def storing_peer(log: Path, **options: Any) -> Iterator[StoringPeer]:
    """Run a peer, which goes on with its log if there is one."""
    log.touch()
    text = msgspec.json.encode(Options(str(log), **options)).decode()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.torture.peer", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield StoringPeer(int(process.stdout.readline()), log, process)
        finally:
            process.kill()


class _Handler:
    """What aiosmtpd calls."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._chance = random.Random(options.seed)
        self._file = Path(options.log).open("ab", buffering=0)  # noqa: SIM115
        self._seen = count_copies(read_log(Path(options.log)))

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        content = bytes(envelope.original_content)
        found = _MESSAGE_ID.search(content)
        assert found is not None
        message_id, recipient = found[1].decode(), str(envelope.rcpt_tos[0])
        word = recipient.partition("@")[0].partition("+")[0]
        half_s = self._chance.uniform(*self._options.answer_s) / 2
        await asyncio.sleep(half_s)
        if self._chance.random() < self._options.defer_share:
            return "451 4.3.0 not now"
        is_lost = self._chance.random() < self._options.lose_share
        is_lost |= word == "lose" or (word == "lose1" and not self._seen[message_id])
        stored = Stored(message_id, recipient, time.time(), was_answered=not is_lost)
        self._file.write(msgspec.json.encode(stored) + b"\n")
        self._seen[message_id] += 1
        await asyncio.sleep(SLOW_S if word == "slow" else half_s)
        if is_lost:
            server.transport.abort()
        return "250 2.0.0 stored"


async def _run(options: Options) -> None:
    loop = asyncio.get_running_loop()
    handler = _Handler(options)
    server = await loop.create_server(lambda: SMTP(handler, loop=loop), HOST, options.port)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  # whoever started it reads
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it is gone
    server.close()


def main() -> None:
    """Serve until standard input ends."""
    options = msgspec.json.decode(sys.argv[1], type=Options)
    asyncio.run(_run(options))


if __name__ == "__main__":
    main()
