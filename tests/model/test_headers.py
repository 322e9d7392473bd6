"""The guard at the door of a header, and the lines that text becomes."""

from __future__ import annotations

import contextlib
import email.header
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.errors import MailactorsError
from mailactors.model.encoded import ENCODED_WORD
from mailactors.model.headers import (
    FILENAME_OCTETS_MAX,
    HEADER_VALUE_OCTETS_MAX,
    LINE_OCTETS_MAX,
    NAME_CHARACTERS_MAX,
    UnrenderableError,
    check_header,
    check_hidden,
    disposition_line,
    fold,
    header_line,
    mailbox_line,
    mailboxes_line,
    subject_line,
    wire_address,
)
from mailactors.model.message import Address

PROPERTY = settings(deadline=None, max_examples=150, database=None)
PIECES = [
    "=?",
    "?=",
    "=?utf-8?q?=0D=0A?=",
    "=",
    "_",
    " ",
    "  ",
    "é",
    "漢字",
    "🙂",
    "word",
    "a" * 90,
]
NASTY_TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join)

STRUCTURAL = [
    *("From", "TO", "cc", "Bcc", "bCC", "Sender", "Reply-To", "Subject", "Date", "Message-ID"),
    *("Received", "MIME-Version", "Return-Path", "DKIM-Signature", "ARC-Seal", "Content-Type"),
    *("content-foo", "Resent-Bcc", "X-Mailactors-Id", "x-mailactors-anything"),
]
MALFORMED = [
    *("", "X Y", "X:Y", "X\r\nBcc", "X\nBcc", "X\r", "X\n", "X\0", "__proto__", "__class__"),
    *("Ü", "X\u2028Y", "X_Y", "X" * 77, " X", "X\t", "=?utf-8?q?Bcc?="),
]
FORBIDDEN = [
    *(chr(code) for code in range(0x20) if chr(code) != "\t"),
    *(chr(code) for code in range(0x7F, 0xA0)),
    *("\u2028", "\u2029", "\ud800", "\udfff"),
]


def problem_of(name: str, value: str) -> tuple[str, str]:
    """Return the field and problem with which a header is refused."""
    with pytest.raises(UnrenderableError) as caught:
        check_header(name, value, "/headers/0")
    return caught.value.field, caught.value.problem


def field_refused(address: str) -> str:
    """Return the field with which an address is refused."""
    with pytest.raises(UnrenderableError) as caught:
        wire_address(address, "/to/0/address")
    return caught.value.field


def in_guillemets(word: re.Match[str]) -> str:
    """Return what an encoded word says, as the library reads it."""
    ((data, charset),) = email.header.decode_header(word[0])
    assert isinstance(data, bytes)
    return f"«{data.decode(charset or 'ascii')}»"


@pytest.mark.parametrize("name", STRUCTURAL)
def test_header_that_the_gateway_writes_is_refused(name: str) -> None:
    actual = problem_of(name, "x")

    assert actual == ("/headers/0/name", "names a header that the gateway writes")


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_header_name_is_refused(name: str) -> None:
    actual = problem_of(name, "x")

    assert actual == ("/headers/0/name", "must be 1 to 76 ASCII letters, digits and hyphens")


@pytest.mark.parametrize("character", FORBIDDEN)
def test_control_character_in_a_value_is_refused(character: str) -> None:
    actual = problem_of("X-A", f"before{character}after")

    assert actual == ("/headers/0/value", f"must not contain U+{ord(character):04X}")


@pytest.mark.parametrize("character", FORBIDDEN)
def test_control_character_at_the_end_of_a_value_is_not_taken_for_white_space(
    character: str,
) -> None:
    field, _ = problem_of("X-A", f"value{character}")

    assert field == "/headers/0/value"


@pytest.mark.parametrize(
    "word",
    [
        "=?utf-8?q?a=0D=0ABcc=3A_evil?=",
        "=?UTF-8?Q?a=0d?=",
        "=?utf-8?b?YQ0KQmNjOiBl?=",
        "=?utf-8?B?YQ0KQmNjOiBl YQ?=",
        "=?utf-8?b?YQ0KQmNjOiBlY===?=",
        "=?utf-8*en?q?=00?=",
        "=?utf-7?q?+AA0ACg-?=",
        "=?utf-16be?b?AA0ACg==?=",
        "=?iso-8859-1?q?=85?=",
        "=?utf-8?q?=E2=80=A8?=",
        "=?no-such-charset?q?=0A?=",
        "=?utf-99?q?=0A?=",
        "=?rot13?q?=0A?=",
        "harmless =?utf-8?q?ok?= and =?utf-8?q?=0A?=",
    ],
)
def test_control_character_hidden_in_an_encoded_word_is_refused(word: str) -> None:
    field, problem = problem_of("X-A", word)

    assert field == "/headers/0/value"
    assert re.fullmatch(r"hides U\+[0-9A-F]{4} in an encoded word", problem)


