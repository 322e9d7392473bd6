"""Encoded words: whole, short, and saying the text."""

from __future__ import annotations

import email.header
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from mailactors.model.encoded import encoded_words
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
