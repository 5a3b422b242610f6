"""Pages in a real browser: scripts run under the policy, and what they show is what was asked.

Skipped where no Chromium is installed; $MOBISIM_BROWSER names one that is not on the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from webpage import Webpage, problems

from mobisim.pages.explorer import Explorer
from mobisim.pages.report import write_report
from mobisim.pages.serve import address, listen, server
from mobisim.prepare import Options
from mobisim.runner import run
from mobisim.scenario.load import load

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("MOBISIM_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
QUIETLY = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def _shown(url: str, profile: Path) -> Webpage:
    """The page as it stands once its scripts have run; none of it was refused."""
    assert BROWSER is not None
    ran = subprocess.run(
        [BROWSER, *QUIETLY, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    assert told == [], told
    return Webpage.of(ran.stdout)


def test_the_timeline_of_a_report_is_drawn(tmp_path: Path) -> None:
    """The script runs from a file: the timeline shows itself and says what it shows."""
    result = run(load("lte", ["num_batches=5"]), Options(plots=False, out=tmp_path / "lte"))
    out = write_report([result.path], tmp_path / "report.html")
    page = _shown(out.as_uri(), tmp_path / "profile")
    (figure,) = (one for one in page.find("figure") if one.attributes["class"] == "zoom")
    assert "hidden" not in figure.attributes
    (status,) = (one for one in figure.all() if one.attributes.get("role") == "status")
    assert status.words.startswith("From 0 s to ")
    assert "pieces of work" in status.words
    assert problems(page) == []


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """The address at which a scenario is explored."""
    with listen(0) as listening:
        serving = server(Explorer("lte"))
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        while not serving.started and thread.is_alive():
            time.sleep(0.02)
        yield address(listening)
        serving.should_exit = True
        thread.join(20)


@pytest.mark.parametrize(
    ("knobs", "state", "words"),
    [
        ("", "whole", "The uplink sets the pace"),
        ("uplink=700+Mbit%2Fs&codec=int2", "whole", "The device sets the pace"),
        ("batch=256", "error", "a shape that no profile covers"),
    ],
)
def test_the_knobs_are_answered(
    knobs: str, state: str, words: str, place: str, tmp_path: Path
) -> None:
    """The page asks, comes to rest with the whole run's answer, and shows errors in words."""
    page = _shown(f"{place}/#{knobs}", tmp_path)
    (body,) = page.find("body")
    assert body.attributes["data-state"] == state
    (answer,) = (one for one in page.find("section") if one.attributes["id"] == "answer")
    assert words in answer.words
    assert ("mobisim run lte" in answer.words) == (state == "whole")
    assert problems(page) == []
