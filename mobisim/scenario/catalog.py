"""The profiles and scenarios that ship with mobisim, found by name."""

from __future__ import annotations

import os
from pathlib import Path

from mobisim.errors import InputError, nearest, unknown_name
from mobisim.scenario.document import MAX_JSON_BYTES, Document, parse, parse_json, read_text
from mobisim.scenario.samples import with_samples

MANIFEST = "manifest.json"  # of a result
SHIPPED = ("scenarios", "profiles")


def shipped(folder: str) -> Path:
    """The folder of shipped files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / folder
    return installed if installed.is_dir() else package.parent / folder


def names(kind: str) -> list[str]:
    """The names of all shipped profiles of a kind (devices, servers, links or models)."""
    return sorted(path.stem for path in (shipped("profiles") / kind).glob("*.yaml"))


def scenario_names() -> list[str]:
    """The names of all shipped scenarios, those in a folder with its name before theirs."""
    root = shipped("scenarios")
    found = (path.relative_to(root).with_suffix("") for path in root.rglob("*.yaml"))
    return sorted(path.as_posix() for path in found)


def references() -> Path:
    """The bibliography of the shipped profiles."""
    return shipped("profiles") / "references.bib"


def profile(kind: str, name: str, where: str | None = None) -> Document:
    """The document of the shipped profile of that name.

    Raises:
        InputError: no such profile; names the nearest.
    """
    known = names(kind)
    if name not in known:
        raise unknown_name(f"{kind.removesuffix('s')} profile", name, known, where=where)
    folder = shipped("profiles") / kind
    return with_samples(_read(folder / f"{name}.yaml", f"profiles/{kind}/{name}.yaml"), folder)


def profile_file(name: str, where: str) -> Document:
    """The document of a profile in a file of one's own; `where` names the scenario's place.

    A relative path is looked for beside the scenario's file first, then from here.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    beside = Path(where.partition(":")[0]).parent / name
    path = beside if beside.is_file() else Path(name)
    if not path.is_file():
        raise InputError("no such profile file", where=where, expected="a YAML file", got=name)
    return with_samples(_read(path, str(path)), path.parent)


def trace_file(name: str, where: str) -> Path:
    """The path of a trace that a link names; `where` names the place, as "file:line".

    A relative path is looked for beside that file, then from here.

    Raises:
        InputError: there is no such file.
    """
    beside = Path(where.partition(":")[0]).parent
    folders = [beside, Path(), *(shipped(part) for part in beside.parts[:1] if part in SHIPPED)]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        "no such trace file", where=where, expected="a rate such as '5 Mbit/s', or a file", got=name
    )


def scenario(path_or_name: str) -> Document:
    """The scenario in that file, that of a result, or the shipped one of that name.

    Raises:
        InputError: none of them exists, or the file cannot be read.
    """
    path = Path(path_or_name)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.suffix == ".json" and path.is_file():
        return _from_json(path)
    known = scenario_names()
    is_name = path_or_name in known or (path.suffix == "" and len(path.parts) == 1)
    if not is_name or os.path.lexists(path):
        _check_there(path)
        return _read(path, str(path))
    if path_or_name not in known:
        raise unknown_name("scenario file or shipped scenario", path_or_name, known)
    return _read(shipped("scenarios") / f"{path_or_name}.yaml", f"scenarios/{path_or_name}.yaml")


def _from_json(path: Path) -> Document:
    """The scenario that a result's manifest resolved, or else the whole file as one."""
    found = parse_json(read_text(path, "JSON", MAX_JSON_BYTES), str(path))
    resolved = found.data.get("scenario")
    return Document(resolved, found.places) if isinstance(resolved, dict) else found


def _check_there(path: Path) -> None:
    """Refuse a missing file, with the shipped scenario that may be meant.

    Raises:
        InputError: nothing is there.
    """
    if os.path.lexists(path):
        return
    guess = nearest(path.stem, scenario_names())
    hint = f"did you mean the shipped scenario {guess!r}?" if guess else None
    raise InputError("no such file", where=str(path), expected="a scenario file (YAML)", hint=hint)


def _read(path: Path, shown: str) -> Document:
    if path.is_dir():
        raise InputError("this is a directory", where=shown, expected="a YAML file")
    return parse(read_text(path, "YAML"), shown)
