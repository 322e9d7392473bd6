"""The door: a receipt means durable, and every refusal has a reason that helps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mailactors.intake.admission import (
    AdmissionRules,
    StreamRules,
    fingerprint_before,
    submission_fingerprint,
)
from mailactors.intake.door import (
    ACCEPT_WITHIN_S,
    FINGERPRINT_SCOPE,
    FRESH_SCOPE,
    NEARLY_FULL_RETRY_S,
    Door,
)
from mailactors.intake.registry import RETRY_AFTER_S, Submit
from mailactors.intake.submission import (
    IntakeError,
    KeyConflictError,
    OverloadedError,
    RateLimitedError,
    StoppingError,
    Submission,
    SubmissionRejectedError,
)
from mailactors.model.message import Address, Alternative, Attachment, fingerprint
from mailactors.model.mime import LARGE_OCTETS
from mailactors.runtime.mailbox import Mailbox
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError
from mailactors.spool.actor import SpoolSignals, SpoolSpace
from mailactors.spool.port import (
    Accept,
    AcceptedMany,
    AcceptMany,
    Conflict,
    Receipt,
    SpoolFullError,
)
from tests.gateways import EPOCH_S, InlineExecutor, NotingJournal, letter, make_ports

T = TypeVar("T")

RULES = AdmissionRules(
    default_from=Address("me@sender.example"),
    streams={"mail": StreamRules(3600.0)},
    key_window_s=86400.0,
    fingerprint_window_s=60.0,
    backlog_max=100,
    free_bytes_min=1_000_000,
)


@dataclass
class Rig:
    """A door in front of a registry whose part the test plays."""

    capacity: int = 10
    signals: SpoolSignals = field(default_factory=SpoolSignals)
    ports: Ports = field(default_factory=make_ports)
    rules: AdmissionRules = RULES

    def __post_init__(self) -> None:
        self.registry: Mailbox[Submit] = Mailbox("registry", self.capacity, lambda _s, _e: None)
        self.door = Door(self.rules, self.registry, self.signals, self.ports)

    async def submitted(self) -> Submit:
        await self.registry.wait()
        (submit,) = self.registry.take()
        return submit

    async def offered(self, submission: Submission) -> Accept:
        """Return the command that a submission becomes; nobody answers it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.door.submit, submission)
            submitted = await self.submitted()
            nursery.cancel_scope.cancel()
        assert isinstance(submitted.accept, Accept)
        return submitted.accept


@contextlib.asynccontextmanager
async def answering(
    answer: Receipt | Conflict | Exception | None, rules: AdmissionRules = RULES
) -> AsyncIterator[Rig]:
    """Run a registry that answers everything alike; None makes a receipt of each message."""
    rig = Rig(rules=rules)

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            submit = await rig.submitted()
            if isinstance(answer, Exception):
                submit.reply.fail(answer)
            else:
                submit.reply.resolve(answer or receipt_of(submit))

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield rig
        nursery.cancel_scope.cancel()


def receipt_of(submit: Submit) -> Receipt:
    accept = submit.accept
    assert isinstance(accept, Accept)
    return receipt(accept)


def receipt(accept: Accept) -> Receipt:
    message = accept.message
    return Receipt(1, message.id, message.message_id, accept.client_id, 0.0, is_replay=False)


async def test_a_durable_submission_is_answered_with_its_receipt() -> None:
    async with answering(None) as rig:
        receipt = await rig.door.submit(letter("17"))

    assert (receipt.client_id, receipt.is_replay) == ("17", False)
    journal = rig.ports.journal
    assert isinstance(journal, NotingJournal)
    assert journal.notes == [
        ("message.accepted", {"id": receipt.id, "stream": "mail", "recipients": 1})
    ]


async def test_a_receipt_of_another_message_is_a_replay() -> None:
    first = Receipt(1, "earlier", "earlier@sender.example", "17", 0.0, is_replay=False)
    async with answering(first) as rig:
        receipt = await rig.door.submit(letter("17"))

    assert (receipt.id, receipt.is_replay) == ("earlier", True)
    journal = rig.ports.journal
    assert isinstance(journal, NotingJournal)
    assert journal.named("message.replayed")[0]["id"] == "earlier"


