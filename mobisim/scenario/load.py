"""From a file and overrides to a validated scenario; every error names its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mobisim.errors import InputError, nearest, unknown_name
from mobisim.scenario import catalog
from mobisim.scenario.document import Document, Key, Location, parse, parse_value
from mobisim.scenario.models import read_model
from mobisim.scenario.schema import Scenario
from mobisim.scenario.traces import inline_traces

_PATH_PART = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+|\*)\]")
MAX_VALUE, MAX_OVERRIDE, MAX_OTHERS = 60, 120, 200  # characters shown of what may be long


def load(path_or_name: str, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, or the shipped one of that name, with `path=value` overrides.

    It is frozen; its times are in seconds, rates in bit/s, sizes in bytes.

    Raises:
        InputError: anything wrong with it: file, line, field, expected, got, nearest name.

    Example:
        >>> import mobisim
        >>> scenario = mobisim.load("lte", ["devices[0].link.uplink=20 Mbit/s"])
        >>> scenario.devices[0].link.uplink.value
        20000000.0
    """
    return resolve(catalog.scenario(path_or_name), overrides)


def loads(text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> Scenario:
    """The scenario that a piece of YAML holds."""
    return resolve(parse(text, source), overrides)


def resolve(document: Document, overrides: Sequence[str] = ()) -> Scenario:
    """The validated scenario of a document: overrides applied, profile names replaced."""
    for text in overrides:
        apply(document, text)
    for at in list(_profile_places(document.data)):
        _inline(document, at)
        if _profile_kind(at) == "links":
            inline_traces(document, at, catalog.trace_file)
    try:
        return Scenario.model_validate(document.data)
    except ValidationError as error:
        raise _readable(error, document) from error


def override(document: Document, path: str, value: Any, where: str) -> None:
    """Put a value at a path, `[*]` meaning every item; `where` is what errors say of it.

    Raises:
        InputError: there is no such path.
    """
    for at in _expand(document, parse_path(path, where), where):
        _put(document, at, value, where)


def apply(document: Document, text: str) -> None:
    """Apply an override as it is written: `PATH=VALUE`.

    Raises:
        InputError: it is no override, or there is no such path.
    """
    path, equals, value = text.partition("=")
    where = f"--set {_short(text, MAX_OVERRIDE)}"
    if not equals or not path.strip():
        raise InputError("no override", where=where, expected="PATH=VALUE, e.g. seed=1")
    override(document, path.strip(), parse_value(value, where), where)


def parse_path(path: str, where: str) -> list[Key]:
    """The words and numbers of a path such as `devices[0].link.uplink`; `*` for all of a list.

    Raises:
        InputError: it is no path.
    """
    parts: list[Key] = []
    position = 0
    while position < len(path):
        if path[position] == "." and parts:
            position += 1
        match = _PATH_PART.match(path, position)
        if match is None:
            raise InputError("no path", where=where, expected="e.g. devices[0].link.uplink")
        parts.append(match[1] or (match[2] if match[2] == "*" else int(match[2])))
        position = match.end()
    return parts


def _expand(document: Document, parts: Sequence[Key], where: str) -> list[Location]:
    places: list[Location] = [()]
    for part in parts[:-1]:
        places = [new for at in places for new in _descend(document, at, part, where)]
    return [new for at in places for new in _children(document, at, parts[-1], where)]


def _descend(document: Document, at: Location, part: Key, where: str) -> list[Location]:
    below = _children(document, at, part, where)
    for place in below:
        if isinstance(part, str) and _get(document.data, place) is None:
            if not at and part not in Scenario.model_fields:
                raise unknown_name("key", part, Scenario.model_fields, where=where)
            _put(document, place, {}, where)  # what is not stated has its defaults
        _inline(document, place)
        value = _get(document.data, place)
        if not isinstance(value, dict | list):
            raise InputError(f"nothing lies below {_show(place)}", where=where, got=_yaml(value))
    return below


def _children(document: Document, at: Location, part: Key, where: str) -> list[Location]:
    container = _get(document.data, at)
    if part == "*" and isinstance(container, list):
        return [(*at, index) for index in range(len(container))]
    if isinstance(part, int) != isinstance(container, list) or part == "*":
        name = _show(at) or "the scenario"
        if isinstance(container, list):
            hint = f"write {name}[0], or {name}[*] for all of them"
            raise InputError(f"{name} is a list", where=where, hint=hint)
        raise InputError(f"{name} is no list", where=where, expected="the name of one of its keys")
    if isinstance(part, int) and part >= len(container):
        raise InputError(
            f"no {_show((*at, part))}", where=where, expected=f"an index below {len(container)}"
        )
    return [(*at, part)]


def _put(document: Document, at: Location, value: Any, where: str) -> None:
    _get(document.data, at[:-1])[at[-1]] = value
    for place in [place for place in document.places if place[: len(at)] == at]:
        del document.places[place]
    document.places[at] = where


def _get(data: Any, at: Location) -> Any:
    for key in at:
        data = data.get(key) if isinstance(data, dict) else data[key]
    return data


def _profile_kind(at: Location) -> str | None:
    match at:
        case ("devices", int(), "profile"):
            return "devices"
        case ("devices", int(), "link"):
            return "links"
        case ("server", "profile"):
            return "servers"
        case ("model",) | ("devices", int(), "model"):
            return "models"
    return None


def _profile_places(data: dict[str, Any]) -> Iterator[Location]:
    devices = data.get("devices")
    for index, group in enumerate(devices if isinstance(devices, list) else []):
        if isinstance(group, dict):
            keys = (key for key in ("profile", "link", "model") if key in group)
            yield from (("devices", index, key) for key in keys)
    if isinstance(data.get("server"), dict):
        yield ("server", "profile")
    if "model" in data:
        yield ("model",)


def _inline(document: Document, at: Location) -> None:
    """Replace a profile's name by its contents; their errors then name the profile's file."""
    kind, name = _profile_kind(at), _get(document.data, at)
    if kind is None or not isinstance(name, str):
        return
    where = f"{place_of(document, at)}: {_show(at)}"
    found = find_profile(kind, name, where)
    _get(document.data, at[:-1])[at[-1]] = found.data
    document.places.update({(*at, *below): place for below, place in found.places.items() if below})


def find_profile(kind: str, name: str, where: str | None = None) -> Document:
    """The document of a profile named by a shipped name or by its file's path.

    Raises:
        InputError: there is no such profile, or it cannot be read.
    """
    if kind == "models":
        return read_model(name, where or name)
    if name.endswith((".yaml", ".yml")):
        return catalog.profile_file(name, where or name)
    return catalog.profile(kind, name, where)


def place_of(document: Document, at: Location) -> str:
    """Where a value stands, or the nearest of what contains it."""
    for length in range(len(at), -1, -1):
        if at[:length] in document.places:
            return document.places[at[:length]]
    return "<scenario>"


def _show(at: Location) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at)
    return text.removeprefix(".")


