from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mobisim.training.activations import ActivationStore, Place, StoreLimits, choose_place
from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat, decode, encode
from mobisim.training.data import TaskData, mini_batches

BATCHES = mini_batches(44, 8, 2, seed=0)
PLACES: dict[Place, StoreLimits] = {
    "memory": StoreLimits(),
    "disk": StoreLimits(memory_bytes=0),
    "nowhere": StoreLimits(memory_bytes=0, disk_bytes=0),
}


def store(
    backbone: Backbone, task: TaskData, place: Place = "memory", codec: str = "int4"
) -> ActivationStore:
    result = ActivationStore(
        backbone,
        task.train,
        tap_layers=(1, 3),
        layout=TapFormat(codec, 16, backbone.width),
        chunks=BATCHES[:6],
        limits=PLACES[place],
    )
    assert result.place == place
    return result


@pytest.mark.parametrize("place", sorted(PLACES))
def test_taps_are_those_of_the_backbone_through_the_codec(
    backbone: Backbone, task: TaskData, place: Place
) -> None:
    """A first-epoch batch gets exactly what forwarding, encoding and decoding it gives."""
    batch = BATCHES[2]
    taps = backbone.taps([task.train.tokens[i] for i in batch], (1, 3))
    for ours, tap in zip(store(backbone, task, place).taps(batch), taps, strict=True):
        assert torch.equal(ours, decode(encode(tap, "int4", 16), len(tap), 32, "int4", 16))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_later_epochs_reuse_the_first(
    backbone: Backbone, task: TaskData, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an epoch is through, the backbone is not asked again."""
    activations = store(backbone, task, place)
    for batch in BATCHES[:6]:
        activations.rows(batch)
    monkeypatch.setattr(backbone, "taps", lambda *_: pytest.fail("forwarded twice"))
    for batch in BATCHES[6:]:
        activations.rows(batch)


def test_a_sample_keeps_its_bits_whoever_asks(backbone: Backbone, task: TaskData) -> None:
    """Asked first in a later epoch, as after a resume, a sample has the same activations."""
    whole = store(backbone, task, codec="fp32")
    for batch in BATCHES:
        whole.rows(batch)
    resumed = store(backbone, task, codec="fp32")
    for batch in BATCHES[7:]:
        assert torch.equal(resumed.rows(batch), whole.rows(batch))


def test_samples_come_in_the_order_asked(backbone: Backbone, task: TaskData) -> None:
    """Tokens are laid end to end in the order of the batch, not of the store."""
    activations = store(backbone, task)
    pair = activations.rows(np.array([9, 4]))
    parts = [activations.rows(np.array([i])) for i in (9, 4)]
    assert torch.equal(pair, torch.cat(parts, dim=1))


def test_bounds_choose_the_place() -> None:
    """Memory while it lasts, then disk, then nothing; a bound itself still fits."""
    limits = StoreLimits(memory_bytes=10, disk_bytes=20)
    assert [choose_place(size, limits) for size in (10, 11, 20, 21)] == [
        "memory",
        "disk",
        "disk",
        "nowhere",
    ]


def test_disk_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most half of the free disk is taken."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    limits = StoreLimits(memory_bytes=0)
    assert (choose_place(50, limits), choose_place(51, limits)) == ("disk", "nowhere")
