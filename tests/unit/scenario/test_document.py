from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mobisim.errors import InputError
from mobisim.scenario.document import MAX_BYTES, parse, parse_json, parse_value, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("010", 10),
        ("0x10", "0x10"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("null", None),
        ("~", None),
        ("True", True),
        ("'5'", "5"),
        ("20 Mbit/s", "20 Mbit/s"),
        ("{codec: int8}", {"codec": "int8"}),
        ("[1, 2]", [1, 2]),
        ("", ""),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """`1e-3` is a number and `no` a word, unlike in YAML 1.1."""
    found = parse_value(text, "--set")
    assert found == value
    assert type(found) is type(value)


def test_infinities_and_nan_are_read_as_such() -> None:
    """So that validation can refuse them by name."""
    assert parse_value("-.inf", "x") == -math.inf
    assert math.isnan(parse_value(".nan", "x"))


def test_each_value_knows_its_line() -> None:
    """Keys are placed where they stand, items of lists too."""
    document = parse("a: 1\nb:\n  - c: 2\n  - 3\n", "f.yaml")
    assert document.data == {"a": 1, "b": [{"c": 2}, 3]}
    assert document.places["a",] == "f.yaml:1"
    assert document.places["b", 0, "c"] == "f.yaml:3"
    assert document.places["b", 1] == "f.yaml:4"


LAUGHS = "a: &a [l, l]\nb: &b [*a, *a]\nc: [*b, *b]\n"

BROKEN = {
    "empty": ("", "f.yaml", "nothing: the file is empty"),
    "comment": ("# only\n", "f.yaml", "nothing: the file is empty"),
    "list": ("- a\n", "f.yaml", "a list"),
    "scalar": ("hello\n", "f.yaml", "a single value"),
    "syntax": ("a: 1\nb: [1, 2\nc: }", "f.yaml:3", "this is not YAML"),
    "tab": ("a: 1\n\tb: 2", "f.yaml:2", "this is not YAML"),
    "control": ("a: 1\nb: \x00", "f.yaml:2", "control character 0x00"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2", "but found another document"),
    "tag": ("a: !!python/object:os.system x\n", "f.yaml:1", "the tag !!python/object:os.system"),
    "own tag": ("a: 1\nb: !secret x\n", "f.yaml:2", "the tag !secret is refused"),
    "anchor": ("a: &x 1\n", "f.yaml:1", "aliases and anchors are refused"),
    "alias": ("a: 1\nb: *x\n", "f.yaml:2", "aliases and anchors are refused"),
    "billion laughs": (LAUGHS, "f.yaml:1", "aliases and anchors are refused"),
    "key twice": ("a: 1\nb: 2\na: 3\n", "f.yaml:3", "got: the first one at f.yaml:1"),
    "key no word": ("? [a]\n: b\n", "f.yaml:1", "a key is no word"),
    "deep": ("a: " + "[" * 100_000, "f.yaml:1", "nested too deep"),
    "deep mappings": ("a: " + "{a: " * 100, "f.yaml:1", "nested too deep"),
}


@pytest.mark.parametrize(("text", "where", "says"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_plain_mapping_is_refused(text: str, where: str, says: str) -> None:
    """With the file, the line and what is wrong, before anything can explode."""
    with pytest.raises(InputError) as raised:
        parse(text, "f.yaml")
    assert raised.value.where == where
    assert says in str(raised.value)


def test_a_value_on_the_command_line_is_one_value() -> None:
    """A line break could smuggle in further keys."""
    with pytest.raises(InputError, match="one value goes on one line"):
        parse_value("1\nname: x", "--set seed")


def test_a_value_on_the_command_line_has_no_line_number() -> None:
    """Its place is the option itself."""
    with pytest.raises(InputError) as raised:
        parse_value("[1", "--set seed=[1")
    assert raised.value.where == "--set seed=[1"


def test_a_huge_integer_is_beyond_every_limit_and_costs_nothing() -> None:
    """Python refuses to read thousands of digits; mobisim refuses the value instead."""
    assert parse_value("9" * 5000, "x") == math.inf


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bytes(range(256)), "not a text file in UTF-8"),
        ("name: x".encode("utf-16"), "not a text file in UTF-8"),
        (b"a" * (MAX_BYTES + 1), "too large for a YAML file"),
    ],
    ids=["binary", "utf-16", "large"],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """With their name and the reason."""
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as raised:
        read_text(path, "YAML")
    assert raised.value.where == str(path)


def test_an_endless_file_is_refused() -> None:
    """A device is read no further than the limit."""
    with pytest.raises(InputError, match="too large"):
        read_text(Path("/dev/zero"), "YAML")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    """Editors on Windows leave them."""
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = parse(read_text(path, "YAML"), "f.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.places["b",] == "f.yaml:2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "no mapping"),
        ('{"seed": 1, "seed": 2}', "'seed' stands twice"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_json_is_read_as_strictly(text: str, says: str) -> None:
    """Each mistake names the file."""
    with pytest.raises(InputError, match=says) as caught:
        parse_json(text, "manifest.json")
    assert "manifest.json" in str(caught.value)
