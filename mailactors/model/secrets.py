"""The gateway's own secrets, masked in what others say, in whatever encoding they say them.

A server's refusal may repeat what it was sent: a password, a token, AUTH PLAIN in base64. Whoever
brings in such words (`dispatch/provider.py`, `dispatch/lookups.py`) masks them there, once, so that
no log, timeline, answer or metric can show them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from html import entities
from typing import Final

import msgspec

from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Refusal,
    Rejected,
    Uncertain,
)

MASK: Final = "***"
KEPT_MAX: Final = 64
"""Secrets that are remembered, the latest ones: tokens come and go."""
SHORT: Final = 4
"""A secret with fewer characters is masked where it is a word of its own."""
CORE_MIN: Final = 5
"""Characters of base64 that only the secret decides, to look for it within a longer text."""
CUT_MIN: Final = 6
"""Characters of a secret at the end of a text that was cut, for them to be masked as well."""
_BASE64: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-")
_PADDING: Final = re.compile("(?:=|%3[dD]){0,2}")


class Secrets:
    """Remembers secrets; masks them in texts and outcomes."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        self._cores = re.compile("(?!)")
        """What of their base64 only the secrets decide."""
        self.learn(known)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these as well from now on."""
        new = [each for each in secrets if each and each not in self._known]
        if not new:
            return
        self._known |= dict.fromkeys(new)
        for oldest in list(self._known)[:-KEPT_MAX]:
            del self._known[oldest]
        longest_first = sorted(self._known, key=len, reverse=True)
        forms = [form for each in longest_first for form in _forms(each)]
        cores = [core for each in longest_first for core in _in_base64(each)]
        self._pattern = re.compile("|".join(forms), re.IGNORECASE)
        self._cores = re.compile("|".join(cores) or "(?!)")

    def text(self, text: str) -> str:
        """Return a text without secrets.

        >>> Secrets(["hunter22"]).text("535 no: AGFwaWtleQBodW50ZXIyMg== is not hunter22")
        '535 no: *** is not ***'
        """
        if self._pattern is None or not text:
            return text
        masked = self._pattern.sub(MASK, self._without_base64(text))
        for secret in self._known:
            for end in _cut_ends(secret):
                if masked.endswith(end):
                    return masked.removesuffix(end) + MASK
        return masked

    def _without_base64(self, text: str) -> str:
        """Mask each word of base64 that holds a secret, such as AUTH PLAIN's, as a whole."""
        parts, done = [], 0
        for found in self._cores.finditer(text):
            start, end = found.span()
            if start < done:
                continue
            while start > done and text[start - 1] in _BASE64:
                start -= 1
            while end < len(text) and text[end] in _BASE64:
                end += 1
            parts += [text[done:start], MASK]
            padding = _PADDING.match(text, end)
            done = padding.end() if padding else end
        return "".join([*parts, text[done:]])

    def outcome(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose words have no secrets."""
        match outcome:
            case _ if self._pattern is None:
                return outcome
            case Accepted():
                shown = self.text(outcome.provider_message_id)
                refused = self._refused(outcome.refused)
                return msgspec.structs.replace(outcome, provider_message_id=shown, refused=refused)
            case NotAttempted():
                return msgspec.structs.replace(outcome, text=self.text(outcome.text))
            case Deferred() | Rejected() | Uncertain():
                reason, refused = self.reason(outcome.reason), self._refused(outcome.refused)
                return msgspec.structs.replace(outcome, reason=reason, refused=refused)

    def reason(self, reason: Reason) -> Reason:
        """Return a reason whose text has no secrets."""
        return msgspec.structs.replace(reason, text=self.text(reason.text))

    def _refused(self, refused: Mapping[str, Refusal]) -> dict[str, Refusal]:
        return {
            recipient: msgspec.structs.replace(
                each, reason=self.reason(each.reason), refused=self._refused(each.refused)
            )
            for recipient, each in refused.items()
        }


def _forms(secret: str) -> Iterator[str]:
    """Yield patterns of what a secret looks like: as it is, or escaped, in base64, in hex."""
    plain = "".join(map(_character, secret))
    is_short = len(secret) < SHORT
    yield rf"(?<![\w.]){plain}(?![\w.])" if is_short else plain
    data = secret.encode()
    if not is_short:
        yield "[: -]?".join(f"(?:0x|\\\\x)?{byte:02x}" for byte in data)


def _character(character: str) -> str:
    """Return a pattern of a character as it is, or as URLs, JSON, HTML or quoted-printable have it.

    Each may be escaped or not, apart from the others.
    """
    data, point = character.encode(), ord(character)
    found = ["".join(f"{sign}{byte:02x}" for byte in data) for sign in "%="]
    found += ["".join(rf"\\x{byte:02x}" for byte in data), rf"\\u{point:04x}", rf"\\x{point:02x}"]
    found += [rf"\\u\{{0*{point:x}\}}", rf"&\#0*{point};", rf"&\#x0*{point:x};"]
    if point > 0xFFFF:
        found.append("".join(rf"\\u{unit:04x}" for unit in _surrogates(point)))
    if name := entities.codepoint2name.get(point):
        found.append(f"&{name};")
    if character == "'":
        found.append("&apos;")
    if not character.isalnum():
        found.append(re.escape("\\" + character))
    if character == " ":
        found += [" +", r"\+"]
    if not character.isascii():
        found += ["\ufffd+", f"%{point:02x}"]
    found.append(re.escape(character))  # last: what escapes it may begin with it
    return f"(?:{'|'.join(found)})"


def _surrogates(point: int) -> tuple[int, int]:
    high, low = divmod(point - 0x10000, 0x400)
    return 0xD800 + high, 0xDC00 + low


def _in_base64(secret: str) -> Iterator[str]:
    """Yield patterns of base64 that holds a secret, alone or after and before other bytes.

    What stands before it shifts it by 0, 1 or 2 bytes; the characters that only the secret decides
    are looked for.
    """
    for data in dict.fromkeys((secret.encode(), secret.encode("latin-1", "ignore"))):
        whole = base64.b64encode(data).rstrip(b"=").decode()
        for shift in range(3):
            first = -(-8 * shift // 6)  # the first character without a bit of what stands before
            last = 8 * (shift + len(data)) // 6
            core = base64.b64encode(bytes(shift) + data).decode()[first:last]
            if len(core) >= CORE_MIN:
                yield _spaced(core)
            elif whole and not shift:
                yield rf"(?<![\w.]){_spaced(whole)}(?![\w.])"


def _spaced(text: str) -> str:
    """Return a pattern of base64 in either alphabet, folded or not."""
    signs = {"+": r"(?:[+-]|%2[bB])", "/": r"(?:[/_]|%2[fF])"}
    return " ?".join(signs.get(each, each) for each in text)


def _cut_ends(secret: str) -> Iterator[str]:
    """Yield the beginnings of a secret that a text may end with which was cut."""
    for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
        for length in range(len(form) - 1, CUT_MIN - 1, -1):
            yield form[:length]
