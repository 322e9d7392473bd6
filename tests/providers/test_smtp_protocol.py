"""The sans-io client: replies, what reaches the wire, and the same transcripts through smtplib."""

from __future__ import annotations

import itertools
from base64 import b64decode
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.providers.smtp.protocol import SmtpClient, SmtpState
from mailactors.providers.smtp.replies import (
    REPLY_LINE_OCTETS_MAX,
    REPLY_OCTETS_MAX,
    GarbageError,
    ReplyParser,
    SmtpReply,
    parse_extensions,
)
from mailactors.providers.smtp.wire import (
    UnsendableError,
    check_address,
    check_credential,
    check_hello_name,
    check_message,
    stuff_dots,
)

ANN, BOB, CAT = "ann@x.example", "bob@y.example", "cat@z.example"
EHLO = b"250-relay\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN\r\n"


def parse(data: bytes) -> list[SmtpReply]:
    return list(ReplyParser().feed(data))


def make_client(ehlo: bytes = EHLO) -> SmtpClient:
    client = SmtpClient("me.example")
    client.feed(b"220 relay ESMTP\r\n")
    client.hello()
    client.take_outgoing()
    client.feed(ehlo)
    return client


# Replies.


def test_reply_of_many_lines_has_one_code_and_clean_text() -> None:
    (reply,) = parse(b"550-5.1.1 No such\r\n550-5.1.1 user\x07 \xc3\xa6\xff\r\n550 5.1.1\r\n")

    assert (
        reply.code,
        reply.enhanced,
        reply.text,
    ) == (550, "5.1.1", "No such user æ\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("line", [b"250\r\n", b"250 \r\n", b"250 ok\n", b"250-\r\n250\r\n"])
def test_reply_may_be_terse(line: bytes) -> None:
    assert [reply.code for reply in parse(line)] == [250]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"550-5.7.1 policy\r\n554 5.7.1 see the URL\r\n", 554),
        (b"450-4.2.1 busy\r\n451 4.3.0 later\r\n", 451),
        (b"550-5.7.1 no\r\n451 4.7.1 or later\r\n", 451),
        (b"451-4.7.1 later\r\n550 5.7.1 or never\r\n", 451),
    ],
)
def test_refusal_with_two_codes_is_a_refusal(reply: bytes, code: int) -> None:
    assert [code] == [each.code for each in parse(reply)]


def test_enhanced_code_of_another_class_is_none() -> None:
    assert parse(b"550 2.1.5 confused\r\n")[0].enhanced is None
    assert parse(b"550 5.1.1000 long\r\n")[0].enhanced is None
    assert parse(b"550 5.7.1\r\n")[0].enhanced == "5.7.1"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n",
        b"hello\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"250ok\r\n",
        b"650 ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"550-a\r\n250 b\r\n",
        b"250-a\r\n550 b\r\n",
        b"354-a\r\n554 b\r\n",
        b"\xff\xfe\x00\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250 " + b"x" * REPLY_LINE_OCTETS_MAX + b"\r\n",
        b"x" * (REPLY_LINE_OCTETS_MAX + 1),
        b"250-" + b"x" * 1000 + b"\r\n" + b"250-x\r\n" * REPLY_OCTETS_MAX,
    ],
)
def test_what_is_no_reply_is_garbage(garbage: bytes) -> None:
    with pytest.raises(GarbageError) as caught:
        parse(garbage)

    assert len(str(caught.value)) < 200


def parsed_or_garbage(chunks: list[bytes]) -> list[SmtpReply | str]:
    parser, found = ReplyParser(), list[SmtpReply | str]()
    try:
        for chunk in chunks:
            found.extend(parser.feed(chunk))
    except GarbageError:
        found.append("garbage")
    return found


REPLY_LIKE = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"250", b"250 ", b"250-", b"\r\n", b"\n", b"\r", b"421 bye\r\n"]),
    ),
    max_size=20,
).map(b"".join)


@given(REPLY_LIKE, st.lists(st.integers(0, 400), max_size=10))
def test_replies_parse_the_same_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]

    assert parsed_or_garbage([data]) == parsed_or_garbage(chunks)


def test_extensions_are_read_in_any_case_and_spelling() -> None:
    (reply,) = parse(b"250-hi PIPELINING\r\n250-size\r\n250-AUTH=login\r\n250 auth Plain\r\n")

    extensions = parse_extensions(reply)

    assert not extensions.pipelining
    assert (extensions.size, extensions.size_max) == (True, 0)
    assert {"LOGIN", "PLAIN"} == extensions.auth


