"""Messages: packed and unpacked without a loss, and fingerprints that every process agrees on."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailactors.model.message import (
    Address,
    Attachment,
    Content,
    domain_of,
    fingerprint,
    pack_content,
    unpack_content,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ADDRESSES = st.builds(Address, TEXT, TEXT)
MANY = st.lists(ADDRESSES, max_size=3).map(tuple)
CONTENTS = st.builds(
    Content,
    sender=ADDRESSES,
    to=MANY,
    cc=MANY,
    reply_to=MANY,
    subject=TEXT,
    text=st.none() | TEXT,
    html=st.none() | TEXT,
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    attachments=st.lists(
        st.builds(Attachment, TEXT, st.binary(max_size=20), TEXT, TEXT), max_size=2
    ).map(tuple),
    raw=st.none() | st.binary(max_size=20),
    tags=st.lists(TEXT, max_size=3).map(tuple),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
)


@pytest.mark.slow
@given(CONTENTS)
def test_what_is_unpacked_is_what_was_packed(content: Content) -> None:
    assert unpack_content(pack_content(content)) == content


@pytest.mark.slow
@given(CONTENTS)
def test_equal_contents_are_equal_bytes(content: Content) -> None:
    again = unpack_content(pack_content(content))
    reordered = dict(reversed(content.metadata.items()))

    assert pack_content(again) == pack_content(content)
    assert fingerprint(reordered) == fingerprint(content.metadata)


@pytest.mark.slow
@given(CONTENTS, CONTENTS)
def test_fingerprints_differ_as_contents_do(one: Content, other: Content) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


def test_nothing_is_not_the_same_as_empty() -> None:
    sender = Address("ann@example.com")

    assert pack_content(Content(sender)) != pack_content(Content(sender, text=""))
    assert unpack_content(pack_content(Content(sender, text=""))).text == ""
    assert unpack_content(pack_content(Content(sender, raw=b""))).raw == b""


def test_the_parts_of_a_fingerprint_do_not_run_together() -> None:
    prints = [
        fingerprint("a", "b"),
        fingerprint("ab"),
        fingerprint("ab", ""),
        fingerprint("", "ab"),
    ]

    assert len(set(prints)) == 4


def test_bytes_and_text_have_different_fingerprints() -> None:
    assert fingerprint("a") != fingerprint(b"a")


PROGRAM = """
from mailactors.model.message import *
content = Content(
    Address("ann@example.com", "Änn"), subject="Hello", headers=(("X-A", "1"),),
    tags=("b", "a"), metadata={name: name for name in {"x", "y", "z", "order", "customer"}},
)
print(fingerprint(content, {"b", "a", "c"}, 1.5, None), pack_content(content).hex())
"""


@pytest.mark.slow
def test_every_process_makes_the_same_fingerprint() -> None:
    printed = set()

    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM]
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=20
        )
        printed.add(ended.stdout)

    assert len(printed) == 1
    assert len(printed.pop().split()[0]) == 64


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ann@Example.COM", "example.com"),
        ('"a@b"@example.com', "example.com"),
        ("postmaster", "postmaster"),
        ("", ""),
    ],
)
def test_the_domain_is_what_follows_the_last_at(address: str, expected: str) -> None:
    assert domain_of(address) == expected
