"""Measure the spool alone: full lives of messages (accept, claim, intend, settle) on disk.

    python -m bench.spool --messages 10000 --groups 1 10 100 1000
    python -m bench.spool --memory --messages 100000

One line a group size: lives a second, and microseconds a message in each command's commits.
With `--memory` messages are only accepted, 1,000 a commit: one line for each tenth of them, with
what the process has grown by since it opened the spool. `--without` drops indices first, to see
what each one costs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from mailactors.model.lifecycle import State
from mailactors.model.message import Address, Content, Envelope, Message, pack_content
from mailactors.spool.engines import open_store
from mailactors.spool.port import (
    Accept,
    Claim,
    Claimed,
    Command,
    IdempotencyKey,
    Intend,
    Lease,
    Progress,
    RecordOutcome,
    Result,
    Step,
    Store,
)

NOW = 1_800_000_000.0
MEMORY_GROUP = 1_000
"""Messages a commit in the watch over memory."""


def main() -> None:
    """Print a table of group sizes, or its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000, help="lives a group size")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--content-bytes", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, help="where the spool is made (default: temporary)")
    parser.add_argument("--memory", action="store_true", help="accept only, and watch the memory")
    parser.add_argument("--without", nargs="+", default=[], metavar="INDEX")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.memory:
        print(f"{'accepted':>12}{'us each':>12}{'grown MB':>12}{'spool MB':>12}")
        for line in watch(options.folder, options.messages, options.content_bytes, options.without):
            print("".join(f"{value:>12.0f}" for value in line))
        return
    results = [
        measure(options.folder, group, options.messages, options.content_bytes)
        for group in options.groups
    ]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    names = list(results[0])
    print("".join(f"{name:>12}" for name in names))
    for result in results:
        print("".join(f"{result[name]:>12.0f}" for name in names))


def measure(
    folder: Path | None, group: int, messages_total: int, content_bytes: int
) -> dict[str, float]:
    """Return lives a second and µs a message and command, at one group size."""
    total = min(messages_total, group * 2_000)  # one commit a message is slow enough already
    spent = dict.fromkeys(("accept", "claim", "intend", "settle"), 0.0)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        store = open_store(f"{made}/spool.db")
        for commands in _grouped(_accepts(total, content_bytes), group):
            _live(store, commands, spent)
        ledger = store.ledger()
        assert ledger.is_balanced
        assert ledger.states == {"sent": ledger.accepted}
        store.close()
    lives = ledger.accepted / sum(spent.values())
    costs = {name: 1e6 * seconds / ledger.accepted for name, seconds in spent.items()}
    return {"group": group, "messages": ledger.accepted, "lives/s": lives, **costs}


def watch(
    folder: Path | None, messages_total: int, content_bytes: int, without: Sequence[str]
) -> Iterator[tuple[float, ...]]:
    """Yield, ten times: accepted, µs a message, and MB that the process and the file have grown."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        store = open_store(f"{made}/spool.db")
        with contextlib.closing(apsw.Connection(f"{made}/spool.db")) as db:
            for name in without:
                db.execute(f"DROP INDEX {name}")
        before = resident_mb()
        tenth = messages_total // 10
        accepts = _accepts(messages_total, content_bytes)
        for count in range(1, 11):
            spent = 0.0
            for commands in _grouped(itertools.islice(accepts, tenth), MEMORY_GROUP):
                start = time.perf_counter()
                store.apply(commands, NOW)
                spent += time.perf_counter() - start
            files = sum(file.stat().st_size for file in Path(made).iterdir())
            yield count * tenth, 1e6 * spent / tenth, resident_mb() - before, files / 1e6
        assert store.ledger().is_balanced
        store.close()


def resident_mb() -> float:
    """Return the memory that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _live(store: Store, accepts: Sequence[Command], spent: dict[str, float]) -> None:
    _timed(store, "accept", accepts, spent)
    claimed = _timed(store, "claim", [Claim("transactional", len(accepts), "node")], spent)[0]
    assert isinstance(claimed, Claimed)
    _timed(store, "intend", [_intend(lease) for lease in claimed.leases], spent)
    _timed(store, "settle", [_settle(lease) for lease in claimed.leases], spent)


def _timed(
    store: Store, name: str, commands: Sequence[Command], spent: dict[str, float]
) -> list[Result]:
    start = time.perf_counter()
    results = store.apply(commands, NOW)
    spent[name] += time.perf_counter() - start
    return results


def _intend(lease: Lease) -> Intend:
    return Intend(f"{lease.id}/{lease.epoch}", lease.seq, (0,), lease.epoch, "primary")


def _settle(lease: Lease) -> RecordOutcome:
    return RecordOutcome(
        attempt_id=f"{lease.id}/{lease.epoch}",
        seq=lease.seq,
        epoch=lease.epoch,
        provider="primary",
        steps=(Step(0, State.SENT),),
        progress=Progress(tried=("primary",)),
        outcome="accepted",
        facts={"rule": "accepted", "reply": "250 2.0.0 Ok: queued as 4XkQ2b"},
        stream=lease.stream,
    )


def _accepts(total: int, content_bytes: int) -> Iterator[Accept]:
    rng = random.Random(1)
    text = "".join(rng.choices("abcdefghij klmnop\n", k=content_bytes))
    for number in range(total):
        id_ = f"m-{number:012d}-{rng.getrandbits(64):016x}"
        message = Message(
            id=id_,
            message_id=f"{id_}@mail.example",
            date_s=NOW,
            envelope=Envelope("shop@mail.example", (f"user{rng.getrandbits(40)}@example.com",)),
            content=Content(Address("shop@mail.example"), subject="Your order", text=text),
            stream="transactional",
            accepted_at=NOW,
            not_before=NOW,
            expires_at=NOW + 86_400,
        )
        key = IdempotencyKey("default", id_, "f" * 64, NOW + 86_400)
        yield Accept(message, pack_content(message.content), "d" * 64, key)


def _grouped(accepts: Iterable[Accept], size: int) -> Iterator[list[Accept]]:
    group: list[Accept] = []
    for accept in accepts:
        group.append(accept)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


if __name__ == "__main__":
    main()
