"""Imports go downwards only, and heavy libraries stay in the rooms that own them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mobisim

PACKAGE = Path(mobisim.__file__).parent

# From the top floor down; rooms on one floor never import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli", "library"),
    ("planning", "pages"),
    ("validation", "compare"),
    ("show", "testbed", "sweeps"),
    ("asking",),
    ("progress", "calibrate", "simulation"),
    ("runner",),
    ("answer", "lessons"),
    ("learning", "trainers"),
    ("prepare",),
    ("fit", "fit_methods", "manifest", "stopping"),
    ("workload",),
    ("profiling", "replay", "rounds"),
    ("sim", "training", "report"),
    ("world",),
    ("channel", "partition"),
    ("outages",),
    ("cost",),
    ("scenario",),
    ("units", "streams"),
    ("span", "errors", "cores", "options", "interrupts"),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
TRAINING_MAY_IMPORT = {"training", "scenario", "units", "errors", "cores"}
ONLY_IN = {
    "jinja2": {"pages"},
    "simpy": {"sim"},
    "starlette": {"pages"},
    "torch": {"training", "lessons", "profiling", "testbed", "validation"},
    "yaml": {"scenario"},
    "zmq": {"testbed"},
}


def _room(module: str) -> str:
    return module.split(".")[1]


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts != ("mobisim", "__init__"):
            yield ".".join(parts), ast.parse(path.read_text("utf-8"))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module if node.module != "mobisim" else f"mobisim.{node.names[0].name}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_has_a_floor() -> None:
    """A new room must say where it belongs."""
    assert {_room(module) for module, _ in _modules()} <= set(FLOOR)


def test_imports_go_downwards_only() -> None:
    """No room imports one above it, or another on its own floor."""
    arrows = [
        f"{module} -> {imported}"
        for module, tree in _modules()
        for imported in _imports(tree)
        if imported.startswith("mobisim.")
        and _room(imported) != _room(module)
        and FLOOR[_room(imported)] <= FLOOR[_room(module)]
    ]
    assert arrows == []


def test_training_takes_little_from_below() -> None:
    """The two witnesses stay apart: training never imports cost, world or span."""
    arrows = [
        f"{module} -> {imported}"
        for module, tree in _modules()
        if _room(module) == "training"
        for imported in _imports(tree)
        if imported.startswith("mobisim.") and _room(imported) not in TRAINING_MAY_IMPORT
    ]
    assert arrows == []


def test_heavy_libraries_live_in_one_room() -> None:
    """simpy, torch and yaml are imported by the rooms that own them and by no other."""
    arrows = [
        f"{module} -> {imported}"
        for module, tree in _modules()
        for imported in _imports(tree)
        if _room(module) not in ONLY_IN.get(imported.split(".")[0], {_room(module)})
    ]
    assert arrows == []
