"""Encoded words: whole, short, and saying the text; quoted-printable as the C function has it."""

from __future__ import annotations

import binascii
import email.header
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.model.encoded import encoded_words, quoted_printable
from tests.model.test_headers import NASTY_TEXT

PROPERTY = settings(deadline=None, max_examples=150, database=None)


@PROPERTY
@given(st.one_of(st.text(min_size=1), NASTY_TEXT), st.integers(1, 75), st.integers(40, 75))
def test_encoded_words_are_short_whole_and_say_the_text(text: str, room: int, after: int) -> None:
    words = encoded_words(text, room, after).split(" ")

    decoded = [email.header.decode_header(word)[0][0] for word in words]
    assert all(len(word) <= after for word in words[1:])
    assert len(words[0]) <= (room if room >= 30 else after)
    assert "".join(part.decode() for part in decoded if isinstance(part, bytes)) == text
    assert all(re.fullmatch(r"=\?utf-8\?[bq]\?[A-Za-z0-9!*+/=_-]+\?=", word) for word in words)


LENGTHS = (0, 1, 2, 73, 74, 75, 76, 77, 149, 150, 151, 152, 225, 226)


@PROPERTY
@given(
    st.lists(
        st.tuples(st.sampled_from(LENGTHS), st.sampled_from(["a", ".", "a.", "ab=", "é", "a\0"])),
        max_size=4,
    )
)
def test_slices_are_what_the_c_function_makes(lines: list[tuple[int, str]]) -> None:
    text = "".join((letters * length)[:length] + "\r\n" for length, letters in lines)

    encoded = quoted_printable(text.encode())

    # It leaves a dot alone on a line that its own soft break made.
    expected = binascii.b2a_qp(text.encode()).replace(b"=\r\n.\r\n", b"=\r\n=2E\r\n")
    assert expected == encoded
