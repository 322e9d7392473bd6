"""A relay in memory for tests under a mock clock: a connector whose far end follows a script.

The script maps what is heard (a verb, or a whole line; "greeting"; "." for the end of a message)
to an answer: octets to say, or a `Fault`. What is not in it is answered as a good server would.
"""

from __future__ import annotations

import enum
import ssl
from collections import defaultdict
from collections.abc import Mapping, Sequence

import trio
import trio.testing


class Fault(enum.Enum):
    """What a relay may do instead of answering."""

    HANG_UP = "hang up"
    KEEP_SILENT = "keep silent"


Answer = bytes | Fault
Script = Mapping[str, Answer | Sequence[Answer]]

EHLO = b"250-relay.example\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"

GOOD: Mapping[str, Answer] = {
    "greeting": b"220 relay.example ESMTP\r\n",
    "EHLO": EHLO,
    "STARTTLS": b"220 2.0.0 go ahead\r\n",
    "DATA": b"354 go ahead\r\n",
    ".": b"250 2.0.0 Ok: queued as ABC123\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}


class FakeRelay:
    """Fulfils the connector port. An answer may be a list: one a time, the last for ever."""

    def __init__(
        self,
        nursery: trio.Nursery,
        script: Script | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        is_implicit: bool = False,
        drops_input: bool = False,
    ) -> None:
        self.nursery = nursery
        self.tls = tls
        """What STARTTLS leads to, and with `is_implicit` every connection begins with."""
        self.is_implicit = is_implicit
        self.drops_input = drops_input
        """Reads one command and forgets what came with it, whatever it offers."""
        self.script: dict[str, Answer | Sequence[Answer]] = {**GOOD, **(script or {})}
        self.lines: list[bytes] = []
        """Every command line of every connection."""
        self.messages: list[bytes] = []
        """What stood between 354 and the final dot, as on the wire."""
        self.connections_count = 0
        self._uses: defaultdict[str, int] = defaultdict(int)
        self.far_ends: list[trio.abc.Stream] = []

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """Return one end of a pair; the script runs at the other."""
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        self.connections_count += 1
        self.far_ends.append(far)
        self.nursery.start_soon(self._serve, far)
        return near

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        buffer = b""
        is_body = False
        if self.is_implicit:
            stream = self._under_tls(stream)
        is_talking = await self._answer(stream, "greeting")
        while is_talking:
            end = b"\r\n.\r\n" if is_body else b"\r\n"
            while end not in buffer:
                if not (data := await stream.receive_some()):
                    return
                buffer += data
            heard, _, buffer = buffer.partition(end)
            if is_body:
                self.messages.append(heard.removeprefix(b"\r\n"))
                key = "."
            else:
                self.lines.append(heard)
                key = heard.decode()
                buffer = b"" if self.drops_input else buffer
            is_body = not is_body and self._peek(key)[:3] == b"354"
            if key == "STARTTLS" and self.tls is not None:
                await self._answer(stream, key)
                stream = self._under_tls(stream)
                continue
            if is_body:
                buffer = b"\r\n" + buffer  # the end of DATA begins the end of an empty message
            is_talking = await self._answer(stream, key)

    def _under_tls(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        assert self.tls is not None
        return trio.SSLStream(stream, self.tls, server_side=True)

    def _find(self, key: str) -> tuple[str, Sequence[Answer]]:
        if key not in self.script:
            key = key.split(" ")[0].split(":")[0].upper()
        answer = self.script.get(key, b"250 2.1.0 Ok\r\n")
        return key, [answer] if isinstance(answer, bytes | Fault) else answer

    def _peek(self, key: str) -> bytes:
        key, answers = self._find(key)
        answer = answers[min(self._uses[key], len(answers) - 1)]
        return answer if isinstance(answer, bytes) else b""

    async def _answer(self, stream: trio.abc.Stream, key: str) -> bool:
        """Say what the script says; False when the conversation is over."""
        key, answers = self._find(key)
        answer = answers[min(self._uses[key], len(answers) - 1)]
        self._uses[key] += 1
        if answer is Fault.HANG_UP:
            return False
        if answer is Fault.KEEP_SILENT:
            await trio.sleep_forever()
        assert isinstance(answer, bytes)
        await stream.send_all(answer)
        return not answer.startswith((b"421", b"221"))
