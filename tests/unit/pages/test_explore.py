"""The explorer says what a run says, to this machine alone, and the latest question's answer."""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from commands import mobisim
from webpage import Webpage, outside, problems

from mobisim.errors import InputError
from mobisim.pages import explorer as explorers
from mobisim.pages.explorer import Explorer, OvertakenError
from mobisim.pages.knobs import knobs_of, overrides_of
from mobisim.pages.serve import Desk
from mobisim.prepare import prepare
from mobisim.scenario.load import load
from mobisim.simulation import simulate
from mobisim.units import human_time


def _get(url: str, host: str | None = None) -> tuple[int, dict[str, str], str]:
    headers = {"Host": host} if host else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:  # noqa: S310 - our own server
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def _ask(lte_page: str, **words: str) -> tuple[int, Any]:
    status, _, text = _get(f"{lte_page}/answer?{urlencode(words)}")
    return status, json.loads(text)


def test_a_whole_answer_is_that_of_the_run(lte: Explorer) -> None:
    """The command that the page shows makes the scenario whose time it told."""
    settings = {"uplink": "50 Mbit/s", "codec": "int8", "taps": "4", "batch": "4", "devices": "3"}
    found = lte.answer(settings, whole=True)
    words = shlex.split(found["command"])
    assert words[:3] == ["mobisim", "run", "lte"]
    sets = [text for flag, text in zip(words[3::2], words[4::2], strict=True) if flag == "--set"]
    summary = simulate(load("lte", sets)).summary
    assert summary.makespan_s is not None
    assert dict(found["numbers"])["simulated time"] == human_time(summary.makespan_s)
    assert found["headline"].startswith(f"600 steps in {human_time(summary.makespan_s)}. The ")
    assert dict(found["numbers"])["sets the pace"] == summary.bottleneck


FLEET = (
    "devices[*].count=200",
    "devices[*].link.uplink=150 Mbit/s",
    "num_batches=10",
    "deliver=none",
)


