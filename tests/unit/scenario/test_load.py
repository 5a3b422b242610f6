from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import TOY

from mobisim.errors import InputError
from mobisim.scenario.document import parse
from mobisim.scenario.load import load, loads, placing_errors, resolve
from mobisim.scenario.profiles import FixedServer, Roofline
from mobisim.scenario.schema import Scenario


def toy(*overrides: str) -> Scenario:
    """The toy scenario with overrides."""
    return loads(TOY, "toy.yaml", overrides)


def problem(*overrides: str, text: str = TOY) -> InputError:
    """The error of the toy scenario with overrides."""
    with pytest.raises(InputError) as raised:
        loads(text, "toy.yaml", overrides)
    return raised.value


def at(scenario: Scenario, path: str) -> Any:
    """The value at a dotted path."""
    value: Any = scenario
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


OVERRIDES = {
    "a number": (["seed=7"], "seed", 7),
    "a quantity": (["devices[0].link.uplink=20 Mbit/s"], "devices.0.link.uplink.value", 20e6),
    "all of a list": (["devices[*].count=3"], "devices.0.count", 3),
    "the last wins": (["seed=1", "seed=2"], "seed", 2),
    "a mapping": (["wire={payload_bytes: 7}"], "wire.payload_bytes", 7),
    "a null": (["horizon=3 s", "horizon=null"], "horizon", None),
    "what the file leaves out": (["side_network.bottleneck=8"], "side_network.bottleneck", 8),
    "a name, then a value in it": (
        ["devices[0].link=wifi-5mbps", "devices[0].link.latency=1 ms"],
        "devices.0.link.latency.value.mean",
        0.001,
    ),
    "a value of a profile by name": (
        ["server.profile=a100-80gb", "batch_size=1", "sequence_length=8", "model=opt-350m",
         "server.profile.memory=1 GiB"],
        "server.profile.memory.value",
        2.0**30,
    ),
    "a name undoes what came before": (
        ["devices[0].link.latency=1 ms", "devices[0].link=wifi-5mbps"],
        "devices.0.link.latency.value.mean",
        0.005,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "path", "value"), OVERRIDES.values(), ids=OVERRIDES)
def test_any_field_can_be_overridden(overrides: list[str], path: str, value: Any) -> None:
    """In the order given, before anything is validated."""
    assert at(toy(*overrides), path) == value


def test_an_override_through_a_name_leaves_the_rest_of_the_profile() -> None:
    """The profile is inlined first."""
    scenario = load("wifi_5mbps", ["devices[0].profile.memory=1 GiB"])
    profile, shipped = scenario.devices[0].profile, load("wifi_5mbps").devices[0].profile
    assert isinstance(profile, Roofline)
    assert isinstance(shipped, Roofline)
    assert (profile.memory.value, profile.memory.source) == (2.0**30, "stated")
    assert profile.flop_per_s == shipped.flop_per_s


def test_an_override_replaces_a_profile_by_stated_times() -> None:
    """A profile may be a name or written inline."""
    profile = toy("server.profile={kind: fixed, step_s: 1 s}").server.profile
    assert isinstance(profile, FixedServer)
    assert profile.step_s.value.mean == 1.0


UNHEARD = {
    "no value": ("seed", "PATH=VALUE"),
    "no path": ("=1", "PATH=VALUE"),
    "an open bracket": ("devices[0.count=1", "no path"),
    "two dots": ("devices[0]..count=1", "no path"),
    "a trailing dot": ("server.=1", "no path"),
    "an index too high": ("devices[7].count=1", "no devices[7]"),
    "no index": ("devices.count=1", "write devices[0], or devices[*]"),
    "an index of no list": ("server[0]=1", "server is no list"),
    "below a number": ("num_batches.x=1", "nothing lies below num_batches"),
    "an unknown key": ("seeds.x=1", "no key 'seeds'; did you mean 'seed'?"),
    "an unknown last key": ("seeds=1", "no key 'seeds' here; did you mean 'seed'?"),
    "no YAML": ("seed=[1", "this is not YAML"),
    "an unknown profile": ("devices[0].profile.memory=1 B", ""),
}


@pytest.mark.parametrize(("override", "says"), UNHEARD.values(), ids=UNHEARD)
def test_an_override_that_leads_nowhere_is_refused(override: str, says: str) -> None:
    """The message quotes the override."""
    overrides = ["devices[0].profile=pixel8", override] if not says else [override]
    error = problem(*overrides)
    assert str(error).startswith("--set ")
    assert (says or "did you mean 'pixel-8'?") in str(error)


