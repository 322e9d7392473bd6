"""Admission: every fault with its pointer, all at once; limits; what is normalized."""

from typing import Any

import email_validator
import msgspec
import pytest

from mailactors.intake.admission import (
    ALTERNATIVES_MAX,
    ATTACHMENTS_MAX,
    HEADERS_ALLOWED,
    HEADERS_MAX,
    MESSAGE_BYTES_MAX,
    METADATA_MAX,
    SEND_AT_AHEAD_MAX_S,
    SHORT_TEXT_MAX,
    SUBJECT_CHARACTERS_MAX,
    TAGS_MAX,
    AdmissionRules,
    StreamRules,
    decide_admission,
    fingerprint_before,
    normal_address,
    submission_fingerprint,
)
from mailactors.intake.submission import Fault, Submission, SubmissionRejectedError
from mailactors.model.message import (
    RECIPIENTS_MAX,
    Address,
    Alternative,
    Attachment,
    Envelope,
    Message,
)

NOW = 1_800_000_000.0
RULES = AdmissionRules(
    default_from=Address("default@sender.example"),
    streams={"transactional": StreamRules(3600.0), "otp": StreamRules(600.0)},
    key_window_s=86400.0,
    fingerprint_window_s=60.0,
)
BOB = Address("bob@example.com")
INVITATION = Alternative("text/calendar; method=REQUEST", "BEGIN:VCALENDAR")
RAW = b"From: ann@example.com\r\nMessage-ID: <1@example.com>\r\n\r\nHi\r\n"


def admit(**fields: Any) -> Message:
    return decide_admission(Submission(**{"to": (BOB,), "text": "Hi", **fields}), RULES, "id1", NOW)


def faults(**fields: Any) -> tuple[Fault, ...]:
    with pytest.raises(SubmissionRejectedError) as caught:
        admit(**fields)
    return caught.value.faults


def pointers(**fields: Any) -> list[str]:
    return [fault.pointer for fault in faults(**fields)]


def many(count: int) -> tuple[Address, ...]:
    return tuple(Address(f"r{n}@example.com") for n in range(count))


def test_omitted_fields_come_from_the_configuration() -> None:
    message = admit(subject="Hello", text="Hi")

    assert message.envelope.sender == "default@sender.example"
    assert message.content.sender == RULES.default_from
    assert message.message_id == "id1@sender.example"
    assert message.stream == "transactional"
    assert (message.accepted_at, message.not_before, message.date_s) == (NOW, NOW, NOW)
    assert message.expires_at == NOW + 3600


def test_given_fields_are_kept() -> None:
    file = Attachment("a.txt", b"a", "text/plain")
    message = admit(
        sender=Address("ann@sender.example", "Ann"),
        cc=(Address("carl@example.com"),),
        reply_to=(Address("re@sender.example"),),
        subject="Hello",
        text="Hi",
        html="<p>Hi</p>",
        headers=(("X-Order", "17"),),
        attachments=(file,),
        tags=("a",),
        metadata={"order": "17"},
    )

    assert message.content.sender == Address("ann@sender.example", "Ann")
    assert message.content.cc == (Address("carl@example.com"),)
    assert message.content.reply_to == (Address("re@sender.example"),)
    assert (message.content.text, message.content.html) == ("Hi", "<p>Hi</p>")
    assert (message.content.headers, message.content.attachments) == ((("X-Order", "17"),), (file,))
    assert (message.content.tags, message.content.metadata) == (("a",), {"order": "17"})


def test_all_faults_are_reported_at_once_with_their_pointers() -> None:
    found = pointers(
        sender=Address("nobody"),
        to=(BOB, Address("b@"), Address("@c")),
        cc=(Address("d d@example.com"),),
        bcc=(Address("e@.example"),),
        reply_to=(Address(""),),
        headers=(("X-Good", "1"), ("Sender", "x@example.com")),
        stream="none",
        expires_in_s=0,
        send_at=NOW + SEND_AT_AHEAD_MAX_S + 1,
        tags=("good", "b\nad"),
        metadata={"a/b~c": "\x00"},
        key="k\r",
        client_id="x" * (SHORT_TEXT_MAX + 1),
    )

    assert sorted(found) == sorted(
        [
            *("/from", "/to/1", "/to/2", "/cc/0", "/bcc/0", "/reply_to/0", "/headers/1/name"),
            *("/stream", "/expires_in_s", "/send_at", "/tags/1", "/metadata/a~1b~0c"),
            *("/idempotency_key", "/id"),
        ]
    )