@pytest.mark.parametrize(
    "value",
    ["=?utf-8?q?caf=C3=A9?=", "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "=?", "=??=", "=?x?y?z?="],
)
def test_harmless_encoded_word_passes_as_text(value: str) -> None:
    check_header("X-A", value, "/headers/0")

    decoded = email.header.decode_header(header_line("X-A", value, "/headers/0")[5:])
    assert decoded == [(value.encode(), "utf-8")]


def test_search_for_hidden_controls_takes_linear_time() -> None:
    check_hidden("=?utf-8?q?" * 100_000, "/subject")
    check_hidden("=?" * 500_000, "/subject")


@pytest.mark.parametrize("text", ["x", "é", " ", "=?", "\0"])
@pytest.mark.parametrize("name", ["X-A", "Keywords", "List-Id", "References", "Comments"])
def test_a_value_has_a_limit_that_comes_before_everything_else(name: str, text: str) -> None:
    field, problem = problem_of(name, text * (HEADER_VALUE_OCTETS_MAX + 1))

    assert field == "/headers/0/value"
    assert problem == f"must have at most {HEADER_VALUE_OCTETS_MAX} octets"


def test_the_limit_of_a_value_is_in_octets() -> None:
    half = HEADER_VALUE_OCTETS_MAX // 2

    check_header("X-A", "é" * half, "/headers/0")
    check_header("X-A", " x" * half, "/headers/0")
    assert problem_of("X-A", "é" * half + "x")[0] == "/headers/0/value"


def test_a_subject_of_any_size_that_is_no_mail_is_refused() -> None:
    with pytest.raises(UnrenderableError, match="octets"):
        subject_line("s" * (HEADER_VALUE_OCTETS_MAX + 1))


@pytest.mark.parametrize("text", ["x", "é", '"', "\\", "\0"])
def test_a_display_name_has_a_limit(text: str) -> None:
    with pytest.raises(UnrenderableError) as caught:
        mailbox_line("From", Address("ann@example.com", text * (NAME_CHARACTERS_MAX + 1)), "/from")

    assert (caught.value.field, caught.value.problem) == (
        "/from/name",
        f"must have at most {NAME_CHARACTERS_MAX} characters",
    )


@pytest.mark.parametrize("text", ["x", "é", "\0", "\ud800"])
def test_a_file_name_of_any_size_is_refused_for_its_size(text: str) -> None:
    with pytest.raises(UnrenderableError, match=f"at most {FILENAME_OCTETS_MAX} octets"):
        disposition_line("attachment", text * 7_000_000, "/attachments/0/filename")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("List-Id", "Bücher-Liste <b.example>", "«Bücher-Liste» <b.example>"),
        ("LIST-ID", '"Bücher, neu" <b.example>', "«Bücher, neu» <b.example>"),
        ("List-Id", "Books <b.example>", "Books <b.example>"),
        ("List-Id", "<b.example> (Bücher)", "<b.example> («Bücher»)"),
        ("List-Id", "=?utf-8?q?x?= <b.example>", "«=?utf-8?q?x?=» <b.example>"),
        ("List-Post", "NO (Bücher)", "NO («Bücher»)"),
        ("List-Help", "<x:y> (a (é) b)", "<x:y> (a («é») b)"),
        ("List-Unsubscribe", "<https://x/u?a=?b&c=?utf-8>", "<https://x/u?a=?b&c=?utf-8>"),
        ("References", "<a=?b@x> <=?c@x>", "<a=?b@x> <=?c@x>"),
        ("In-Reply-To", "Your letter <a@x>", "Your letter <a@x>"),
        ("Auto-Submitted", "no (=?x?q?y?=)", "no («=?x?q?y?=»)"),
        ("Keywords", "é, plain,\tb", "«é», plain, b"),
        ("keywords", 'a, "b, é"', "a, «b, é»"),
        ("Organization", "Müller (é)", "«Müller (é)»"),
        ("Comments", "é", "«é»"),
        ("X-Unsubscribe", "<é>", "«<é>»"),
    ],
)
def test_encoded_words_are_where_the_grammar_has_room_for_them(
    name: str, value: str, expected: str
) -> None:
    check_header(name, value, "/headers/0")

    line = header_line(name, value, "/headers/0").replace("\r\n", "")
    assert ENCODED_WORD.sub(in_guillemets, line) == f"{name}: {expected}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("List-Id", "Bücher"), ("List-Id", "Books <bücher.example>")),
        ("List-Id", "Bücher <b.example> é"),
        *(("List-Unsubscribe", "<https://x/ü>"), ("List-Unsubscribe", "<https://x/(ü)>")),
        ("List-Unsubscribe", "<https://x/?q==?utf-8?q?x?=>"),
        ("List-Unsubscribe", '"(é)" <https://x/>'),
        ("List-Unsubscribe", "(\\(é) <https://x/>"),
        *(("List-Post", "<mailto:é@x>"), ("List-Archived-At", "é"), ("List-Help", "(é")),
        *(("References", "<a@x> =?utf-8?q?x?="), ("References", "<=?utf-8?q?x?=@x>")),
        *(("REFERENCES", "<é@x>"), ("In-Reply-To", "<a@é>"), ("in-reply-to", "=?u?b?YQ==?=")),
        *(("Auto-Submitted", "né"), ("Precedence", "é"), ("Importance", "é"), ("Priority", "é")),
        *(("Feedback-ID", "a:é:c:d"), ("List-Unsubscribe-Post", "Liste=é")),
        *(("Keywords", 'a, "é'), ("Keywords", '"a\\"é"')),
    ],
)
def test_what_a_structured_field_cannot_say_is_refused(name: str, value: str) -> None:
    field, problem = problem_of(name, value)

    assert field == "/headers/0/value"
    assert re.match("must (be|not look like) ", problem)


