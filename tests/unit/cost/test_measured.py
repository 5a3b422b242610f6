"""Measured operators: exact where measured, monotone between, silent outside."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from bundles import law_s, rows, write_bundle

from mobisim.cost.compute import BatchCost, batch_cost, server_model
from mobisim.cost.operators import Call, Operators
from mobisim.cost.surface import Surface
from mobisim.cost.system import System
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.prepare import Options, prepare
from mobisim.scenario.load import load
from mobisim.scenario.schema import Scenario

SHAPE = BatchShape.uniform(4, 64)
OPERATORS = Operators("bench", tuple(rows()), "fp32", 1)


def scenario(tmp_path: Path, *overrides: str) -> Scenario:
    """OPT-125M between a measured device and a measured server."""
    path = write_bundle(tmp_path)
    shape = ("training=null", "num_batches=3", "batch_size=4", "sequence_length=64")
    profiles = (f"devices[0].profile={path}", f"server.profile={path}")
    return load("wifi_5mbps", ("model=opt-125m", *shape, *profiles, *overrides))


def cost(tmp_path: Path, *overrides: str) -> BatchCost:
    """The cost of one mini-batch of that scenario."""
    found = scenario(tmp_path, *overrides)
    return batch_cost(System(found), found.devices[0], SHAPE)


def test_what_was_measured_is_predicted_as_measured() -> None:
    """At each measured size the surface gives the median back."""
    for fan_in, fan_out in ((512, 512), (512, 2048), (4096, 1024)):
        call = Call("linear", (256.0, float(fan_in), float(fan_out)))
        assert OPERATORS.seconds([call]) == pytest.approx(law_s(256, fan_in, fan_out), rel=2e-3)


def test_more_work_never_takes_less_time() -> None:
    """Between measured sizes time grows with each of them."""
    sizes = [256, 300, 400, 512, 576, 700, 900, 1024]
    for other in (300.0, 512.0, 800.0):
        by_width = [OPERATORS.seconds([Call("linear", (200.0, w, other))]) for w in sizes]
        by_tokens = [OPERATORS.seconds([Call("linear", (t, 600.0, other))]) for t in sizes]
        assert by_width == sorted(by_width)
        assert by_tokens == sorted(by_tokens)


def test_between_two_sizes_time_lies_between_theirs() -> None:
    """Also where times bend from launching to working, and close to the true law there."""
    surface = Surface.through({(4.0**n,): 1.0 + 4.0**n / 64 for n in range(6)})
    sizes = [1.0 * 1.1**n for n in range(72)]
    times = [surface.seconds((size,)) for size in sizes]
    assert all(later > 0.999 * sooner for sooner, later in pairwise(times))
    assert times == pytest.approx([1.0 + size / 64 for size in sizes], rel=0.05)


def test_samples_of_equal_size_count_as_their_mean() -> None:
    """A linear layer sees tokens only, however many samples they come from."""
    first = next(row for row in rows() if row.operator == "linear")
    again = first._replace(batch=first.length, length=first.batch, median_s=1.21 * first.median_s)
    sizes = (16.0, float(first.width), float(first.width_out))
    mean = Operators("mean", (*rows(), again), "fp32", 1).seconds([Call("linear", sizes)])
    assert mean == pytest.approx(1.1 * first.median_s, rel=0.02)


def test_other_precisions_and_threads_do_not_count() -> None:
    """Only samples of the profile's own precision and threads are used."""
    other = tuple(row._replace(precision="bf16", threads=2) for row in rows())
    with pytest.raises(InputError, match="no measured operator 'linear'"):
        Operators("bench", other, "bf16", 1).seconds([Call("linear", (64.0, 256.0, 256.0))])


def test_a_model_is_put_together_from_its_operators(tmp_path: Path) -> None:
    """Twelve blocks of known operators and the embedding, here at an unmeasured width."""
    t, d = 256, 768
    linears = 4 * law_s(t, d, d) + law_s(t, d, 4 * d) + law_s(t, 4 * d, d)
    rest = 2 * law_s(t, d) + law_s(t, d, 64) + law_s(t, 4 * d) + 2 * law_s(t, d)
    expected = 12 * (linears + rest) + law_s(t, d)
    assert cost(tmp_path).forward_s[0] == pytest.approx(expected, rel=0.05)


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    """Layer granularity splits forward, encoding, decoding and the step without loss."""
    whole, split = cost(tmp_path), cost(tmp_path, "granularity=layer")
    assert sum(split.forward_s) == pytest.approx(whole.forward_s[0])
    assert sum(split.encode_s) == pytest.approx(whole.encode_s[0])
    assert sum(split.decode_s) == pytest.approx(whole.decode_s[0])
    assert sum(split.side_forward_s) + split.step_s == pytest.approx(whole.step_s)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sequence_length=128", "batch_size=1"], "128 length, measured: 16 to 64"),
        (["batch_size=32"], "2048 tokens, measured: 16 to 1024"),
        (["model=opt-1.3b"], "2048 width, measured: 256 to 1024"),
        (["wire.block_size=32"], "32 block size, measured: 64 to 64"),
        (["side_network.bottleneck=8"], "8 bottleneck, measured: 16 to 128"),
    ],
)
def test_outside_the_measured_sizes_it_refuses(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    """Shapes, widths and codec blocks that nobody measured stop the run, unless insisted."""
    asked = scenario(tmp_path, *overrides)
    with pytest.raises(InputError, match=words):
        prepare(asked, Options())
    found = prepare(asked, Options(allow_extrapolation=True)).extrapolated
    assert any(words in line for line in found)


def test_sizes_that_were_never_large_together_are_refused() -> None:
    """Each size lies in its range, but their product was never measured."""
    small = tuple(row for row in rows() if row.width * row.batch * row.length < 2**18)
    call = Call("add", (256.0, 1024.0))
    assert "tokens x width" in Operators("small", small, "fp32", 1).outside([call])[0]


def test_a_next_token_head_was_not_measured(tmp_path: Path) -> None:
    """Its product with the vocabulary would be the larger part of a step, so it is not left out."""
    profile = f"server.profile={write_bundle(tmp_path)}"
    asked = load("wifi_5mbps", ("model=opt-125m", "training.head=next_token", profile))
    model = server_model(System(asked))
    with pytest.raises(InputError, match="no measured operator 'head:next_token'"):
        model.step_s(SHAPE)


@pytest.mark.parametrize(
    ("override", "operator"),
    [
        ("wire.codec=int8", "encode:int8"),
        ("backbone_weights=int8", "decode:int8"),
        ("model=qwen2.5-0.5b", "norm:rms"),
    ],
)
def test_an_operator_never_measured_is_named(tmp_path: Path, override: str, operator: str) -> None:
    """No insisting helps where there is no sample at all."""
    with pytest.raises(InputError, match=f"no measured operator '{operator}'"):
        prepare(scenario(tmp_path, override), Options(allow_extrapolation=True))
