"""Models by name: shipped profiles, a Hugging Face config.json, or one on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.scenario import catalog
from mobisim.scenario.document import Document, read_text


def read_model(name: str, where: str | None = None) -> Document:
    """The document of the model of that name.

    `name` is a shipped profile, the path of a config.json (or of its folder), or `hf:owner/name`.

    Raises:
        InputError: there is no such model, or its configuration is no JSON mapping.
    """
    if name.startswith("hf:"):
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
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError("no model_type", where=str(path), expected="a Hugging Face config.json")
    data = {"name": name, "kind": "transformer", "source": "stated", "config": config}
    return Document(data, {("config",): str(path)})


def _download(name: str, where: str | None) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - heavy, and only for hub models

    try:
        return Path(hf_hub_download(name.removeprefix("hf:"), "config.json"))
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        raise InputError(
            f"the hub did not give {name!r}: {type(error).__name__}",
            where=where,
            hint="check the name and the network, or name a local config.json",
        ) from error
