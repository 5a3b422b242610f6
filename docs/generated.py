"""The tables of the reference, from the models and schemas that mobisim itself goes by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel

from mobisim.report.summary import Summary
from mobisim.report.tables import SPANS, STEPS
from mobisim.scenario.schema import Scenario
from mobisim.span import MEANINGS
from mobisim.units import DIMENSIONS, Dimension

Schema = dict[str, Any]
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
FAR = 10**9  # bounds that nobody meets
PLAIN = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


class Section(NamedTuple):
    """A model by the path at which a file first has it."""

    path: str
    model: Schema


class Book:
    """The models that a JSON schema holds, each told once."""

    def __init__(self, root: type[BaseModel]) -> None:
        self.root = root.model_json_schema()
        self.definitions: dict[str, Schema] = self.root["$defs"]
        self.places: dict[str, str] = {}
        self.sections = list(self._sections(self.root, ""))

    def _sections(self, model: Schema, path: str) -> Iterator[Section]:
        if model["title"] in self.places:
            return
        self.places[model["title"]] = path
        yield Section(path, model)
        for name, field in model["properties"].items():
            for inner, suffix in self._models(field):
                yield from self._sections(inner, f"{path}.{name}{suffix}".removeprefix("."))

    def _models(self, field: Schema, suffix: str = "") -> Iterator[tuple[Schema, str]]:
        """The models that a field may hold, and what its path says of how it holds them."""
        field = self.resolved(field)
        if "properties" in field:
            yield field, suffix
            return
        for choice in (*field.get("anyOf", ()), *field.get("oneOf", ())):
            yield from self._models(choice, suffix)
        if "items" in field:
            yield from self._models(field["items"], f"{suffix}[]")
        for named in values(field):
            yield from self._models(named, f"{suffix}.NAME")

    def resolved(self, field: Schema) -> Schema:
        """What a reference refers to; a value with a source is that value."""
        if "$ref" in field:
            field = self.definitions[field["$ref"].rpartition("/")[2]]
        choices = field.get("anyOf", ())
        if any(is_source(choice) for choice in choices):
            return self.resolved(choices[0])
        return field

    def has_source(self, field: Schema) -> bool:
        """Whether a field's value may be written with where it comes from."""
        if "$ref" in field:
            return self.has_source(self.definitions[field["$ref"].rpartition("/")[2]])
        return is_source(field) or any(map(self.has_source, field.get("anyOf", ())))

    def takes(self, field: Schema) -> str:
        """What may be written into a field."""
        field = self.resolved(field)
        if "properties" in field:
            return f"[{field['title']}](#{field['title'].lower()})"
        if choices := field.get("anyOf", field.get("oneOf")):
            return ", or ".join(dict.fromkeys(map(self.takes, choices)))
        if "const" in field:
            return f"`{field['const']}`"
        if "enum" in field:
            return ", ".join(f"`{choice}`" for choice in field["enum"])
        return self._several(field) or one(field)

    def _several(self, field: Schema) -> str | None:
        if "prefixItems" in field:
            return f"[{', '.join(map(self.takes, field['prefixItems']))}]"
        if "items" in field:
            return f"list of {self.takes(field['items'])}"
        for named in values(field):
            return f"mapping of names to {self.takes(named)}"
        return None


def values(mapping: Schema) -> list[Schema]:
    """What a mapping of names may hold."""
    found = [mapping.get("additionalProperties"), *mapping.get("patternProperties", {}).values()]
    return [one for one in found if isinstance(one, dict)]


def is_source(field: Schema) -> bool:
    """Whether it is the long form of a value: the value, its source, range and note."""
    return {"value", "source", "range", "note"} == set(field.get("properties", ()))


def one(field: Schema) -> str:
    """What a single value is, with its unit or bounds."""
    meaning = field.get("description", "")
    if meaning.startswith("mobisim show"):
        return f"name (`{meaning}`)"
    examples = field.get("examples")
    if examples:
        return f"{meaning or 'value'} such as `{examples[0]}`"
    kind = field.get("type", "object")
    near = {key: words for key, words in BOUNDS.items() if abs(field.get(key, FAR)) < FAR}
    limits = [f"{words} {field[key]:,}" for key, words in near.items()]
    return ", ".join([PLAIN.get(kind, "text" if kind == "string" else "mapping"), *limits])


def default(name: str, field: Schema, model: Schema) -> str:
    """What a field is where a file leaves it out."""
    if name in model.get("required", ()):
        return "required"
    value = field.get("default")
    if isinstance(value, dict) and "value" in value:
        value = value["value"]
    return "its defaults" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def described(book: Book, section: Section) -> str:
    """A model as Markdown: its heading, what it means and a table of its fields."""
    path, model = section
    kind = model["properties"].get("kind", {}).get("const")
    where = f"At `{path}`" + (f", with `kind: {kind}`" if kind else "") + ". " if path else ""
    rows = [
        f"| `{name}`{'°' if book.has_source(field) else ''} | {book.takes(field)} "
        f"| {default(name, field, model)} |"
        for name, field in model["properties"].items()
    ]
    text = where + model.get("description", "")
    found = table("field", "takes", "unless stated", rows=rows)
    return "\n".join([f"### {model['title']}", "", text, "", found, ""])


def told(root: type[BaseModel]) -> str:
    """A model and all that it holds, as Markdown."""
    book = Book(root)
    return "\n".join(described(book, section) for section in book.sections)


def columns(schema: pa.Schema) -> str:
    """The columns of a table, as Markdown."""
    rows = []
    for field in schema:
        sort = "name" if pa.types.is_dictionary(field.type) else str(field.type)
        meaning = field.metadata[b"meaning"].decode()
        rows.append(
            f"| `{field.name}` | {sort}{', or null' if field.nullable else ''} | {meaning} |"
        )
    return table("column", "type", "holds", rows=rows)


def units(dimension: Dimension) -> str:
    """A row of the table of units."""
    written = ", ".join(f"`{unit}`" for unit in dimension.units)
    return f"| {dimension.name} | {written} | `{dimension.example}` |"


def table(*head: str, rows: Iterable[str]) -> str:
    """Rows of Markdown below their heads."""
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


unit_names = table("quantity", "units", "for example", rows=map(units, DIMENSIONS))
scenario_fields = told(Scenario)
summary_fields = told(Summary)
span_columns = columns(SPANS)
step_columns = columns(STEPS)
span_kinds = table("kind", "is", rows=(f"| `{k}` | {text} |" for k, text in MEANINGS.items()))
