from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mobisim.errors import InputError
from mobisim.scenario.load import validate_profile
from mobisim.scenario.models import read_model
from mobisim.scenario.profiles import TransformerProfile

CONFIG = {"model_type": "opt", "hidden_size": 8}


def write(path: Path, content: Any) -> Path:
    """A configuration file."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize("of_folder", [False, True])
def test_a_config_json_is_a_model(tmp_path: Path, *, of_folder: bool) -> None:
    """Named itself or by its folder."""
    path = write(tmp_path / "config.json", CONFIG)
    name = str(tmp_path if of_folder else path)
    profile = validate_profile(TransformerProfile, read_model(name))
    assert (profile.name, profile.config, profile.source) == (name, CONFIG, "stated")


BROKEN = {
    "no JSON": ('{"a": 1,\n}', ":2", "this is not JSON"),
    "a list": ("[1]", "", "no model_type"),
    "no model_type": ("{}", "", "no model_type"),
    "deep": ("[" * 100_000, "", "this JSON cannot be read"),
    "a huge number": ('{"model_type": ' + "9" * 5000 + "}", "", "this JSON cannot be read"),
}


@pytest.mark.parametrize(("content", "line", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_config_json_is_refused(
    tmp_path: Path, content: str, line: str, says: str
) -> None:
    """With its path and, where there is one, the line."""
    path = write(tmp_path / "config.json", content)
    with pytest.raises(InputError, match=says) as raised:
        read_model(str(path))
    assert raised.value.where == f"{path}{line}"


def test_a_missing_config_json_is_refused(tmp_path: Path) -> None:
    """A path is never taken for a name."""
    with pytest.raises(InputError, match="No such file"):
        read_model(str(tmp_path / "config.json"))


def test_numbers_of_a_configuration_are_finite(tmp_path: Path) -> None:
    """JSON from Python may hold NaN."""
    path = write(tmp_path / "config.json", '{"model_type": "opt", "hidden_size": NaN}')
    with pytest.raises(InputError, match="expected: a finite number") as raised:
        validate_profile(TransformerProfile, read_model(str(path)))
    assert "config.hidden_size" in str(raised.value.where)


def test_a_hub_model_without_network_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub's own client would try for half a minute."""
    pytest.importorskip("huggingface_hub")

    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="the network is out of reach") as raised:
        read_model("hf:nobody/nothing", "a.yaml:1: model")
    assert raised.value.where == "a.yaml:1: model"


def test_a_hub_model_without_the_hub_s_client_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client is optional."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"mobisim\[hub\]"):
        read_model("hf:nobody/nothing")


def test_the_first_layers_of_a_model_are_one(tmp_path: Path) -> None:
    """Of a shipped one and of a file, by their number after the name."""
    path = write(tmp_path / "config.json", CONFIG | {"num_hidden_layers": 6})
    shipped = validate_profile(TransformerProfile, read_model("opt-1.3b:12"))
    assert (shipped.name, shipped.config["num_hidden_layers"]) == ("opt-1.3b:12", 12)
    assert shipped.num_parameters is None
    assert read_model(f"{path}:2").data["config"]["num_hidden_layers"] == 2
    with pytest.raises(InputError, match="no such number of layers") as refused:
        read_model("opt-125m:13")
    assert (refused.value.expected, refused.value.got) == ("1 to 12", "13")
