from __future__ import annotations

from commands import TOY

from mobisim.scenario.load import load, loads
from mobisim.scenario.provenance import count_sorts, origins


def test_every_sourced_value_has_an_origin() -> None:
    """By the path that --set would take, with its value as text."""
    found = {origin.path: origin for origin in origins(loads(TOY))}
    assert found["devices[0].profile.forward_s"].value == "0.4 s"
    assert found["devices[0].link.uplink"].value == "5000000.0 bit/s"
    assert found["devices[0].link.mtu_bytes"].range == ("576", "9000")


def test_a_distribution_is_part_of_the_value() -> None:
    """A mean alone would not tell what was simulated."""
    override = "server.profile.step_s={mean: 0.2 s, distribution: exponential}"
    found = {o.path: o.value for o in origins(loads(TOY, overrides=[override]))}
    assert found["server.profile.step_s"] == "0.2 s, exponential"


def test_keys_of_the_bibliography_count_as_published() -> None:
    """And all values are counted once."""
    found = origins(load("wifi_5mbps"))
    counts = count_sorts(found)
    assert sum(counts.values()) == len(found)
    assert counts["published"] > 0
    assert counts["stated"] == 0


def test_what_a_scenario_overrides_is_stated() -> None:
    """It no longer rests on the profile's source."""
    before = count_sorts(origins(load("wifi_5mbps")))
    after = count_sorts(origins(load("wifi_5mbps", ["devices[0].link.uplink=1 Mbit/s"])))
    assert (after["stated"], after["assumed"]) == (1, before["assumed"] - 1)
