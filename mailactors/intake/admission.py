"""Admission: decides whether a submission may become a message, and reports all faults at once.

An admitted message can be rendered and sent: later rooms do not check it again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Final

import email_validator
import msgspec

from mailactors.intake.submission import Fault, Submission, SubmissionRejectedError
from mailactors.model.headers import COMMANDS, ONCE, UnrenderableError, wire_address
from mailactors.model.message import (
    RECIPIENTS_MAX,
    Address,
    Content,
    Envelope,
    Message,
    domain_of,
    fingerprint,
    without_defaults,
)
from mailactors.model.mime import check_content
from mailactors.model.raw import message_id_of

MESSAGE_BYTES_MAX: Final = 10 * 1024 * 1024
"""Text, HTML and decoded attachments together; the default limit of Postmark and Postfix."""
ATTACHMENTS_MAX: Final = 50
ALTERNATIVES_MAX: Final = 10
SUBJECT_CHARACTERS_MAX: Final = 2000
HEADERS_MAX: Final = 50
TAGS_MAX: Final = 10
METADATA_MAX: Final = 20
SHORT_TEXT_MAX: Final = 256
"""Characters of a key, an id, a tag, or a metadata entry."""
SEND_AT_AHEAD_MAX_S: Final = 30 * 86400.0
HEADERS_ALLOWED: Final = (
    *("References", "In-Reply-To", "Auto-Submitted", "Precedence", "Importance", "Priority"),
    *("Keywords", "Comments", "Organization", "Feedback-ID"),
)
"""Custom headers that may be set beside any List-* (RFC 2369, RFC 8058) and most X-*."""
_HEADER_ALLOWED: Final = re.compile(
    "|".join([*HEADERS_ALLOWED, "List-[a-z0-9-]+", "X-[a-z0-9-]+"]), re.IGNORECASE
)
DOMAIN_OCTETS_MAX: Final = 253
"""In ASCII (RFC 1035 §2.3.4)."""
ADDRESSES_REMEMBERED: Final = 16_384
"""About 4 MB when full."""
_SPECIAL_USE: Final = re.compile(r"(?:[a-z0-9-]+\.)*(?:test|local|localhost)", re.IGNORECASE)
"""Domains that no mail reaches (RFC 6761, RFC 6762), in which people try things out."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_FIELDS_BEFORE: Final = (
    *("sender", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "headers"),
    *("attachments", "raw", "stream", "expires_in_s", "send_at", "tags", "metadata"),
)


class StreamRules(msgspec.Struct, frozen=True):
    """The part of a stream's settings that admission uses."""

    expires_after_s: float


class AdmissionRules(msgspec.Struct, frozen=True):
    """The settings of admission. `streams` is not empty; the first is the default."""

    default_from: Address
    streams: dict[str, StreamRules]
    key_window_s: float
    fingerprint_window_s: float
    per_minute: int | None = None
    """Messages that the whole service accepts a minute; None for no limit."""
    backlog_max: int = 1_000_000
    """Pending deliveries beyond which new messages are refused."""
    free_bytes_min: int = 0
    """Room on the spool's disk that is kept for the messages already accepted."""
    all_simulated: bool = False
    """No provider sends anything, so addresses under .test, .local and localhost are as good."""

    @property
    def default_stream(self) -> str:
        """The stream of a submission that names none."""
        return next(iter(self.streams))


def decide_admission(
    submission: Submission, rules: AdmissionRules, message_id: str, now: float
) -> Message:
    """Turn a submission into a message, or raise everything that is wrong with it.

    Args:
        submission: what the client asked for.
        rules: the settings of admission.
        message_id: the new message's id, and its marker.
        now: UTC seconds.

    Raises: SubmissionRejectedError, with a JSON pointer for each fault.
    """
    faults: list[Fault] = []
    sender = submission.sender or rules.default_from
    checked = _check_addresses(submission, sender, rules, faults)
    faults.extend(_check_presence(submission))
    faults.extend(_check_sizes(submission))
    faults.extend(_check_header_names(submission))
    faults.extend(_check_options(submission, rules, now))
    content = _content(submission, sender, checked)
    if not faults:
        try:
            check_content(content)
        except UnrenderableError as error:
            faults.append(Fault(error.field, error.problem))
    if faults:
        raise SubmissionRejectedError(tuple(faults))
    return _message(submission, rules, content, checked, message_id, now)


