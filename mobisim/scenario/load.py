"""From a file and overrides to a validated scenario; every error names its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mobisim.errors import InputError, nearest
from mobisim.scenario import catalog
from mobisim.scenario.document import Document, Key, Location, parse, parse_value
from mobisim.scenario.models import read_model
from mobisim.scenario.schema import Scenario

_PATH_PART = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+|\*)\]")


def load(path_or_name: str, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, or the shipped one of that name, with `path=value` overrides.

    Raises:
        InputError: anything wrong with it: file, line, field, expected, got, nearest name.
    """
    return resolve(catalog.scenario(path_or_name), overrides)


def loads(text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> Scenario:
    """The scenario that a piece of YAML holds."""
    return resolve(parse(text, source), overrides)


def resolve(document: Document, overrides: Sequence[str] = ()) -> Scenario:
    """The validated scenario of a document: overrides applied, profile names replaced."""
    for override in overrides:
        _apply(document, override)
    for at in list(_profile_places(document.data)):
        _inline(document, at)
    try:
        return Scenario.model_validate(document.data)
    except ValidationError as error:
        raise _readable(error, document) from error


def _apply(document: Document, override: str) -> None:
    path, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not path.strip():
        raise InputError("no override", where=where, expected="PATH=VALUE, e.g. seed=1")
    value = parse_value(text, where)
    for at in _expand(document, _parse_path(path.strip(), where), where):
        _put(document, at, value, where)


def _parse_path(path: str, where: str) -> list[Key]:
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
        _inline(document, place)
        if not isinstance(_get(document.data, place), dict | list):
            raise InputError(f"nothing lies below {_show(place)}", where=where)
    return below


def _children(document: Document, at: Location, part: Key, where: str) -> list[Location]:
    container = _get(document.data, at)
    if part == "*" and isinstance(container, list):
        return [(*at, index) for index in range(len(container))]
    if isinstance(part, int) != isinstance(container, list) or part == "*":
        sort = "a list" if isinstance(container, list) else "a mapping"
        raise InputError(f"{_show(at) or 'the scenario'} is {sort}", where=where)
    if isinstance(part, int) and part >= len(container):
        raise InputError(
            f"no {_show((*at, part))}", where=where, expected=f"at most [{len(container) - 1}]"
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
        case ("model",):
            return "models"
    return None


def _profile_places(data: dict[str, Any]) -> Iterator[Location]:
    devices = data.get("devices")
    for index, group in enumerate(devices if isinstance(devices, list) else []):
        if isinstance(group, dict):
            yield from (("devices", index, key) for key in ("profile", "link") if key in group)
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
    found = read_model(name, where) if kind == "models" else catalog.profile(kind, name, where)
    _get(document.data, at[:-1])[at[-1]] = found.data
    document.places.update({(*at, *below): place for below, place in found.places.items() if below})


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
    problems = error.errors(include_url=False)
    first = problems[0]
    at = _real_location(first["loc"], document.data)
    if first["type"] == "unknown_key":
        at = (*at, first["ctx"]["key"])
    # A list whose item failed counts as failed too: that is no problem of its own.
    others = sum(first["loc"][: len(p["loc"])] != p["loc"] for p in problems[1:])
    silent = first["type"] in _NO_VALUE or isinstance(first["input"], dict)
    got = None if silent else _short(first["input"])
    return InputError(
        _message(first),
        where=f"{place_of(document, at)}: {_show(at) or 'the scenario'}",
        got=got,
        hint=f"({others} more like this)" if others else None,
    )


_NO_VALUE = ("unknown_key", "missing", "union_tag_not_found")


def _real_location(loc: tuple[Key, ...], data: Any) -> Location:
    """The location without what pydantic adds to it: the names of union members."""
    at: list[Key] = []
    for key in loc:
        if isinstance(data, dict) and (key in data or key == loc[-1]):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            continue
        at.append(key)
    if at and at[-1] == "value" and at != list(loc):
        at.pop()
    return tuple(at)


def _message(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "missing":
            return "this key is missing"
        case "value_error":
            return str(context["error"])
        case "literal_error" | "union_tag_invalid":
            return _choice(str(problem["input"]), context)
        case "union_tag_not_found":
            return "kind is missing; expected: kind: roofline with rates, or kind: fixed with times"
        case "too_short":
            return f"expected: at least {context['min_length']}"
        case "tuple_type":
            return "expected: a list"
    text = problem["msg"].removeprefix("Input should be ")
    return f"expected: {text}" if text != problem["msg"] else text


def _choice(got: str, context: dict[str, Any]) -> str:
    expected = re.findall(r"'([^']*)'", str(context.get("expected") or context["expected_tags"]))
    guess = nearest(str(context.get("tag", got)), expected)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"expected: one of {', '.join(expected)}{hint}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