def test_the_error_says_all_faults_in_one_line() -> None:
    with pytest.raises(SubmissionRejectedError) as caught:
        admit(stream="none", expires_in_s=-1)

    assert str(caught.value) == (
        "/stream: there is no stream 'none'; there are transactional, otp; "
        "/expires_in_s: must be more than 0"
    )


def test_a_message_without_recipients_is_refused() -> None:
    assert faults(to=()) == (Fault("/to", "there is no recipient"),)


def test_a_message_that_says_nothing_is_refused() -> None:
    detail = "there is neither text nor html nor another form of the message"

    assert faults(text=None) == (Fault("/text", detail),)
    assert faults(text=None, subject="Hi", attachments=(Attachment("a", b""),)) == (
        Fault("/text", detail),
    )


@pytest.mark.parametrize(
    "fields",
    [{"text": ""}, {"html": ""}, {"html": "x"}, {"alternatives": (INVITATION,)}, {"raw": RAW}],
)
def test_one_form_of_a_message_is_enough(fields: dict[str, Any]) -> None:
    admit(**{"text": None, **fields})


def test_a_raw_message_is_known_by_its_own_message_id() -> None:
    assert admit(text=None, raw=RAW).message_id == "1@example.com"


@pytest.mark.parametrize("field", [b"", b"Message-ID: 1@example.com\r\n"])
def test_a_raw_message_gets_no_message_id_that_it_does_not_have(field: bytes) -> None:
    raw = b"From: ann@example.com\r\n" + field + b"\r\nMessage-ID: <1@example.com>\r\n"

    message = admit(text=None, raw=raw)

    assert message.message_id == ""
    assert message.content.raw == raw


def test_alternatives_are_kept() -> None:
    assert admit(alternatives=(INVITATION,)).content.alternatives == (INVITATION,)


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_one_recipient_in_any_field_is_enough(field: str) -> None:
    message = admit(**{"to": (), field: (BOB,)})

    assert message.envelope.recipients == ("bob@example.com",)


LIMITS: list[tuple[str, Any, Any]] = [
    ("/to", {"to": many(RECIPIENTS_MAX)}, {"to": many(RECIPIENTS_MAX + 1)}),
    (
        "/to",
        {"to": many(RECIPIENTS_MAX - 2), "cc": (BOB,), "bcc": (BOB,)},
        {"to": many(RECIPIENTS_MAX - 1), "cc": (BOB,), "bcc": (BOB,)},
    ),
    (
        "/attachments",
        {"attachments": (Attachment("a", b""),) * ATTACHMENTS_MAX},
        {"attachments": (Attachment("a", b""),) * (ATTACHMENTS_MAX + 1)},
    ),
    (
        "/headers",
        {"headers": (("X-A", "1"),) * HEADERS_MAX},
        {"headers": (("X-A", "1"),) * (HEADERS_MAX + 1)},
    ),
    (
        "/alternatives",
        {"alternatives": (INVITATION,) * ALTERNATIVES_MAX},
        {"alternatives": (INVITATION,) * (ALTERNATIVES_MAX + 1)},
    ),
    ("/tags", {"tags": ("t",) * TAGS_MAX}, {"tags": ("t",) * (TAGS_MAX + 1)}),
    (
        "/metadata",
        {"metadata": {str(n): "" for n in range(METADATA_MAX)}},
        {"metadata": {str(n): "" for n in range(METADATA_MAX + 1)}},
    ),
    (
        "/subject",
        {"subject": "s" * SUBJECT_CHARACTERS_MAX},
        {"subject": "s" * (SUBJECT_CHARACTERS_MAX + 1)},
    ),
    ("/tags/0", {"tags": ("t" * SHORT_TEXT_MAX,)}, {"tags": ("t" * (SHORT_TEXT_MAX + 1),)}),
    (
        "/metadata/k",
        {"metadata": {"k": "v" * (SHORT_TEXT_MAX - 1)}},
        {"metadata": {"k": "v" * SHORT_TEXT_MAX}},
    ),
    ("/id", {"client_id": "i" * SHORT_TEXT_MAX}, {"client_id": "i" * (SHORT_TEXT_MAX + 1)}),
    ("/idempotency_key", {"key": "k" * SHORT_TEXT_MAX}, {"key": "k" * (SHORT_TEXT_MAX + 1)}),
    (
        "/send_at",
        {"send_at": NOW + SEND_AT_AHEAD_MAX_S},
        {"send_at": NOW + SEND_AT_AHEAD_MAX_S + 0.001},
    ),
]