def submission_fingerprint(submission: Submission) -> str:
    """Return what makes two submissions the same: everything but the key and the client's id.

    As submitted, without configured defaults, so that a reload turns no replay into a conflict;
    by the names of the fields that were given, so that a new optional field does not either.
    """
    names = {"scope": "", "key": None, "by_content": False, "client_id": ""}
    return fingerprint(without_defaults(msgspec.structs.replace(submission, **names)))


def fingerprint_before(submission: Submission) -> str:
    """Return the fingerprint as versions before 0.2 made it, of positions and defaults.

    Keys that such a version stored are found by it. To be deleted in 0.3, together with
    `IdempotencyKey.fingerprint_before`: one `idempotency.window_s` after the upgrade no key has it.
    """
    return fingerprint((*(getattr(submission, name) for name in _FIELDS_BEFORE), "", None, ""))


def _check_addresses(
    submission: Submission, sender: Address, rules: AdmissionRules, faults: list[Fault]
) -> dict[str, tuple[Address, ...]]:
    """Normalize every address, by field; note those that are none. Too many are not looked at."""
    count = len(submission.to) + len(submission.cc) + len(submission.bcc)
    if not count:
        faults.append(Fault("/to", "there is no recipient"))
    if count > RECIPIENTS_MAX:
        faults.append(Fault("/to", f"{count} recipients; at most {RECIPIENTS_MAX} are allowed"))
    if (replies := len(submission.reply_to)) > RECIPIENTS_MAX:
        faults.append(Fault("/reply_to", f"has {replies}; at most {RECIPIENTS_MAX} are allowed"))
    if max(count, replies) > RECIPIENTS_MAX:
        return {"from": (), "to": (), "cc": (), "bcc": (), "reply_to": ()}
    fields = {
        "from": (sender,),
        "to": submission.to,
        "cc": submission.cc,
        "bcc": submission.bcc,
        "reply_to": submission.reply_to,
    }
    checked: dict[str, tuple[Address, ...]] = {}
    for field, addresses in fields.items():
        good = []
        for index, address in enumerate(addresses):
            pointer = "/from" if field == "from" else f"/{field}/{index}"
            try:
                spec = normal_address(address.address, special_use=rules.all_simulated)
                good.append(Address(spec, address.name))
            except email_validator.EmailNotValidError as error:
                faults.append(Fault(pointer, str(error)))
        checked[field] = tuple(good)
    return checked


@functools.lru_cache(maxsize=ADDRESSES_REMEMBERED)
def normal_address(address: str, *, special_use: bool = False) -> str:
    """Return an address as it is sent: Unicode normalized, the domain in ASCII (RFC 5891).

    Cached: senders and many recipients recur, and a check takes 60 µs.

    Args:
        address: as a client gave it.
        special_use: let .test, .local and localhost pass, which the validator knows not to.

    Raises: email_validator.EmailNotValidError.
    """
    if len(address) > SHORT_TEXT_MAX * 2:
        raise email_validator.EmailSyntaxError("the address is too long")
    local_part, _, domain = address.rpartition("@")
    if ascii_octets_min(domain) > DOMAIN_OCTETS_MAX:
        raise email_validator.EmailSyntaxError("the domain is too long")
    is_special = special_use and _SPECIAL_USE.fullmatch(domain) is not None
    checked = f"{local_part}@example.com" if is_special else address
    valid = email_validator.validate_email(checked, check_deliverability=False)
    domain = domain.lower() if is_special else valid.ascii_domain
    try:
        return wire_address(f"{valid.local_part}@{domain}", "")
    except UnrenderableError as error:
        raise email_validator.EmailSyntaxError(error.problem) from None


def ascii_octets_min(domain: str) -> int:
    """Return the least octets that a domain has in ASCII: converting it costs 10 µs a character.

    >>> ascii_octets_min("b\u00fc.example"), ascii_octets_min("b.example")
    (14, 9)
    """
    labels = domain.split(".")
    return len(domain) + sum(len("xn--") for label in labels if not label.isascii())


def _check_presence(submission: Submission) -> Iterator[Fault]:
    given = (submission.text, submission.html, submission.raw)
    if given == (None, None, None) and not submission.alternatives:
        yield Fault("/text", "there is neither text nor html nor another form of the message")


