"""YAML documents that remember the line of each of their values, and large JSON."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from mobisim.errors import InputError

Key = str | int
Location = tuple[Key, ...]

MAX_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 26  # a manifest holds the traces and measured profiles that were used
MAX_DEPTH = 40
MAX_DIGITS = 400  # a longer integer is beyond every limit, and Python may refuse to read it


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `1e-3` is a float, `no` a word, `1:30` no number."""


_Loader.yaml_implicit_resolvers = {}  # its own, or adding one would copy those of YAML 1.1


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_resolve("null", r"^(?:null|Null|NULL|~)$", "nN~")
_resolve("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("int", r"^[-+]?[0-9]+$", "-+0123456789")
_resolve(
    "float",
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    "-+.0123456789",
)


@dataclass(frozen=True)
class Document:
    """A parsed mapping and the place ("file:line") of each value in it."""

    data: dict[str, Any]
    places: dict[Location, str]


def read_text(path: Path, kind: str, limit: int = MAX_BYTES) -> str:
    """The text of a file that a user named.

    Raises:
        InputError: it is missing, a directory, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) <= limit:
            return content.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise InputError(
            f"cannot be read: {reason}", where=str(path), expected=f"a {kind} file"
        ) from error
    expected = f"at most {limit >> 20} MiB"
    raise InputError(f"too large for a {kind} file", where=str(path), expected=expected)


def parse(text: str, source: str) -> Document:
    """The document that `text` holds; `source` names it in errors.

    Raises:
        InputError: broken YAML, a tag, an alias, a key twice, or no mapping at the top.
    """
    return copy.deepcopy(_parsed(text, source))


@lru_cache(maxsize=64)
def _parsed(text: str, source: str) -> Document:
    """What `parse` gives a copy of: the points of a sweep name the same few profiles."""
    try:
        _refuse_tags_and_aliases(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, source) from error
    if not isinstance(node, yaml.MappingNode):
        raise InputError(
            "no mapping", where=source, expected="keys and values, as in `seed: 0`", got=_sort(node)
        )
    places: dict[Location, str] = {}
    return Document(_value(node, (), source, places), places)


def parse_json(text: str, source: str) -> Document:
    """The document that a piece of JSON holds; errors name `source`, and no line.

    Raises:
        InputError: broken JSON, a key twice, or no mapping at the top.
    """
    try:
        data = json.loads(text, object_pairs_hook=partial(_unique, source))
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", where=source) from error
    except RecursionError as error:
        raise InputError("nested too deep", where=source) from error
    if not isinstance(data, dict):
        raise InputError("no mapping", where=source, expected="keys and values in braces")
    return Document(data, {(): source})


def _unique(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise InputError(f"the key {twice!r} stands twice", where=source, hint="keep one of them")
    return found


def parse_value(text: str, source: str) -> Any:
    """The value that a piece of YAML such as `20 Mbit/s` or `{codec: int8}` holds.

    Raises:
        InputError: as `parse`; also where the text holds more than one value.
    """
    if "\n" in text:
        raise InputError("one value goes on one line", where=source)
    try:
        return parse(f"value: {text}" if text.strip() else "value: ''", source).data["value"]
    except InputError as error:  # the line of a one-line text says nothing
        raise error.placed(source) from error


def _refuse_tags_and_aliases(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{source}:{event.start_mark.line + 1 if event.start_mark else 1}"
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError("aliases and anchors are refused", where=where, hint="write it out")
        if tag:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise InputError(f"the tag {shown} is refused", where=where, hint="leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError("nested too deep", where=where, expected=f"{MAX_DEPTH} levels at most")


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> InputError:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        problem = f"it holds the control character {ord(text[error.position]):#04x}"
    else:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = str(getattr(error, "problem", error))
        if problem.startswith("but "):
            problem = f"{getattr(error, 'context', '')}, {problem}"
    return InputError(f"this is not YAML: {problem}", where=f"{source}:{line}")


def _sort(node: yaml.Node | None) -> str:
    if node is None:
        return "nothing: the file is empty"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _value(node: yaml.Node, at: Location, source: str, places: dict[Location, str]) -> Any:
    places[at] = f"{source}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, source, places)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, i), source, places) for i, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(
    node: yaml.MappingNode, at: Location, source: str, places: dict[Location, str]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError("a key is no word", where=where)
        key = str(key_node.value)
        if key in mapping:
            raise InputError(
                f"the key {key!r} stands twice",
                where=where,
                got=f"the first one at {places[*at, key]}",
                hint="keep one of them",
            )
        mapping[key] = _value(value_node, (*at, key), source, places)
        places[*at, key] = where
    return mapping


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    match node.tag.rsplit(":", 1)[-1]:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text) if len(text) <= MAX_DIGITS else float("inf")
        case "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan").lower())
        case _:
            return text
