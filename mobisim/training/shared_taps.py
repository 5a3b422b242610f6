"""Taps of the frozen backbone in a file: processes that train on the same data forward it once.

Axes: N real tokens of a chunk, L taps, D width.

A chunk is forwarded by whichever process needs it first, under a lock, while the others wait for
it; then all of them read it. What a reader gets is bit for bit what it would have computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from mobisim.training.backbone import Backbone
from mobisim.training.data import Split

Indices = NDArray[np.int64]
_BYTES = 4  # of an fp32 value


class SharedTaps:
    """The fp32 taps of a split, chunk by chunk, in `folder`.

    Raises: OSError where the disk has not room for all of them.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        split: Split,
        tap_layers: Sequence[int],
        chunks: Sequence[Indices],
    ) -> None:
        tokens = [int(split.lengths[chunk].sum()) for chunk in chunks]
        self._ends = np.cumsum(tokens)
        self._starts = self._ends - tokens
        path = folder / _key(backbone, split, tap_layers, chunks)
        self._lock = FileLock(path.with_suffix(".lock"))
        shape = (int(self._ends[-1]), len(tap_layers), backbone.width)
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            for file, size in ((path, int(np.prod(shape)) * _BYTES), (_flags(path), len(chunks))):
                _reserve(file, size)
        self._taps_MLD = np.memmap(path, dtype=np.float32, mode="r+", shape=shape)
        self._filled = np.memmap(_flags(path), dtype=np.uint8, mode="r+", shape=(len(chunks),))

    def of(self, chunk: int, forward: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The taps of a chunk, by `forward` where nobody has them yet: L tensors fp32 [N, D]."""
        rows = slice(self._starts[chunk], self._ends[chunk])
        if not self._filled[chunk]:
            with self._lock:
                if not self._filled[chunk]:
                    self._taps_MLD[rows] = torch.stack(forward(), dim=1).numpy()
                    self._filled[chunk] = 1
        return list(torch.from_numpy(np.array(self._taps_MLD[rows])).unbind(1))


def _flags(path: Path) -> Path:
    return path.with_suffix(".filled")


def _reserve(file: Path, size: int) -> None:
    """A file of zeros; its room is taken now, since a full disk would kill who writes a mapping."""
    if file.exists():
        return
    aside = file.with_suffix(f".{os.getpid()}")
    try:
        with aside.open("wb") as new:
            new.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(new.fileno(), 0, size)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _key(
    backbone: Backbone, split: Split, tap_layers: Sequence[int], chunks: Sequence[Indices]
) -> str:
    """A digest of everything that decides the taps, to their last bit."""
    digest = hashlib.sha256(f"{backbone.fingerprint}{tuple(tap_layers)}".encode())
    for arrays in (split.tokens, (split.lengths,), chunks):
        for array in arrays:
            digest.update(array.tobytes())
        digest.update(b"/")
    digest.update(np.array([len(chunk) for chunk in chunks]).tobytes())
    return digest.hexdigest()[:16]
