from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from mobisim.errors import InputError
from mobisim.report.citations import read_entries
from mobisim.scenario import catalog
from mobisim.scenario.load import load, validate_profile
from mobisim.scenario.methods import METHODS
from mobisim.scenario.profiles import DeviceProfile, LinkProfile, ModelProfile, ServerProfile
from mobisim.scenario.provenance import SORTS, origins
from mobisim.scenario.schema import Method

TYPES: dict[str, Any] = {
    "devices": DeviceProfile,
    "servers": ServerProfile,
    "links": LinkProfile,
    "models": ModelProfile,
}
SHIPPED = [(kind, name) for kind in TYPES for name in catalog.names(kind)]


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=map("/".join, SHIPPED))
def test_each_shipped_profile_is_sound(kind: str, name: str) -> None:
    """It validates, carries its file's name, and each source is a grade or in references.bib."""
    profile = validate_profile(TYPES[kind], catalog.profile(kind, name))
    sources = {origin.source for origin in origins(profile)}
    assert profile.name == name
    assert profile.description
    assert sources <= {*SORTS, *read_entries(catalog.references())}
    assert "stated" not in sources


@pytest.mark.parametrize(
    ("kind", "least"), [("devices", 12), ("servers", 6), ("links", 8), ("models", 12)]
)
def test_enough_profiles_ship(kind: str, least: int) -> None:
    """A newcomer finds something like their own."""
    assert len(catalog.names(kind)) >= least


@pytest.mark.parametrize("name", catalog.scenario_names())
def test_each_shipped_scenario_is_sound_and_asks_a_question(name: str) -> None:
    """Its name is its file's, its first line a question."""
    text = (catalog.shipped("scenarios") / f"{name}.yaml").read_text("utf-8")
    first = text.partition("\n")[0]
    assert load(name).name == Path(name).name
    assert first.startswith("# ")
    assert first.endswith("?")


def test_an_unknown_profile_comes_with_the_nearest_name() -> None:
    """And with the place that named it."""
    with pytest.raises(InputError, match="did you mean 'pixel-8'") as raised:
        catalog.profile("devices", "pixel8", "a.yaml:3: devices[0].profile")
    assert raised.value.where == "a.yaml:3: devices[0].profile"


@pytest.mark.parametrize("name", ["wifi5mbps", "scenarios/wifi5mbps.yaml", "wifi5mbps.yaml"])
def test_a_missing_scenario_comes_with_the_nearest_shipped_one(name: str) -> None:
    """Whether it was given as a name or as a file."""
    with pytest.raises(InputError, match="'wifi_5mbps'"):
        catalog.scenario(name)


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the working directory is what is meant."""
    monkeypatch.chdir(tmp_path)
    Path("wifi_5mbps").write_text("name: mine\n", "utf-8")
    assert catalog.scenario("wifi_5mbps").data == {"name": "mine"}


def test_a_directory_is_no_scenario(tmp_path: Path) -> None:
    """Not even one that is called like one."""
    with pytest.raises(InputError, match="this is a directory"):
        catalog.scenario(str(tmp_path))


def test_each_method_is_described_by_a_paper_of_the_bibliography() -> None:
    """And there is a description for each that a scenario may name."""
    entries = read_entries(catalog.references())
    assert set(get_args(Method)) <= set(METHODS)
    assert all(method.reference in entries for method in METHODS.values())
