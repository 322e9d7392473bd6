"""Rendered messages, with the standard library's parser as the judge.

The judge of headers is the compat32 parser with `decode_header`, applied to values unfolded here;
where `policy.default` is sound it judges as well. Every sample goes through `judged`, which also
looks at the bytes themselves.
"""

from __future__ import annotations

import email
import email.header
import email.message
import email.utils
import re
from email import policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.model.headers import HEADER_BLOCK_OCTETS_MAX, UnrenderableError
from mailactors.model.message import Address, Alternative, Attachment, Content, Envelope
from mailactors.model.mime import (
    CONTENT_TYPE_OCTETS_MAX,
    check_content,
    needs_smtputf8,
    render,
)

PROPERTY = settings(deadline=None, max_examples=100, database=None)
ANN = Address("ann@example.com", "Ann")
BOB = Address("bob@example.org")
MARKER = "01JABCDEFGHJKMNPQRSTVWXYZ0"
EVIL_WORD = "=?utf-8?q?a=0D=0ABcc=3A_evil?="

PIECES = [
    *("=?", "?=", EVIL_WORD, "=?utf-8?b?YQ==?=", "=", "_", " ", "  ", ",", ";", ":", "<", ">", '"'),
    *("\\", "é", "漢字", "🙂", "word", "Bcc: x", "@", "(", ")", "'", "%41", "a" * 80, "\u00a0"),
]
ONE_LINE = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60),
).map(lambda text: text.strip(" "))
ATOM = st.text("abcXYZ019!#$%&'*+/^_`{|}~-", min_size=1, max_size=8)
LOCAL_PART = st.lists(ATOM, min_size=1, max_size=3).map(".".join)
DOMAIN = st.sampled_from(["example.com", "a.b-c.example", "localhost", "xn--bcher-kva.example"])
MAILBOX = st.builds("{}@{}".format, LOCAL_PART, DOMAIN)
ADDRESS = st.builds(Address, MAILBOX, ONE_LINE)
ADDRESSES = st.lists(ADDRESS, max_size=4).map(tuple)
HEADER = st.tuples(
    st.sampled_from(["X-A", "Comments", "Organization", "X-" + "n" * 74]),
    st.one_of(ONE_LINE, st.just("\t".join(["tab", "and", "tab"])), st.just("<x@y> " * 90 + "<z>")),
)
TEXT_LINE = st.sampled_from(
    ["", ".", "..", "From x", "=", "=20", "--=_m_", "a \t", "x" * 75 + " ", "x" * 1200, "é", "\0"]
)
BODY = st.one_of(
    st.text(max_size=200),
    st.lists(TEXT_LINE, max_size=12).flatmap(
        lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines))
    ),
)
FILENAME = ONE_LINE.map(lambda name: name.encode()[:200].decode(errors="ignore").strip())
ATTACHMENT = st.builds(
    Attachment,
    filename=FILENAME,
    content=st.binary(max_size=300),
    content_type=st.sampled_from(["image/png", "text/csv; charset=utf-8", "application/x.y+json"]),
    content_id=st.sampled_from(["", "logo", "logo.1@example.com"]),
)


def rendered(content: Content) -> bytes:
    """Return the message, rendered as on two attempts, which must not differ."""
    first = render(content, message_id="id@example.com", date_s=1005268127.9, marker=MARKER)
    assert first == render(content, message_id="id@example.com", date_s=1005268127.9, marker=MARKER)
    return first


def judged(content: Content) -> email.message.Message:
    """Return the message as the parser understands it, after a look at the bytes."""
    wire = rendered(content)
    assert_fit_for_the_wire(wire)
    return email.message_from_bytes(wire, policy=policy.compat32)


def assert_fit_for_the_wire(wire: bytes) -> None:
    """Assert what holds for every message that we write."""
    lines = wire.split(b"\r\n")
    assert lines[-1] == b""
    assert max(map(len, lines)) <= 998
    assert not any(bare in line for line in lines for bare in (b"\r", b"\n", b"\0"))
    assert wire.isascii()
    assert not re.search(rb"^(resent-)?bcc:", wire, re.IGNORECASE | re.MULTILINE)
    assert b"." not in lines
    assert not any(line.isspace() for line in lines)