@pytest.mark.parametrize(
    ("pointer", "most", "too_much"), LIMITS, ids=[f"{n}{case[0]}" for n, case in enumerate(LIMITS)]
)
def test_a_limit_lets_the_most_pass_and_no_more(pointer: str, most: Any, too_much: Any) -> None:
    admit(**most)

    assert pointers(**too_much) == [pointer]


@pytest.mark.parametrize("size", [MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1])
def test_text_html_and_attachments_share_one_limit_in_bytes(size: int) -> None:
    fields: dict[str, Any] = {
        "text": "é",
        "html": "<p>",
        "alternatives": (Alternative("text/markdown", "é"),),
        "attachments": (Attachment("a", bytes(size - 7)),),
    }

    if size <= MESSAGE_BYTES_MAX:
        admit(**fields)
    else:
        (fault,) = faults(**fields)
        assert fault.pointer == ""
        assert str(size) in fault.detail


def test_too_many_headers_are_not_looked_into() -> None:
    assert pointers(headers=(("Bcc", "x"),) * (HEADERS_MAX + 9)) == [
        "/headers",
        *(f"/headers/{n}/name" for n in range(HEADERS_MAX)),
    ]


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    "name", [*HEADERS_ALLOWED, "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "X-Order-2"]
)
def test_an_allowed_header_passes_in_any_case(name: str, change: Any) -> None:
    message = admit(headers=((change(name), "value"),))

    assert message.content.headers == ((change(name), "value"),)


@pytest.mark.parametrize("change", [str.lower, str.upper, str])
@pytest.mark.parametrize(
    "name",
    [
        *(
            "X-SMTPAPI",
            "X-MSYS-API",
            "X-Mailgun-Tag",
            "X-MC-Tags",
            "X-PM-Tag",
            "X-SES-Message-Tags",
        ),
        *("X-MT-Category", "X-MailerSend-Tags", "X-Postal-Tag", "X-APIHEADER", "X-MJ-CustomID"),
        *("X-Sib-Sandbox", "X-Mailin-Tag", "X-Mailactors-Id"),
    ],
)
def test_a_command_to_a_provider_is_refused(name: str, change: Any) -> None:
    (fault,) = faults(headers=(("X-Good", "1"), (change(name), "value")))

    assert fault.pointer == "/headers/1/name"
    assert "command" in fault.detail


@pytest.mark.parametrize(
    "name",
    [
        *("From", "To", "Bcc", "Sender", "Subject", "Date", "Message-ID", "Reply-To", "Received"),
        *("DKIM-Signature", "Content-Type", "Resent-To", "Return-Path", "MIME-Version"),
        *("Disposition-Notification-To", "Return-Receipt-To", "Errors-To", "Approved"),
        *("X", "X-", "X-A:", "X-A\r\nBcc", "X-A\n", "X-Ä", " X-A", "X_A", "", "List", "List-"),
    ],
)
def test_any_other_header_is_refused_and_the_allowed_ones_are_named(name: str) -> None:
    (fault,) = faults(headers=((name, "value"),))

    assert fault.pointer == "/headers/0/name"
    assert "References, In-Reply-To, " in fault.detail
    assert fault.detail.endswith("List-* and X-*")


@pytest.mark.parametrize(
    "name", [*(set(HEADERS_ALLOWED) - {"Comments", "Keywords"}), "List-Id", "List-Unsubscribe"]
)
def test_a_header_that_a_message_has_once_is_given_once_in_any_case(name: str) -> None:
    headers = ((name, "a"), ("X-A", "b"), (name.swapcase(), "c"))

    if name in ("Precedence", "Feedback-ID"):
        admit(headers=headers)
    else:
        assert pointers(headers=headers) == ["/headers/2/name"]


@pytest.mark.parametrize("name", ["Comments", "Keywords", "X-A"])
def test_a_header_that_a_message_may_have_often_is_taken_twice(name: str) -> None:
    admit(headers=((name, "a"), (name.lower(), "b")))


