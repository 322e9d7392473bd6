"""Whole messages that clients bring: what is passed on, what is refused, and at which line."""

from __future__ import annotations

import email
import email.header

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.model.headers import HEADER_BLOCK_OCTETS_MAX, LINE_OCTETS_MAX, UnrenderableError
from mailactors.model.raw import (
    check_raw,
    header_section,
    mend_file,
    message_id_of,
    overlong_line,
)

PROPERTY = settings(deadline=None, max_examples=200, database=None)
FROM = b"From: ann@example.com\r\n"
LETTER = FROM + b"To: bob@example.com\r\nSubject: Hello\r\n\r\nHi\r\n"


def problem_of(raw: bytes) -> str:
    """Return why a message is refused."""
    with pytest.raises(UnrenderableError) as caught:
        check_raw(raw)
    assert caught.value.field == "/raw"
    return caught.value.problem


@pytest.mark.parametrize(
    "raw",
    [
        LETTER,
        FROM,
        FROM + b"\r\n",
        FROM + b"Subject: a\r\n\tb\r\n  c\r\nX:\r\n\r\n",
        FROM + "Subject: Grüße\r\nTo: jürgen@example.com\r\n\r\nx\r\n".encode(),
        FROM + b"\r\n\x1b$B and \xff in a body\r\n\r\nFrom mbox\r\nBcc: eve@example.com\r\n",
        b"Received: a\r\nReceived: b\r\nDKIM-Signature: a\r\nDKIM-Signature: b\r\n" + FROM,
        FROM + b"Comments: a\r\nComments: b\r\nKeywords: a\r\nKeywords: b\r\nX-A: 1\r\nX-A: 2\r\n",
        FROM + b"Resent-From: a@x\r\nResent-To: b@x\r\nResent-From: c@x\r\nSender: d@x\r\n\r\n",
        FROM + b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= =?iso-2022-jp?b?GyRCRnxLXBsoQg==?=\r\n\r\n",
        FROM + b"Subject: =?x-mac-unknown?q?=85?=\r\n\r\n",
        FROM + b"X-Mailer: Me\r\nX-Priority: 1 (Highest)\r\nX-SESsion: 1\r\nX-PMS: 1\r\n\r\n",
        FROM + b"\r\n" + b"x" * LINE_OCTETS_MAX + b"\r\n",
    ],
)
def test_a_message_that_is_in_order_passes(raw: bytes) -> None:
    check_raw(raw)


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (b"From ann@example.com Fri Nov  9 01:08:47 2001\r\n" + LETTER, 1, "mbox"),
        (b">From ann@example.com Fri Nov  9 01:08:47 2001\r\n" + LETTER, 1, "mbox"),
        (FROM + b"From ann@example.com Fri Nov  9\r\n\r\n", 2, "mbox"),
        (b"\xef\xbb\xbf" + LETTER, 1, "byte order mark"),
        (b"\r\n" + LETTER, 1, "neither a header"),
        (b"Hello Bob\r\n\r\nhow are you?\r\n", 1, "neither a header"),
        (b" folded\r\n" + LETTER, 1, "neither a header"),
        (FROM + b": x\r\n\r\n", 2, "neither a header"),
        (FROM + b" \t\r\nBcc: eve@example.com\r\n\r\n", 2, "neither a header"),
        (FROM + b"Subject: x\r\n \r\n\r\n", 3, "neither a header"),
        (FROM + b"Hi\r\n\r\n", 2, "neither a header"),
        (FROM + b"Bcc\r\n : eve@example.com\r\n\r\n", 2, "neither a header"),
        (FROM + b"Subject: Gr\xfc\xdfe\r\n\r\n", 2, "UTF-8"),
        (FROM + b"X: a\r\n \xc3\r\n\r\n", 3, "UTF-8"),
        (FROM + b"X: \xed\xa0\x80\r\n\r\n", 2, "UTF-8"),
        (FROM + b"Bcc: eve@example.com\r\n\r\n", 2, "Bcc"),
        (FROM + b"bCC:\r\n\r\n", 2, "bCC"),
        (FROM + b"X: y\r\n z\r\nResent-Bcc: eve@example.com\r\n\r\n", 4, "Resent-Bcc"),
        (FROM + b"Bcc : eve@example.com\r\n\r\n", 2, "white space"),
        (FROM + b"Bcc \t : eve@example.com\r\n\r\n", 2, "white space"),
        (FROM + "Bcc\u00a0: eve@example.com\r\n\r\n".encode(), 2, "white space"),
        (FROM + b"Bcc\x0b: eve@example.com\r\n\r\n", 2, "U+000B"),
        (FROM + b"Bcc\x0c: eve@example.com\r\n\r\n", 2, "U+000C"),
        (FROM + b"\x0bBcc: eve@example.com\r\n\r\n", 2, "U+000B"),
        (FROM + b"Subject : x\r\n\r\n", 2, "white space"),
        (FROM + b"Subject: \x1b]0;owned\x07\r\n\r\n", 2, "U+001B"),
        (FROM + b"Subject: a\r\n b\x7f\r\n\r\n", 3, "U+007F"),
        (FROM + "Subject: \u0085\r\n\r\n".encode(), 2, "U+0085"),
        (FROM + "Subject: \u2028\r\n\r\n".encode(), 2, "U+2028"),
        (FROM + b"Subject: =?utf-8?q?a=0D=0ABcc:_e?=\r\n\r\n", 2, "encoded word of Subject"),
        (FROM + b"X: y\r\nSubject:\r\n =?utf-8?b?AA==?=\r\n\r\n", 3, "encoded word of Subject"),
        (FROM + FROM + b"\r\n", 2, "second From, after line 1"),
        (FROM + b"To: a\r\nX: y\r\ntO: b\r\n\r\n", 4, "second tO, after line 2"),
        (FROM + b"Message-ID: <a@x>\r\nMessage-Id: <b@x>\r\n\r\n", 3, "second Message-Id"),
        (b"from:  \r\n\r\n", 1, "names nobody"),
        (FROM + b"\r\nHi\r\n\r\nHi\0\r\n", 5, "NUL"),
        (FROM + b"\r\na\rb\r\n", 3, "CR or LF alone"),
        (FROM + b"\r\na\r\n.\nb\r\n", 4, "CR or LF alone"),
        (FROM + b"\r\nx\r\n" + b"x" * (LINE_OCTETS_MAX + 1) + b"\r\n", 4, "longer than 998"),
    ],
)
def test_what_is_no_message_or_may_not_be_sent_is_refused_at_its_line(
    raw: bytes, line: int, words: str
) -> None:
    problem = problem_of(raw)

    assert problem.startswith(f"line {line} ")
    assert words in problem


