"""Links of the kernel's, where this machine allows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mobisim.testbed.kernel_link import NotPermittedError, Rates, ip, kernel_links, sweep

RATES = [Rates(8e6, 16e6), Rates(1e6, 1e6)]
HOLD = """
from mobisim.testbed.kernel_link import Rates, kernel_links
with kernel_links([Rates(8e6, 8e6)]) as links:
    print(links.token, flush=True)
    input()
"""


def _permitted() -> bool:
    try:
        with kernel_links([]):
            return True
    except NotPermittedError:
        return False


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    if not _permitted():
        pytest.skip("this machine does not let us limit links")


def _filters(namespace: str) -> str:
    words = ["tc", "-n", namespace, "qdisc", "show"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_each_link_is_limited_both_ways_and_gone_afterwards() -> None:
    """A namespace for the server and each device, a token bucket at each end; then nothing."""
    with kernel_links(RATES) as links:
        assert "rate 8Mbit" in _filters(links.namespace(0))
        assert "rate 1Mbit" in _filters(links.namespace(1))
        assert "rate 16Mbit" in _filters(links.namespace(None))
        assert links.token in ip("netns", "list")
    assert links.token not in ip("netns", "list")


def test_everything_is_gone_after_an_error() -> None:
    """However the context ends."""
    tokens = []

    def interrupted() -> None:
        with kernel_links(RATES) as links:
            tokens.append(links.token)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tokens[0] not in ip("netns", "list")


def test_what_a_killed_run_left_is_removed_and_what_lives_is_not() -> None:
    """Links of a run that was killed without warning go with the next start; others stay."""
    ip("netns", "add", "mobisim-not-ours")
    words = [sys.executable, "-c", HOLD]
    with kernel_links(RATES) as alive:
        holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        token = holder.stdout.readline().strip()
        assert token in ip("netns", "list")
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
        assert token in ip("netns", "list")
        sweep()
        left = ip("netns", "list")
        ip("netns", "delete", "mobisim-not-ours")
        assert token not in left
        assert alive.token in left
        assert "mobisim-not-ours" in left