def fields(message: email.message.Message) -> list[tuple[str, str]]:
    """Return names and unfolded raw values, in order."""
    return [(name, str(value).replace("\r\n", "")) for name, value in message.items()]


def decoded(value: str) -> str:
    """Return what a raw value says once its encoded words are decoded, once."""
    parts = email.header.decode_header(value)
    return "".join(
        part if isinstance(part, str) else part.decode(charset or "ascii")
        for part, charset in parts
    )


def said(mailboxes: str) -> list[tuple[str, str]]:
    """Return the (name, address) pairs of a raw address header."""
    return [(decoded(name), address) for name, address in email.utils.getaddresses([mailboxes])]


def meant(*addresses: Address) -> list[tuple[str, str]]:
    """Return the pairs that an address header should say."""
    return [(address.name, address.address) for address in addresses]


def body_of(part: email.message.Message) -> bytes:
    """Return the decoded body of a single part."""
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def canonical(text: str) -> bytes:
    """Return text as lines ended by CRLF, in other words than the code under test."""
    lines = re.split(r"\r\n|\r|\n", text)
    ended = lines if lines[-1] else lines[:-1]
    return "".join(f"{line}\r\n" for line in ended).encode()


def shape(message: email.message.Message) -> str:
    """Return the tree of media types in short, such as "mixed(plain,png)"."""
    children = message.get_payload()
    if not message.is_multipart() or not isinstance(children, list):
        return message.get_content_subtype()
    inner = ",".join(shape(part) for part in children if isinstance(part, email.message.Message))
    return f"{message.get_content_subtype()}({inner})"


def leaves(message: email.message.Message) -> list[email.message.Message]:
    """Return the parts that are not multipart, in order."""
    return [part for part in message.walk() if not part.is_multipart()]


def problem_of(content: Content) -> tuple[str, str]:
    """Return the field and the problem with which the door refuses a content."""
    with pytest.raises(UnrenderableError) as caught:
        check_content(content)
    return caught.value.field, caught.value.problem


@PROPERTY
@given(
    sender=ADDRESS,
    to=ADDRESSES,
    cc=ADDRESSES,
    reply_to=ADDRESSES,
    subject=ONE_LINE,
    headers=st.lists(HEADER, max_size=4).map(tuple),
)
def test_parsed_headers_are_exactly_the_intended_ones(
    sender: Address,
    to: tuple[Address, ...],
    cc: tuple[Address, ...],
    reply_to: tuple[Address, ...],
    subject: str,
    headers: tuple[tuple[str, str], ...],
) -> None:
    content = Content(sender, to, cc, reply_to, subject=subject, text="x", headers=headers)

    actual = fields(judged(content))

    read = [
        (name, said(value) if name in ("From", "To", "Cc", "Reply-To") else decoded(value))
        for name, value in actual
    ]
    expected: list[tuple[str, object]] = [
        ("Date", "Fri, 09 Nov 2001 01:08:47 +0000"),
        ("From", meant(sender)),
        *(("To", meant(*to)) for _ in to[:1]),
        *(("Cc", meant(*cc)) for _ in cc[:1]),
        *(("Reply-To", meant(*reply_to)) for _ in reply_to[:1]),
        ("Message-ID", "<id@example.com>"),
        *(("Subject", subject) for _ in subject[:1]),
        ("X-Mailactors-Id", MARKER),
        *headers,
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Transfer-Encoding", "quoted-printable"),
    ]
    assert read == expected


@PROPERTY
@given(subject=ONE_LINE, value=ONE_LINE, addresses=st.lists(MAILBOX, min_size=1, max_size=5))
def test_modern_parser_reads_the_same_headers(
    subject: str, value: str, addresses: list[str]
) -> None:
    to = tuple(Address(address, "Name, A.") for address in addresses)
    content = Content(ANN, to, subject=f"S{subject}", text="x", headers=(("X-A", value),))

    message = email.message_from_bytes(rendered(content), policy=policy.default)

    assert message["Subject"] == f"S{subject}"
    assert message["X-A"] == value
    assert [item.addr_spec for item in message["To"].addresses] == addresses
    assert {item.display_name for item in message["To"].addresses} == {"Name, A."}
    assert [name for name, _ in message.items()].count("X-A") == 1