def validate_profile(kind: type[Any], document: Document) -> Any:
    """The profile that a document holds, as an instance of `kind`.

    Raises:
        InputError: with file, line, field, expected and got.
    """
    try:
        return TypeAdapter(kind).validate_python(document.data)
    except ValidationError as error:
        raise _readable(error, document) from error


def _readable(error: ValidationError, document: Document) -> InputError:
    problems = [(_location(p, document.data), p) for p in error.errors(include_url=False)]
    # A union or a list fails with its items: the innermost problem is the one to read.
    first = problems[0][0]
    at, problem = max(
        ((at, p) for at, p in problems if at[: len(first)] == first), key=lambda pair: len(pair[0])
    )
    others = dict.fromkeys(_show(a) for a, _ in problems if a != at[: len(a)])
    silent = problem["type"] in _NO_VALUE or isinstance(problem["input"], dict)
    return InputError(
        " or ".join(dict.fromkeys(_message(p, at) for a, p in problems if a == at)).replace(
            " or expected:", ", or"
        ),
        where=f"{place_of(document, at)}: {_show(at) or 'the scenario'}",
        got=None if silent else _short(_yaml(problem["input"])),
        hint=f"also wrong: {_short(', '.join(others), MAX_OTHERS)}" if others else None,
    )


_NO_VALUE = ("unknown_key", "of_key", "missing", "union_tag_not_found")


