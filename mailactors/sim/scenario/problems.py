"""Error messages for a scenario file: the key, its line where it can be found, the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pydantic
import pydantic_core

from mailactors.config import nearest
from mailactors.sim.scenario.faults import KINDS
from mailactors.sim.scenario.incidents import GATEWAY_KINDS

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY_FIRST: Final = re.compile(r"([\w.%-]+): ")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_IN_ELEMENT: Final = 2
"""Brackets and braces around an inline table in a list."""
ERRORS_MAX: Final = 20
"""Errors that are reported at once."""
_WORDS: Final = {"missing": "is missing", "too_short": "is empty"}
_ALL_KINDS: Final = [*KINDS, *GATEWAY_KINDS]


def problems_of(
    error: pydantic.ValidationError, text: str, model: type[pydantic.BaseModel]
) -> list[str]:
    """Return a line for each error, as `key (line n): what is wrong`; `model` is the file's."""
    faults, lines = error.errors(include_url=False), text.splitlines()
    found = [line for fault in faults[:ERRORS_MAX] for line in _lines_of(fault, lines, model)]
    if len(faults) > ERRORS_MAX:
        found.append(f"and {len(faults) - ERRORS_MAX:,} more")
    return found


def _lines_of(
    fault: pydantic_core.ErrorDetails, text: Sequence[str], model: type[pydantic.BaseModel]
) -> Iterator[str]:
    location = _without_tags(fault["loc"])
    key = ".".join(map(str, location))
    if fault["type"] == "extra_forbidden":
        known = list(_known_keys(fault["loc"], model))
        yield _line(location, text, f"there is no such key{nearest(str(location[-1]), known)}")
    elif fault["type"] == "union_tag_invalid" and "@" not in str(fault["ctx"]):
        tag = fault["ctx"]["tag"]
        words = f"there is no fault kind {tag!r}{nearest(tag, _kinds_at(location))}"
        yield _line((*location, "kind"), text, words, key)
    elif fault["type"] == "union_tag_not_found":
        yield _line(location, text, f"has no kind; it is one of {', '.join(_kinds_at(location))}")
    elif fault["type"] in _WORDS:
        yield _line(location, text, _WORDS[fault["type"]])
    else:
        for words in fault["msg"].removeprefix("Value error, ").split("\n"):
            found = _KEY_FIRST.match(words)
            if found and fault["type"] == "value_error":
                inner = (*location, *_parts(found[1]))
                yield _line(inner, text, words[found.end() :])
            else:
                yield _line(location, text, words)


def _parts(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _line(
    location: Sequence[str | int], text: Sequence[str], words: str, key: str | None = None
) -> str:
    key = ".".join(map(str, location)) if key is None else key
    number = line_of(location, text)
    where = f" (line {number})" if number is not None else ""
    return f"{key}{where}: {words}" if key else words


def _without_tags(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return a location as in the file, without pydantic's names of union members."""
    found: list[str | int] = []
    for part in location:
        is_kind = part in _ALL_KINDS and len(found) > 1 and found[-2] == "faults"
        is_tag = isinstance(part, str) and part.startswith("@")
        if not is_tag and not (is_kind and isinstance(found[-1], int)):
            found.append(part)
    return tuple(found)


def _kinds_at(location: Sequence[str | int]) -> list[str]:
    return _ALL_KINDS if location[0] == "faults" else KINDS


def line_of(location: Sequence[str | int], text: Sequence[str]) -> int | None:
    """Return the line of a key; None if it is ambiguous.

    Only the innermost table with a header of its own is searched; a key that appears there twice,
    in a list of inline tables, is ambiguous.
    """
    names = [part for part in location if isinstance(part, str)]
    if not names:
        return None
    for depth in range(len(location), -1, -1):
        begin, end = _section(location[:depth], text)
        if begin is None:
            continue
        outer = begin, end
        begin, end = _element(location[depth:], text, begin, end)
        for name in reversed(names):
            word = re.compile(rf"(?<![\w\"-]){re.escape(name)}(?=[\s.]*[=.\]\"])")
            found = [n for n in range(begin, end) if word.search(text[n].partition("#")[0])]
            if len(found) == 1:
                return found[0] + 1
            if (begin, end) != outer and not found:
                return begin + 1
            if found or name != location[-1]:
                return None
    return None


def _element(
    inside: Sequence[str | int], text: Sequence[str], begin: int, end: int
) -> tuple[int, int]:
    """Return the lines of one inline table in a list: `key = [{…}, {…}]`."""
    if len(inside) <= 1 or not isinstance(inside[1], int):
        return begin, end
    depth = place = 0
    first = None
    is_here = False
    for number in range(begin, end):
        line = _STRING.sub('""', text[number]).partition("#")[0]
        is_here = is_here or re.match(rf"\s*{re.escape(str(inside[0]))}\s*=", line) is not None
        for character in line if is_here else "":
            if character in "[{":
                depth += 1
                if character == "{" and depth == _IN_ELEMENT:
                    first = number if place == inside[1] else None
                    place += 1
            elif character in "]}":
                depth -= 1
                if first is not None and depth < _IN_ELEMENT:
                    return first, number + 1
    return begin, end


def _section(location: Sequence[str | int], text: Sequence[str]) -> tuple[int | None, int]:
    """Return where the table at this location begins and ends; headers of lists are counted."""
    if not location:
        return 0, len(text)
    counts: dict[str, int] = {}
    begin = None
    for number, line in enumerate(text):
        found = _HEADER.fullmatch(line)
        if found is None:
            continue
        if begin is not None:
            return begin, number
        name = found[2].replace('"', "")
        here: list[str | int] = list(name.split("."))
        if found[1] == "[[":
            counts[name] = counts.get(name, -1) + 1
            here.append(counts[name])
        if here == list(location):
            begin = number
    return begin, len(text)


def _known_keys(location: Sequence[Any], model: type[pydantic.BaseModel]) -> Iterator[str]:
    """Yield the known keys of the table that holds the last part of a location."""
    schema = model.model_json_schema()
    here: dict[str, Any] = schema
    for part in location[:-1]:
        here = _step(_resolved(here, schema), part, schema)
    yield from _resolved(here, schema).get("properties", {})


def _resolved(here: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow references, and what may be absent."""
    while True:
        choices = [each for each in here.get("anyOf", []) if each.get("type") != "null"]
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
        elif len(choices) == 1:
            here = choices[0]
        else:
            return here


def _step(here: dict[str, Any], part: str | int, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the schema for the next part of a location."""
    if isinstance(part, int):
        return dict(here.get("items", {}))
    mapping = here.get("discriminator", {}).get("mapping", {})
    if part in mapping:
        return {"$ref": mapping[part]}
    if part in here.get("properties", {}):
        return dict(here["properties"][part])
    if part.startswith("@"):
        choices = [_resolved(each, schema) for each in here.get("oneOf", here.get("anyOf", []))]
        return next((each for each in choices if "properties" in each), {})
    found: dict[str, Any] = here.get("additionalProperties") or {}
    return found