@PROPERTY
@given(text=st.none() | BODY, html=st.none() | BODY, attachments=st.lists(ATTACHMENT, max_size=3))
def test_parsed_bodies_and_attachments_are_the_given_ones(
    text: str | None, html: str | None, attachments: list[Attachment]
) -> None:
    content = Content(ANN, (BOB,), text=text, html=html, attachments=tuple(attachments))

    message = judged(content)

    bodies = [canonical(body) for body in (text, html) if body is not None] or [b""]
    inline = [item for item in attachments if item.content_id and html is not None]
    others = [item for item in attachments if item not in inline]
    parts = leaves(message)
    assert [body_of(part) for part in parts[: len(bodies)]] == bodies
    assert [
        (file_name(part), body_of(part), part["Content-Type"], part["Content-ID"])
        for part in parts[len(bodies) :]
    ] == [
        (
            item.filename,
            item.content,
            item.content_type,
            f"<{item.content_id}>" if item.content_id else None,
        )
        for item in (*inline, *others)
    ]
    assert not any(part.defects for part in message.walk())


def file_name(part: email.message.Message) -> str:
    """Return the file name of a part; `get_filename` would strip it, of white space and of <>."""
    value = part.get_param("filename", '""', "Content-Disposition", unquote=False)
    quoted = value if isinstance(value, str) else value[2].encode("latin-1").decode()
    return re.sub(r"\\(.)", r"\1", quoted.removeprefix('"').removesuffix('"'))


@PROPERTY
@given(filename=FILENAME)
def test_modern_parser_reads_the_same_file_name(filename: str) -> None:
    attachment = Attachment(f"f{filename}", b"\0\xff", "image/png")

    message = email.message_from_bytes(
        rendered(Content(ANN, (BOB,), attachments=(attachment,))), policy=policy.default
    )

    assert isinstance(message, email.message.EmailMessage)
    (part,) = message.iter_attachments()
    assert part.get_filename() == f"f{filename}"
    assert part.get_content() == b"\0\xff"


@PROPERTY
@given(
    content=st.builds(
        Content,
        sender=st.builds(Address, st.text(max_size=12) | MAILBOX, st.text(max_size=12)),
        to=ADDRESSES,
        subject=st.text(st.characters(), max_size=20),
        text=st.text(st.characters(), max_size=20),
        headers=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=9)), max_size=1).map(
            tuple
        ),
        attachments=st.lists(
            st.builds(Attachment, st.text(max_size=9), st.just(b""), st.text(max_size=9)),
            max_size=1,
        ).map(tuple),
    )
)
def test_what_the_door_lets_pass_renders_and_what_it_refuses_says_where(content: Content) -> None:
    try:
        check_content(content)
        refused_at = None
    except UnrenderableError as error:
        refused_at = error.field

    if refused_at is None:
        wire = rendered(content)
        assert wire.count(b"\r\n") == wire.count(b"\n") == wire.count(b"\r")
    else:
        assert re.fullmatch(r"(/[a-z_]+|/[0-9]+)+", refused_at)


@pytest.mark.parametrize(
    ("text", "html", "content_ids", "expected"),
    [
        (None, None, [], "plain"),
        ("t", None, [], "plain"),
        (None, "h", [], "html"),
        ("t", "h", [], "alternative(plain,html)"),
        ("t", None, [""], "mixed(plain,png)"),
        ("t", None, ["logo"], "mixed(plain,png)"),
        (None, None, [""], "mixed(plain,png)"),
        (None, "h", ["logo"], "related(html,png)"),
        ("t", "h", ["logo"], "alternative(plain,related(html,png))"),
        ("t", "h", ["", "logo"], "mixed(alternative(plain,related(html,png)),png)"),
    ],
)
def test_structure_has_only_the_levels_that_it_needs(
    text: str | None, html: str | None, content_ids: list[str], expected: str
) -> None:
    files = tuple(Attachment("f.png", b"x", "image/png", item) for item in content_ids)

    message = judged(Content(ANN, (BOB,), text=text, html=html, attachments=files))

    assert shape(message) == expected


