"""Reading a configuration: the file, the environment, the command line; every fault at once.

Every fault names its key, and a key that does not exist names the nearest one that does.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pydantic
import pydantic_settings

from mailactors.config.checks import contradictions, missing_sender
from mailactors.config.tree import (
    ENVIRONMENT_DELIMITER,
    ENVIRONMENT_PREFIX,
    Config,
    ConfigError,
    ProviderSettings,
    nearest,
)

ROUNDS_MAX: Final = 20
"""Times that what is faulty is left out, so that the rest is checked as well."""
HOST_STAND_IN: Final = "relay.example"
STAND_IN: Final = "not set"
"""What stands for a password that is not there, while the rest is checked."""
WANTED: Final = {bool: "true or false", int: "a number", float: "a number", str: "a text"}


def load_config(
    path: str | None,
    service: Mapping[str, str] | None = None,
    missing: list[str] | None = None,
) -> Config:
    """Read a configuration file, or take the defaults.

    Variables such as MAILACTORS_SERVICE__LISTEN win over the file. They name tables in lower case.

    Args:
        path: a TOML file, or None.
        service: keys of `[service]` that win over both, such as those of a command line.
        missing: takes a line for each secret that is not there, instead of a fault.

    Raises: ConfigError, with every fault and its key.
    """
    where = path or "the configuration"
    if stray := list(stray_variables(os.environ)):
        raise ConfigError("the environment", stray)
    try:
        raw = {} if path is None else parse_toml(path, Path(path).read_text(encoding="utf-8"))
        environment = pydantic_settings.EnvSettingsSource(Config)() or {}
    except OSError as error:
        raise ConfigError(where, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(where, [f"is not TOML: {error}"]) from None
    except pydantic_settings.SettingsError as error:
        raise ConfigError(where, [str(error)]) from None
    given = {"service": dict(service)} if service else {}
    return check_tree(where, raw, merge(environment, given), missing)


def check_tree(
    where: str,
    raw: Mapping[str, Any],
    above: Mapping[str, Any],
    missing: list[str] | None = None,
) -> Config:
    """Return the configuration of a file's tables with what wins over them.

    What is faulty is left out, so that the rest is checked as well.

    Raises: ConfigError, with every fault and its key.
    """
    tree = copy.deepcopy(merge(raw, above))
    secrets = list(_stand_in_for_secrets(tree))
    wrong = dict(wrong_types(raw))
    faults = Faults()
    ours = {place: line for place, line in wrong.items() if not _holds(above, place)}
    faults.add(ours.items())
    for place in ours:
        _leave_out(tree, place)
    config = None
    for _ in range(ROUNDS_MAX):
        try:
            config = Config(**tree)
            break
        except pydantic.ValidationError as error:
            faults.add(_lines(error))
            for fault in error.errors(include_url=False, include_input=False):
                _leave_out(tree, _place(fault))
                if fault["type"] == "missing" and fault["loc"][-1] == "host":
                    tree["providers"][fault["loc"][1]] |= {"host": HOST_STAND_IN}
    if config is not None:
        faults.add([*contradictions(config, tree), *missing_sender(config, merge(raw, above))])
    if missing is None:
        faults.lines += secrets
    else:
        missing += secrets
    if faults.lines:
        raise ConfigError(where, list(dict.fromkeys(faults.lines)))
    assert config is not None
    return config


class Faults:
    """Collects faults; what only follows from an earlier one is not told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._places: list[tuple[str, ...]] = []

    def add(self, found: Iterable[tuple[tuple[str, ...], str]]) -> None:
        """Add the faults of a check, but for those of, or about, a key that was left out before."""
        before = tuple(self._places)
        for place, line in found:
            self._places.append(place)
            is_consequence = any(
                each[: len(place)] == place and re.search(rf"\b{re.escape(each[-1])}\b", line)
                for each in before
                if len(each) > len(place)
            )
            if place not in before and not is_consequence:
                self.lines.append(line)


def _holds(tree: Mapping[str, Any], place: tuple[str, ...]) -> bool:
    value: Any = tree
    for part in place:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _leave_out(tree: dict[str, Any], place: tuple[str, ...]) -> None:
    """Take a faulty key out; a provider that is faulty as a whole becomes a simulated one."""
    value: Any = tree
    for part in place[:-1]:
        if not isinstance(value, dict) or part not in value:
            value = None
            break
        value = value[part]
    if isinstance(value, dict) and place and place[-1] in value:
        del value[place[-1]]
        if len(place) == len(("providers", "its name")) and place[0] in {"providers", "streams"}:
            value[place[-1]] = {"kind": "simulated"} if place[0] == "providers" else {}
    elif place[:1] == ("providers",) and len(place) > 1 and place[-1] != "host":
        tree["providers"][place[1]] = {"kind": "simulated"}
    elif len(place) == 1 and place[0] in tree:
        del tree[place[0]]
    if not place:
        for stream in tree.get("streams", {}).values():
            stream.pop("route", None)