# What reaches the wire.

CONTROLS = st.text(alphabet=st.sampled_from("\r\n\0 <>a@\u2028\x85é\ud800"), max_size=8)
HOSTILE = st.one_of(CONTROLS, st.text(max_size=12))


@given(HOSTILE, HOSTILE, st.booleans())
def test_no_argument_ends_its_line(sender: str, recipient: str, smtputf8: bool) -> None:
    client = make_client()

    try:
        client.mail(sender, [recipient], smtputf8=smtputf8)
    except UnsendableError:
        assert client.take_outgoing() == b""
        assert client.state is SmtpState.READY
        return

    assert client.take_outgoing().count(b"\n") == 1  # one by one: only MAIL so far
    client.feed(b"250 ok\r\n")
    said = client.take_outgoing()
    assert said == b"RCPT TO:<" + recipient.encode() + b">\r\n"
    assert not any(octet in said[:-2] for octet in b"\r\n\0")


@given(HOSTILE)
def test_no_hello_name_ends_its_line(name: str) -> None:
    try:
        client = SmtpClient(name)
    except UnsendableError:
        return
    client.feed(b"220 hi\r\n")

    client.hello()

    assert client.take_outgoing() == b"EHLO " + name.encode() + b"\r\n"
    assert not any(c in "\r\n\0 " for c in name)


@given(HOSTILE, HOSTILE)
def test_no_credential_ends_its_line(username: str, password: str) -> None:
    for mechanism in (b"PLAIN", b"LOGIN"):
        client = make_client(b"250-relay\r\n250 AUTH " + mechanism + b"\r\n")
        try:
            client.authenticate(username, password)
        except UnsendableError:
            assert client.take_outgoing() == b""
            continue
        while said := client.take_outgoing():
            assert said.count(b"\n") == said.count(b"\r\n") == 1
            assert b"\0" not in said
            client.feed(b"334 VXNlcm5hbWU6\r\n" if said != b"*\r\n" else b"501 so be it\r\n")


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "a b", "<a", "a>", "\x7f", "\x85", "\u2028"])
def test_forbidden_characters_are_refused_everywhere(bad: str) -> None:
    with pytest.raises(UnsendableError):
        check_address(f"ann{bad}@x.example", smtputf8=True)
    with pytest.raises(UnsendableError):
        check_hello_name(f"me{bad}.example")


@pytest.mark.parametrize("bad", ["\r", "\n", "\0"])
def test_credentials_are_checked_and_never_quoted(bad: str) -> None:
    with pytest.raises(UnsendableError) as caught:
        check_credential(f"canary{bad}")

    assert "canary" not in str(caught.value)


def test_unicode_needs_smtputf8_and_length_is_bounded() -> None:
    with pytest.raises(UnsendableError, match="SMTPUTF8"):
        check_address("bjørn@x.example", smtputf8=False)
    with pytest.raises(UnsendableError, match="longer"):
        check_address("a" * 244 + "@xy.example", smtputf8=False)


SMUGGLING = [
    b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n",
    b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n\x00.\r\n",
]  # fmt: skip


@pytest.mark.parametrize("sequence", SMUGGLING)
def test_smuggling_sequences_are_refused(sequence: bytes) -> None:
    with pytest.raises(UnsendableError):
        check_message(b"A: b\r\n\r\nx" + sequence + b"MAIL FROM:<evil@x.example>\r\n")


LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"a"]), max_size=8)


@given(LINES, st.booleans())
def test_stuffed_message_never_holds_the_terminator_and_comes_back(
    lines: list[bytes], is_ended: bool
) -> None:
    message = b"\r\n".join(lines) + (b"\r\n" if is_ended else b"")
    check_message(message)

    stuffed = stuff_dots(message)

    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    received = b"\r\n".join(line.removeprefix(b".") for line in stuffed.split(b"\r\n"))
    assert received == (message if message.endswith(b"\r\n") else message + b"\r\n")


# Conversations.


def test_hello_falls_back_to_helo() -> None:
    client = SmtpClient("me.example")
    client.feed(b"220 old server\r\n")
    client.hello()
    assert client.take_outgoing() == b"EHLO me.example\r\n"

    client.feed(b"502 what?\r\n")

    assert client.take_outgoing() == b"HELO me.example\r\n"
    client.feed(b"250 hello\r\n")
    assert client.state is SmtpState.READY