def test_inline_file_refers_to_its_html() -> None:
    logo = Attachment("logo.png", b"x", "image/png", "logo@example.com")

    message = judged(
        Content(ANN, (BOB,), html="<img src='cid:logo@example.com'>", attachments=(logo,))
    )

    part = leaves(message)[1]
    assert message.get_param("type") == "text/html"
    assert part["Content-ID"] == "<logo@example.com>"
    assert part.get_content_disposition() == "inline"


def test_boundaries_do_not_end_parts_that_hold_them() -> None:
    first = rendered(Content(ANN, (BOB,), text="t", html="h"))
    boundary = re.findall(rb'boundary="([^"]+)"', first)[0].decode()
    hostile = f"\r\n--{boundary}--\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\nevil"
    file = Attachment("f", hostile.encode(), "text/plain", "")

    message = judged(Content(ANN, (BOB,), text=hostile, html=hostile, attachments=(file,)))

    assert shape(message) == "mixed(alternative(plain,html),plain)"
    assert [body_of(part) for part in leaves(message)] == [
        canonical(hostile),
        canonical(hostile),
        hostile.encode(),
    ]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Hello", "quoted-printable"),
        ("Schöne Grüße aus der Stadt mit dem alten Dom", "quoted-printable"),
        ("Здравствуйте, как дела?", "base64"),
        ("\0\1\2", "base64"),
        ("a NUL \0 in a text of some length", "quoted-printable"),
    ],
)
def test_text_takes_the_shorter_of_the_two_safe_encodings(text: str, encoding: str) -> None:
    message = judged(Content(ANN, (BOB,), text=text))

    assert message["Content-Transfer-Encoding"] == encoding
    assert body_of(message) == canonical(text)


@PROPERTY
@given(st.text("ab =.\t\n", min_size=60, max_size=400))
def test_quoted_printable_lines_have_at_most_76_octets_and_end_in_no_blank(text: str) -> None:
    wire = rendered(Content(ANN, (BOB,), text=text))

    lines = wire.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert max(map(len, lines)) <= 76
    assert not any(line.endswith((b" ", b"\t")) or line == b"." for line in lines)
    assert body_of(email.message_from_bytes(wire)) == canonical(text)


@pytest.mark.parametrize(
    "smuggled",
    ["\n.\n", "\n.\r", "\r.\n", "\r.\r", "\n.\r\n", "\r.\r\n", "\r\n.\r\n", "\r\n\0.\r\n"],
)
def test_end_of_data_in_a_text_is_no_line_on_the_wire(smuggled: str) -> None:
    text = f"before{smuggled}MAIL FROM:<evil@example.com>{'x' * 50}.{'y' * 75}."

    message = judged(Content(ANN, (BOB,), text=text, html=text))

    assert [body_of(part) for part in leaves(message)] == [canonical(text)] * 2


def test_subject_with_a_hidden_header_is_literal_text_after_one_decode() -> None:
    content = Content(ANN, (BOB,), subject=EVIL_WORD, text="x")

    wire = rendered(content)

    assert_fit_for_the_wire(wire)
    assert EVIL_WORD.encode() not in wire
    for judge in (policy.default, policy.compat32):
        message = email.message_from_bytes(wire, policy=judge)
        assert message["Bcc"] is None
    assert email.message_from_bytes(wire, policy=policy.default)["Subject"] == EVIL_WORD
    assert decoded(email.message_from_bytes(wire)["Subject"]) == EVIL_WORD


def test_name_with_a_hidden_header_is_literal_text_after_one_decode() -> None:
    content = Content(Address("ann@example.com", EVIL_WORD), (BOB,), text="x")

    message = judged(content)

    assert said(message["From"]) == [(EVIL_WORD, "ann@example.com")]
    assert message["Bcc"] is None


