"""Our own secrets in what others say: masked in every encoding, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import quopri
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Phase,
    Reason,
    Refusal,
    Rejected,
    Scope,
    Uncertain,
    Why,
)
from mailactors.model.secrets import KEPT_MAX, MASK, Secrets

PASSWORD = 'p@ss"w/ö+rd&\\9='
ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode().rstrip("="),
    "AUTH PLAIN": lambda s: base64.b64encode(f"\0user\0{s}".encode()).decode(),
    "AUTH PLAIN, other user": lambda s: base64.b64encode(f"\0u@x.example\0{s}".encode()).decode(),
    "AUTH PLAIN, three": lambda s: base64.b64encode(f"id\0user\0{s}".encode()).decode(),
    "Basic": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "XOAUTH2": lambda s: base64.b64encode(f"user=u\1auth=Bearer {s}\1\1".encode()).decode(),
    "URL": lambda s: urllib.parse.quote(s, safe=""),
    "URL, path": urllib.parse.quote,
    "URL, form": urllib.parse.quote_plus,
    "URL, lower case": lambda s: urllib.parse.quote(s, safe="").lower(),
    "URL, all of it": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
    "hex with colons": lambda s: s.encode().hex(":"),
    "JSON": lambda s: json.dumps(s)[1:-1],
    "JSON in Unicode": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "JSON with slashes": lambda s: json.dumps(s)[1:-1].replace("/", "\\/"),
    "JSON, all of it": lambda s: "".join(f"\\u{ord(each):04x}" for each in s),
    "HTML": html.escape,
    "HTML, all of it": lambda s: "".join(f"&#{ord(each)};" for each in s),
    "Python": lambda s: repr(s.encode())[2:-1],
    "quoted-printable": lambda s: (
        quopri.encodestring(s.encode(), quotetabs=True).decode().replace("=\n", "")
    ),
    "base64 in URL": lambda s: urllib.parse.quote(base64.b64encode(s.encode()), safe=""),
    "folded": lambda s: " ".join(_pieces(base64.b64encode(f"\0u\0{s}".encode()).decode(), 8)),
}


def _pieces(text: str, size: int) -> list[str]:
    return [text[n : n + size] for n in range(0, len(text), size)]


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("secret", [PASSWORD, "hunter22", "correct horse battery", "пароль-7"])
def test_a_secret_is_masked_in_every_encoding(name: str, secret: str) -> None:
    said = ENCODINGS[name](secret)

    masked = Secrets([secret]).text(f"535 5.7.8 bad credentials ({said}) for user")

    assert masked == f"535 5.7.8 bad credentials ({MASK}) for user"


@given(
    st.text(
        st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C"]), min_size=8
    ),
    st.sampled_from(sorted(ENCODINGS)),
    st.text("abc \0:", max_size=5),
)
@example("=" * 8, "AUTH PLAIN", "")
def test_whatever_the_secret_its_encodings_are_masked(secret: str, name: str, user: str) -> None:
    said = ENCODINGS[name](secret)

    masked = Secrets([secret]).text(
        f"535 {said} {base64.b64encode(f'{user}{secret}'.encode()).decode()}"
    )

    assert said not in masked
    assert secret not in masked
    assert masked.startswith("535 ")


@pytest.mark.parametrize(
    "text",
    [
        "250 2.0.0 Ok: queued as 4FvZ3n1kWqz9rvK",
        "550 5.1.1 <bob@example.com>: no such user",
        "454 4.7.0 Temporary authentication failure: AGJvYgBzb21ldGhpbmc=",
        "",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert Secrets([PASSWORD, "hunter22", "abc", "1"]).text(text) == text


@pytest.mark.parametrize("secret", ["a", "ab", "42"])
def test_a_short_secret_is_masked_as_a_word(secret: str) -> None:
    said = f"535 ({secret}) is wrong, x{secret}x is another"

    assert Secrets([secret]).text(said) == f"535 ({MASK}) is wrong, x{secret}x is another"


def test_a_secret_that_was_cut_off_is_masked() -> None:
    said = "535 bad password hunter22-and-mo"

    assert Secrets(["hunter22-and-more"]).text(said) == f"535 bad password {MASK}"


def test_a_secret_within_a_longer_one_hides_none_of_it() -> None:
    assert Secrets(["hunter22", "hunter22-and-more"]).text("hunter22-and-more") == MASK


def test_without_secrets_nothing_is_changed() -> None:
    assert Secrets([""]).text("hunter22") == "hunter22"


def test_secrets_that_are_remembered_are_bounded() -> None:
    secrets = Secrets(f"first-token-{n}" for n in range(KEPT_MAX + 1))

    assert secrets.text("first-token-0.") == "first-token-0."
    assert secrets.text(f"first-token-{KEPT_MAX}.") == f"{MASK}."


REASON = Reason("no: hunter22", 535, "5.7.8")
SHOWN = Reason(f"no: {MASK}", 535, "5.7.8")
REFUSED: dict[str, Refusal] = {"a@x.example": Deferred(Scope.RECIPIENT, REASON)}
SHOWN_REFUSED: dict[str, Refusal] = {"a@x.example": Deferred(Scope.RECIPIENT, SHOWN)}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Accepted("id hunter22", REFUSED), Accepted(f"id {MASK}", SHOWN_REFUSED)),
        (
            Deferred(Scope.PROVIDER, REASON, 3.0, True, REFUSED),
            Deferred(Scope.PROVIDER, SHOWN, 3.0, True, SHOWN_REFUSED),
        ),
        (
            Rejected(Scope.PROVIDER, REASON, REFUSED, False),
            Rejected(Scope.PROVIDER, SHOWN, SHOWN_REFUSED, False),
        ),
        (
            Uncertain(Phase.FINAL, REASON, REFUSED),
            Uncertain(Phase.FINAL, SHOWN, SHOWN_REFUSED),
        ),
        (
            NotAttempted(Why.RESOURCES, 5.0, "hunter22"),
            NotAttempted(Why.RESOURCES, 5.0, MASK),
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_outcome_is_masked_and_says_the_same(outcome: Outcome, expected: Outcome) -> None:
    assert Secrets(["hunter22"]).outcome(outcome) == expected
