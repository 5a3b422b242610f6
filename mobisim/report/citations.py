"""Citations: the sources that the values of a run rest on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobisim.units import DECIMAL, J_PER_WH, human_time

GRADES = ("measured", "assumed", "stated")  # sources that are not keys of the bibliography

SCALED_UNITS = ("flop/s", "bit/s", "B/s", "B")

_QUANTITY = re.compile(r"([0-9.]+(?:e[+-]?\d+)?) (\S+)")
_ENTRY = re.compile(r"^[ \t]*@(\w+)\s*\{\s*([^,\s}]+)\s*,", re.MULTILINE)
_NOT_ENTRIES = ("comment", "string", "preamble")


@dataclass(frozen=True)
class Reference:
    """One BibTeX entry and the values of the run that it vouches for."""

    key: str
    entry: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Bibliography:
    """What a run rests on: its references by key, and how many values are of which sort.

    `assumed` holds (path, value, range) of every assumed value; `missing` holds sources that
    the bibliography does not know, with the values that name them.
    """

    references: tuple[Reference, ...]
    num_measured: int
    num_published: int
    num_assumed: int
    num_stated: int
    assumed: tuple[tuple[str, str, str], ...]
    missing: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def num_values(self) -> int:
        """All values with a source."""
        return self.num_measured + self.num_published + self.num_assumed + self.num_stated

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """BibTeX with the counts and the assumed values as comments."""
        blocks = [_comment([self._counts()]), _comment(self._assumptions())]
        blocks += [f"{_comment(_uses(r.paths))}\n{r.entry}" for r in self.references]
        blocks += [
            _comment([f"no entry for {key!r}", *_uses(paths)]) for key, paths in self.missing
        ]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _counts(self) -> str:
        return (
            f"{self.num_values} values: {self.num_measured} measured, "
            f"{self.num_published} published, {self.num_assumed} assumed, "
            f"{self.num_stated} stated by the scenario"
        )

    def _assumptions(self) -> list[str]:
        lines = [f"  {path} = {value}{span}" for path, value, span in self.assumed]
        return ["assumed:", *lines] if lines else []


def bibliography(manifest: Mapping[str, Any], references_bib: Path) -> Bibliography:
    """The bibliography of the run that `manifest` describes, sorted by key."""
    provenance: list[Mapping[str, Any]] = manifest.get("provenance", [])
    entries = read_entries(references_bib)
    uses = _paths_by_source(provenance)
    published = {source: paths for source, paths in sorted(uses.items()) if source not in GRADES}
    count = {grade: len(uses.get(grade, ())) for grade in GRADES}
    return Bibliography(
        references=tuple(
            Reference(key, entries[key], paths)
            for key, paths in published.items()
            if key in entries
        ),
        num_measured=count["measured"],
        num_published=sum(map(len, published.values())),
        num_assumed=count["assumed"],
        num_stated=count["stated"],
        assumed=tuple(map(_assumption, (v for v in provenance if v["source"] == "assumed"))),
        missing=tuple((key, paths) for key, paths in published.items() if key not in entries),
    )


def read_entries(path: Path) -> dict[str, str]:
    """The entries of a BibTeX file by key, each as it is written."""
    text = path.read_text("utf-8")
    found = ((m[1].lower(), m[2], _balanced(text, m.start())) for m in _ENTRY.finditer(text))
    return {key: entry for sort, key, entry in found if sort not in _NOT_ENTRIES}


def _balanced(text: str, start: int) -> str:
    depth = 0
    for index in range(text.index("{", start), len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start : index + 1].strip()
    return text[start:].strip()


def _paths_by_source(provenance: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    uses: dict[str, tuple[str, ...]] = {}
    for value in provenance:
        uses[value["source"]] = (*uses.get(value["source"], ()), value["path"])
    return uses


def _assumption(value: Mapping[str, Any]) -> tuple[str, str, str]:
    bounds = value.get("range")
    span = f" ({readable(bounds[0])} to {readable(bounds[1])})" if bounds else ""
    return value["path"], readable(value["value"]), span


def readable(value: object) -> str:
    """A value of the manifest, which is exact, as people write it: `900 Gflop/s`."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return str(value)
    number, unit = float(match[1]), match[2]
    if unit == "s":
        return human_time(number)
    if unit == "J" and number >= J_PER_WH:
        return f"{number / J_PER_WH:.4g} Wh"
    if unit not in SCALED_UNITS:
        return f"{number:.4g} {unit}"
    prefix = next((p for p, f in reversed(DECIMAL.items()) if number >= f), "")
    return f"{number / DECIMAL[prefix]:.4g} {prefix}{unit}"


def _uses(paths: Iterable[str]) -> list[str]:
    return ["for " + ", ".join(paths)]


def _comment(lines: list[str]) -> str:
    return "\n".join(f"% {line}".rstrip() for line in lines)