FILE = Attachment("f", b"")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (Content(ANN, subject=EVIL_WORD), "/subject"),
        (Content(ANN, subject="a\r\nBcc: evil@example.com"), "/subject"),
        (Content(ANN, subject="s" * 2000 + "\n"), "/subject"),
        (Content(ANN, subject="a\0"), "/subject"),
        (Content(ANN, subject="a\u2028b"), "/subject"),
        (Content(Address("ann@example.com", EVIL_WORD)), "/sender/name"),
        (Content(Address("ann@example.com\r\nBcc: x@y")), "/sender/address"),
        (Content(ANN, (BOB, Address("b@x", "\x85"))), "/to/1/name"),
        (Content(ANN, cc=(Address("b@x", EVIL_WORD),)), "/cc/0/name"),
        (Content(ANN, reply_to=(Address("b"),)), "/reply_to/0/address"),
        (Content(ANN, headers=(("X-A", "a"), ("Bcc", "b@x"))), "/headers/1/name"),
        (Content(ANN, headers=(("X\r\nBcc: b@x\r\nY", "a"),)), "/headers/0/name"),
        (Content(ANN, headers=(("__proto__", "a"),)), "/headers/0/name"),
        (Content(ANN, headers=(("X-A", "a\r\nBcc: b@x"),)), "/headers/0/value"),
        (Content(ANN, headers=(("X-A", EVIL_WORD),)), "/headers/0/value"),
        (Content(ANN, text="\ud800"), "/text"),
        (Content(ANN, html="\udfff"), "/html"),
        (Content(ANN, attachments=(FILE, Attachment("a\r\nb", b""))), "/attachments/1/filename"),
        (Content(ANN, attachments=(Attachment(EVIL_WORD, b""),)), "/attachments/0/filename"),
    ],
)
def test_door_refuses_what_would_be_injected(content: Content, field: str) -> None:
    actual, _ = problem_of(content)

    assert actual == field


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text", "text/", "/plain", "text/plain\r\nBcc: x", "text/plain\n", "te xt/plain"),
        *("multipart/mixed", "MESSAGE/rfc822", "text/plain; x", 'text/plain; a="\r\n"'),
        *('text/plain; a="=?utf-8?q?=0A?="', "text/plain; a*=utf-8''x", "text/pläin", "a/b;"),
        *("text/csv; charset=utf-8; CHARSET=utf-7", "text/csv" + "; a=b" * 2_000_000),
        *("text/" + "x" * 7_000_000, f'a/b; c="{"d" * CONTENT_TYPE_OCTETS_MAX}"'),
    ],
)
def test_malformed_or_nested_media_type_is_refused(content_type: str) -> None:
    field, _ = problem_of(Content(ANN, attachments=(Attachment("f", b"", content_type),)))

    assert field == "/attachments/0/content_type"


@pytest.mark.parametrize("content_id", ["a b", "<a>", "a\r\nBcc: x", "a\n", "é", "=?a", "a" * 201])
def test_malformed_content_id_is_refused(content_id: str) -> None:
    field, _ = problem_of(Content(ANN, attachments=(Attachment("f", b"", "a/b", content_id),)))

    assert field == "/attachments/0/content_id"


@pytest.mark.parametrize(
    ("message_id", "marker", "field"),
    [
        ("a>\r\nBcc: x", "m", "/message_id"),
        ("a b@x", "m", "/message_id"),
        ("a@x", "m\r\n", "/id"),
        ("a@x", 'm"', "/id"),
        ("a@x", "m" * 61, "/id"),
    ],
)
def test_our_own_names_are_guarded_too(message_id: str, marker: str, field: str) -> None:
    with pytest.raises(UnrenderableError) as caught:
        render(Content(ANN, (BOB,)), message_id=message_id, date_s=0.0, marker=marker)

    assert caught.value.field == field