@pytest.mark.parametrize("text", ["<", "(", '"', "<(", '("', "(=?", '"=?', "=?utf-8?q?", ",", "()"])
def test_the_grammar_is_read_in_one_pass(text: str) -> None:
    value = "é" + text * (HEADER_VALUE_OCTETS_MAX // len(text) - 2)

    for name in ("List-Id", "Keywords", "List-Unsubscribe"):
        with contextlib.suppress(UnrenderableError):
            check_header(name, value, "/headers/0")


@PROPERTY
@given(NASTY_TEXT, st.sampled_from(["List-Id", "List-Post", "Keywords", "In-Reply-To"]))
def test_a_structured_field_is_said_exactly_or_refused(text: str, name: str) -> None:
    value = f"{text} <x.example> ({text})" if name == "List-Id" else f"<x@y.example> ({text})"
    try:
        line = header_line(name, value, "/headers/0")
    except UnrenderableError:
        return

    assert line.isascii()
    assert max(map(len, line.split("\r\n"))) <= LINE_OCTETS_MAX
    outside = re.sub(r"\([^()]*\)", "", line.replace("\r\n", ""))
    if name in ("List-Post", "In-Reply-To"):
        assert not ENCODED_WORD.search(outside)


def test_error_is_ours_and_says_where_and_what() -> None:
    error = UnrenderableError("/subject", "must not contain U+000A")

    assert isinstance(error, MailactorsError)
    assert str(error) == "/subject must not contain U+000A"


def test_tab_in_a_value_is_white_space_and_stays() -> None:
    line = header_line("X-A", "\ta\tb \t", "/headers/0")

    assert line == "X-A: a\tb"


@pytest.mark.parametrize("value", ["", " ", "\t \t" * 500])
def test_empty_value_is_empty_under_the_longest_name_too(value: str) -> None:
    line = header_line("X" * 76, value, "/headers/0")

    assert line == "X" * 76 + ": "


def test_long_header_stays_intact_and_is_folded_only_at_its_white_space() -> None:
    value = f"<https://example.com/{'u' * 300}>,\t <mailto:{'m' * 60}@example.com>, <x:y>"

    line = header_line("List-Unsubscribe", value, "/headers/0")

    assert line.replace("\r\n", "") == f"List-Unsubscribe: {value}"
    assert [text[:12] for text in line.split("\r\n")] == ["List-Unsubsc", "\t <mailto:mm", " <x:y>"]


def test_word_that_fills_a_line_goes_below_its_name() -> None:
    line = header_line("References", "r" * 997, "/headers/0")

    assert line == f"References:\r\n {'r' * 997}"


@pytest.mark.parametrize("value", ["r" * 998, "r" * 5000, "a" + " " * 998 + "b"])
def test_word_longer_than_a_line_is_refused(value: str) -> None:
    field, problem = problem_of("References", value)

    assert field == "/headers/0/value"
    assert problem.endswith("octets; the most is 998")


def test_word_longer_than_a_line_is_encoded_in_a_subject() -> None:
    line = subject_line("s" * 5000)

    assert email.header.decode_header(line[9:]) == [(b"s" * 5000, "utf-8")]


@PROPERTY
@given(st.text(alphabet="ab \t", max_size=400).map(lambda text: text.strip(" \t")))
def test_unfolding_gives_the_value_back(value: str) -> None:
    line = fold("X-Fold", value, "/headers/0")

    assert line.replace("\r\n", "") == f"X-Fold: {value}"
    assert all(text.strip(" \t") for text in line.split("\r\n"))


@PROPERTY
@given(NASTY_TEXT, st.from_regex(r"\AX-[A-Za-z0-9-]{1,74}\Z"))
def test_line_with_an_encoded_word_has_at_most_76_characters(text: str, name: str) -> None:
    lines = header_line(name, f"é{text}", "/headers/0").split("\r\n")

    assert max(map(len, lines)) <= max(76, len(name) + 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "From: ann@example.com"),
        ("  ", "From: ann@example.com"),
        ("Ann Example", "From: Ann Example <ann@example.com>"),
        ("Example, Ann", 'From: "Example, Ann" <ann@example.com>'),
        ('A "B" \\ C', 'From: "A \\"B\\" \\\\ C" <ann@example.com>'),
        ("bob@evil.example", 'From: "bob@evil.example" <ann@example.com>'),
        ("Änne Maier", "From: =?utf-8?q?=C3=84nne_Maier?= <ann@example.com>"),
        ("=?utf-8?q?x?=", "From: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <ann@example.com>"),
    ],
)
def test_display_name_is_atoms_or_quoted_or_encoded(name: str, expected: str) -> None:
    actual = mailbox_line("From", Address("ann@example.com", name), "/sender")

    assert actual == expected


