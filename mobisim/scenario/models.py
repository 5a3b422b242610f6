"""Models by name: shipped profiles, a Hugging Face config.json, or one on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.scenario import catalog
from mobisim.scenario.document import Document, read_text

PATIENCE_S = 5.0


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
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise InputError("this JSON cannot be read", where=str(path), got=str(error)) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError("no model_type", where=str(path), expected="a Hugging Face config.json")
    data = {"name": name, "kind": "transformer", "source": "stated", "config": config}
    return Document(data, {("config",): str(path)})


def _download(name: str, where: str | None) -> Path:
    try:
        from huggingface_hub import (  # noqa: PLC0415 - heavy, and only for hub models
            constants,
            hf_hub_download,
        )
    except ImportError as error:
        hint = "install it with: pip install 'mobisim[hub]'"
        raise InputError("hf: names need huggingface-hub", where=where, hint=hint) from error
    offline = not _reachable(constants.ENDPOINT)
    try:
        repository = name.removeprefix("hf:")
        return Path(hf_hub_download(repository, "config.json", local_files_only=offline))
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = "the network is out of reach" if offline else type(error).__name__
        raise InputError(
            f"the hub did not give {name!r}: {reason}",
            where=where,
            hint="check the name and the network, or name a local config.json",
        ) from error


def _reachable(address: str) -> bool:
    """Whether the hub answers; its own client would try for half a minute. Proxies are trusted."""
    import socket  # noqa: PLC0415 - these three cost start-up time, and serve hub models only
    from urllib.parse import urlsplit  # noqa: PLC0415
    from urllib.request import getproxies  # noqa: PLC0415

    found = urlsplit(address)
    if getproxies() or found.hostname is None:
        return True
    try:
        port = found.port or (80 if found.scheme == "http" else 443)
        with socket.create_connection((found.hostname, port), timeout=PATIENCE_S):
            return True
    except OSError:
        return False
