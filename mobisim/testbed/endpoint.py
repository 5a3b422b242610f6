"""Addresses and keys: who may listen where, and who may speak to whom."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth

from mobisim.errors import InputError

SERVER_NAME, DEVICE_NAME = "server", "device"


@dataclass(frozen=True)
class Address:
    """A host and a TCP port; port 0 asks for any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """The address that HOST:PORT says.

        Raises:
            InputError: it says none.
        """
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
            raise InputError("no address", where=option, expected="HOST:PORT", got=repr(text))
        return cls(host.strip("[]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """As ZeroMQ wants it."""
        return f"tcp://{self}"


@dataclass(frozen=True)
class Keys:
    """A folder of CURVE keys: server.key, device.key and the secret of whoever holds it.

    Every device shares one key pair; the server serves whoever proves to have a key in the folder.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Keys:
        """New key pairs for a server and its devices; secrets are readable by their owner only.

        Raises:
            InputError: keys are there already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.key*")):
            raise InputError(
                "keys are there already", where=str(folder), hint="choose a new folder"
            )
        folder.chmod(0o700)
        for name in (SERVER_NAME, DEVICE_NAME):
            _, secret = zmq.auth.create_certificates(folder, name)
            Path(secret).chmod(0o600)
        return cls(folder)

    def public(self, name: str) -> bytes:
        """A public key.

        Raises:
            InputError: it is missing or broken.
        """
        return self._read(f"{name}.key")[0]

    def secret(self, name: str) -> bytes:
        """A secret key.

        Raises:
            InputError: it is missing or broken.
        """
        secret = self._read(f"{name}.key_secret")[1]
        if secret is None:
            raise InputError("no secret key in it", where=str(self.folder / f"{name}.key_secret"))
        return secret

    def _read(self, name: str) -> tuple[bytes, bytes | None]:
        path = self.folder / name
        try:
            return zmq.auth.load_certificate(path)
        except (OSError, ValueError) as error:
            raise InputError(
                "no key here", where=str(path), got=str(error),
                hint="make keys with: mobisim serve --make-keys DIR",
            ) from error  # fmt: skip


def check_listening(address: Address, keys: Keys | None) -> None:
    """Refuse to be reached from other machines without keys.

    Raises:
        InputError: without keys, and not on loopback.
    """
    if keys is None and not address.is_loopback:
        raise InputError(
            "listening beyond this machine needs keys",
            where="--listen",
            expected="a loopback address such as 127.0.0.1:5555, or --keys DIR",
            got=str(address),
            hint="make keys with: mobisim serve --make-keys DIR",
        )