async def test_a_conflict_names_the_message_that_has_the_key() -> None:
    async with answering(Conflict("earlier")) as rig:
        with pytest.raises(KeyConflictError) as caught:
            await rig.door.submit(letter())

    assert caught.value.message_id == "earlier"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SpoolFullError("the spool's disk is full"), "disk is full"),
        (ActorCrashedError("ValueError: no"), "not durable yet"),
        (OverloadedError("the spool is behind", 1.0), "behind"),
    ],
)
async def test_what_may_work_later_is_overload(error: Exception, words: str) -> None:
    async with answering(error) as rig:
        with pytest.raises(OverloadedError, match=words) as caught:
            await rig.door.submit(letter())

    assert caught.value.retry_after_s == RETRY_AFTER_S


async def test_an_answer_has_a_deadline(autojump_clock: MockClock) -> None:
    rig = Rig()

    with pytest.raises(OverloadedError, match="not durable yet: no answer within 10 s"):
        await rig.door.submit(letter())

    assert trio.current_time() == ACCEPT_WITHIN_S


async def test_a_full_mailbox_is_overload_at_once() -> None:
    rig = Rig(capacity=0)

    with pytest.raises(OverloadedError, match="too many submissions"):
        await rig.door.submit(letter())


async def test_a_disk_that_is_known_to_be_full_costs_no_wait(autojump_clock: MockClock) -> None:
    async with answering(None) as rig:
        rig.signals.full_until_s.publish(trio.current_time() + 0.75)
        with pytest.raises(OverloadedError, match="disk is full") as caught:
            await rig.door.submit(letter())
        assert caught.value.retry_after_s == 0.75

        await trio.sleep(0.75)
        await rig.door.submit(letter())


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (SpoolSpace(free_bytes=RULES.free_bytes_min - 1), "disk is nearly full"),
        (SpoolSpace(backlog=RULES.backlog_max), "too many messages are on their way"),
    ],
)
async def test_too_little_room_is_overload_before_the_disk_is_full(
    room: SpoolSpace, words: str
) -> None:
    async with answering(None) as rig:
        rig.signals.room.publish(room)
        with pytest.raises(OverloadedError, match=words) as caught:
            await rig.door.submit(letter())
        assert caught.value.retry_after_s == NEARLY_FULL_RETRY_S

        rig.signals.room.publish(SpoolSpace(RULES.backlog_max - 1, RULES.free_bytes_min))
        await rig.door.submit(letter())


async def test_the_services_own_limit_holds_in_any_minute(autojump_clock: MockClock) -> None:
    async with answering(None, msgspec.structs.replace(RULES, per_minute=3)) as rig:
        for n in range(3):
            await rig.door.submit(letter(str(n)))
        assert rig.door.minute_left() == (3, 0)

        with pytest.raises(RateLimitedError) as caught:
            await rig.door.submit(letter())
        assert 59 <= caught.value.retry_after_s <= 62
        await trio.sleep(caught.value.retry_after_s)
        await rig.door.submit(letter())

        assert rig.door.minute_left() == (3, 2)


