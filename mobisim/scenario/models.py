"""Models by name: shipped profiles, a Hugging Face config.json, or one on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.scenario import catalog
from mobisim.scenario.depth import first_layers, split_depth
from mobisim.scenario.document import Document, read_text
from mobisim.scenario.hub import HUB, import_hub, is_offline, refused


def read_model(name: str, where: str | None = None) -> Document:
    """The document of the model of that name.

    `name` is a shipped profile, the path of a config.json (or of its folder), or `hf:owner/name`;
    with `:3` after it, it is the first three layers of that.

    Raises:
        InputError: there is no such model, or its configuration is no JSON mapping, or too shallow.
    """
    whole, layers = split_depth(name)
    found = _read_whole(whole, where)
    if layers is None:
        return found
    try:
        config = first_layers(found.data["config"], layers, name)
    except InputError as error:
        raise error.placed(where or name) from error
    parameters = {"num_parameters": None} if "num_parameters" in found.data else {}
    return Document(found.data | {"name": name, "config": config} | parameters, found.places)


def _read_whole(name: str, where: str | None) -> Document:
    if name.startswith(HUB):
        return _from_config(_download(name, where), name)
    path = Path(name)
    if path.suffix == ".json" or len(path.parts) > 1:
        return _from_config(path / "config.json" if path.is_dir() else path, name)
    return catalog.profile("models", name, where)


def _from_config(path: Path, name: str) -> Document:
    try:
        config: Any = json.loads(read_text(path, "Hugging Face configuration"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"this is not JSON: {error.msg}", where=f"{path}:{error.lineno}"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise InputError("this JSON cannot be read", where=str(path), got=str(error)) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError("no model_type", where=str(path), expected="a Hugging Face config.json")
    data = {"name": name, "kind": "transformer", "source": "stated", "config": config}
    return Document(data, {("config",): str(path)})


def _download(name: str, where: str | None) -> Path:
    hub = import_hub(where)
    offline = is_offline()
    repository = name.removeprefix(HUB)
    try:
        return Path(hub.hf_hub_download(repository, "config.json", local_files_only=offline))
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        hint = "check the name and the network, or name a local config.json"
        raise refused(name, error, offline=offline, where=where, hint=hint) from error