LARGE = 7_000_000


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"headers": (("X-A", "é" * LARGE),)}, "/headers/0/value"),
        ({"headers": (("References", "<a@b> " * (LARGE // 6)),)}, "/headers/0/value"),
        ({"headers": (("List-Id", '"' * LARGE),)}, "/headers/0/value"),
        ({"headers": (("X-" + "a" * LARGE, "b"),)}, "/headers/0/name"),
        ({"subject": "é" * LARGE}, "/subject"),
        ({"sender": Address("a@example.com", "é" * LARGE)}, "/sender/name"),
        ({"to": (Address("a@example.com", '"' * LARGE),)}, "/to/0/name"),
        ({"cc": (Address("a" * LARGE + "@example.com"),)}, "/cc/0"),
        ({"attachments": (Attachment("a" * LARGE, b""),)}, "/attachments/0/filename"),
        ({"attachments": (Attachment("a", b"", "a/b" + ";c=d" * (LARGE // 4)),)}, None),
        (
            {"attachments": (Attachment("a", b"", "a/b", "c" * LARGE),)},
            "/attachments/0/content_id",
        ),
        ({"alternatives": (Alternative("a/" + "b" * LARGE, "x"),)}, None),
        ({"text": None, "raw": b"From: a@b\r\n" + b"X: y\r\n" * (LARGE // 6)}, "/raw"),
        ({"text": None, "raw": b"From: a@b\r\nX: y\r\n" + b" z\r\n" * (LARGE // 4)}, "/raw"),
        ({"headers": tuple((f"X-{n}", " v" * 15_000) for n in range(50))}, "/headers"),
        ({"stream": "s" * LARGE}, "/stream"),
        ({"metadata": {"k" * LARGE: ""}}, "/metadata"),
    ],
)
def test_what_is_large_in_a_header_is_refused_and_not_repeated(
    fields: dict[str, Any], pointer: str | None
) -> None:
    (fault,) = faults(**fields)

    assert pointer in (None, fault.pointer)
    assert len(fault.detail) < 500


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"headers": (("X-A", "a\r\nBcc: x@example.com"),)}, "/headers/0/value"),
        ({"subject": "a\nb"}, "/subject"),
        ({"subject": "=?utf-8?q?a=0D=0ABcc:_b?="}, "/subject"),
        ({"text": "\ud800"}, "/text"),
        ({"html": "\ud800"}, "/html"),
        ({"to": (Address("a@example.com", "A\r\nB"),)}, "/to/0/name"),
        ({"attachments": (Attachment("a\nb", b""),)}, "/attachments/0/filename"),
        (
            {"attachments": (Attachment("a", b"", "multipart/mixed"),)},
            "/attachments/0/content_type",
        ),
        ({"headers": (("List-Id", "Bücher"),)}, "/headers/0/value"),
        ({"headers": (("X-A", "1"), ("References", "=?utf-8?q?x?="))}, "/headers/1/value"),
        ({"alternatives": (Alternative("text/html", "x"),)}, "/alternatives/0/content_type"),
        ({"alternatives": (INVITATION, Alternative("x/y", "\ud800"))}, "/alternatives/1/content"),
        ({"raw": b"a\nb"}, "/raw"),
        ({"raw": b"Bcc: x@example.com\r\n\r\n"}, "/raw"),
    ],
)
def test_what_cannot_be_rendered_is_refused(fields: dict[str, Any], pointer: str) -> None:
    assert pointers(**fields) == [pointer]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Bob@EXAMPLE.com", "Bob@example.com"),
        ("bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("bob@BÜCHER.example", "bob@xn--bcher-kva.example"),
        ("bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example"),
        ("jose\u0301@example.com", "josé@example.com"),
        ("bob+tag@example.com", "bob+tag@example.com"),
    ],
)
def test_an_address_is_normalized(given: str, expected: str) -> None:
    assert normal_address(given) == expected
    assert admit(to=(Address(given),)).envelope.recipients == (expected,)


@pytest.mark.parametrize(
    "address",
    [
        *("", "bob", "bob@", "@example.com", "bob@example", "a b@example.com", "bob@[127.0.0.1]"),
        *('"bob"@example.com', "bob@example.com\n", "bob@exa mple.com", "bob@-x.example"),
        *("bob@example.com, ann@example.com", "<bob@example.com>", "bob@@example.com"),
        *(
            "=?utf-8?q?bob?=@example.com",
            "bob@" + "x" * 600,
            "bob\x00@example.com",
            "\ud800@example.com",
        ),
        "bob@xn--a.example",
    ],
)
def test_what_is_no_address_is_refused_at_its_place(address: str) -> None:
    assert pointers(bcc=(BOB, Address(address))) == ["/bcc/1"]


SPECIAL = [
    ("bob@shop.test", "bob@shop.test"),
    ("Bob@TEST", "Bob@test"),
    ("bob@printer.local", "bob@printer.local"),
    ("bob@localhost", "bob@localhost"),
    ("jose\u0301@a.b.LOCALHOST", "josé@a.b.localhost"),
]


@pytest.mark.parametrize(("given", "expected"), SPECIAL)
def test_addresses_to_try_things_out_are_taken_where_nothing_is_sent(
    given: str, expected: str
) -> None:
    rules = msgspec.structs.replace(RULES, all_simulated=True)
    submission = Submission(to=(Address(given),), sender=Address(given), text="Hi")

    message = decide_admission(submission, rules, "id1", NOW)

    assert message.envelope == Envelope(expected, (expected,))


@pytest.mark.parametrize("given", [given for given, _ in SPECIAL])
def test_addresses_to_try_things_out_are_refused_where_mail_is_sent(given: str) -> None:
    assert pointers(to=(Address(given),)) == ["/to/0"]


@pytest.mark.parametrize(
    "address",
    [
        *("bob@example", "bob@x.invalid", "bob@x.onion", "bob@mytest", "bob@notlocal", "bob@"),
        *("@localhost", "bob@localhost\n", "a b@localhost", "bob@-x.test", "bob@x..test"),
        *('"b"@localhost', "bob@localhost.", "b,c@localhost"),
    ],
)
def test_what_is_no_address_is_none_where_nothing_is_sent(address: str) -> None:
    rules = msgspec.structs.replace(RULES, all_simulated=True)

    with pytest.raises(SubmissionRejectedError):
        decide_admission(Submission(to=(Address(address),), text="Hi"), rules, "id1", NOW)


def test_a_recipient_named_twice_is_one_delivery() -> None:
    message = admit(
        to=(BOB, Address("bob@EXAMPLE.com", "Bob"), Address("ann@example.com")),
        cc=(BOB,),
        bcc=(Address("ann@bücher.example"), Address("ann@xn--bcher-kva.example")),
    )

    assert message.envelope.recipients == (
        "bob@example.com",
        "ann@example.com",
        "ann@xn--bcher-kva.example",
    )
    assert len(message.content.to) == 3


def test_bcc_is_in_the_envelope_only() -> None:
    message = admit(bcc=(Address("secret@example.com"),))

    assert "secret@example.com" in message.envelope.recipients
    assert "secret" not in str(message.content)


@pytest.mark.parametrize(
    ("send_at", "expected"), [(None, NOW), (NOW - 3600, NOW), (NOW + 3600, NOW + 3600)]
)
def test_a_message_is_not_sent_before_its_time(send_at: float | None, expected: float) -> None:
    message = admit(send_at=send_at)

    assert (message.not_before, message.date_s) == (expected, expected)
    assert message.expires_at == expected + 3600


@pytest.mark.parametrize(
    ("stream", "expires_in_s", "expected"),
    [("", None, 3600), ("otp", None, 600), ("otp", 60, 60), ("otp", 6000, 600), ("", 0.5, 0.5)],
)
def test_the_smaller_lifetime_wins(
    stream: str, expires_in_s: float | None, expected: float
) -> None:
    message = admit(stream=stream, expires_in_s=expires_in_s)

    assert message.expires_at - NOW == expected


def test_the_fingerprint_is_of_the_content_and_not_of_the_client() -> None:
    plain = Submission(to=(BOB,), subject="Hello", metadata={"a": "1", "b": "2"})
    same = Submission(
        to=(BOB,), subject="Hello", metadata={"b": "2", "a": "1"}, scope="s", key="k", client_id="c"
    )

    assert submission_fingerprint(plain) == submission_fingerprint(same)


@pytest.mark.parametrize(
    "change",
    [
        *({"subject": "Other"}, {"text": ""}, {"html": ""}, {"to": (BOB, BOB)}, {"cc": (BOB,)}),
        *({"bcc": (BOB,)}, {"reply_to": (BOB,)}, {"sender": BOB}, {"stream": "otp"}, {"raw": b""}),
        *({"tags": ("a",)}, {"metadata": {"a": "1"}}, {"headers": (("X-A", "1"),)}),
        *({"send_at": NOW}, {"expires_in_s": 1.0}, {"attachments": (Attachment("a", b""),)}),
        {"alternatives": (INVITATION,)},
    ],
)
def test_any_other_content_has_another_fingerprint(change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"to": (BOB,), "subject": "Hello"}

    before = submission_fingerprint(Submission(**plain))
    after = submission_fingerprint(Submission(**{**plain, **change}))

    assert before != after


LETTER = Submission(
    sender=Address("ann@example.com", "Änn"),
    to=(BOB,),
    cc=(Address("carl@example.com", "Carl"),),
    subject="Hello",
    text="Hi",
    headers=(("X-A", "1"),),
    attachments=(Attachment("a.txt", b"\x00\xff"),),
    send_at=NOW,
    tags=("t",),
    metadata={"b": "2", "a": "1"},
    scope="s",
    key="k",
    client_id="c",
)


def test_fingerprints_are_what_they_were_when_keys_were_stored_by_them() -> None:
    now = "c161d8af680f7e652adc7cb6c3644fe985300259a22458f62bc66bd0a288ed93"
    before = "182ed235013f29ea8b4f5d38266b4c991cd92d8c93beeb88af81804528d10610"

    assert now == submission_fingerprint(LETTER)
    assert before == fingerprint_before(LETTER)


class LaterSubmission(Submission, frozen=True, kw_only=True):
    """What a later version may add."""

    unsubscribe: str = ""


def test_a_field_that_comes_later_turns_no_replay_into_a_conflict() -> None:
    fields = msgspec.structs.asdict(LETTER)

    same, other = LaterSubmission(**fields), LaterSubmission(**fields, unsubscribe="https://x")

    assert submission_fingerprint(LETTER) == submission_fingerprint(same)
    assert submission_fingerprint(LETTER) != submission_fingerprint(other)
    assert fingerprint_before(LETTER) == fingerprint_before(same)


def test_a_default_that_is_written_out_is_no_other_content() -> None:
    implicit, explicit = Attachment("a", b""), Attachment("a", b"", "application/" + "octet-stream")

    one = Submission(to=(BOB,), attachments=(implicit,))
    other = Submission(to=(Address("bob@example.com", ""),), attachments=(explicit,), metadata={})

    assert submission_fingerprint(one) == submission_fingerprint(other)


# The work that a submission may cost


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that the validator is asked for, which is what costs time."""
    asked: list[str] = []
    validate = email_validator.validate_email

    def count(address: str, **options: Any) -> email_validator.ValidatedEmail:
        asked.append(address)
        return validate(address, **options)

    monkeypatch.setattr(email_validator, "validate_email", count)
    return asked


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"to": tuple(Address(f"bad {n}") for n in range(100))}, ["/to"]),
        ({"bcc": tuple(Address(f"bad {n}") for n in range(100))}, ["/to"]),
        ({"reply_to": tuple(Address(f"bad {n}") for n in range(51))}, ["/reply_to"]),
    ],
)
def test_addresses_that_are_too_many_are_not_looked_at(
    checked: list[str], fields: dict[str, Any], expected: list[str]
) -> None:
    assert expected == pointers(**fields)
    assert [] == checked


@pytest.mark.parametrize("domain", ["\u00fc." * 60 + "x", "\u00fc" * 300, "a." * 130 + "x"])
def test_a_domain_that_cannot_fit_is_not_converted(checked: list[str], domain: str) -> None:
    assert [Fault("/to/0", "the domain is too long")] == list(faults(to=(Address(f"b@{domain}"),)))
    assert [] == [each for each in checked if domain in each]


@pytest.mark.parametrize(
    "domain", ["b\u00fccher.example", "\u00fc." * 30 + "de", "a." * 120 + "de"]
)
def test_the_longest_domains_pass(domain: str) -> None:
    assert 253 >= len(admit(to=(Address(f"b@{domain}"),)).envelope.recipients[0].split("@")[1])