def _stand_in_for_secrets(tree: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each password that is not there, and let a stand-in be checked."""
    providers = tree.get("providers")
    for name, provider in (providers if isinstance(providers, dict) else {}).items():
        if not isinstance(provider, dict) or "username" not in provider:
            continue
        if provider.get("password") or provider.get("token_command"):
            continue
        provider["password"] = STAND_IN
        key = f"providers.{name}.password"
        variable = f"{ENVIRONMENT_PREFIX}PROVIDERS__{name.upper()}__PASSWORD"
        if name == name.lower():
            yield f"{key}: username and password go together; set the variable {variable}"
        else:
            yield f"{key}: is missing, and a variable sets it only for a name in lower case"


def wrong_types(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each value of a file that would be taken for one of another type, with its key.

    TOML has types, so `true` is no 1 and "5" is no 5. Variables have none.
    """
    yield from _wrong_in(raw, ())


def _wrong_in(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _wrong_in(inner, (*place, key))
        return
    if place[0:1] == ("streams",) and place[2:] == ("route",) and value == []:
        yield place, f"{'.'.join(place)}: is empty; leave it out for all providers"
        return
    types = {each for each in _types_at(place) if each in WANTED}
    if isinstance(value, str):
        is_wrong = str not in types and any(_is_read_as(value, each) for each in types)
    elif isinstance(value, bool):
        is_wrong = bool not in types and not types.isdisjoint({int, float})
    else:
        is_wrong = isinstance(value, int | float) and types == {bool}
    if is_wrong:
        names = " or ".join(sorted({WANTED[each] for each in types}))
        yield place, f"{'.'.join(place)}: is {_shown(value)}; {names} is wanted"


def _shown(value: Any) -> str:
    """Return what a value is, but not a text's own words, which may be a secret's."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a text in quotes" if isinstance(value, str) else "a number"


def _is_read_as(text: str, wanted: type) -> bool:
    """Whether the validation would read a text as a value of this type."""
    try:
        pydantic.TypeAdapter(wanted).validate_python(text)
    except pydantic.ValidationError:
        return False
    return True


def _types_at(place: tuple[str, ...]) -> Iterator[type]:
    found: list[Any] = [Config]
    for part in place:
        found = [inner for annotation in found for inner in _inside(annotation, part)]
    for annotation in found:
        yield from _plain_types(annotation)


def _plain_types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    elif get_origin(annotation) is Literal:
        yield from {type(each) for each in get_args(annotation)}
    elif get_origin(annotation) is not tuple:
        for inner in get_args(annotation):
            yield from _plain_types(inner)


def parse_toml(where: str, text: str, complaint: type[ConfigError] = ConfigError) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises: `complaint`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise complaint(where, ["is not TOML that can be read: it is nested too deeply"]) from None
    except ValueError as error:  # a fault of syntax, or a number that is too long
        raise complaint(where, [f"is not TOML: {error}"]) from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both tables as one; where both have a value, that of `above` wins.

    >>> merge({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = merge(known, value)  # noqa: PLW2901
        merged[key] = value
    return merged


def stray_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that looks like one of ours but is not.

    Only variables with the delimiter: MAILACTORS_PORT may be an orchestrator's.
    """
    for variable in sorted(environment):
        name = variable.upper().removeprefix(ENVIRONMENT_PREFIX)
        table, delimiter, _ = name.partition(ENVIRONMENT_DELIMITER)
        is_ours = name != variable.upper() and delimiter
        if is_ours and table.lower() not in Config.model_fields:
            hint = nearest(table, [known.upper() for known in Config.model_fields])
            yield f"{variable}: there is no table {table!r}{hint}"


def problem_lines(error: pydantic.ValidationError) -> Iterator[str]:
    """Yield each fault as `key: what is wrong`."""
    for _, line in _lines(error):
        yield line


def _place(fault: Any) -> tuple[str, ...]:
    """Return where a fault is, as keys."""
    location = [str(part) for part in fault["loc"]]
    if location[:1] == ["providers"]:
        del location[2:3]  # the union's tag, which is no key
    return tuple(location)


def _lines(error: pydantic.ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each fault with its place; one that holds several lines is as many faults."""
    for fault in error.errors(include_url=False, include_input=False):
        place = _place(fault)
        key = ".".join(place)
        if fault["type"] == "extra_forbidden":
            hint = nearest(place[-1], _known_keys([*place]))
            yield place, f"{key}: there is no such key{hint}"
        elif fault["type"] == "union_tag_not_found":
            yield place, f"{key}.kind: is missing; it is one of {', '.join(_KINDS)}"
        elif fault["type"] == "union_tag_invalid":
            kind = fault["ctx"]["tag"]
            yield place, f"{key}.kind: there is no kind {kind!r}{nearest(kind, _KINDS)}"
        else:
            for text in fault["msg"].removeprefix("Value error, ").splitlines():
                yield place, f"{key}: {text}" if key else text


def _known_keys(location: list[str]) -> list[str]:
    found: list[Any] = [Config]
    for part in location[:-1]:
        found = [inner for annotation in found for inner in _inside(annotation, part)]
    return [key for each in found for model in _models(each) for key in model.model_fields]


def _inside(annotation: Any, part: str) -> Iterator[Any]:
    """Yield what may stand one part of a location further in; a dictionary's key is any name."""
    if get_origin(annotation) is dict:
        yield get_args(annotation)[1]
    else:
        fields = [model.model_fields for model in _models(annotation)]
        yield from (known[part].annotation for known in fields if part in known)


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


_KINDS: Final = [str(each.model_fields["kind"].default) for each in _models(ProviderSettings)]
