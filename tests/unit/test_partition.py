"""Partitions: samples dealt to devices, and each device's to mini-batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobisim.errors import InputError
from mobisim.partition import Dealt, owners, sizes_of
from mobisim.scenario.federation import Partition
from mobisim.scenario.load import load
from mobisim.scenario.resolved import check_options
from mobisim.training.data import epoch_orders, mini_batches
from mobisim.workload import plan

IID = Partition()
KINDS = [IID, Partition(kind="dirichlet", alpha=0.1), Partition(kind="quantity", alpha=0.5)]
LABELS = np.arange(1000) % 3


@pytest.mark.parametrize("partition", KINDS)
@pytest.mark.parametrize("num_devices", [1, 7, 2000])
def test_every_sample_goes_to_one_device(partition: Partition, num_devices: int) -> None:
    """And the same one for the same seed."""
    owner = owners(partition, LABELS, num_devices, seed=1)
    assert owner.shape == LABELS.shape
    assert owner.min() >= 0
    assert owner.max() < num_devices
    assert np.array_equal(owner, owners(partition, LABELS, num_devices, seed=1))
    if num_devices == 7:
        assert not np.array_equal(owner, owners(partition, LABELS, num_devices, seed=2))


def test_iid_shares_are_equal() -> None:
    """Sizes differ by one at most, and labels are spread as in all data."""
    sizes = np.bincount(owners(IID, LABELS, 7, seed=0))
    assert sizes.max() - sizes.min() <= 1
    assert _skew(IID, num_devices=4) < 0.1


def _skew(partition: Partition, num_devices: int = 10) -> float:
    """How far devices' labels are from those of all data: mean total variation by samples."""
    owner = owners(partition, LABELS, num_devices, seed=3)
    table = np.histogram2d(owner, LABELS, [np.arange(num_devices + 1), np.arange(4)])[0]
    overall = np.bincount(LABELS) / len(LABELS)
    sizes = table.sum(axis=1)
    kept = sizes > 0
    distance = np.abs(table[kept] / sizes[kept, None] - overall).sum(axis=1) / 2
    return float(np.average(distance, weights=sizes[kept]))


def test_a_smaller_alpha_skews_labels_more() -> None:
    """From nearly one label per device to nearly all data's."""
    skews = [_skew(Partition(kind="dirichlet", alpha=alpha)) for alpha in (0.1, 1.0, 100.0)]
    assert skews[0] > 0.4 > skews[1] > 0.1 > skews[2]


def test_quantity_skews_sizes_and_not_labels() -> None:
    """Devices have few samples or many, of any label."""
    partition = Partition(kind="quantity", alpha=0.5)
    sizes = np.bincount(owners(partition, LABELS, 10, seed=0), minlength=10)
    assert sizes.max() > 3 * np.median(sizes)
    assert _skew(partition) < 0.15


@pytest.mark.parametrize("partition", [IID, KINDS[2]])
def test_sizes_without_labels_are_those_dealt(partition: Partition) -> None:
    """A fleet without data has as many samples each as if they were dealt one by one."""
    dealt = np.bincount(owners(partition, LABELS, 9, seed=5), minlength=9)
    assert np.array_equal(sizes_of(partition, len(LABELS), 9, seed=5), dealt)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 7), st.integers(1, 3))
def test_each_epoch_visits_each_of_a_devices_samples_once(
    sizes: list[int], batch_size: int, epochs: int
) -> None:
    """Full mini-batches and at the most one short, in the order of all samples' permutation."""
    owner = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    dealt = Dealt(np.array(sizes), batch_size, epochs)
    orders = list(epoch_orders(len(owner), epochs, seed=0))
    batches = dealt.samples(owner, orders)
    assert [len(batch) for batch in batches] == dealt.counts.tolist()
    for device, size in enumerate(sizes):
        mine = batches[dealt.starts[device] : dealt.starts[device + 1]]
        visited = np.concatenate([np.zeros(0, np.int64), *mine]).reshape(epochs, size)
        for order, seen in zip(orders, visited, strict=True):
            assert np.array_equal(seen, order[owner[order] == device])
        assert sum(len(batch) < batch_size for batch in mine) <= epochs


def test_a_single_device_has_all_as_without_a_partition() -> None:
    """Its mini-batches are those of a training of all samples."""
    dealt = Dealt(np.array([100]), 16, 2)
    batches = dealt.samples(np.zeros(100, np.int64), epoch_orders(100, 2, seed=4))
    expected = mini_batches(100, 16, 2, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(batches, expected, strict=True))


def _planned(*overrides: str) -> Any:
    return plan(load("wifi_5mbps", ["training.num_samples=100", "training.epochs=2", *overrides]))


def test_a_plan_deals_its_data() -> None:
    """All devices together have each sample once an epoch, each its own."""
    planned = _planned("devices[0].count=6", "federation.partition={kind: dirichlet, alpha: 0.3}")
    starts = planned.workload.starts
    assert len(starts) == 7
    assert starts[-1] == len(planned.samples)
    assert sorted(np.concatenate(planned.samples).tolist()) == sorted([*range(100)] * 2)
    bounds = pairwise(starts.tolist())
    of_each = [{i for batch in planned.samples[a:b] for i in batch.tolist()} for a, b in bounds]
    assert sum(map(len, of_each)) == 100


def test_a_stated_fleet_deals_sizes() -> None:
    """Mini-batches without data: as many samples in all as without a partition."""
    planned = plan(load("shared_server", ["federation.partition={kind: quantity, alpha: 0.5}"]))
    workload = planned.workload
    sizes = [shape.num_samples for shape in workload.shapes if shape is not None]
    assert workload.starts is not None
    assert np.array(sizes)[workload.order].sum() == 40 * 100 * 8
    assert workload.num_batches == np.diff(workload.starts).max()


@pytest.mark.parametrize(
    ("where", "overrides"),
    [
        ("federation.partition.kind", ["federation.partition={kind: dirichlet, alpha: 1}"]),
        ("epochs", ["federation.partition={}", "method=pae-mobillm", "epochs=2"]),
    ],
)
def test_what_cannot_be_dealt_is_refused(where: str, overrides: list[str]) -> None:
    """The message names the field."""
    with pytest.raises(InputError) as refused:
        check_options(load("shared_server", overrides))
    assert refused.value.where == where


def test_a_law_needs_its_number() -> None:
    """And equal shares have none."""
    for stated in ("{kind: quantity}", "{kind: iid, alpha: 1}"):
        with pytest.raises(InputError, match="alpha"):
            load("shared_server", [f"federation.partition={stated}"])
