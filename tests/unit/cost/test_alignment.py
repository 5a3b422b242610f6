"""Alignment: blocks, tapped layers, widths and projections."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from worlds import world_of

from mobisim.cost.alignment import sampled_layers, shared_width
from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.method_memory import memory_on_device, memory_on_server
from mobisim.cost.side_network import SideCost
from mobisim.cost.system import System
from mobisim.cost.wire import payload_parts
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario import catalog
from mobisim.scenario.federation import Sample
from mobisim.scenario.load import loads
from mobisim.scenario.resolved import check_options
from mobisim.scenario.schema import Scenario

OPT = [f"opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")]
SHAPE = BatchShape.uniform(4, 16)


def _sizes(name: str) -> Architecture:
    return architecture(catalog.profile("models", name).data["config"])


def _fleet(*models: tuple[str | None, int], model: str = "opt-125m", **more: Any) -> Scenario:
    """A scenario with groups of so many devices of a model each; None leaves it out."""
    devices = [
        {"profile": "galaxy-s24-ultra", "link": "wifi-5", "count": count}
        | ({"model": name} if name else {})
        for name, count in models
    ]
    document = {
        "name": "fleet",
        "model": model,
        "wire": {"codec": "fp16"},
        "training": None,
        "num_batches": 3,
        "batch_size": 4,
        "sequence_length": 16,
        "devices": devices,
        "server": {"profile": "rtx-4090"},
        **more,
    }
    return loads(yaml.safe_dump(document))


def _sides(scenario: Scenario) -> list[SideCost]:
    return [view.side for view in System(scenario).views if view.side is not None]


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from(["last", "first", "average"]))
def test_each_block_has_one_tapped_layer(num_blocks: int, more: int, sample: Sample) -> None:
    """Layers ascend within the backbone; `last` ends blocks that differ by one layer at most."""
    num_layers = num_blocks + more
    layers = sampled_layers(num_layers, num_blocks, sample)
    assert len(layers) == num_blocks
    assert all(before < after for before, after in pairwise((0, *layers, num_layers + 1)))
    if sample == "last":
        sizes = [after - before for before, after in pairwise((0, *layers))]
        assert layers[-1] == num_layers
        assert max(sizes) - min(sizes) <= 1
    else:
        assert layers[0] == 1
    if sample == "average" and num_blocks > 1:
        assert layers[-1] == num_layers


def test_layers_of_two_opts_as_written_down() -> None:
    """Twelve blocks of 24 layers are pairs; of 32 layers they have two or three."""
    assert sampled_layers(24, 12, "last") == tuple(range(2, 25, 2))
    assert sampled_layers(32, 12, "last") == (2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29, 32)
    assert sampled_layers(32, 12, "first") == (1, 3, 6, 9, 11, 14, 17, 19, 22, 25, 27, 30)
    assert sampled_layers(32, 12, "average") == (1, 4, 7, 9, 12, 15, 18, 21, 24, 26, 29, 32)


@pytest.mark.parametrize("second", OPT)
@pytest.mark.parametrize("first", OPT)
def test_every_opt_maps_to_every_other(first: str, second: str) -> None:
    """Both are tapped at as many layers as the shallower has, up to their last."""
    views = System(_fleet((first, 1), (second, 1), model=first)).views
    depths = [_sizes(name).num_layers for name in (first, second)]
    assert [len(view.taps) for view in views] == [min(depths)] * 2
    assert [view.taps[-1] for view in views] == depths
    shallow = views[depths.index(min(depths))]
    assert shallow.taps == tuple(range(1, min(depths) + 1))


def test_listed_taps_are_blocks() -> None:
    """A list of taps names blocks, each at a layer of its own in each backbone."""
    mixed = (None, 1), ("opt-1.3b", 1)
    views = System(_fleet(*mixed, side_network={"taps": [3, 12]})).views
    assert [view.taps for view in views] == [(3, 12), (6, 24)]
    with pytest.raises(InputError, match="no layer 13"):
        _ = System(_fleet(*mixed, side_network={"taps": [13]})).views[1].taps


def test_the_shared_width_is_the_median_of_all_devices() -> None:
    """Each device counts once; of two in the middle the larger."""
    assert shared_width([(768, 1), (1024, 1), (2048, 1)]) == 1024
    assert shared_width([(768, 3), (2048, 1)]) == 768
    assert shared_width([(768, 2), (2048, 2)]) == 2048


def test_equal_backbones_need_no_alignment() -> None:
    """All layers are tapped, nothing is projected, and every time and byte stays the same."""
    stated, plain = _fleet(("opt-125m", 2), (None, 3)), _fleet((None, 2), (None, 3))
    assert world_of(stated) == world_of(plain)
    for side in _sides(stated):
        assert side.num_taps == 12
        assert side.projected == ()
        assert side.projection_parameters == 0


def test_projection_parameters_are_exact() -> None:
    """Taps x own width x shared width, once for each backbone, or for each device."""
    groups = ("opt-350m", 40), ("opt-1.3b", 10), (None, 5), ("opt-1.3b", 2)
    once = 12 * 1024 * (2048 + 768)
    (side, large, small, _) = _sides(_fleet(*groups))
    assert side.width == 1024
    assert [one.projected for one in (side, large, small)] == [(), ((2048, 1.0),), ((768, 1.0),)]
    assert side.projection_parameters == once
    alignment = {"alignment": {"projection": "per-device"}}
    each = 12 * 1024 * (12 * 2048 + 5 * 768)
    assert _sides(_fleet(*groups, federation=alignment))[0].projection_parameters == each


def test_projections_grow_as_the_papers_reviewer_reckons() -> None:
    """100 devices x 12 layers x width squared, if each device has its own: here 1.0e9."""
    stated = {"alignment": {"projection": "per-device", "width": 1080}}
    (side,) = _sides(_fleet((None, 100), federation=stated))
    assert side.projection_parameters == 100 * 12 * 768 * 1080


def test_each_sort_of_device_has_its_own_times_and_bytes() -> None:
    """Forwards, messages, downloads and memory are those of the own backbone (a byte each)."""
    scenario = _fleet((None, 1), ("opt-1.3b", 1), federation={"alignment": {"width": 768}})
    system, world = System(scenario), world_of(scenario)
    for name, group in zip(("opt-125m", "opt-1.3b"), world.groups, strict=True):
        alone = world_of(_fleet((None, 1), model=name)).groups[0].batches[0].parts[0]
        part = group.batches[0].parts[0]
        wire = payload_parts(scenario.wire, SHAPE, _sizes(name).width, 12, by_layer=False)
        link = scenario.devices[0].link
        assert part.forward_s == alone.forward_s
        assert part.num_bytes == link.wire_bytes(wire[0])
    small, large = _sides(scenario)
    assert large.download_bytes - small.download_bytes == 4 * 12 * 2048 * 768
    kept = [memory_on_device(system, group, SHAPE, 1, 0) for group in scenario.devices]
    assert [one.weights for one in kept if one] == [
        _sizes(name).backbone_parameters for name in ("opt-125m", "opt-1.3b")
    ]


def test_the_server_holds_all_projections_and_one_mini_batch() -> None:
    """States grow by 16 bytes per projection's parameter, what is kept by the widest's inputs."""
    plain = memory_on_server(System(_fleet((None, 2))), SHAPE, 0)
    stated = {"alignment": {"width": 768}}
    mixed = memory_on_server(
        System(_fleet((None, 1), ("opt-1.3b", 1), federation=stated)), SHAPE, 0
    )
    assert plain is not None
    assert mixed is not None
    assert mixed.state - plain.state == 16 * 12 * 2048 * 768
    assert mixed.stored - plain.stored == 4 * SHAPE.num_tokens * 2048 * 12


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("method", {"method": "fwdllm"}),
        ("cache.capacity", {"method": "pae-mobillm", "cache": {"capacity": "1 MB"}}),
    ],
)
def test_what_different_models_cannot_share_is_refused(field: str, more: dict[str, Any]) -> None:
    """The message names the field."""
    with pytest.raises(InputError) as refused:
        check_options(_fleet((None, 1), ("opt-1.3b", 1), **more))
    assert refused.value.where == field


def test_a_model_that_no_device_has_is_refused() -> None:
    """The scenario's model is some group's."""
    with pytest.raises(InputError, match="no device has this model"):
        _fleet(("opt-1.3b", 1))