def test_long_list_headers_are_not_encoded() -> None:
    references = " ".join(f"<{n}.{'x' * 60}@example.com>" for n in range(40))
    unsubscribe = f"<https://example.com/?token={'t' * 700}>, <mailto:u@example.com>"
    headers = (("References", references), ("List-Unsubscribe", unsubscribe))

    message = judged(Content(ANN, (BOB,), headers=headers))

    assert [pair for pair in fields(message) if pair in headers] == list(headers)


def test_local_part_beyond_ascii_is_utf8_in_its_header_only() -> None:
    content = Content(ANN, (Address("änne@bücher.example", "Änne"),), subject="é", text="é")

    wire = rendered(content)

    message = email.message_from_string(wire.decode(), policy=policy.default)
    beyond = [line for line in wire.split(b"\r\n") if not line.isascii()]
    assert message["To"].addresses[0].addr_spec == "änne@xn--bcher-kva.example"
    assert [line.partition(b":")[0] for line in beyond] == [b"To"]


@pytest.mark.parametrize(
    ("content", "envelope", "expected"),
    [
        (Content(ANN, (BOB,), subject="é"), Envelope("a@x", ("b@x",)), False),
        (Content(ANN, (BOB,)), Envelope("", ("b@bücher.example",)), False),
        (Content(ANN, (BOB,)), Envelope("a@x", ("b@x", "ä@x")), True),
        (Content(ANN, (BOB,)), Envelope("ä@x", ("b@x",)), True),
        (Content(Address("ä@x"), (BOB,)), Envelope("a@x", ("b@x",)), True),
        (Content(ANN, reply_to=(Address("ä@x"),)), Envelope("a@x", ("b@x",)), True),
        (Content(ANN, raw="To: ä@x\r\n\r\nx\r\n".encode()), Envelope("a@x", ("b@x",)), True),
        (Content(ANN, raw="To: a@x\r\n\r\nä\r\n".encode()), Envelope("a@x", ("b@x",)), False),
    ],
)
def test_smtputf8_is_needed_for_local_parts_beyond_ascii(
    content: Content, envelope: Envelope, expected: bool
) -> None:
    assert needs_smtputf8(content, envelope) is expected


def test_raw_message_is_returned_byte_for_byte() -> None:
    raw = "From: a@x\r\nSubject: ü\r\nX: a\r\n b\r\n\r\nbody ".encode() + b"\xfe\r\n"
    content = Content(ANN, raw=raw)

    check_content(content)

    assert rendered(content) == raw


def test_raw_message_is_checked() -> None:
    actual = problem_of(Content(ANN, raw=b"From: a@x\r\nBCC: evil@example.com\r\n\r\nbody\r\n"))

    assert actual == ("/raw", "line 2 is a BCC header, which every recipient sees")


def test_all_headers_together_have_a_limit() -> None:
    value = ("v" * 990 + " ") * 20
    headers = tuple((f"X-{n}", value) for n in range(5))
    most = Content(ANN, (BOB,), text="x", headers=headers)

    check_content(most)

    assert rendered(most).index(b"\r\n\r\n") < HEADER_BLOCK_OCTETS_MAX
    field, problem = problem_of(Content(ANN, text="x", headers=(*headers, ("X-6", value))))
    assert (field, problem) == ("/headers", "must have at most 102400 octets of headers")


CALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Grüße\r\nEND:VCALENDAR\r\n"
INVITATION = Alternative("text/calendar; method=REQUEST", CALENDAR)


