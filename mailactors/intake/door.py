"""The door: takes a submission and returns once it is durable, or raises why it is not.

The HTTP API and the simulator both use it. A caller may be cancelled while it waits: the commit
happens in the spool's actor, and a later submission with the same key gets the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import msgspec
import trio

from mailactors.intake.admission import (
    AdmissionRules,
    decide_admission,
    fingerprint_before,
    submission_fingerprint,
)
from mailactors.intake.registry import RETRY_AFTER_S, Submit
from mailactors.intake.submission import (
    Fault,
    IntakeError,
    KeyConflictError,
    OverloadedError,
    RateLimitedError,
    StoppingError,
    Submission,
    SubmissionRejectedError,
)
from mailactors.model.message import fingerprint, pack_content
from mailactors.model.mime import LARGE_OCTETS
from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.runtime.tally import Tally
from mailactors.runtime.window import Window
from mailactors.spool.actor import SpoolSignals
from mailactors.spool.port import (
    Accept,
    AcceptedMany,
    AcceptMany,
    Conflict,
    IdempotencyKey,
    Receipt,
    Result,
    SpoolError,
    SpoolFullError,
)

ACCEPT_WITHIN_S: Final = 10.0
"""A submission that is not durable within this time is answered with "try again"."""
NEARLY_FULL_RETRY_S: Final = 30.0
"""Retry-After while the backlog is too long, or the disk nearly full."""
FINGERPRINT_SCOPE: Final = "\x00fingerprint:"
FRESH_SCOPE: Final = "\x00fresh:"
"""Keys made of the content, or for one submission, are apart from those of clients."""


FindKnown: TypeAlias = Callable[[IdempotencyKey, float], Awaitable[Receipt | Conflict | None]]
"""Asks the spool what it accepted under a key that is live at a time."""


class Door:
    """Admission, then the registry."""

    def __init__(
        self,
        rules: AdmissionRules,
        registry: Mailbox[Submit],
        signals: SpoolSignals,
        ports: Ports,
        find_known: FindKnown | None = None,
    ) -> None:
        self.rules = rules
        self._find_known = find_known
        self.results = Tally()
        """Submissions by result."""
        self._registry = registry
        self._signals = signals
        self._ports = ports
        self._executor = ports.executor("intake")
        self._is_open = True
        self._minute = Window(60.0, 0)

    def close(self) -> None:
        """Accept nothing new from now on."""
        self._is_open = False

    async def submit(self, submission: Submission) -> Receipt:
        """Make a submission durable.

        Raises:
            SubmissionRejectedError: it is faulty.
            KeyConflictError: its key was used with other content.
            OverloadedError: there is no room now. Nothing was accepted, or it is not known yet:
                submit again with the same key.
        """
        try:
            self.check_room()
            accept = await self._admit(submission)
            counted_s = self._count(1)
            result = await self._make_durable(accept)
            self._uncount(counted_s, [accept], [result])
            return self._receipt(accept, result)
        except IntakeError as error:
            refused = error
        if (known := await self._find_replay(submission, refused)) is not None:
            return known
        self.results.add(refused.result)
        raise refused

    async def submit_many(
        self, submissions: Sequence[Submission]
    ) -> list[Receipt | SubmissionRejectedError | KeyConflictError]:
        """Make several submissions durable in one commit; an answer for each, in order.

        A faulty one does not hold up the others.

        Raises: OverloadedError, for all of them.
        """
        try:
            self.check_room()
            admitted = [await self._try_to_admit(submission) for submission in submissions]
            accepts = tuple(each for each in admitted if isinstance(each, Accept))
            counted_s = self._count(len(accepts))
            made = await self._make_durable(AcceptMany(accepts)) if accepts else AcceptedMany(())
            assert isinstance(made, AcceptedMany)
            self._uncount(counted_s, accepts, made.results)
        except IntakeError as error:
            refused = error
        else:
            return self._answers(admitted, made.results)
        known = [await self._find_replay(submission, refused) for submission in submissions]
        replays = [each for each in known if each is not None]
        if len(replays) == len(submissions):
            return [*replays]
        self.results.add(refused.result, count=len(submissions))
        raise refused

    def _answers(
        self,
        admitted: Sequence[Accept | Receipt | SubmissionRejectedError],
        made: Sequence[Receipt | Conflict],
    ) -> list[Receipt | SubmissionRejectedError | KeyConflictError]:
        receipts = iter(made)
        return [
            self._receipt_or_conflict(each, next(receipts)) if isinstance(each, Accept) else each
            for each in admitted
        ]

    async def _make_durable(self, accept: Accept | AcceptMany) -> Result:
        """Return the registry's answer, or raise OverloadedError with a reason for the client."""
        reply: Reply[Result] = Reply()
        try:
            self._registry.put_nowait(Submit(accept, reply))
            return await reply.wait(ACCEPT_WITHIN_S)
        except MailboxFullError:
            raise OverloadedError("too many submissions at once", RETRY_AFTER_S) from None
        except SpoolFullError as error:
            raise OverloadedError(str(error), RETRY_AFTER_S) from None
        except (DeadlineError, ActorCrashedError) as error:
            raise OverloadedError(f"not durable yet: {error}", RETRY_AFTER_S) from None

    def take_one(self) -> float:
        """Count a message that comes in another way, as a retry by hand does; return when.

        Raises: OverloadedError, when there is no room for it now.
        """
        self.check_room()
        self._count(1)
        return self._ports.clock.now_s()

    def give_back(self, taken_s: float) -> None:
        """Give back what `take_one` counted: the message did not come in."""
        self._minute.take_back(taken_s)

    def minute_left(self) -> tuple[int, int] | None:
        """Return (limit a minute, what is left of it), or None without a limit."""
        if self.rules.per_minute is None:
            return None
        self._minute.forget(self._ports.clock.now_s())
        return self.rules.per_minute, max(0, self.rules.per_minute - self._minute.total)

    def check_room(self) -> None:
        """Raise OverloadedError when new messages are refused."""
        if not self._is_open:
            raise StoppingError
        rules, room = self.rules, self._signals.room.value
        full_for_s = self._signals.full_until_s.value - self._ports.clock.now_s()
        if full_for_s > 0:
            raise OverloadedError("the spool's disk is full", full_for_s)
        if room.free_bytes is not None and room.free_bytes < rules.free_bytes_min:
            left = f"{room.free_bytes / 1e6:,.0f} MB left"
            kept = f"{rules.free_bytes_min / 1e6:,.0f} MB are kept for what was accepted"
            detail = f"the spool's disk is nearly full: {left}, {kept}"
            raise OverloadedError(detail, NEARLY_FULL_RETRY_S)
        if room.backlog >= rules.backlog_max:
            raise OverloadedError("too many messages are on their way", NEARLY_FULL_RETRY_S)

    async def _find_replay(self, submission: Submission, error: IntakeError) -> Receipt | None:
        """Return the first answer of a submission that is refused now, if it was accepted before.

        What is known is not asked like new mail: its stream may be gone, the limit used up.
        """
        if self._find_known is None or isinstance(error, StoppingError | KeyConflictError):
            return None
        now = self._ports.clock.wall_time()
        if (key := self._key(submission, now)) is None:
            return None
        try:
            known = await self._find_known(key, now)
        except SpoolError:
            return None  # then the refusal stands
        if isinstance(known, Receipt):
            self.results.add("replayed")
            return known
        return None

    def _uncount(
        self, counted_s: float, accepts: Sequence[Accept], results: Sequence[Result]
    ) -> None:
        """Give the limit back what replays took of it."""
        for accept, result in zip(accepts, results, strict=True):
            if isinstance(result, Conflict) or (
                isinstance(result, Receipt) and result.id != accept.message.id
            ):
                self._minute.take_back(counted_s)

    def _count(self, count: int) -> float:
        """Count messages against the service's own limit, or raise when they pass it.

        Returns: the time at which they were counted.
        """
        limit, now_s = self.rules.per_minute, self._ports.clock.now_s()
        if limit is None:
            return now_s
        if count > limit:
            detail = f"{count} messages at once, but the service accepts {limit} a minute"
            raise SubmissionRejectedError((Fault("", detail),))
        self._minute.count_max = limit
        opens_at_s = self._minute.opens_at_s(now_s, count)
        if opens_at_s > now_s:
            raise RateLimitedError(limit, opens_at_s - now_s)
        self._minute.add(now_s, count)
        return now_s

    async def _try_to_admit(
        self, submission: Submission
    ) -> Accept | Receipt | SubmissionRejectedError:
        """Check one of many; a checkpoint lets other tasks run in between."""
        await trio.lowlevel.checkpoint()
        try:
            return await self._admit(submission)
        except SubmissionRejectedError as error:
            if (known := await self._find_replay(submission, error)) is not None:
                return known
            self.results.add(error.result)
            return error

    async def _admit(self, submission: Submission) -> Accept:
        """Check a submission and return the command that would make it durable.

        What is large takes its time, and others get their turn meanwhile.
        """
        now, message_id = self._ports.clock.wall_time(), self._ports.ids.new_id()
        check = partial(self._accept_of, submission, self.rules, message_id, now)
        return await self._executor.run(check) if submission.size >= LARGE_OCTETS else check()

    def _accept_of(
        self, submission: Submission, rules: AdmissionRules, message_id: str, now: float
    ) -> Accept:
        message = decide_admission(submission, rules, message_id, now)
        packed = pack_content(message.content)
        return Accept(
            message,
            packed,
            digest=fingerprint(packed),
            key=self._key(submission, now) or self._fresh_key(submission, message_id, now),
            client_id=submission.client_id,
        )

    def _key(self, submission: Submission, now: float) -> IdempotencyKey | None:
        """Return the client's key, or one made of the content, which expires sooner, or neither."""
        scope, key, window_s = submission.scope, submission.key, self.rules.key_window_s
        if key is None and not submission.by_content:
            return None
        print_, before = submission_fingerprint(submission), fingerprint_before(submission)
        if key is None:
            scope, key = FINGERPRINT_SCOPE + scope, print_
            window_s = self.rules.fingerprint_window_s
        return IdempotencyKey(scope, key, print_, now + window_s, before)

    def _fresh_key(self, submission: Submission, message_id: str, now: float) -> IdempotencyKey:
        """Return a key that no other submission has: only the same command again is a replay."""
        scope, expires_at = FRESH_SCOPE + submission.scope, now + self.rules.fingerprint_window_s
        return IdempotencyKey(scope, message_id, message_id, expires_at)

    def _receipt_or_conflict(
        self, accept: Accept, result: Receipt | Conflict
    ) -> Receipt | KeyConflictError:
        try:
            return self._receipt(accept, result)
        except KeyConflictError as error:
            self.results.add(error.result)
            return error

    def _receipt(self, accept: Accept, result: Result) -> Receipt:
        if isinstance(result, Conflict):
            raise KeyConflictError(result.id)
        assert isinstance(result, Receipt)
        message = accept.message
        is_replay = result.id != message.id
        if result.is_replay != is_replay:
            # It joined another submission, or the writer crashed and applied it twice.
            result = msgspec.structs.replace(result, is_replay=is_replay)
        word = "replayed" if result.is_replay else "accepted"
        self.results.add(word)
        self._ports.journal.note(
            f"message.{word}",
            id=result.id,
            stream=message.stream,
            recipients=len(message.envelope.recipients),
        )
        return result
