"""Decodes bodies and queries into typed values, or says what is wrong with them.

A body that is not JSON is a 400; JSON of another shape is a 422 with a JSON pointer. Typed decoders
never build what they do not know: they stop at the first wrong byte of nesting, huge numbers and
unknown fields. Only then, in a small body, the other faults are looked for (`faults`).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from mailactors.api.faults import MENDED_BYTES_MAX, Misfit, all_faults
from mailactors.api.problems import FaultView, ProblemError, bad_parameter, validation_problem
from mailactors.api.schemas import AddressIn, AttachmentIn

T = TypeVar("T", bound=msgspec.Struct)

JSON_MEDIA_TYPE: Final = "application/json"
_WHERE = re.compile(r"(.*?)(?: - at (?:`key` in )?`(\$[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
"""How a time begins; a number alone would be read as seconds since 1970."""
_MISSING = re.compile(r"Object missing required field `(.*)`")
_WORDS: Final = {
    "`str`": "a string",
    "`int`": "an integer",
    "`float`": "a number",
    "`bool`": "a boolean",
    "`array`": "an array",
    "`object`": "an object",
    "`null`": "null",
    "`str | object`": "a string or an object",
    "`str | array`": "a string or an array",
    "`str | array | object`": "a string, an object or an array",
    "`str | null`": "a string or null",
}
_NESTED: Final[Mapping[str, type[msgspec.Struct]]] = {"attachments": AttachmentIn}


def check_content_type(content_type: str | None, *media_types: str) -> str:
    """Return the media type of a body that is declared as one of these, JSON if none is given.

    curl sends a form's content type by default, so the refusal says which header to add.

    Raises: ProblemError.
    """
    allowed = media_types or (JSON_MEDIA_TYPE,)
    media_type, _, parameters = (content_type or "").partition(";")
    media_type, charset = media_type.strip().lower(), parameters.strip().lower().replace('"', "")
    if media_type not in allowed or charset not in {"", "charset=utf-8"}:
        said = f"was {content_type[:100]!r}" if content_type else "is missing"
        headers = " or ".join(f"'Content-Type: {each}'" for each in allowed)
        detail = f"The Content-Type {said}; send the header {headers}"
        raise ProblemError("unsupported-media-type", detail)
    return media_type


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return a body as a value of the decoder's type. Raises: ProblemError."""
    try:
        value = decoder.decode(body)
        _refuse_duplicates(body)
    except msgspec.ValidationError as error:
        raise validation_problem(_all_faults(body, decoder.type, error)) from None
    except (UnicodeDecodeError, RecursionError):
        raise ProblemError("malformed-json", "not UTF-8, or nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ProblemError("malformed-json", str(error)) from None
    return value


def decode_query(pairs: Iterable[tuple[str, str]], shape: type[T]) -> T:
    """Return query parameters as a value of a type; each at most once, none unknown.

    Raises: ProblemError.
    """
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise bad_parameter(name, "is given twice")
        given[name] = value
    try:
        found = msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        fault = _fault(str(error), shape)
        raise bad_parameter((fault.pointer or "").removeprefix("/"), fault.detail) from None
    for name, text in given.items():
        if isinstance(getattr(found, name), datetime) and not _RFC_3339.match(text):
            raise bad_parameter(name, "is no time such as 2030-01-01T00:00:00Z")
    return found


def pointer_of(steps: Sequence[str | int]) -> str:
    """Return a JSON pointer (RFC 6901).

    >>> pointer_of(["headers", "a/b"])
    '/headers/a~1b'
    """
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _all_faults(
    body: bytes, shape: type[msgspec.Struct], first: msgspec.ValidationError
) -> tuple[FaultView, ...]:
    """Return every fault of a body's types; the first one where the rest cannot be read."""
    if len(body) <= MENDED_BYTES_MAX:
        with contextlib.suppress(ValueError, RecursionError):  # a msgspec.DecodeError is the first
            _refuse_duplicates(body)
            return all_faults(body, shape, lambda error: _misfit(str(error), shape))
    return (_fault(str(first), shape),)


def _fault(text: str, shape: type[msgspec.Struct]) -> FaultView:
    return _misfit(text, shape).view


def _misfit(text: str, shape: type[msgspec.Struct]) -> Misfit:
    """Parse msgspec's error text: what is wrong, and where (`$.to[1]` is `/to/1`)."""
    found = _WHERE.fullmatch(text)
    assert found is not None
    what, where = found[1], found[2] or "$"
    names: list[str] = [name or index for name, index in _STEP.findall(where)]
    steps = tuple(int(step) if step.isdecimal() else step for step in names)
    if unknown := _UNKNOWN.fullmatch(what):
        words, meant = _unknown_words(unknown[1], names, shape)
        view = FaultView(words, pointer_of([*names, unknown[1]]))
        return Misfit(view, (*steps, unknown[1]), is_unknown=True, meant=meant)
    if missing := _MISSING.fullmatch(what):
        view = FaultView("is required", pointer_of([*names, missing[1]]))
        choices = _choices(shape, [*names, missing[1]])
        return Misfit(view, (*steps, missing[1]), choices=tuple(choices))
    choices = _choices(shape, names)
    if what.startswith("Invalid enum value ") and choices:
        words = f"is none of {', '.join(choices)}"
        return Misfit(FaultView(words, pointer_of(names)), steps, choices=tuple(choices))
    return Misfit(FaultView(_plain_words(what), pointer_of(names)), steps, choices=tuple(choices))


def _unknown_words(name: str, steps: Sequence[str], shape: type[msgspec.Struct]) -> tuple[str, str]:
    """Return what is said of an unknown name, and the name that it seems to mean, if any."""
    at = _NESTED.get(steps[0], AddressIn) if steps else shape
    known = at.__struct_encode_fields__
    near = difflib.get_close_matches(name[:40], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"is not known; {hint}" if known else "is not known", near[0] if near else ""


def _choices(shape: type[msgspec.Struct], steps: Sequence[str]) -> list[str]:
    """Return the values of a top-level enumeration, or none for another field."""
    shaped = msgspec.inspect.type_info(shape)
    assert isinstance(shaped, msgspec.inspect.StructType)
    for type_ in [field.type for field in shaped.fields if [field.encode_name] == steps]:
        for kind in type_.types if isinstance(type_, msgspec.inspect.UnionType) else (type_,):
            if isinstance(kind, msgspec.inspect.EnumType):
                return [str(each.value) for each in kind.cls]
            if isinstance(kind, msgspec.inspect.LiteralType):
                return [str(each) for each in kind.values]
    return []


def _plain_words(text: str) -> str:
    for word, plain in _WORDS.items():
        text = text.replace(word, plain)
    return text[:1].lower() + text[1:]


def _refuse_duplicates(body: bytes) -> None:
    """Refuse an object that names a field twice: readers differ in which one they take.

    As Latin-1 a text takes as many octets as its body; one emoji would make it four times as long.
    """
    text = body.decode("latin-1")
    json.loads(text, object_pairs_hook=_unique, parse_int=str, parse_float=str)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    pairs = [(name if name.isascii() else _from_latin_1(name), value) for name, value in pairs]
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise msgspec.DecodeError(f"{twice[:100]!r} is given twice in one object")
    return unique


def _from_latin_1(name: str) -> str:
    """Return a name as its body had it, in UTF-8 or escaped."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        return name