@pytest.mark.parametrize(("name", "sets"), [("wifi_shared", ()), ("shared_server", FLEET)])
def test_a_glance_is_near_the_whole(
    name: str, sets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning of a run and its pace tell the time of all of it within a few per cent.

    Also of a fleet so large that the glance ends before most of its devices have had a step.
    """
    shared = Explorer(name, sets)
    monkeypatch.setattr(explorers, "GLANCE_SPANS", 3_000)
    glance, whole = shared.answer({}, whole=False), shared.answer({}, whole=True)
    assert (glance["whole"], whole["whole"]) == (False, True)
    seconds = [
        explorers._look(prepare(shared.scenario, explorers.FAST), whole=exact).makespan_s
        for exact in (False, True)
    ]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.05)
    assert "about" in glance["headline"]
    assert "about" not in whole["headline"]


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("lte", set()),
        ("lte_trace", {"uplink"}),
        ("textbook_pipeline", {"codec", "device", "batch", "taps"}),
        ("shared_server", set()),
    ],
)
def test_every_stop_makes_a_scenario(name: str, without: set[str]) -> None:
    """Each knob that a scenario has a use for is there, and both its ends are overrides."""
    scenario = load(name)
    knobs = knobs_of(scenario)
    everything = {"uplink", "codec", "device", "batch", "taps", "devices", "workers"}
    assert {knob.key for knob in knobs} == everything - without
    for knob in knobs:
        for stop in (knob.stops[0], knob.stops[-1]):
            load(name, overrides_of(knobs, {knob.key: stop}))


def test_stops_say_what_they_do() -> None:
    """Sorts of devices keep their shares, and taps are spread over the depth, the last included."""
    shared = knobs_of(load("shared_server"))
    assert overrides_of(shared, {"devices": "10"}) == ["devices[0].count=5", "devices[1].count=5"]
    assert overrides_of(shared, {"devices": "3"}) == ["devices[0].count=1", "devices[1].count=2"]
    assert overrides_of(shared, {"taps": "4"}) == ["side_network.taps=[3, 6, 9, 12]"]
    for number in range(2, 100):
        if str(number) in next(k for k in shared if k.key == "devices").stops:
            sets = overrides_of(shared, {"devices": str(number)})
            assert sum(int(text.split("=")[1]) for text in sets) == number


def test_wrong_questions_are_answered_with_words(lte: Explorer, lte_page: str) -> None:
    """Unknown knobs and stops, what does not fit and what no profile covers: words, no crash."""
    with pytest.raises(InputError, match="did you mean 'codec'"):
        lte.answer({"codecs": "int8"}, whole=False)
    status, found = _ask(lte_page, at="1", tab="wrong", codec="../../etc/passwd")
    assert status == 422
    assert "no such stop" in found["error"]
    status, found = _ask(lte_page, at="2", tab="wrong", batch="256")
    assert status == 422
    assert "a shape that no profile covers" in found["error"]
    assert _ask(lte_page, at="x", tab="wrong")[0] == 422
    status, found = _ask(lte_page, at="3", tab="wrong", codec="fp16")
    assert (status, found["fits"]) == (200, True)
    small = Explorer("lte", ["devices[0].profile.memory=4 GiB"])
    misfit = small.answer({"batch": "32", "codec": "fp32"}, whole=False)
    assert not misfit["fits"]
    assert "does not fit" in misfit["headline"]


def test_only_this_machine_is_answered(lte_page: str) -> None:
    """A name that was made to point here is refused, and pages elsewhere may not frame or read."""
    assert lte_page.startswith("http://127.0.0.1:")
    port = lte_page.rsplit(":", 1)[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert _get(lte_page, host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        if host:
            assert _get(f"{lte_page}/answer?at=1", host)[0] == 400
    _, headers, _ = _get(lte_page)
    lower = {name.lower(): value for name, value in headers.items()}
    assert "access-control-allow-origin" not in lower
    assert "frame-ancestors 'none'" in lower["content-security-policy"]
    assert lower["x-content-type-options"] == "nosniff"


def test_the_page_can_be_read_by_all(lte_page: str) -> None:
    """Each knob has a label, nothing is fetched from elsewhere, and nothing hinders."""
    page = Webpage.of(_get(lte_page)[2])
    assert problems(page) == []
    assert outside(page) == []
    assert len(page.find("input")) == 5
    assert len(page.find("select")) == 2
    stops = json.loads(page.find("input")[0].attributes["data-stops"])
    assert stops[int(page.find("input")[0].attributes["value"])] == "15 Mbit/s"


def test_what_was_overtaken_is_dropped() -> None:
    """Of questions that wait the latest of each tab is worked out, and none that comes too late."""
    worked, begun = [], threading.Event()

    def answer(settings: Any, *, whole: bool, overtaken: Callable[[], bool]) -> Any:
        worked.append(settings["n"])
        begun.set()
        if whole:  # as long as anybody waits for it
            while not overtaken():
                time.sleep(0.001)
            raise OvertakenError
        time.sleep(0.05)
        return settings["n"]

    async def drag() -> list[Any]:
        desk = Desk(answer)
        long = asyncio.create_task(desk.ask("one", 1, {"n": "long"}, whole=True))
        await asyncio.to_thread(begun.wait)
        asked = [desk.ask("one", n, {"n": str(n)}, whole=False) for n in (2, 3, 4)]
        other = desk.ask("two", 1, {"n": "other"}, whole=False)
        found = await asyncio.gather(long, *asked, other)
        return [*found, await desk.ask("one", 2, {"n": "late"}, whole=False)]

    assert asyncio.run(drag()) == [None, None, None, "4", "other", None]
    assert worked == ["long", "4", "other"]


def test_an_answer_that_nobody_waits_for_is_not_worked_out(
    lte: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long run is left at the next look at who waits, not simulated to its end."""
    monkeypatch.setattr(explorers, "BLOCK_ROWS", 50)
    looks = iter([False, False, True])
    with pytest.raises(OvertakenError):
        lte.answer({}, whole=True, overtaken=lambda: next(looks))


def test_a_port_that_is_taken(lte_page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so, and that another may be chosen."""
    ran = mobisim(capsys, "explore", "lte", "--port", lte_page.rsplit(":", 1)[1])
    assert ran.code == 2
    assert "address already in use" in ran.err
    assert mobisim(capsys, "explore", "lte", "--set", "seed=x", "--port", "0").code == 2
