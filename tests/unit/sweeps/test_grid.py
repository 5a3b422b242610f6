"""The points of a sweep: what is written after --vary, and every combination of it."""

from __future__ import annotations

from typing import Any

import pytest
from commands import TOY

from mobisim.errors import InputError
from mobisim.scenario.document import Document, parse
from mobisim.sweeps.grid import Axis, parse_axis, points, seeds


@pytest.fixture
def toy() -> Document:
    """A scenario of stated times."""
    return parse(TOY, "toy.yaml")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1,2,5 Mbit/s", ("1 Mbit/s", "2 Mbit/s", "5 Mbit/s")),
        ("a=0.5, 2ms", ("0.5 ms", "2ms")),
        ("a=500 kbit/s,1 Mbit/s", ("500 kbit/s", "1 Mbit/s")),
        ("a=fp16,nf4", ("fp16", "nf4")),
        ("a=1,2", (1, 2)),
        ("a=all,[1, 2]", ("all", [1, 2])),
        ("a=wifi-5,{kind: constant, uplink: 1 Mbit/s}",
         ("wifi-5", {"kind": "constant", "uplink": "1 Mbit/s"})),
        ("a=1e-3,true", (1e-3, True)),
    ],
)  # fmt: skip
def test_values_are_yaml_and_a_unit_at_the_end_holds_for_all(
    text: str, values: tuple[Any, ...]
) -> None:
    """Commas within brackets part nothing; words and numbers stay what they are."""
    assert parse_axis(text).values == values


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=[1", "a=1\n2"])
def test_what_is_no_list_of_values_is_refused(text: str) -> None:
    """Naming the option as it was given."""
    with pytest.raises(InputError) as raised:
        parse_axis(text)
    assert str(raised.value.where).startswith("--vary")


def test_quantities_are_si_numbers_in_the_table() -> None:
    """Where all values are of one dimension; else they are text."""
    rates, mixed = parse_axis("a=1,2.5 Mbit/s"), parse_axis("a=1 s,2 Mbit/s")
    assert (rates.unit, [rates.plain(v) for v in rates.values]) == ("bit/s", [1e6, 2.5e6])
    assert (mixed.unit, [mixed.plain(v) for v in mixed.values]) == (None, ["1 s", "2 Mbit/s"])
    assert parse_axis("a=all,[1, 2]").plain([1, 2]) == "[1, 2]"
    assert parse_axis("a=1,2").plain(2) == 2


def test_a_grid_is_every_combination_the_last_changing_fastest(toy: Document) -> None:
    """And `[*]` is every group."""
    axes = [parse_axis("devices[*].link.uplink=1,2 Mbit/s"), parse_axis("seed=3,4,5")]
    found = points(toy, [[axis] for axis in axes])
    assert [p.values for p in found] == [
        (rate, seed) for rate in ("1 Mbit/s", "2 Mbit/s") for seed in (3, 4, 5)
    ]
    last = found[-1].scenario
    assert last is not None
    link: Any = last.devices[0].link
    assert (last.seed, link.uplink.value) == (5, 2e6)


def test_axes_of_one_list_go_in_step(toy: Document) -> None:
    """With seeds as a grid over them."""
    together = [parse_axis("num_batches=7,8"), parse_axis("server.workers=1,2")]
    found = points(toy, [together, [seeds(2, toy)]])
    assert [p.values for p in found] == [(7, 1, 0), (7, 1, 1), (8, 2, 0), (8, 2, 1)]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (["seed=1,2", "server.workers=1,2,3"], "unequal length"),
        (["seed=1,2", "seed=3,4"], "varied twice"),
        (["devices[*].link.uplnk=1,2 Mbit/s"], "did you mean 'uplink'"),
        (["sever.workers=1,2"], "did you mean 'server'"),
        (["server.workers=1,0"], "at least 1"),
        (["devices.link=wifi-5mbps"], r"devices\[\*\]"),
    ],
)
def test_slips_of_the_pen_end_a_sweep_before_it_begins(
    axes: list[str], words: str, toy: Document
) -> None:
    """Paths that do not exist, values that nothing allows, lists that do not match."""
    with pytest.raises(InputError, match=words):
        points(toy, [[parse_axis(text) for text in axes]])


def test_a_combination_that_cannot_be_is_a_point_with_its_error(toy: Document) -> None:
    """Where each of its values is fine with others."""
    axes = [parse_axis("granularity=batch,layer"), parse_axis("side_network.taps=all,[1, 2]")]
    found = points(toy, [[axis] for axis in axes])
    assert [p.values for p in found if p.error is not None] == [("layer", "all")]
    assert [p.values for p in found if p.scenario is None] == [("layer", "all")]


def test_a_grid_beyond_all_bounds_is_refused(toy: Document) -> None:
    """Before any of it is worked out."""
    many = Axis("seed", tuple(range(1000)))
    with pytest.raises(InputError, match="100,000 points"):
        points(toy, [[many], [Axis("num_batches", tuple(range(1, 1001)))]])
