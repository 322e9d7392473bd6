"""The ground truth and a vendor's memory: exact, and small."""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
import pytest

from mailactors.sim.vendor.memory import Entry, VendorMemory, digest_of
from mailactors.sim.world.truth import Backlog, Receipts, Times, Truth
from tests.sim.vendors import mail


def test_times_are_kept_by_number() -> None:
    times = Times()

    assert [1, 2, 1, 3] == [
        times.add(n, at_s) for n, at_s in [(5, 1.0), (5, 2.0), (2, 3.0), (5, 4.0)]
    ]

    assert {2: [3.0], 5: [1.0, 2.0, 4.0]} == dict(times.items())
    assert [2, 5] == list(times)
    assert (2, 2) == (len(times), times.again_count)
    assert 5 in times
    assert all(number not in times for number in (-1, 0, 3, 6, 1000))
    with pytest.raises(KeyError):
        times[3]
    assert [1.0, None, None] == [times.first_s(5), times.first_s(0), times.first_s(-1)]


def test_time_zero_is_a_time() -> None:
    times = Times()
    assert [1, 2] == [times.add(0, 0.0), times.add(0, 5.0)]

    assert [0.0, 5.0] == times[0]


def test_receipts_are_kept_once() -> None:
    receipts = Receipts()
    ids = [f"{number:032x}" for number in range(1, 4)]

    assert ids[0] == receipts.setdefault(7, ids[0])
    assert ids[0] == receipts.setdefault(7, ids[1])
    assert ids[2] == receipts.setdefault(0, ids[2])

    assert {0: ids[2], 7: ids[0]} == dict(receipts)
    assert [0, 7] == list(receipts)
    assert (2, False) == (len(receipts), 3 in receipts)
    assert -1 not in receipts
    assert 1 not in Receipts()


@pytest.mark.parametrize("odd", ["short", "0" * 32, "A" * 32, "a b " * 8])
def test_receipt_that_is_no_plain_id(odd: str) -> None:
    receipts = Receipts()

    assert odd == receipts.setdefault(1, odd)
    assert odd == receipts.setdefault(1, "x")
    assert {1: odd} == dict(receipts)


def test_sizes_are_accounted_for() -> None:
    truth = Truth(("a", "b"))
    for size in (100, 200, 300):
        truth.submit(0.0, size)
    truth.arrive("a", 0, 1.0)
    truth.arrive("b", 2, 1.0)
    truth.arrive("b", 2, 2.0)

    assert {"a": 100, "b": 600} == truth.bytes_arrived
    assert [100, 200, 300] == [truth.size_bytes(number) for number in range(3)]


def test_attempt_that_is_given_back_is_the_right_one() -> None:
    truth = Truth(("a",))
    for at_s in (1.0, 2.0, 2.0, 3.0):
        truth.attempt("a", at_s)

    truth.give_back("a", 2.0)

    assert [1.0, 2.0, 3.0] == truth.attempted_s["a"].tolist()
    assert (3, 2) == (truth.attempts, truth.peaks["a"].highest)


def test_backlog_is_what_no_provider_accepted() -> None:
    truth = Truth(("a",))
    for number in range(10):
        truth.submit(float(number))
        truth.accepted.setdefault(number, f"{number + 1:032x}")
        truth.take(number, number + 10.0 if number < 5 else 20.0 + number)

    assert [10.0] * 5 + [20.0] * 5 == truth.latencies_s(truth.taken)
    assert ((2.0, 27.0),) == truth.backlog(2).spans  # eight of ten at 27 s
    del truth.taken
    truth.taken = Times()
    assert ((2.0, math.inf),) == truth.backlog(2).spans


@pytest.mark.parametrize(
    ("ends_s", "expected"),
    [
        ((), ("no fault", None)),
        ((9.0,), ("after", 18.0)),
        ((1.0,), ("during", 0.0)),  # ended before there was a backlog
        ((30.0,), ("during", 0.0)),  # gone while the fault lasted
        ((9.0, 12.0), ("after", 15.0)),
        ((9.0, 26.0, 500.0), ("after", 1.0)),  # from the last fault that ended in it
        ((9.0, 60.0), ("after", 40.0)),  # the longer of two
        ((9.0, 99.0), ("after", 18.0)),
    ],
)
def test_recovery_is_from_a_faults_end_until_its_backlog_is_gone(
    ends_s: tuple[float, ...], expected: tuple[str, float | None]
) -> None:
    assert expected == Backlog(((2.0, 27.0), (50.0, 100.0))).recovery(ends_s)


def test_a_backlog_that_stays_is_no_recovery() -> None:
    assert ("never", None) == Backlog(((2.0, 27.0), (50.0, math.inf))).recovery((9.0, 60.0))
    assert ("no backlog", 0.0) == Backlog(()).recovery((9.0, 60.0))


def test_memory_finds_by_marker() -> None:
    memory = VendorMemory()
    for number in range(5000):
        memory.add(mail(number).marker, Entry(number, 1, float(number), number))
    memory.add("no number", Entry(1, 2, 3.0, 4))
    memory.add(mail(7).marker, Entry(7, 2, 9.0, 9))

    assert all(memory.find(mail(n).marker) == (n, 1, float(n), n) for n in range(5000) if n != 7)
    assert (7, 2, 9.0, 9) == memory.find(mail(7).marker)
    assert (1, 2, 3.0, 4) == memory.find("no number")
    assert memory.find(mail(5000).marker) is None
    assert memory.find("nothing") is None
    assert 5002 == len(memory)


def test_digest_is_of_the_whole_request() -> None:
    digests = [
        digest_of(each)
        for each in (mail(0), mail(0, text="b\n"), mail(0, recipient="x@example.com"), mail(1))
    ]

    partial = msgspec.structs.replace(mail(0), envelope=mail(0, recipient="x@example.com").envelope)
    digests.append(digest_of(partial))
    assert 5 == len(set(digests))
    assert digests[0] == digest_of(mail(0))


@pytest.mark.slow
def test_a_million_messages_fit() -> None:
    count = 20_000
    truth, memory = Truth(("a",)), VendorMemory()
    for number in range(count):
        truth.submit(1.0, 100)
        truth.accepted.setdefault(number, f"{number + 1:032x}")
        truth.attempt("a", 1.0)
        truth.take(number, 1.0)
        truth.arrive("a", number, 1.0)
        memory.add(f"{number + 1:032x}", Entry(number, 1, 1.0, 1))

    things: list[Any] = [truth.submitted_s, truth._sizes, truth.accepted._ids]
    things += [truth.taken._first, truth.arrivals._first, *truth.attempted_s.values()]
    things += [*truth.arrived_s.values(), *vars(memory).values()]

    assert sum(map(sys.getsizeof, things)) / count < 200