def test_pipelining_writes_the_whole_envelope_at_once() -> None:
    client = make_client(b"250-relay\r\n250 PIPELINING\r\n")

    client.mail(ANN, [BOB, CAT])

    assert client.take_outgoing() == (
        b"MAIL FROM:<ann@x.example>\r\nRCPT TO:<bob@y.example>\r\n"
        b"RCPT TO:<cat@z.example>\r\nDATA\r\n"
    )
    client.feed(b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
    assert client.state is SmtpState.BODY
    assert client.transaction.accepted == [CAT]


def test_without_pipelining_nothing_is_said_before_the_answer() -> None:
    client = make_client()
    client.mail(ANN, [BOB, CAT])
    said = [client.take_outgoing()]

    for _ in range(4):
        client.feed(b"250 ok\r\n" if len(said) < 4 else b"354 go\r\n")
        said.append(client.take_outgoing())

    assert [octets.count(b"\n") for octets in said] == [1, 1, 1, 1, 0]
    assert client.state is SmtpState.BODY


def test_lone_dot_ends_a_data_without_recipients_and_the_next_mail_resets() -> None:
    client = make_client(b"250-relay\r\n250 PIPELINING\r\n")
    client.mail(ANN, [BOB])
    client.take_outgoing()

    client.feed(b"250 ok\r\n550 no\r\n354 go\r\n")
    assert client.take_outgoing() == b".\r\n"
    client.feed(b"554 no recipients\r\n")

    assert client.state is SmtpState.READY
    client.mail(ANN, [CAT])
    assert client.take_outgoing().startswith(b"RSET\r\nMAIL")


def test_only_a_lone_dot_follows_a_stray_354_after_a_refused_mail() -> None:
    client = make_client(b"250-relay\r\n250 PIPELINING\r\n")
    client.mail(ANN, [BOB])
    client.take_outgoing()

    client.feed(b"550 5.7.1 not from you\r\n250 ok\r\n354 go on\r\n")

    assert client.take_outgoing() == b".\r\n"
    assert client.state is not SmtpState.BODY
    client.feed(b"250 ok\r\n")
    assert client.state is SmtpState.READY
    assert client.transaction.accepted == []
    assert client.transaction.final is None


@pytest.mark.parametrize("answers", [1, 2])
def test_421_that_comes_with_the_answer_before_it_is_kept(answers: int) -> None:
    client = make_client()
    client.mail(ANN, [BOB, CAT])

    for _ in range(answers - 1):
        client.feed(b"250 ok\r\n")
    client.feed(b"250 ok\r\n421 4.3.2 closing\r\n")

    assert client.state is SmtpState.CLOSED
    assert client.transaction.closing is not None
    assert client.transaction.closing.code == 421


def test_421_is_known_to_have_been_read_together() -> None:
    together = make_client(b"250-relay\r\n250 PIPELINING\r\n")
    together.mail(ANN, [BOB])
    together.feed(b"250 ok\r\n421 closing\r\n")
    apart = make_client(b"250-relay\r\n250 PIPELINING\r\n")
    apart.mail(ANN, [BOB])
    apart.feed(b"250 ok\r\n")
    apart.feed(b"421 closing\r\n")

    assert together.transaction.is_read_together
    assert not apart.transaction.is_read_together


def test_server_whose_pipelining_is_not_trusted_is_asked_one_by_one() -> None:
    client = SmtpClient("me.example", pipelines=False)
    client.feed(b"220 hi\r\n")
    client.hello()
    client.feed(b"250-relay\r\n250 PIPELINING\r\n")
    client.take_outgoing()

    client.mail(ANN, [BOB])

    assert client.take_outgoing() == b"MAIL FROM:<ann@x.example>\r\n"


def test_refused_mail_without_pipelining_ends_it() -> None:
    client = make_client()
    client.mail(ANN, [BOB])
    client.take_outgoing()

    client.feed(b"451 later\r\n")

    assert client.take_outgoing() == b""
    assert (client.state, client.awaited) == (SmtpState.READY, None)


@pytest.mark.parametrize("answers", range(5))
def test_421_closes_wherever_it_comes(answers: int) -> None:
    client = make_client(b"250-relay\r\n250 PIPELINING\r\n")
    client.mail(ANN, [BOB])
    said = [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b""][:answers]
    for reply in said:
        client.feed(reply)
    if answers == 4:
        client.end_of_message()

    client.feed(b"421 4.3.2 closing\r\n")

    assert (client.state, client.awaited) == (SmtpState.CLOSED, None)
    assert client.take_outgoing() == b""
    if answers == 4:
        assert client.transaction.final is not None


def test_unasked_answer_is_garbage() -> None:
    client = make_client()

    with pytest.raises(GarbageError):
        client.feed(b"250 surprise\r\n")

    assert client.state is SmtpState.CLOSED


def test_login_answers_prompts_and_gives_up_in_the_end() -> None:
    client = make_client(b"250-relay\r\n250 AUTH LOGIN\r\n")
    client.authenticate("ann", "hunter2")
    said = [client.take_outgoing()]
    for _ in range(3):
        client.feed(b"334 more\r\n")
        said.append(client.take_outgoing())

    assert said == [b"AUTH LOGIN\r\n", b"YW5u\r\n", b"aHVudGVyMg==\r\n", b"*\r\n"]
    with pytest.raises(GarbageError):
        client.feed(b"334 more\r\n")


PLAIN = b"AGFubgBodW50ZXIy"


def test_plain_says_its_response_again_to_an_empty_challenge() -> None:
    client = make_client(b"250-relay\r\n250 AUTH PLAIN\r\n")
    client.authenticate("ann", "hunter2")
    assert client.take_outgoing() == b"AUTH PLAIN " + PLAIN + b"\r\n"

    client.feed(b"334 \r\n")

    assert client.take_outgoing() == PLAIN + b"\r\n"
    client.feed(b"235 2.7.0 ok\r\n")
    assert (client.state, client.reply.code) == (SmtpState.READY, 235)


def test_mechanism_may_be_named() -> None:
    client = make_client()

    client.authenticate("ann", "hunter2", "LOGIN")

    assert client.take_outgoing() == b"AUTH LOGIN\r\n"
    with pytest.raises(UnsendableError):
        make_client().authenticate("ann", "token", "XOAUTH2")


def test_xoauth2_sends_the_token_and_acknowledges_an_error() -> None:
    client = make_client(b"250-relay\r\n250 AUTH XOAUTH2\r\n")
    client.authenticate("ann@x.example", "ya29.token", "XOAUTH2")
    said = client.take_outgoing()
    assert said.startswith(b"AUTH XOAUTH2 ")
    assert b64decode(said.split()[2]) == b"user=ann@x.example\x01auth=Bearer ya29.token\x01\x01"

    client.feed(b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n")

    assert client.take_outgoing() == b"\r\n"
    client.feed(b"535 5.7.8 expired\r\n")
    assert client.state is SmtpState.READY


EVENTS: dict[str, Callable[[SmtpClient], object]] = {
    "hello": SmtpClient.hello,
    "starttls": SmtpClient.starttls,
    "tls_established": SmtpClient.tls_established,
    "authenticate": lambda client: client.authenticate("a", "b"),
    "mail": lambda client: client.mail(ANN, [BOB]),
    "end_of_message": SmtpClient.end_of_message,
    "quit": SmtpClient.quit,
}
ALLOWED = {
    SmtpState.IDLE: {"hello", "quit"},
    SmtpState.READY: {"starttls", "authenticate", "mail", "quit"},
    SmtpState.HANDSHAKE: {"tls_established"},
    SmtpState.BODY: {"end_of_message"},
}


@pytest.mark.parametrize("state", list(SmtpState))
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state(state: SmtpState, event: str) -> None:
    client = make_client()
    client.state = state

    if event in ALLOWED.get(state, set()):
        EVENTS[event](client)
        assert client.state is not state
    else:
        with pytest.raises(AssertionError):
            EVENTS[event](client)
        assert client.take_outgoing() == b""


# What an earlier state leaves behind.


def test_nothing_offered_in_clear_text_counts_under_tls() -> None:
    client = make_client(b"250-relay\r\n250-PIPELINING\r\n250-SIZE 9\r\n250 STARTTLS\r\n")
    client.starttls()
    client.feed(b"220 go ahead\r\n")

    client.tls_established()
    before_hello = client.extensions
    client.hello()
    client.feed(b"502 what?\r\n")
    client.feed(b"250 relay\r\n")

    assert parse_extensions(parse(b"250 relay\r\n")[0]) == before_hello == client.extensions


@pytest.mark.parametrize(("reply", "resets"), [(b"250 ok", False), (b"554 no", True)])
def test_only_a_refused_message_is_followed_by_a_reset(reply: bytes, resets: bool) -> None:
    client = make_client()
    client.mail(ANN, [BOB])
    for answer in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
        client.feed(answer)
    client.end_of_message()
    client.feed(reply + b"\r\n")
    client.take_outgoing()

    client.mail(ANN, [CAT])

    assert resets == client.take_outgoing().startswith(b"RSET\r\n")