def _check_sizes(submission: Submission) -> Iterator[Fault]:
    size = len(submission.raw or b"") + sum([len(a.content) for a in submission.attachments])
    texts = [text for text in (submission.text, submission.html) if text]
    texts += [each.content for each in submission.alternatives]
    size += sum([len(text.encode(errors="replace")) for text in texts])
    if size > MESSAGE_BYTES_MAX:
        detail = f"the message has {size} bytes; at most {MESSAGE_BYTES_MAX} are allowed"
        yield Fault("", detail)
    counts: tuple[tuple[str, Sequence[object], int], ...] = (
        ("/attachments", submission.attachments, ATTACHMENTS_MAX),
        ("/alternatives", submission.alternatives, ALTERNATIVES_MAX),
        ("/headers", submission.headers, HEADERS_MAX),
        ("/tags", submission.tags, TAGS_MAX),
        ("/metadata", tuple(submission.metadata), METADATA_MAX),
        ("/subject", submission.subject, SUBJECT_CHARACTERS_MAX),
    )
    for pointer, given, count_max in counts:
        if len(given) > count_max:
            yield Fault(pointer, f"has {len(given)}; at most {count_max} are allowed")


def _check_header_names(submission: Submission) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, (name, _) in enumerate(submission.headers[:HEADERS_MAX]):
        if COMMANDS.fullmatch(name):
            yield Fault(f"/headers/{index}/name", "is a command to a provider, which only we give")
        elif not _HEADER_ALLOWED.fullmatch(name):
            names = ", ".join(HEADERS_ALLOWED)
            detail = f"is not a header that may be set; those are {names}, List-* and X-*"
            yield Fault(f"/headers/{index}/name", detail)
        elif name.lower() in ONCE and seen.setdefault(name.lower(), index) != index:
            yield Fault(f"/headers/{index}/name", "is there twice; a message has it once")


def _check_options(submission: Submission, rules: AdmissionRules, now: float) -> Iterator[Fault]:
    if submission.stream and submission.stream not in rules.streams:
        names = ", ".join(rules.streams)
        named = submission.stream[:SHORT_TEXT_MAX]
        yield Fault("/stream", f"there is no stream {named!r}; there are {names}")
    if submission.expires_in_s is not None and submission.expires_in_s <= 0:
        yield Fault("/expires_in_s", "must be more than 0")
    if submission.send_at is not None and submission.send_at > now + SEND_AT_AHEAD_MAX_S:
        yield Fault("/send_at", f"is more than {SEND_AT_AHEAD_MAX_S / 86400:g} days ahead")
    shorts = [("/id", submission.client_id), ("/idempotency_key", submission.key or "")]
    shorts += [(f"/tags/{i}", tag) for i, tag in enumerate(submission.tags)]
    for key, value in submission.metadata.items():
        name = key.replace("~", "~0").replace("/", "~1")
        is_short = len(key) <= SHORT_TEXT_MAX  # else the answer would be as long as the question
        shorts.append((f"/metadata/{name}" if is_short else "/metadata", key + value))
    for pointer, text in shorts:
        if len(text) > SHORT_TEXT_MAX:
            yield Fault(pointer, f"is longer than {SHORT_TEXT_MAX} characters")
        elif _CONTROL.search(text):
            yield Fault(pointer, "contains a control character")


def _content(
    submission: Submission, sender: Address, checked: dict[str, tuple[Address, ...]]
) -> Content:
    return Content(
        sender=next(iter(checked["from"]), sender),
        to=checked["to"],
        cc=checked["cc"],
        reply_to=checked["reply_to"],
        subject=submission.subject,
        text=submission.text,
        html=submission.html,
        headers=submission.headers,
        attachments=submission.attachments,
        raw=submission.raw,
        tags=submission.tags,
        metadata=submission.metadata,
        alternatives=submission.alternatives,
    )


def _message(
    submission: Submission,
    rules: AdmissionRules,
    content: Content,
    checked: dict[str, tuple[Address, ...]],
    message_id: str,
    now: float,
) -> Message:
    stream = submission.stream or rules.default_stream
    not_before = max(now, submission.send_at or now)
    lifetime_s = rules.streams[stream].expires_after_s
    if submission.expires_in_s is not None:
        lifetime_s = min(lifetime_s, submission.expires_in_s)
    everyone = (a.address for field in ("to", "cc", "bcc") for a in checked[field])
    return Message(
        id=message_id,
        message_id=f"{message_id}@{domain_of(content.sender.address)}"
        if content.raw is None
        else message_id_of(content.raw),
        date_s=not_before,
        envelope=Envelope(content.sender.address, tuple(dict.fromkeys(everyone))),
        content=content,
        stream=stream,
        accepted_at=now,
        not_before=not_before,
        expires_at=not_before + lifetime_s,
    )
