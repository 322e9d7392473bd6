"""Submissions, and the errors that refuse them. Values only."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mailactors.errors import MailactorsError
from mailactors.model.message import Address, Alternative, Attachment


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request, decoded but not yet checked.

    `scope` names the client (an API key's name, or empty); idempotency keys are unique within it.
    `key` is the client's idempotency key, if it gave one. Without one, `by_content` says whether
    the same content within a minute is the same message; else each submission is a new one.
    `client_id` is the client's own name of the message.
    `send_at` is UTC seconds since the epoch.
    """

    sender: Address | None = None
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    raw: bytes | None = None
    stream: str = ""
    expires_in_s: float | None = None
    send_at: float | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    scope: str = ""
    key: str | None = None
    by_content: bool = False
    client_id: str = ""
    alternatives: tuple[Alternative, ...] = ()

    @property
    def size(self) -> int:
        """Return octets of attachments and raw, and characters of texts: what there is to do."""
        texts = [self.text or "", self.html or "", *(value for _, value in self.headers)]
        texts += [each.content for each in self.alternatives]
        files = [self.raw or b"", *(each.content for each in self.attachments)]
        return sum(map(len, texts)) + sum(map(len, files))


class Fault(msgspec.Struct, frozen=True):
    """One error of a submission. `pointer` is a JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class IntakeError(MailactorsError):
    """The submission was not accepted. `result` is the word for it in the metrics."""

    result: ClassVar[str]


class SubmissionRejectedError(IntakeError):
    """The submission is faulty: the same one would be refused again."""

    result = "rejected"

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults))
        self.faults = faults


class KeyConflictError(IntakeError):
    """The idempotency key belongs to a message with other content."""

    result = "conflict"

    def __init__(self, message_id: str) -> None:
        super().__init__("this idempotency key was used with other content before")
        self.message_id = message_id


class OverloadedError(IntakeError):
    """There is no room now; try again after `retry_after_s`."""

    result = "overloaded"

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """The service's own limit, `limit` a minute, is used up for `retry_after_s`."""

    result = "rate_limited"

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"more than {limit} messages a minute", retry_after_s)


class StoppingError(OverloadedError):
    """The service is shutting down and accepts nothing new."""

    result = "stopping"

    def __init__(self) -> None:
        super().__init__("the service is shutting down", 5.0)
