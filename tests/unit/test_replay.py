"""Fed MobiLLM's timeline: one pass, and what the server draws from what it has kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from worlds import spans_of, world_of

from mobisim.cost.compute import mixed
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.replay import KeptSamples
from mobisim.scenario.load import loads
from mobisim.scenario.resolved import check_options
from mobisim.scenario.schema import Scenario
from mobisim.span import DECODE, DOWNLOAD, NONE, STEP
from mobisim.workload import plan

MIXED = ("opt-125m", 3), ("opt-350m", 2)


def _fed(*models: tuple[str, int], **more: Any) -> Scenario:
    document: dict[str, Any] = {
        "name": "fed",
        "method": "fed-mobillm",
        "model": models[0][0],
        "wire": {"codec": "fp16"},
        "training": None,
        "num_batches": 4,
        "batch_size": 8,
        "sequence_length": 16,
        "devices": [
            {"profile": "galaxy-s24-ultra", "link": "wifi-5", "count": count, "model": name}
            for name, count in models
        ],
        "server": {"profile": "rtx-4090"},
    }
    return loads(yaml.safe_dump(document | more))


def _replaying(steps: int, **more: Any) -> dict[str, Any]:
    return {"federation": {"replay": {"steps": steps}, **more}}


def test_one_token_of_each_sample_goes_up_with_its_residual() -> None:
    """The last tokens' taps, a length and a value per class: nothing of the labels."""
    (shape,) = plan(_fed(("opt-125m", 1))).workload.shapes
    part = world_of(_fed(("opt-125m", 1))).groups[0].batches[0].parts[0]
    assert shape is not None
    assert (shape.tokens_sent, shape.num_labels) == (8, 16)
    payload = 32 + 2 * 8 + 4 * 16 + 12 * 8 * 768 * 2
    link = _fed(("opt-125m", 1)).devices[0].link
    assert part.num_bytes == link.wire_bytes(payload)


def test_a_pass_is_that_of_pae_mobillm() -> None:
    """Without replay and projection the first epoch's timeline is the same."""
    fed = world_of(_fed(("opt-125m", 1)))
    assert fed == world_of(_fed(("opt-125m", 1), method="pae-mobillm"))


def test_the_server_learns_on_from_what_it_has_kept() -> None:
    """Five more steps of no device, after all others, before the side network is delivered."""
    world = world_of(_fed(*MIXED, **_replaying(5)))
    spans = spans_of(world)
    steps = [span for span in spans if span.kind == STEP]
    assert [step.device == NONE for step in steps] == [False] * 20 + [True] * 5
    assert [step.batch for step in steps[20:]] == list(range(5))
    assert [step.version_written for step in steps] == list(range(1, 26))
    replayed = [span for span in spans if span.device == NONE]
    assert {span.kind for span in replayed} == {DECODE, STEP}
    assert replayed[0].start == steps[19].end
    downloads = [span for span in spans if span.kind == DOWNLOAD]
    assert {span.start for span in downloads} == {steps[-1].end}


def test_replay_of_one_sort_of_device_costs_a_kept_mini_batch() -> None:
    """Its step is that of any mini-batch of these samples, and it is unpacked first."""
    world = world_of(_fed(("opt-125m", 2), **_replaying(3)))
    assert world.replay is not None
    (batch,) = world.replay.batches
    plain = world.groups[0].batches[0]
    assert batch.step_s == plain.step_s
    assert 0 < batch.cached_s <= sum(part.decode_s for part in plain.parts) * (1 + 1e-9)


def test_a_mixture_goes_through_the_projections_of_its_backbones() -> None:
    """Shares of tokens and projections of those present; the server's FLOPs are their sum."""
    system = System(_fed(*MIXED, federation={"alignment": {"width": 512}}))
    small, large = system.views
    of_small, of_large = BatchShape.uniform(6, 1), BatchShape.uniform(2, 1)
    view, whole = mixed([(small, of_small), (large, of_large)])
    assert view.side is not None
    assert view.side.projected == ((768, 0.75), (1024, 0.25))
    alone = [one.side.step(shape).flop for one, shape in ((small, of_small), (large, of_large))
             if one.side is not None]  # fmt: skip
    assert view.side.step(whole).flop == pytest.approx(sum(alone))


def test_with_a_projection_per_device_a_mixture_has_one_for_each() -> None:
    """Of five devices with four samples each, a mini-batch of all has five projections."""
    alignment = {"width": 512, "projection": "per-device"}
    more = {"num_batches": 1, "batch_size": 4, "sequence_length": 8}
    scenario = _fed(*MIXED, **more, **_replaying(40, alignment=alignment))
    work = plan(scenario).workload.replay
    assert work is not None
    most = max(len(mixture) for mixture in work.mixtures)
    assert most == 4  # samples of four devices at the most
    assert all(sum(s.num_samples for _, s in mixture) == 4 for mixture in work.mixtures)


def test_draws_go_through_all_that_is_kept_before_any_comes_again() -> None:
    """Mini-batches of one random order after the other, the last of each perhaps short."""
    kept = KeptSamples(np.zeros(10, np.int64), np.ones(10, np.int64))
    drawn = kept.drawn(batch_size=4, steps=5, seed=1)
    assert [len(batch) for batch in drawn] == [4, 4, 2, 4, 4]
    assert sorted(np.concatenate(drawn[:3]).tolist()) == list(range(10))
    assert not np.array_equal(drawn[0], drawn[3])


@pytest.mark.parametrize(
    ("where", "more"),
    [
        ("epochs", {"epochs": 2}),
        ("federation.replay", {"method": "pae-mobillm", **_replaying(1)}),
        ("cache.capacity", {"cache": {"capacity": "1 MB"}, **_replaying(1)}),
    ],
)
def test_what_has_no_replay_is_refused(where: str, more: dict[str, Any]) -> None:
    """The message names the field."""
    with pytest.raises(InputError) as refused:
        check_options(_fed(("opt-125m", 1), **more))
    assert refused.value.where == where