@pytest.mark.parametrize("character", [*FORBIDDEN, "\t"])
def test_control_character_in_a_display_name_is_refused(character: str) -> None:
    with pytest.raises(UnrenderableError) as caught:
        mailboxes_line("To", (Address("a@b"), Address("a@b", f"x{character}")), "/to")

    assert caught.value.field == "/to/1/name"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ann@example.com", "ann@example.com"),
        ("a.b+c={x}@localhost", "a.b+c={x}@localhost"),
        ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
        ("ann@xn--bcher-kva.example", "ann@xn--bcher-kva.example"),
        ("änne@bücher.example", "änne@xn--bcher-kva.example"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
    ],
)
def test_domain_of_an_address_becomes_ascii_and_the_rest_stays(address: str, expected: str) -> None:
    actual = wire_address(address, "/to/0/address")

    assert actual == expected


@pytest.mark.parametrize(
    "address",
    [
        *("", "@", "ann", "ann@", "@example.com", "ann@@example.com", "a b@example.com"),
        *("ann@example..com", ".ann@example.com", "a..b@example.com", "ann.@example.com"),
        *("ann@-x.com", "ann@x-.com", "ann@x_y.com", "ann@[127.0.0.1]", "ann@example.com:25"),
        *('"ann"@example.com', "ann@example.com>", "<ann@example.com>", "ann(c)@example.com"),
        *(
            "a,b@example.com",
            "ann@example.com\r\nBcc: x@y",
            "ann@example.com\n",
            "ann\0@example.com",
        ),
        *("änne\r@example.com", "ä\u2028b@example.com", "ä\u3000b@example.com", "ä b@example.com"),
        *("ä@example.com\n", "\ud800@example.com", "ann@ex\u2100mple.com", "ann@\u00ad.com"),
        *("=?utf-8?q?a=0D=0ABcc=3A_evil?=@example.com", "ann@" + "ü" * 80 + ".example"),
        *("a" * 250 + "@example.com", "é" * 125 + "@example.com", "ann@" + "a" * 64 + ".com"),
    ],
)
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    assert field_refused(address) == "/to/0/address"


def test_many_recipients_are_folded_between_words() -> None:
    addresses = tuple(Address(f"person{n}@example.com", "Person, A") for n in range(50))

    line = mailboxes_line("To", addresses, "/to")

    assert line.replace("\r\n", "").count('"Person, A" <person') == 50
    assert max(map(len, line.split("\r\n"))) <= 76


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("", "Content-Disposition: inline"),
        ("a b.txt", 'Content-Disposition: inline; filename="a b.txt"'),
        ('a"b.txt', "Content-Disposition: inline; filename*=utf-8''a%22b.txt"),
        ("rä.txt", "Content-Disposition: inline; filename*=utf-8''r%C3%A4.txt"),
        ("=?x", "Content-Disposition: inline; filename*=utf-8''%3D%3Fx"),
        ("a " * 60, f'Content-Disposition: inline;\r\n filename="{"a " * 60}"'),
    ],
)
def test_filename_is_quoted_or_percent_encoded(filename: str, expected: str) -> None:
    actual = disposition_line("inline", filename, "/attachments/0/filename")

    assert actual == expected


@pytest.mark.parametrize("filename", [*FORBIDDEN, "\t", "x" * 256, "é" * 128])
def test_filename_with_a_control_character_or_too_long_is_refused(filename: str) -> None:
    with pytest.raises(UnrenderableError) as caught:
        disposition_line("attachment", filename, "/attachments/0/filename")

    assert caught.value.field == "/attachments/0/filename"


def test_longest_filename_fits_a_line() -> None:
    line = disposition_line("attachment", "é" * 127, "/attachments/0/filename")

    assert max(map(len, line.split("\r\n"))) <= LINE_OCTETS_MAX
