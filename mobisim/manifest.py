"""manifest.json: what was run, with which versions, on which values."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel

from mobisim.scenario.provenance import origins
from mobisim.scenario.schema import SCHEMA_VERSION, Scenario
from mobisim.world import World

PACKAGES = ("numpy", "pyarrow", "simpy", "torch", "transformers")


@cache
def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


VERSION = _installed("mobisim") or "unknown"


def manifest(scenario: Scenario, digest: str, world: World, command: str) -> dict[str, Any]:
    """The content of manifest.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": scenario.name,
        "digest": digest,
        "seed": scenario.seed,
        "version": VERSION,
        "command": command,
        "scenario": scenario.model_dump(mode="json"),
        "profiles": _profiles(scenario),
        "actors": list(world.actors.names),
        "provenance": [asdict(origin) | {"sort": origin.sort} for origin in origins(scenario)],
        "versions": {"python": platform.python_version()}
        | {package: _installed(package) for package in PACKAGES},
    }


def _profiles(scenario: Scenario) -> dict[str, dict[str, str]]:
    used: dict[str, BaseModel | None] = {"server.profile": scenario.server.profile}
    for index, group in enumerate(scenario.devices):
        used[f"devices[{index}].profile"] = group.profile
        used[f"devices[{index}].link"] = group.link
        used[f"devices[{index}].model"] = group.model
    used["model"] = scenario.model
    return {
        path: {"name": getattr(profile, "name", "inline"), "digest": _digest(profile)}
        for path, profile in used.items()
        if profile is not None
    }


def _digest(profile: BaseModel) -> str:
    text = json.dumps(profile.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