async def test_many_are_answered_one_by_one_in_their_order() -> None:
    rig = Rig()
    got: list[object] = []

    async def submit() -> None:
        got.extend(await rig.door.submit_many([letter("0"), letter("1", to=()), letter("2")]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        submitted = await rig.submitted()
        assert isinstance(submitted.accept, AcceptMany)
        first, _ = submitted.accept.accepts
        submitted.reply.resolve(AcceptedMany((receipt(first), Conflict("earlier"))))

    assert [Receipt, SubmissionRejectedError, KeyConflictError] == [type(each) for each in got]
    assert rig.door.results.counts == {
        ("accepted",): 1,
        ("rejected",): 1,
        ("conflict",): 1,
    }


async def test_a_closed_door_refuses_before_it_checks_the_submission() -> None:
    rig = Rig()
    rig.door.close()

    with pytest.raises(StoppingError) as caught:
        await rig.door.submit(letter(to=()))

    assert isinstance(caught.value, OverloadedError)
    assert caught.value.retry_after_s == 5.0


async def test_a_faulty_submission_goes_no_further() -> None:
    rig = Rig()

    with pytest.raises(SubmissionRejectedError):
        await rig.door.submit(letter(to=()))

    assert rig.registry.statistics().waiting == 0


async def test_a_submission_that_has_begun_is_answered_after_the_door_closes() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig()
        got: list[Receipt] = []

        async def submit() -> None:
            got.append(await rig.door.submit(letter()))

        nursery.start_soon(submit)
        submitted = await rig.submitted()
        rig.door.close()
        submitted.reply.resolve(receipt_of(submitted))

    assert len(got) == 1


async def test_a_client_that_disconnects_does_not_undo_its_submission() -> None:
    rig = Rig()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.door.submit, letter())
            submitted = await rig.submitted()
            scope.cancel()

    submitted.reply.resolve(receipt_of(submitted))

    assert submitted.reply.is_done


async def test_a_clients_key_is_kept_for_the_long_window() -> None:
    rig = Rig()

    accept = await rig.offered(letter(key="k", scope="s"))

    key = accept.key
    assert (key.scope, key.key) == ("s", "k")
    assert key.fingerprint == submission_fingerprint(letter())
    assert key.fingerprint_before == fingerprint_before(letter())
    assert key.expires_at == pytest.approx(EPOCH_S + trio.current_time() + 86400, abs=1)
    assert accept.digest == fingerprint(accept.packed)


async def test_without_a_key_each_submission_has_one_in_a_scope_of_its_own() -> None:
    rig = Rig()

    accept = await rig.offered(letter(key=None, scope="s"))

    key = accept.key
    assert (key.scope, key.key) == (FRESH_SCOPE + "s", accept.message.id)
    assert key.expires_at == pytest.approx(EPOCH_S + trio.current_time() + 60, abs=1)


async def test_the_content_is_a_key_in_a_scope_of_its_own() -> None:
    rig = Rig()

    accept = await rig.offered(letter(key=None, by_content=True, scope="s"))

    key = accept.key
    assert key.scope == FINGERPRINT_SCOPE + "s"
    assert key.key == key.fingerprint == submission_fingerprint(letter())
    assert key.fingerprint_before == fingerprint_before(letter())
    assert key.expires_at == pytest.approx(EPOCH_S + trio.current_time() + 60, abs=1)


async def test_every_submission_has_a_marker_of_its_own() -> None:
    rig = Rig()

    ids = {(await rig.offered(letter())).message.id for _ in range(10)}

    assert len(ids) == 10


def test_every_refusal_is_an_intake_error() -> None:
    refusals = (SubmissionRejectedError, KeyConflictError, OverloadedError, StoppingError)

    assert all(issubclass(refusal, IntakeError) for refusal in refusals)


class CountingExecutor(InlineExecutor):
    """Counts what it runs."""

    runs: ClassVar[list[str]] = []

    async def run(self, work: Callable[[], T]) -> T:
        self.runs.append(self.name)
        return await super().run(work)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "é" * LARGE_OCTETS},
        {"html": "x" * LARGE_OCTETS},
        {"attachments": (Attachment("a", bytes(LARGE_OCTETS)),)},
        {"alternatives": (Alternative("text/markdown", "x" * LARGE_OCTETS),)},
        {"text": None, "raw": b"From: a@b.example\r\n\r\n" + b"x\r\n" * (LARGE_OCTETS // 3)},
    ],
)
async def test_what_is_large_is_checked_beside_the_event_loop_and_once(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingExecutor, "runs", [])
    rig = Rig(ports=dataclasses.replace(make_ports(), executor=CountingExecutor))

    small = await rig.offered(letter())
    assert CountingExecutor.runs == []
    large = await rig.offered(letter(**fields))

    assert CountingExecutor.runs == ["intake"]
    assert large.message.content.size >= LARGE_OCTETS > small.message.content.size
    assert large.digest == fingerprint(large.packed)


async def test_a_fault_in_what_is_large_is_answered_as_any_other() -> None:
    rig = Rig(ports=make_ports(inline=False))

    with pytest.raises(SubmissionRejectedError) as caught:
        await rig.door.submit(letter(text="x" * LARGE_OCTETS + "\ud800"))

    assert [fault.pointer for fault in caught.value.faults] == ["/text"]
