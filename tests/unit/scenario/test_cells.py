"""Cells in scenarios: named once, joined by name, and set like any other value."""

from __future__ import annotations

import pytest
from worlds import device, stated, world_of

from mobisim.errors import InputError
from mobisim.scenario.load import loads
from mobisim.scenario.provenance import origins

CELLS = {"home": {"uplink": "12 kbit/s", "downlink": "24 kbit/s"}}
SHARED = stated(3, device(0.1, count=2) | {"cell": "home", "weight": 2}, step_s=0.1, cells=CELLS)
TEXT = SHARED.model_dump_json()


def test_a_link_in_a_cell_gets_no_more_than_either_carries() -> None:
    """The rates of the world are the smaller ones of link and cell."""
    world = world_of(SHARED)
    (group,) = world.groups
    assert (group.cell, group.weight) == (0, 2)
    assert (group.uplink_bits_per_s, group.downlink_bits_per_s) == (8000.0, 8000.0)
    slower = world_of(loads(TEXT, overrides=["cells.home.uplink=5 kbit/s"]))
    assert slower.groups[0].uplink_bits_per_s == slower.cells[0].uplink_bits_per_s == 5000.0


def test_a_cells_rates_say_where_they_come_from() -> None:
    """They are among the values that a run rests on."""
    assert {"cells.home.uplink", "cells.home.downlink"} <= {o.path for o in origins(SHARED)}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("devices[0].cell=hom", "devices[0].cell\n  no cell 'hom'; did you mean 'home'?"),
        ("devices[0].cell=xyz", "expected: a key of cells"),
        ("cells.home.uplnk=1 kbit/s", "did you mean 'uplink'"),
        ("cells.home.uplink=0 kbit/s", "above zero"),
        ("devices[0].weight=0", "at least 1"),
        ("devices[0].link.outages={windows: [[1 s, 2 s]]}", "without outages"),
        ("devices[0].link.tcp={}", "latency above zero"),
    ],
)
def test_wrong_cells_are_refused(override: str, says: str) -> None:
    """With the field, what was expected and the nearest name."""
    with pytest.raises(InputError) as error:
        loads(TEXT, overrides=[override])
    assert says in str(error.value)


def test_a_cell_takes_no_slow_start() -> None:
    """Windows that double do not go with a share that changes; the limits do."""
    at = ["devices[0].link.latency=10 ms", "devices[0].link.tcp={loss: 0.01}"]
    with pytest.raises(InputError, match="slow_start: false"):
        loads(TEXT, overrides=at)
    loads(TEXT, overrides=[*at, "devices[0].link.tcp.slow_start=false"])
