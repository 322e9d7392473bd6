"""The door: takes a submission and returns once it is durable, or says why not.

Used alike by the HTTP API, the SMTP listener and the simulator. Whoever waits here may go away:
the commit happens in the spool's actor, and the same key returns the answer.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mailactors.intake.admission import Rules, decide_admission, submission_fingerprint
from mailactors.intake.registry import RETRY_AFTER_S, Submit
from mailactors.intake.submission import (
    KeyConflictError,
    OverloadedError,
    StoppingError,
    Submission,
)
from mailactors.model.message import Message, fingerprint, pack_content
from mailactors.runtime.mailbox import Mailbox, MailboxFullError
from mailactors.runtime.ports import Ports
from mailactors.runtime.reply import ActorCrashedError, DeadlineError, Reply
from mailactors.spool.actor import SpoolSignals
from mailactors.spool.port import Accept, Conflict, Key, Receipt, Result, SpoolFullError

ACCEPT_WITHIN_S: Final = 10.0
"""How long a submission may take to become durable before its client is told to come again."""
FINGERPRINT_SCOPE: Final = "\x00fingerprint:"
"""Keys that we derived live apart from those that clients gave."""


class Door:
    """Admission, then the registry."""

    def __init__(
        self, rules: Rules, registry: Mailbox[Submit], signals: SpoolSignals, ports: Ports
    ) -> None:
        self.rules = rules
        self._registry = registry
        self._signals = signals
        self._ports = ports
        self._is_open = True

    def close(self) -> None:
        """Accept nothing new from now on."""
        self._is_open = False

    async def submit(self, submission: Submission) -> Receipt:
        """Make a submission durable.

        Raises:
            SubmissionRejectedError: it is faulty.
            KeyConflictError: its key was used with other content.
            OverloadedError: there is no room now; nothing was accepted, or nobody knows yet (the
                same key will tell).
        """
        accept = self.admit(submission)
        reply = Reply[Result]()
        try:
            self._registry.put_nowait(Submit(accept, reply))
            result = await reply.wait(ACCEPT_WITHIN_S)
        except MailboxFullError:
            raise OverloadedError("too many submissions at once", RETRY_AFTER_S) from None
        except SpoolFullError as error:
            raise OverloadedError(str(error), RETRY_AFTER_S) from None
        except (DeadlineError, ActorCrashedError) as error:
            raise OverloadedError(f"not durable yet: {error}", RETRY_AFTER_S) from None
        return self._receipt(accept.message, result)

    def admit(self, submission: Submission) -> Accept:
        """Check a submission and return the command that would make it durable."""
        if not self._is_open:
            raise StoppingError
        wait_s = self._signals.full_until_s.value - self._ports.clock.now_s()
        if wait_s > 0:
            raise OverloadedError("the spool's disk is full", wait_s)
        now = self._ports.clock.wall_time()
        message = decide_admission(submission, self.rules, self._ports.ids.new_id(), now)
        packed = pack_content(message.content)
        return Accept(
            message,
            packed,
            digest=fingerprint(packed),
            key=self._key(submission, now),
            client_id=submission.client_id,
        )

    def _key(self, submission: Submission, now: float) -> Key:
        """Return the client's key, or one made of the content, which lives shorter."""
        print_ = submission_fingerprint(submission)
        if submission.key is not None:
            expires_at = now + self.rules.key_window_s
            return Key(submission.scope, submission.key, print_, expires_at)
        expires_at = now + self.rules.fingerprint_window_s
        return Key(FINGERPRINT_SCOPE + submission.scope, print_, print_, expires_at)

    def _receipt(self, message: Message, result: Result) -> Receipt:
        if isinstance(result, Conflict):
            raise KeyConflictError(result.id)
        assert isinstance(result, Receipt)
        result = msgspec.structs.replace(result, is_replay=result.id != message.id)
        self._ports.journal.note(
            "message.replayed" if result.is_replay else "message.accepted",
            id=result.id,
            stream=message.stream,
            recipients=len(message.envelope.recipients),
        )
        return result
