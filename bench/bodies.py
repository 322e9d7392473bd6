"""Hold many large bodies one byte short of their end, then finish them all at once.

    python -m bench.bodies                     # 100 bodies of 10 MB, of each kind
    python -m bench.bodies --kinds base64 --count 20

The service is a real `mailactors serve`, with simulated providers and its spool on disk; everything
stays on 127.0.0.1. Printed are the answers, the service's memory at its peak (VmHWM), and how
long `GET /healthz` took before and under the attack (median, 99th percentile, longest), which a
process of its own asks for all the time: as long as the event loop is kept busy, it waits.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import trio

from tests.servers import Served, serving

CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"
[log]
level = "error"
[providers.only]
kind = "simulated"
"""
BODY_BYTES = 10_000_000
HELD_S = 3.0
"""How long the last byte is kept back; the service gives a silent body ten seconds."""
PROBE_EVERY_S = 0.005


def main() -> None:
    """Attack a service of its own with each kind of body and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.probe:
        probe(asked.probe)
        return
    for kind in asked.kinds:
        measure(kind, asked.count)


def measure(kind: str, count: int) -> None:
    """Attack with one kind of body."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), CONFIG) as served:
        with probing(served) as before:
            time.sleep(HELD_S)
        with probing(served) as waits:
            answers = trio.run(attack, served, kind, count)
        peak_mb = peak_memory_mb(served)
    told = ", ".join(f"{number} x {status}" for status, number in sorted(answers.items()))
    print(
        f"{kind}: {told}; memory at most {peak_mb:.0f} MB; /healthz took {spread(waits)} ms,"
        f" before the attack {spread(before)}",
        flush=True,
    )


def spread(waits: list[float]) -> str:
    """Return the median, the 99th percentile and the longest of some waits, in milliseconds."""
    waits.sort()
    shown = [waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1]]
    return " / ".join(f"{each * 1e3:.0f}" for each in shown)


async def attack(served: Served, kind: str, count: int) -> Counter[str]:
    """Send all bodies but for their last byte, hold them, and finish them at once."""
    answers: Counter[str] = Counter()
    address = urlsplit(served.url)
    path, media, body = KINDS[kind]()
    finish_s = trio.current_time() + HELD_S
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n"

    async def one(number: int) -> None:
        own = body.replace(b"NUMBER", b"%06d" % number)  # each is a message of its own
        request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(own) + own
        stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(request[:-1])
            await trio.sleep_until(finish_s)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(request[-1:])
            answers[await status_of(stream)] += 1

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return answers


async def status_of(stream: trio.SocketStream) -> str:
    """Return the status of an answer, or how it was cut."""
    received = b""
    with trio.move_on_after(60):
        try:
            while b"\r\n" not in received:
                chunk = await stream.receive_some()
                if not chunk:
                    break
                received += chunk
        except trio.BrokenResourceError:
            return "reset"
    return received.split()[1].decode() if b" " in received else "no answer"


@contextlib.contextmanager
def probing(served: Served) -> Iterator[list[float]]:
    """Ask for the service's health all the time; the list holds each wait in seconds at the end."""
    command = [sys.executable, "-m", "bench.bodies", "--probe", served.url]
    waits: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield waits
        process.stdin.close()
        waits += json.loads(process.stdout.readline())


def probe(url: str) -> None:
    """Ask until standard input ends."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    waits: list[float] = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PROBE_EVERY_S)[0]:
        began_s = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        waits.append(time.perf_counter() - began_s)
    print(json.dumps(waits), flush=True)


def peak_memory_mb(served: Served) -> float:
    """Return the largest resident memory of the service so far (proc(5))."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def message(**fields: object) -> tuple[str, str, bytes]:
    """Return a request with one message."""
    shown = {"from": "a@example.org", "to": "b@example.org", "subject": "NUMBER", **fields}
    return "/v1/messages", "application/json", json.dumps(shown, ensure_ascii=False).encode()


def text() -> tuple[str, str, bytes]:
    return message(text="x" * 72 + "\n" + "y" * (BODY_BYTES - 200))


def lines() -> tuple[str, str, bytes]:
    return message(html=("<p>" + "x" * 66 + "</p>\n") * (BODY_BYTES // 76))


def emoji() -> tuple[str, str, bytes]:
    return message(text="\U0001f600" + "x" * (BODY_BYTES - 200))


def attachment() -> tuple[str, str, bytes]:
    content = base64.b64encode(bytes(range(256)) * (BODY_BYTES * 3 // 4 // 256)).decode()
    return message(text="x", attachments=[{"filename": "a.bin", "content": content}])


def no_json() -> tuple[str, str, bytes]:
    return "/v1/messages", "application/json", b'{"text":"' + b"x" * (BODY_BYTES - 9)


def batch() -> tuple[str, str, bytes]:
    path, media, one = message(text="x" * (BODY_BYTES // 1000 - 100))
    return f"{path}/batch", media, b"[" + b",".join([one] * 1000) + b"]"


KINDS = {
    "text": text,
    "lines": lines,
    "emoji": emoji,
    "attachment": attachment,
    "no-json": no_json,
    "batch": batch,
}

if __name__ == "__main__":
    main()