SINGLE = [
    *("Date", "From", "Sender", "Reply-To", "To", "Cc", "Message-ID", "In-Reply-To", "References"),
    *("Subject", "MIME-Version", "Content-Type", "Content-Transfer-Encoding", "List-Id"),
    *("List-Unsubscribe", "List-Unsubscribe-Post", "Auto-Submitted"),
]


@pytest.mark.parametrize("name", SINGLE)
def test_a_field_that_a_message_has_once_is_there_once_in_any_case(name: str) -> None:
    first, second = f"{name}: a@x\r\n", f"{name.swapcase()}: b@x\r\n"

    problem = problem_of(f"X: y\r\n{first}{second}\r\n".encode())

    assert problem == f"line 3 is a second {name.swapcase()}, after line 2"


COMMANDS = [
    *("X-SES-CONFIGURATION-SET", "X-SES-MESSAGE-TAGS", "X-SMTPAPI", "X-MSYS-API", "X-PM-Tag"),
    *("X-PM-Message-Stream", "X-Mailgun-Variables", "X-Mailgun-Drop-Message", "X-MJ-CustomID"),
    *("X-Mailjet-Campaign", "X-Mailin-custom", "X-Sib-Sandbox", "X-MC-Tags", "X-MT-Category"),
    *("X-MailerSend-Tags", "X-Postal-Tag", "X-ElasticEmail-Settings", "X-Emailit-ID"),
    *("X-APIHEADER", "X-Virtual-MTA", "X-xsMailingId", "Resend-Idempotency-Key"),
    *("X-Mailactors-Id", "X-Mailactors-Stream"),
]


@pytest.mark.parametrize("change", [str, str.lower, str.upper])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_to_a_provider_is_refused(name: str, change: type[str]) -> None:
    problem = problem_of(FROM + f"{change(name)}: value\r\n\r\n".encode())

    assert problem.startswith(f"line 2 is {change(name)}, a command to a provider")


def test_a_long_name_is_not_repeated_to_its_end() -> None:
    assert len(problem_of(FROM + b"X-SES-" + b"x" * 900 + b": y\r\n\r\n")) < 200


@pytest.mark.parametrize("raw", [b"", FROM + b"\r\nHi", FROM[:-2], b"\n"])
def test_the_last_line_is_ended(raw: bytes) -> None:
    problem_of(raw)


