"""Activations: each sample's taps, encoded once and reused over all epochs.

Axes: N real tokens of a mini-batch, M real tokens of the split, L taps, D width, R bytes of one
encoded token.

A sample's taps depend, in their last bits, on the samples forwarded with it; so a sample is always
forwarded with the same others (its chunk: the mini-batch of the first epoch that it is in),
whenever it is first needed. A resumed run thus sees the same activations. Padding is not stored,
since the side network works position by position, nor are tokens that do not go up. Where neither
memory nor disk may hold a split, nothing is kept, and each mini-batch is forwarded anew as a chunk
of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat, decode_rows, encode_rows
from mobisim.training.data import Split
from mobisim.training.selection import Selection
from mobisim.training.shared_taps import SharedTaps

Place = Literal["memory", "disk", "nowhere"]
Indices = NDArray[np.int64]
Watch = Callable[[Tensor, Tensor, Tensor], None]  # samples, their lengths, last tap of all tokens


@dataclass(frozen=True)
class StoreLimits:
    """The most bytes of encoded activations to keep in memory, and else in a temporary file."""

    memory_bytes: int = 2 * 2**30
    disk_bytes: int = 16 * 2**30


class ActivationStore:
    """The encoded taps of a split, filled chunk by chunk as they are asked for.

    In the folder `shared`, where there is one, other processes find what this one has forwarded.
    """

    def __init__(
        self,
        backbone: Backbone,
        split: Split,
        *,
        tap_layers: Sequence[int],
        layout: TapFormat,
        chunks: Sequence[Indices],
        limits: StoreLimits | None = None,
        shared: Path | None = None,
        selection: Selection | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.backbone, self.split = backbone, split
        self.tap_layers, self.layout = tuple(tap_layers), layout
        self.selection, self._watch = selection or Selection(), watch
        watched = {backbone.num_layers} - {*tap_layers} if watch else set()
        self._forwarded = (*self.tap_layers, *watched)
        self._chunks = list(chunks)
        self._chunk_of = np.empty(len(split), dtype=np.int64)
        for number, chunk in enumerate(self._chunks):
            self._chunk_of[chunk] = number
        self._filled = np.zeros(len(self._chunks), dtype=bool)
        self._lengths = self.selection.counts(split.lengths)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._within_M = torch.empty(int(self._lengths.sum()), dtype=torch.int64)
        shape = (int(self._lengths.sum()), len(self.tap_layers), layout.row_bytes)
        self.place = choose_place(int(np.prod(shape)), limits or StoreLimits())
        self._rows_MLR = None if self.place == "nowhere" else _allocate(shape, self.place)
        self._shared = self._share(shared)

    def rows(self, samples: Indices) -> Tensor:
        """Encoded taps of the samples' tokens, laid end to end.

        Shapes: [B] -> uint8 [L, N, R].
        """
        if self._rows_MLR is None:
            taps, _ = self._selected(self._forward(samples), samples)
            return self._encode(taps).transpose(0, 1)
        self.fill(samples)
        return self._rows_MLR[self._positions(samples)].transpose(0, 1)

    def lengths(self, samples: Indices) -> Indices:
        """How many tokens of each of the samples go up: int64 [B]."""
        return self._lengths[samples]

    def chosen(self, samples: Indices) -> Tensor:
        """Which of the samples' tokens, laid end to end, go up: int64 [M]."""
        lengths = self.split.lengths[samples]
        if self.selection.takes_all:
            return torch.arange(int(lengths.sum()))
        if not self.selection.scores:
            return self.selection.rows(lengths)
        if self._rows_MLR is None:
            return self._selected(self._forward(samples), samples)[1]
        self.fill(samples)
        starts = np.repeat(np.cumsum(lengths) - lengths, self._lengths[samples])
        return self._within_M[self._positions(samples)] + torch.from_numpy(starts)

    def fill(self, samples: Indices) -> None:
        """Forward what was not forwarded yet."""
        if self._rows_MLR is None:
            self._forward(samples)
            return
        for chunk in np.unique(self._chunk_of[samples]):
            self._fill(int(chunk))

    def taps(self, samples: Indices) -> list[Tensor]:
        """Decoded taps of the samples' tokens, laid end to end: L tensors fp32 [N, D]."""
        return list(decode_rows(self.rows(samples).contiguous(), self.layout))

    def _fill(self, chunk: int) -> None:
        if self._filled[chunk] or self._rows_MLR is None:
            return
        samples = self._chunks[chunk]
        if self._shared is None:
            taps = self._forward(samples)
        else:
            taps = self._shared.of(chunk, lambda: self._forward(samples))
            self._tell(samples, taps)
        kept, rows = self._selected(taps, samples)
        places = self._positions(samples)
        self._rows_MLR[places] = self._encode(kept)
        lengths = self.split.lengths[samples]
        starts = np.repeat(np.cumsum(lengths) - lengths, self._lengths[samples])
        self._within_M[places] = rows - torch.from_numpy(starts)
        self._filled[chunk] = True

    def _forward(self, samples: Indices) -> list[Tensor]:
        """The taps of samples: L tensors fp32 [N, D]."""
        taps = self.backbone.taps([self.split.tokens[i] for i in samples], self._forwarded)
        self._tell(samples, taps)
        return taps

    def _tell(self, samples: Indices, taps: list[Tensor]) -> None:
        if self._watch is not None:
            lengths = torch.from_numpy(self.split.lengths[samples])
            self._watch(torch.from_numpy(samples), lengths, taps[-1])

    def _selected(self, taps: list[Tensor], samples: Indices) -> tuple[list[Tensor], Tensor]:
        """The taps of the tokens that go up, and which these are."""
        taps = taps[: len(self.tap_layers)]
        if self.selection.takes_all:
            return taps, torch.arange(len(taps[0]))
        score_N = taps[-1].norm(dim=1) if self.selection.scores else None
        rows = self.selection.rows(self.split.lengths[samples], score_N)
        return [tap_ND[rows] for tap_ND in taps], rows

    def _encode(self, taps: list[Tensor]) -> Tensor:
        """Encoded taps: uint8 [N, L, R]."""
        return torch.stack([encode_rows(tap_ND, self.layout) for tap_ND in taps], dim=1)

    def _share(self, folder: Path | None) -> SharedTaps | None:
        """The shared taps in a folder; None without one, without room, or with nothing to share."""
        if folder is None or self.place == "nowhere" or not self._chunks:
            return None
        try:
            return SharedTaps(folder, self.backbone, self.split, self._forwarded, self._chunks)
        except OSError:
            return None

    def _positions(self, samples: Indices) -> Tensor:
        """Where the samples' tokens are kept: int64 [N]."""
        lengths = self._lengths[samples]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return torch.from_numpy(np.repeat(self._starts[samples], lengths) + within)


def choose_place(num_bytes: int, limits: StoreLimits) -> Place:
    """Where so many bytes may be kept; the disk is never filled beyond half of what is free."""
    if num_bytes <= limits.memory_bytes:
        return "memory"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return "disk" if num_bytes <= min(limits.disk_bytes, free // 2) else "nowhere"


def _allocate(shape: tuple[int, ...], place: Place) -> Tensor:
    if place == "memory":
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile(
        prefix="mobisim-activations-"
    ) as file:  # gone with its last mapping
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))