@pytest.mark.parametrize(
    ("text", "html", "kinds", "expected"),
    [
        ("t", "h", ["text/calendar"], "alternative(plain,html,calendar)"),
        ("t", None, ["text/calendar"], "alternative(plain,calendar)"),
        (None, "h", ["text/calendar"], "alternative(html,calendar)"),
        (None, None, ["text/calendar"], "calendar"),
        ("t", "h", ["text/x-amp-html"], "alternative(plain,x-amp-html,html)"),
        (
            *("t", "h", ["application/ld+json", "TEXT/Calendar", "text/markdown", "text/enriched"]),
            "alternative(plain,markdown,enriched,html,ld+json,calendar)",
        ),
        (None, None, ["text/markdown", "text/x-web"], "alternative(markdown,x-web)"),
    ],
)
def test_alternatives_go_from_the_plainest_to_the_richest(
    text: str | None, html: str | None, kinds: list[str], expected: str
) -> None:
    forms = tuple(Alternative(kind, f"{kind} é") for kind in kinds)
    content = Content(ANN, (BOB,), text=text, html=html, alternatives=forms)

    check_content(content)

    message = judged(content)
    assert shape(message) == expected
    assert not any(part.defects for part in message.walk())
    for part in leaves(message):
        if part.get_content_subtype() not in ("plain", "html"):
            assert body_of(part).decode().lower() == f"{part.get_content_type()} é\r\n"


def test_an_invitation_is_beside_inline_files_and_attachments() -> None:
    files = (Attachment("a.png", b"x", "image/png", "logo"), Attachment("i.ics", b"y"))
    content = Content(
        ANN, (BOB,), text="t", html="h", attachments=files, alternatives=(INVITATION,)
    )

    message = judged(content)

    expected = "mixed(alternative(plain,related(html,png),calendar),octet-stream)"
    assert shape(message) == expected


@pytest.mark.parametrize(
    ("content_type", "calendar", "expected"),
    [
        ("text/calendar; method=REQUEST", CALENDAR, {"method": "REQUEST", "charset": "utf-8"}),
        ("text/calendar", CALENDAR, {"method": "REQUEST", "charset": "utf-8"}),
        (
            'text/calendar;method="request" ; CHARSET=UTF-8; component=vevent',
            CALENDAR,
            {"method": "request", "charset": "UTF-8", "component": "vevent"},
        ),
        ("text/calendar", "BEGIN:VCALENDAR\nEND:VCALENDAR\n", {"charset": "utf-8"}),
        ("text/calendar; method=PUBLISH", "BEGIN", {"method": "PUBLISH", "charset": "utf-8"}),
        ("text/markdown; variant=GFM", CALENDAR, {"variant": "GFM", "charset": "utf-8"}),
        ("application/ld+json", "{}", {}),
    ],
)
def test_an_alternative_has_the_parameters_that_its_content_needs(
    content_type: str, calendar: str, expected: dict[str, str]
) -> None:
    form = Alternative(content_type, calendar)

    message = judged(Content(ANN, (BOB,), text="t", alternatives=(form,)))

    (_, *parameters) = leaves(message)[1].get_params([])
    assert {name.lower(): value for name, value in parameters} == expected


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (Alternative("text/plain", "x"), "content_type"),
        (Alternative("Text/HTML; charset=utf-8", "x"), "content_type"),
        (Alternative("multipart/mixed", "x"), "content_type"),
        (Alternative("message/rfc822", "x"), "content_type"),
        (Alternative("", "x"), "content_type"),
        (Alternative("text/calendar\r\nBcc: x", "x"), "content_type"),
        (Alternative("text/calendar; charset=iso-8859-1", "x"), "content_type"),
        (Alternative("text/calendar; method=CANCEL", CALENDAR), "content_type"),
        (Alternative("text/calendar; method=A; METHOD=B", "x"), "content_type"),
        (Alternative("text/calendar", "METHOD:" + "x" * 7_000_000), "content_type"),
        (Alternative("text/calendar" + "; a=b" * 103, CALENDAR), "content_type"),
        (Alternative("text/calendar", "\ud800"), "content"),
    ],
)
def test_what_is_no_alternative_is_refused(form: Alternative, field: str) -> None:
    actual, _ = problem_of(Content(ANN, text="x", alternatives=(INVITATION, form)))

    assert actual == f"/alternatives/1/{field}"


def test_bcc_recipient_of_the_envelope_is_nowhere_in_the_message() -> None:
    content = Content(ANN, (BOB,), text="x", tags=("t",), metadata={"Bcc": "eve@example.net"})

    wire = rendered(content)

    assert b"eve" not in wire
    assert b"bcc" not in wire.lower()