@pytest.mark.parametrize("raw", [b"Subject: x\r\n\r\nFrom: a@x\r\n", b"Date: x\r\n"])
def test_a_message_has_an_author(raw: bytes) -> None:
    assert problem_of(raw) == "must have a From header, before an empty line"


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a" * 900 + b": b\r\n", b" folded\r\n"])
def test_the_headers_together_have_a_limit(line: bytes) -> None:
    count = (HEADER_BLOCK_OCTETS_MAX - len(FROM)) // len(line)

    check_raw(FROM + line * count + b"\r\n")

    problem = "must have at most 102400 octets of headers"
    assert problem_of(FROM + line * (count + 1) + b"\r\n") == problem
    assert problem_of(FROM + line * (7_000_000 // len(line)) + b"\r\n") == problem


class CountingBytes(bytes):
    """Octets that count how often they are searched."""

    searches = 0

    def rfind(self, *arguments: object) -> int:
        self.searches += 1
        return super().rfind(*arguments)  # type: ignore[arg-type]  # passed on as given


@pytest.mark.parametrize("line", [b"\r\n", b"x" * 998 + b"\r\n", b"a\r\n" + b"x" * 998 + b"\r\n"])
def test_lines_are_measured_in_steps_of_their_reach(line: bytes) -> None:
    raw = CountingBytes(line * (5_000_000 // len(line)))

    assert overlong_line(raw) is None
    assert raw.searches <= 2 * len(raw) / LINE_OCTETS_MAX


@PROPERTY
@given(st.lists(st.sampled_from([0, 1, 500, 997, 998, 999, 1000, 1001, 2500]), max_size=12))
def test_the_first_line_that_is_too_long_is_found(lengths: list[int]) -> None:
    lines = [b"x" * length for length in lengths]

    found = overlong_line(b"".join(line + b"\r\n" for line in lines))

    too_long = [n for n, line in enumerate(lines) if len(line) > LINE_OCTETS_MAX]
    before = sum(len(line) + 2 for line in lines[: too_long[0]]) if too_long else None
    assert found == before


LINES = st.sampled_from(
    [
        *("From: a@x", "Subject: é", " folded", "\ttab", "Bcc: b@x", "X-A: 1", "x", "", " "),
        *("To: =?utf-8?q?=0A?= <b@x>", "Message-ID: <1@x>", "A:b", "Bcc :c", "From x", "\x1bA: b"),
    ]
)


@PROPERTY
@given(st.lists(LINES, max_size=8))
def test_the_library_reads_the_same_headers_in_what_passes(lines: list[str]) -> None:
    raw = "".join(f"{line}\r\n" for line in lines).encode()
    try:
        check_raw(raw)
    except UnrenderableError:
        return

    message = email.message_from_bytes(raw)
    names = [line.partition(":")[0] for line in lines[: [*lines, ""].index("")]]
    assert message.keys() == [name for name in names if name[:1] not in (" ", "\t")]
    assert not message.defects
    assert message["Bcc"] is None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"", ""),
        (b"Message-ID: <1@x>\r\n", "1@x"),
        (b"MESSAGE-id:\r\n\t<1@x> \r\n", "1@x"),
        (b"Message-ID: 1@x\r\n", ""),
        (b"Message-ID: <1@x> (again)\r\n", ""),
        ("Message-ID: <ü@x>\r\n".encode(), ""),
        (b"X-Message-ID: <1@x>\r\n", ""),
        (b"Subject: x\r\n Message-ID: <1@x>\r\n", ""),
    ],
)
def test_the_message_id_is_the_one_in_the_headers(field: bytes, expected: str) -> None:
    raw = FROM + field + b"\r\nMessage-ID: <body@x>\r\n"

    check_raw(raw)

    assert message_id_of(raw) == expected


def test_the_header_section_ends_at_the_first_empty_line() -> None:
    assert header_section(LETTER + b"\r\n\r\n") == LETTER.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert header_section(FROM) == FROM


MBOX_LINE = b"From ann@example.com Fri Nov  9 01:08:47 2001"


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (LETTER, 0),
        (LETTER.replace(b"\r\n", b"\n"), 0),
        (b"\xef\xbb\xbf" + LETTER, 1),
        (MBOX_LINE + b"\r\n" + LETTER, 1),
        (MBOX_LINE + b"\n" + LETTER.replace(b"\r\n", b"\n"), 1),
        (b"\xef\xbb\xbf" + MBOX_LINE + b"\n" + LETTER.replace(b"\r\n", b"\n"), 2),
    ],
)
def test_a_file_is_mended_and_each_change_is_said(data: bytes, changes: int) -> None:
    mended, said = mend_file(data)

    assert mended == LETTER
    assert len(said) == changes


@pytest.mark.parametrize(
    "data",
    [
        (MBOX_LINE + b"\n" + LETTER.replace(b"\r\n", b"\n") + b"\n") * 2,
        (MBOX_LINE + b"\r\n" + LETTER + b"\r\n") * 2,
        LETTER.decode().encode("utf-16"),
    ],
)
def test_a_file_that_is_not_one_message_is_refused(data: bytes) -> None:
    with pytest.raises(UnrenderableError):
        mend_file(data)


def test_a_line_that_begins_with_from_in_a_letter_of_an_mbox_stays() -> None:
    body = b"\n\nFrom here on it is 2001\nFrom me\n"

    mended, _ = mend_file(MBOX_LINE + b"\nFrom: a@x" + body)

    assert mended == b"From: a@x" + body.replace(b"\n", b"\r\n")
