"""From the wire's messages to the door's submissions, and from the door's faults back.

A fault of the door names a submission's field; a client knows only the body that it sent. `locate`
finds the place in that body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from mailactors.api.decoding import pointer_of
from mailactors.api.problems import FaultView, ProblemError, validation_problem
from mailactors.api.schemas import (
    AddressIn,
    BatchItem,
    Mailbox,
    Mailboxes,
    MessageIn,
    ShortMessage,
)
from mailactors.intake.admission import SHORT_TEXT_MAX
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
from mailactors.model.headers import ADDRESS_OCTETS_MAX, NAME_CHARACTERS_MAX
from mailactors.model.message import Address, Alternative, Attachment

_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # RFC 8941 §3.3.3
_BARE_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/=@-]+")
_MAILBOX_CHARACTERS_MAX: Final = 2 * (NAME_CHARACTERS_MAX + ADDRESS_OCTETS_MAX)
"""Every character of a name may be escaped."""
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPECIALS: Final = frozenset('()<>[]:;@\\,"')
"""What a display name must quote (RFC 5322 §3.2.3); dots are let pass, as obs-phrase does."""

_SHORT_NAMES: Final = {"text": "body", "idempotency_key": "id"}
_LONG_NAMES: Final = {"sender": "from", "idempotency_key": "id"}
_OWN_KEY_NAMES: Final = {"sender": "from"}


class _Faults:
    """Collects the faults of a body that are found before the door checks it."""

    def __init__(self) -> None:
        self.found: list[FaultView] = []

    def raise_if_any(self) -> None:
        if self.found:
            raise validation_problem(self.found)


def parse_key(values: Sequence[str]) -> str | None:
    r"""Return the idempotency key that the header's lines name, or None if there are none.

    The draft wants a structured-field string, in quotes; many clients send a bare UUID.

    >>> parse_key(['"a\\"b"'])
    'a"b'

    Raises: ProblemError.
    Source: draft-ietf-httpapi-idempotency-key-header-07 §2.1, RFC 8941 §3.3.3.
    """
    if not values:
        return None
    text, key = values[0].strip(), ""
    if quoted := _STRING.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE_KEY.fullmatch(text):
        key = text
    if len(values) == 1 and 0 < len(key) <= SHORT_TEXT_MAX:
        return key
    detail = 'give one key, such as Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"'
    raise ProblemError("idempotency-key-invalid", detail)


def choose_key(header_key: str | None, body: ShortMessage | MessageIn) -> str | None:
    """Return the idempotency key: the header's (in a batch, the item's), or else the body's id.

    By content there is none: the id is only a name.

    Raises: ProblemError when there are two.
    """
    body_id = body.id
    if body.key is not None:
        if header_key is not None:
            detail = f'there is an idempotency key beside "key": "{body.key}"'
            raise ProblemError("idempotency-key-mismatch", detail)
        return None
    if header_key is not None and body_id is not None and header_key != body_id:
        raise ProblemError(
            "idempotency-key-mismatch", "the idempotency key and the body's id differ"
        )
    return body_id if header_key is None else header_key


def short_submission(body: ShortMessage, header_key: str | None) -> Submission:
    """Return a short message as a submission; without a key it goes by its content.

    Raises: ProblemError.
    """
    key = choose_key(header_key, body)
    faults = _Faults()
    to = _addresses(body.to if isinstance(body.to, str) else [*body.to], "to", faults)
    faults.raise_if_any()
    return Submission(
        to=to,
        subject=body.subject,
        text=body.body,
        key=key,
        by_content=key is None,
        client_id=body.id or "",
    )


def full_submission(body: MessageIn, header_key: str | None) -> Submission:
    """Return a message as a submission; without a key it is new, unless it goes by its content.

    Raises: ProblemError.
    """
    key = choose_key(header_key, body)
    faults = _Faults()
    faults.found += _faults_beside_raw(body)
    submission = Submission(
        sender=None if body.sender is None else _address(body.sender, ("from",), faults),
        to=_addresses(body.to, "to", faults),
        cc=_addresses(body.cc, "cc", faults),
        bcc=_addresses(body.bcc, "bcc", faults),
        reply_to=_addresses(body.reply_to, "reply_to", faults),
        subject=body.subject,
        text=body.text,
        html=body.html,
        headers=tuple(body.headers.items()),
        attachments=tuple(Attachment(*msgspec.structs.astuple(a)) for a in body.attachments),
        raw=body.raw,
        stream=body.stream,
        expires_in_s=body.expires_in_s,
        send_at=None if body.send_at is None else body.send_at.timestamp(),
        tags=tuple(body.tags),
        metadata=body.metadata,
        key=key,
        by_content=body.key is not None,
        client_id=body.id or "",
        alternatives=tuple(Alternative(a.content_type, a.content) for a in body.alternatives),
    )
    faults.raise_if_any()
    return submission


def parse_mailbox(text: str) -> Address | None:
    """Read a mailbox, bare or with a display name; None if it is neither.

    >>> parse_mailbox('"Doe, Ann" <ann@example.org>')
    Address(address='ann@example.org', name='Doe, Ann')
    >>> parse_mailbox('bob@example.org, Ann <ann@example.org>') is None
    True

    Source: RFC 5322 §3.4, without comments, groups and routes.
    """
    if len(text) > _MAILBOX_CHARACTERS_MAX:
        return None
    text = text.strip(" ")
    if not text.endswith(">"):
        return None if _SPECIALS & set(text) - {"@", '"', "[", "]", ":"} else Address(text)
    name, bracket, address = text[:-1].rpartition("<")
    name = name.strip(" ")
    if quoted := _QUOTED_NAME.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    elif _SPECIALS & set(name):
        return None
    return Address(address, name) if bracket else None


def refusal_of(error: IntakeError, body: msgspec.Struct) -> ProblemError:
    """Return the door's refusal as a problem with the body that was sent."""
    match error:
        case SubmissionRejectedError():
            return validation_problem([*dict.fromkeys(locate(f, body) for f in error.faults)])
        case KeyConflictError():
            detail = f"message {error.message_id} has this key and other content"
            return ProblemError("idempotency-key-reused", detail)
        case OverloadedError():
            slug = "overloaded"
            if isinstance(error, RateLimitedError):
                slug = "rate-limited"
            elif isinstance(error, StoppingError):
                slug = "stopping"
            return ProblemError(slug, str(error), retry_after_s=error.retry_after_s)
        case _:
            raise error


