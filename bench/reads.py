"""Measure what people ask of a large spool, lists, figures, health, and what writes suffer by it.

    python -m bench.reads                         # a million messages, 200 clients
    python -m bench.reads --messages 100000 --every 1

It fills a spool by SQL, asks each question alone of the spool's file, then starts the real service
on it and lets 200 clients ask at random, each once every few seconds. Four more clients submit all
the time: first alone, then beside the readers. Everything stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from mailactors.model.lifecycle import Status
from mailactors.spool.port import Filters
from mailactors.spool.sqlite import SqliteStore
from mailactors.spool.store.questions import Answers
from tests.servers import serving
from tests.spool.fill import fill

SHARES = {"sent": 90, "bounced": 2, "deferred": 7, "held": 1}
PATHS = {
    "/readyz": 5,
    "/healthz": 5,
    "/metrics": 1,
    "/v1/ledger": 2,
    "/statuses?limit=20": 8,
    "/v1/messages?limit=20": 8,
    "/v1/messages?limit=20&state=deferred": 4,
    "/v1/messages?limit=20&state=bounced&stream=bulk": 4,
    "/v1/messages?limit=20&recipient=user77@example.com": 4,
}
"""What is asked, and how often for each other."""
WRITERS = 4
WRITE_EVERY_S = 0.1
CONFIG = """
[service]
listen = "127.0.0.1:0"
spool = "spool.db"
[log]
level = "error"
[providers.only]
kind = "simulated"
latency_s = 0.01
[streams.main]
[streams.bulk]
"""


def main() -> None:
    """Print a table of latencies in milliseconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between a client's two")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase")
    parser.add_argument("--folder", type=Path, help="where the spool is made (default: temporary)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        store = SqliteStore.open(f"{folder}/spool.db")
        fill(store, asked.messages, SHARES, time.time())
        print_alone(store)
        store.close()
        with serving(Path(folder), CONFIG) as served:
            where = urlsplit(served.url)
            assert where.hostname is not None
            assert where.port is not None
            trio.run(run, where.hostname, where.port, asked)
        log = Path(folder) / "spool.db-wal"
        print(f"the log beside the spool: {log.stat().st_size / 1e6 if log.exists() else 0:.0f} MB")


def print_alone(store: SqliteStore) -> None:
    """Ask each question of a reader of its own, so that its cache is cold, and print the time."""
    now = time.time()
    questions: dict[str, Callable[[Any], object]] = {
        "ledger": lambda spool: spool.ledger(),
        "audit": lambda spool: spool.audit(),
        "pending": lambda spool: spool.pending(now),
        "statuses": lambda spool: spool.statuses(50, None),
        "messages, by recipient": lambda spool: spool.messages(
            Filters(recipient="user77@example.com"), 50, None
        ),
        "messages, a minute": lambda spool: spool.messages(
            Filters(since=now - 120, until=now - 60), 50, None
        ),
    }
    for status in Status:
        questions[f"messages, {status} in bulk"] = partial(
            Answers.messages,
            filters=Filters(status=status, stream="bulk", now=now),
            limit=50,
            before_seq=None,
        )
    print(f"{'alone, cold':40}{'ms':>10}")
    for name, question in questions.items():
        view = store.reader()
        began_s = time.perf_counter()
        question(view)
        print(f"{name:40}{1e3 * (time.perf_counter() - began_s):>10.1f}")


async def run(host: str, port: int, asked: argparse.Namespace) -> None:
    """Write alone, then beside the readers; print both."""
    calm: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    await phase(host, port, asked, calm, clients=0)
    await phase(host, port, asked, busy, clients=asked.clients)
    title = f"under {asked.clients} clients"
    print(f"\n{title:60}{'count':>8}{'p50':>8}{'p99':>8}{'max':>8}")
    for path in sorted(busy):
        print_line(path, busy[path])
    print_line("submit, without readers", calm["submit"])
    ratio = quantile(busy["submit"], 0.99) / quantile(calm["submit"], 0.99)
    print(f"p99 of a submission with readers: {ratio:.2f} times that without")


async def phase(
    host: str,
    port: int,
    asked: argparse.Namespace,
    found: dict[str, list[float]],
    *,
    clients: int,
) -> None:
    """Let writers, and perhaps readers, ask for a while; note each latency."""
    with trio.move_on_after(asked.seconds):
        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(write, host, port, found, number)
            for number in range(clients):
                nursery.start_soon(read, host, port, found, number, asked.every)


async def read(
    host: str, port: int, found: dict[str, list[float]], number: int, every_s: float
) -> None:
    """Ask one route after another, in an order of its own, over a connection each."""
    rng = random.Random(number)
    await trio.sleep(rng.random() * every_s)
    while True:
        (path,) = rng.choices(list(PATHS), list(PATHS.values()))
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        stream = await trio.open_tcp_stream(host, port)
        async with stream:
            await timed(stream, request.encode(), found.setdefault(path, []))
        await trio.sleep(every_s * (0.5 + rng.random()))


async def write(host: str, port: int, found: dict[str, list[float]], number: int) -> None:
    """Submit a message, wait for 202, and again."""
    stream = await trio.open_tcp_stream(host, port)
    times = found.setdefault("submit", [])
    for count in range(1_000_000):
        body = {"id": f"w{number}-{count}-{time.time()}", "to": "a@example.com", "subject": "Hello"}
        data = json.dumps(body | {"body": "x" * 2_000}).encode()
        head = f"POST /send-email HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        await timed(stream, head.encode() + data, times)
        await trio.sleep(WRITE_EVERY_S)


async def timed(stream: trio.SocketStream, request: bytes, times: list[float]) -> None:
    """Send a request, read its answer, and note how long that took."""
    began_s = time.perf_counter()
    await stream.send_all(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await receive(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields[b"content-length"])
    while len(body) < length:
        body += await receive(stream)
    if head[9:11] != b"20":
        raise RuntimeError((head + body).decode())
    times.append(time.perf_counter() - began_s)


async def receive(stream: trio.SocketStream) -> bytes:
    """Return some bytes. Raises: RuntimeError at the end of the stream."""
    data = await stream.receive_some(65_536)
    if not data:
        raise RuntimeError("the service closed the connection")
    return bytes(data)


def print_line(name: str, times: Sequence[float]) -> None:
    """Print a row of the table."""
    figures = (quantile(times, 0.5), quantile(times, 0.99), max(times))
    print(f"{name:60}{len(times):>8}" + "".join(f"{1e3 * each:>8.1f}" for each in figures))


def quantile(times: Sequence[float], share: float) -> float:
    """Return the time that a share of all does not exceed."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


if __name__ == "__main__":
    main()