FAULTS = {
    "unknown key": ("seed: 1\nsede: 2", "toy.yaml:13: sede", "did you mean 'seed'?"),
    "unknown method": ("method: mobilm", "toy.yaml:12: method", "did you mean 'mobillm'?"),
    "wrong sort": ("seed: [1]", "toy.yaml:12: seed", "expected: a whole number"),
    "negative": ("seed: -1", "toy.yaml:12: seed", "expected: a number of at least 0"),
    "no unit": ("horizon: 3", "toy.yaml:12: horizon", "the unit is missing"),
    "of another": ("num_batches: 2", "toy.yaml:12: num_batches", "stands twice"),
}


@pytest.mark.parametrize(("line", "where", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_file_is_found_by_file_line_and_field(
    line: str, where: str, says: str
) -> None:
    """And the message says what was expected."""
    error = problem(text=TOY + line + "\n")
    assert where.startswith(str(error.where))
    assert says in str(error)


MISTAKES = {
    "a missing key": ("server={}", "server.profile", "this key is missing"),
    "a choice": ("wire={codec: nf5}", "wire.codec", "did you mean 'nf4'?"),
    "a union": ("side_network.taps=some", "side_network.taps", "expected: all, or a list"),
    "an item of a list": ("side_network.taps=[1, x]", "side_network.taps[1]", "a whole number"),
    "order": ("side_network.taps=[2, 1]", "side_network.taps", "in ascending order"),
    "an unknown kind": ("server.profile={kind: fix}", "server.profile", "did you mean 'fixed'?"),
    "no kind": ("server.profile={step_s: 1}", "server.profile", "kind is missing"),
    "no profile": ("server.profile=null", "server.profile", "the name of a profile"),
    "a number for a profile": ("devices[0].link=3", "devices[0].link", "got: 3"),
    "no device": ("devices=[]", "devices", "at least 1"),
    "a word for a list": ("devices=phone", "devices", "expected: a list"),
    "a name with a slash": ("name=../x", "name", "letters, digits"),
    "a bool for a count": ("devices[0].count=true", "devices[0].count", "got: true"),
    "no finite number": ("wire.payload_bytes=.inf", "wire.payload_bytes", "a whole number of byte"),
    "one power of two": (
        "devices[0].profile.idle_power=3 W", "devices[0].profile", "idle_power and load_power"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("override", "field", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_its_field(override: str, field: str, says: str) -> None:
    """By the path that --set would take."""
    error = problem(override)
    assert str(error.where).endswith(f": {field}")
    assert says in str(error)


def test_several_mistakes_are_named_at_once() -> None:
    """The first in full, the others by their fields."""
    error = problem(text="name: x\n")
    assert str(error.where) == "toy.yaml:1: wire"
    assert str(error.hint) == "also wrong: devices, server"


def test_a_mistake_in_a_profile_names_the_profile_s_file() -> None:
    """The value that is wrong does not stand in the scenario."""
    error = problem("server.profile=a100-80gb", "server.profile.covers={num_tokens: [5, 1]}")
    assert "server.profile.covers" in str(error.where)
    error = problem("devices[0].profile=pixel-8", "devices[0].profile.kind=fixed")
    assert str(error.where).startswith("profiles/devices/pixel-8.yaml:")


def test_long_values_are_cut_in_messages() -> None:
    """A message stays readable."""
    error = problem("devices[0].count=" + "9" * 5000)
    assert len(str(error)) < 400


def test_a_later_error_gains_the_line_of_its_field() -> None:
    """Some mistakes show only once data and profiles come together."""
    document = parse(TOY, "toy.yaml")
    resolve(document)
    with pytest.raises(InputError) as raised, placing_errors(document):
        raise InputError("too long", where="devices[0].profile", got="9")
    assert raised.value.where == "toy.yaml:7: devices[0].profile"
    assert raised.value.got == "9"


@pytest.mark.parametrize("where", ["a/train.tsv:3", "model.safetensors", "--from", None])
def test_errors_of_other_places_keep_theirs(
    where: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is named needs no other place."""
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").touch()
    with pytest.raises(InputError) as raised, placing_errors(parse(TOY, "toy.yaml")):
        raise InputError("bad", where=where)
    assert raised.value.where == where
