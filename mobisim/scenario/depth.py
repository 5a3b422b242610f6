"""The first layers of a model, as a name asks for them: `minilm:3`, `opt-1.3b:12`."""

from __future__ import annotations

import re
from typing import Any

from mobisim.errors import InputError

_KEYS = ("num_hidden_layers", "n_layer")
_NAME = re.compile(r"(.+):([0-9]{1,4})")


def split_depth(name: str) -> tuple[str, int | None]:
    """A model's own name, and how many of its first layers are meant; None for all of them."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def first_layers(config: dict[str, Any], num_layers: int | None, name: str) -> dict[str, Any]:
    """A configuration with so many layers; None for all.

    Raises:
        InputError: it has not so many.
    """
    if num_layers is None:
        return config
    key = next((key for key in _KEYS if key in config), _KEYS[0])
    depth = config.get(key)
    if not isinstance(depth, int) or not 1 <= num_layers <= depth:
        raise InputError(
            f"{split_depth(name)[0]!r} has no such number of layers",
            expected=f"1 to {depth}" if depth else f"a configuration with {key}",
            got=str(num_layers),
        )
    return config | {key: num_layers}
