"""The model hub: the only thing on the network that mobisim ever asks, and only for `hf:` names."""

from __future__ import annotations

import importlib
import socket
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import getproxies

from mobisim.errors import InputError

HUB = "hf:"
PATIENCE_S = 3.0


def import_hub(where: str | None = None) -> ModuleType:
    """The hub's client.

    Raises:
        InputError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        hint = "install it with: pip install 'mobisim[hub]'"
        raise InputError("hf: names need huggingface-hub", where=where, hint=hint) from error


def is_offline() -> bool:
    """Whether the hub is out of reach; its own client would try for half a minute.

    Proxies are trusted. Offline, what was downloaded before is still found.
    """
    endpoint = importlib.import_module("huggingface_hub.constants").ENDPOINT
    found = urlsplit(endpoint)
    if getproxies() or found.hostname is None:
        return False
    try:
        port = found.port or (80 if found.scheme == "http" else 443)
        with socket.create_connection((found.hostname, port), timeout=PATIENCE_S):
            return False
    except OSError:
        return True


def refused(
    name: str, error: Exception, *, offline: bool, where: str | None, hint: str
) -> InputError:
    """The error for a name that the hub did not give."""
    reason = "the network is out of reach" if offline else type(error).__name__
    return InputError(f"the hub did not give {name!r}: {reason}", where=where, hint=hint)