def locate(fault: Fault, body: msgspec.Struct) -> FaultView:
    """Return a fault of the door with its place in the body that the client sent.

    The door numbers headers and always has lists of addresses; a body may have one string instead.
    """
    names = _SHORT_NAMES if isinstance(body, ShortMessage) else _LONG_NAMES
    if isinstance(body, BatchItem) and body.idempotency_key is not None:
        names = _OWN_KEY_NAMES
    first, *rest = fault.pointer.split("/")[1:] or [""]
    first = names.get(first, first)
    steps: list[str | int] = [first] if first else []
    value: object = getattr(body, "sender" if first == "from" else first, None)
    if isinstance(value, Mapping):
        steps += _entry_of(value, first, rest)
        rest = []
    for step in rest:
        if isinstance(value, list) and step.isdecimal():
            steps.append(step)
            value = value[int(step)]
        elif isinstance(value, msgspec.Struct) and not step.isdecimal():
            steps.append(step)
            value = None
    return FaultView(fault.detail, pointer_of(steps))


def _entry_of(value: Mapping[str, str], field: str, rest: Sequence[str]) -> list[str]:
    """Return the key of a fault: the door numbers headers, and names metadata entries."""
    if not rest:
        return []
    if field == "headers":
        name = list(value)[int(rest[0])]
        return [name] if len(name) <= SHORT_TEXT_MAX else []
    name = "/".join(rest)
    return [name if name in value else name.replace("~1", "/").replace("~0", "~")]


def _faults_beside_raw(body: MessageIn) -> list[FaultView]:
    if body.raw is None:
        return []
    bodies = ("text", "html", "attachments", "alternatives")
    given = [n for n in ("subject", "headers", "reply_to", "cc", *bodies) if getattr(body, n)]
    return [FaultView("is part of raw and cannot be given beside it", f"/{n}") for n in given]


def _addresses(given: Mailboxes, field: str, faults: _Faults) -> tuple[Address, ...]:
    if not isinstance(given, list):
        return (_address(given, (field,), faults),)
    return tuple(_address(item, (field, index), faults) for index, item in enumerate(given))


def _address(given: Mailbox, steps: Sequence[str | int], faults: _Faults) -> Address:
    if isinstance(given, AddressIn):
        return Address(given.address, given.name)
    parsed = parse_mailbox(given)
    if parsed is None:
        detail = "is neither an address nor like: Ann <ann@example.org>"
        faults.found.append(FaultView(detail, pointer_of(steps)))
    return parsed or Address(given)
