"""Rows of a report's tables, each with its path first; what groups of devices share stands once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from mobisim.report.citations import readable
from mobisim.report.slices import role_of
from mobisim.report.wording import count, percent

MAX_LISTED = 24  # items of a list
NOUNS = {"server": "server worker"}

_GROUP = re.compile(r"devices\[(\d+)\]")
_NUMBER = re.compile(r"(?:device|uplink|downlink)-(\d+)")


def shared(rows: Iterable[Sequence[str]], num_groups: int) -> list[list[str]]:
    """Rows in which groups differ by nothing but their number as one: `devices[0, 2].…`.

    What all of several groups have is of `devices[*]`, as `--set` has it.
    """
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path, *cells in rows:
        group = _GROUP.match(path)
        found[path[group.end() :] if group else path, *cells].append(group[1] if group else "")
    return [
        [_of_groups(groups, num_groups) + path, *cells] for (path, *cells), groups in found.items()
    ]


def _of_groups(groups: Sequence[str], num_groups: int) -> str:
    if groups == [""]:
        return ""
    every = len(groups) == num_groups > 1
    return f"devices[{'*' if every else ', '.join(groups)}]"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a document, by its path."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        if len(value) > MAX_LISTED:
            yield path, f"{len(value):,} entries"
            return
        for index, item in enumerate(value):
            yield from flat(item, f"{path}[{index}]")
    elif value is not None:
        yield path, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, list):
        more = ", …" if len(value) > MAX_LISTED else ""
        return ", ".join(map(str, value[:MAX_LISTED])) + more
    if isinstance(value, bool):
        return "true" if value else "false"
    return readable(value) if value != {} else "none"


def roles(
    utilisation: Mapping[str, float], counts: Sequence[int] = ()
) -> Iterator[tuple[str, str, str, float]]:
    """How busy actors of one role are in the mean: name, role, words, share.

    With `counts` of devices those of each group are told apart, and how far they differ is said.
    """
    found: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    group_of = [group for group, number in enumerate(counts) for _ in range(number)]
    for actor, share in utilisation.items():
        device = _NUMBER.fullmatch(actor)
        found[role_of(actor), group_of[int(device[1])] if device and counts else None].append(share)
    for (role, group), shares in found.items():
        name = role if len(shares) == 1 else count(len(shares), NOUNS.get(role, role))
        apart = "" if group is None else f" of devices[{group}]"
        words = percent(fmean(shares))
        if counts and min(shares) < max(shares):
            words += f" ({percent(min(shares))} to {percent(max(shares))})"
        yield name + apart, role, words, fmean(shares)
