from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mobisim.errors import InputError
from mobisim.testbed.clock import Offset
from mobisim.testbed.endpoint import Address, Keys, check_listening


@pytest.mark.parametrize(
    ("text", "host", "is_loopback"),
    [
        ("127.0.0.1:5555", "127.0.0.1", True),
        ("localhost:1", "localhost", True),
        ("[::1]:9", "::1", True),
        ("0.0.0.0:5555", "0.0.0.0", False),  # noqa: S104 - what is to be refused
        ("192.168.1.2:5555", "192.168.1.2", False),
        ("example.org:80", "example.org", False),
    ],
)
def test_addresses(text: str, host: str, *, is_loopback: bool) -> None:
    """Host and port are told apart, and loopback from all else."""
    address = Address.parse(text, "--listen")
    assert (address.host, address.is_loopback, str(address)) == (host, is_loopback, text)


@pytest.mark.parametrize("text", ["", "5555", "host:", ":5555", "host:port", "host:65536", "h:-1"])
def test_what_is_no_address(text: str) -> None:
    """The error names the option."""
    with pytest.raises(InputError, match="--listen"):
        Address.parse(text, "--listen")


def test_nobody_beyond_this_machine_is_let_in_without_keys(tmp_path: Path) -> None:
    """Loopback needs no keys, everything else does."""
    everywhere = Address("0.0.0.0", 5555)  # noqa: S104 - what is to be refused
    check_listening(Address("127.0.0.1", 0), None)
    check_listening(everywhere, Keys.make(tmp_path / "keys"))
    with pytest.raises(InputError, match="needs keys"):
        check_listening(everywhere, None)


def test_secret_keys_are_their_owners_alone(tmp_path: Path) -> None:
    """Nobody else may read them, and they are never written over."""
    keys = Keys.make(tmp_path / "keys")
    for name in ("server", "device"):
        assert len(keys.public(name)) == len(keys.secret(name)) == 40
        assert stat.S_IMODE((keys.folder / f"{name}.key_secret").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="there already"):
        Keys.make(keys.folder)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """The error says which file, and how to make it."""
    with pytest.raises(InputError, match=r"server\.key[\s\S]*--make-keys"):
        Keys(tmp_path).public("server")


def test_the_shortest_round_trip_tells_the_offset() -> None:
    """A clock 100 s ahead is found within half a round trip."""
    offset = Offset()
    offset.learn(10.0, 110.9, 11.0)
    offset.learn(20.0, 120.01, 20.02)
    offset.learn(30.0, 131.0, 31.5)
    assert offset.seconds == pytest.approx(100.0)
    assert offset.error == pytest.approx(0.01)