def _location(problem: ErrorDetails, data: Any) -> Location:
    """Where the problem stands, without what pydantic adds: the names of union members."""
    at: list[Key] = []
    loc, missing = problem["loc"], problem["type"] == "missing"
    for key in loc:
        if isinstance(data, dict) and (key in data or (missing and key == loc[-1])):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            continue
        at.append(key)
    if "key" in problem.get("ctx", {}):
        key = problem["ctx"]["key"]
        at.extend(parse_path(key, "") if problem["type"] == "of_key" else [key])
    elif at and at[-1] == "value" and at != list(loc):
        at.pop()
    return tuple(at)


_PLAIN = {
    "missing": "this key is missing",
    "union_tag_not_found": (
        "kind is missing; expected: kind: roofline with rates, fixed with times, or measured; of a "
        "link: constant or trace"
    ),
    "tuple_type": "expected: a list",
    "string_type": "expected: text",
    "string_pattern_mismatch": (
        "expected: up to 100 letters, digits, dots, dashes and underscores, "
        "the first a letter or digit"
    ),
    "finite_number": "expected: a finite number",
}
# What pydantic calls its types, as people say it.
_SORTS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


def _message(problem: ErrorDetails, at: Location) -> str:
    sort, context = problem["type"], problem.get("ctx", {})
    if sort in _PLAIN:
        return _PLAIN[sort]
    if sort == "value_error":
        return str(context["error"])
    if sort in ("literal_error", "union_tag_invalid"):
        return _choice(str(problem["input"]), context)
    if sort in ("model_type", "model_attributes_type", "dict_type"):
        name = "the name of a profile, or " if _profile_kind(at) else ""
        return f"expected: {name}a mapping of keys and values"
    for bound, words in _BOUNDS.items():
        if bound in context:
            return f"expected: a number {words} {context[bound]}"
    for bound, words in (("min_length", "at least"), ("max_length", "at most")):
        if bound in context:
            return f"expected: {words} {context[bound]} in the list"
    return _other(sort, problem["msg"])


def _other(sort: str, text: str) -> str:
    kind = sort.split("_", 1)[0]
    if kind in _SORTS:
        return f"expected: {_SORTS[kind]}"
    expected = text.removeprefix("Input should be ")
    return f"expected: {expected}" if expected != text else text


def _choice(got: str, context: dict[str, Any]) -> str:
    expected = re.findall(r"'([^']*)'", str(context.get("expected") or context["expected_tags"]))
    guess = nearest(str(context.get("tag", got)), expected)
    hint = f"; did you mean {guess!r}?" if guess else ""
    among = "one of " if len(expected) > 1 else ""
    return f"expected: {among}{', '.join(expected)}{hint}"


def _yaml(value: Any) -> str:
    """A value as it would be written in a scenario."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _short(text: str, limit: int = MAX_VALUE) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@contextmanager
def placing_errors(document: Document) -> Iterator[None]:
    """Give errors that name a field of the scenario the file and line where it stands."""
    try:
        yield
    except InputError as error:
        at = _field(error.where)
        if at is None:
            raise
        raise error.placed(f"{place_of(document, at)}: {error.where}") from error


def _field(where: str | None) -> Location | None:
    """The field that an error names, if it names one."""
    try:
        at = tuple(parse_path(where or "", ""))
    except InputError:
        return None
    is_file = len(at) > 1 and Path(where or "").exists()  # model.safetensors reads like a field
    return at if at and at[0] in Scenario.model_fields and not is_file else None
