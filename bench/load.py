"""Load the real service on loopback: accept, deliver to Postfix's smtp-sink, and look at memory.

    python -m bench.load                       # 10,000 messages by batches, then one at a time
    python -m bench.load --waiting 100000      # what waits behind a provider that refuses

Everything stays on 127.0.0.1, is bounded in number, and is stopped at the end. The service runs in
a process of its own with its real SQLite file and synchronous=FULL; figures of one run may be
compared with each other, not with those of another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.providers.peers import smtp_sink_peer
from tests.servers import Served, serving

BODY = "x" * 5000
BATCH = 500
CLIENTS = 8
WARM_UP = 2 * CLIENTS * BATCH
"""Messages before the memory at rest is read: as many requests at once as come afterwards."""
DELIVERED_WITHIN_S = 300.0

CONFIG = """
[service]
default_from = "gateway@example.com"
listen = "127.0.0.1:0"
spool = "spool.db"
[log]
level = "error"
[providers.only]
kind = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
concurrency_max = 64
"""


def main() -> None:
    """Run what was asked for and print a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--singles", type=int, default=3_000)
    parser.add_argument("--waiting", type=int, default=0)
    asked = parser.parse_args()
    if asked.waiting:
        measure_waiting(asked.waiting)
        return
    with smtp_sink_peer() as peer:
        measure("by batches of 500", peer.port, asked.messages, by_batch=True)
        measure("one a request", peer.port, asked.singles, by_batch=False)


def measure(title: str, port: int, count: int, *, by_batch: bool) -> None:
    """Submit messages and wait until the last is sent."""
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        with serving(Path(folder), CONFIG.format(port=port)) as served:
            started_s = time.perf_counter() - began_s
            memory = Memory(served)
            began_s, began_cpu_s = time.perf_counter(), cpu_s(served)
            submit(served, count, by_batch=by_batch)
            accepted_s = time.perf_counter() - began_s
            wait_until_sent(served, count)
            total_s, total_cpu_s = time.perf_counter() - began_s, cpu_s(served) - began_cpu_s
            peak = memory.stop()
    print(
        f"{title}: {count} messages; accepted {count / accepted_s:,.0f}/s, "
        f"accepted and delivered {count / total_s:,.0f}/s, "
        f"{total_cpu_s / count * 1e3:.2f} ms of CPU each; ready after {started_s:.2f} s; "
        f"memory {memory.before_mb:.0f} MB at rest, {peak:.0f} MB at most"
    )


def measure_waiting(count: int) -> None:
    """Let messages wait behind a provider that nobody can reach."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), CONFIG.format(port=1)) as served,
    ):
        submit(served, WARM_UP, by_batch=True)  # caches are warm, breakers open
        memory = Memory(served)
        submit(served, count, by_batch=True)
        after_mb = memory.now_mb()
        peak = memory.stop()
    print(
        f"{count} messages wait: memory grew from {memory.before_mb:.0f} MB "
        f"by {after_mb - memory.before_mb:.0f} MB, by {peak - memory.before_mb:.0f} MB at most"
    )


def cpu_s(served: Served) -> float:
    """Return the CPU time that the service has used, in seconds (proc(5), fields 14 and 15)."""
    stat = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Memory:
    """Watches the service's resident memory."""

    def __init__(self, served: Served) -> None:
        self._pid = served.process.pid
        self.before_mb = self.now_mb()
        self._peak_mb = self.before_mb
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """Return the most that was seen, in MB."""
        self._over.set()
        self._thread.join()
        return self._peak_mb

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._peak_mb = max(self._peak_mb, self.now_mb())

    def now_mb(self) -> float:
        """Return the resident memory, in MB."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6


def submit(served: Served, count: int, *, by_batch: bool) -> None:
    """Submit messages over a few kept connections."""
    requests = batches(count) if by_batch else singles(count)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: post_all(served, requests), range(CLIENTS)))


class _Shared:
    """Hands out requests to several threads."""

    def __init__(self, requests: Iterator[tuple[str, bytes]]) -> None:
        self._requests = requests
        self._lock = threading.Lock()

    def take(self) -> tuple[str, bytes] | None:
        with self._lock:
            return next(self._requests, None)


def batches(count: int) -> _Shared:
    """Return the requests that submit `count` messages by batches."""
    return _Shared(
        (
            "/v1/messages/batch",
            json.dumps([message(n) for n in range(start, min(start + BATCH, count))]).encode(),
        )
        for start in range(0, count, BATCH)
    )


def singles(count: int) -> _Shared:
    """Return the requests that submit `count` messages one by one."""
    return _Shared(("/v1/messages", json.dumps(message(n)).encode()) for n in range(count))


def message(number: int) -> dict[str, str]:
    """Return a message of about 5 KB."""
    recipient = f"r{number}@example.com"
    return {"from": "a@sender.example", "to": recipient, "subject": f"{number}", "text": BODY}


def post_all(served: Served, requests: _Shared) -> None:
    """Post requests until there are none left."""
    connection = HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    while (request := requests.take()) is not None:
        path, body = request
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in {200, 202}, answer.status
    connection.close()


def wait_until_sent(served: Served, count: int) -> None:
    """Ask the ledger until everything is sent."""
    deadline_s = time.monotonic() + DELIVERED_WITHIN_S
    while time.monotonic() < deadline_s:
        with urllib.request.urlopen(served.url + "/v1/ledger", timeout=30) as answer:
            if json.load(answer)["states"].get("sent") == count:
                return
        time.sleep(0.05)
    raise TimeoutError(f"not delivered within {DELIVERED_WITHIN_S:g} s")


if __name__ == "__main__":
    main()
