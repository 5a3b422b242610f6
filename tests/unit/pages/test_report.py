"""A report is one file: it says what the result says, lets nothing in, and all can read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import TOY, mobisim
from webpage import Webpage, contrast, outside, palettes, problems

from mobisim.errors import InputError
from mobisim.pages import timeline
from mobisim.pages.report import write_report
from mobisim.pages.template import HERE, STATIC, asset, digest
from mobisim.pages.timeline import shares_of, zoomable
from mobisim.prepare import Options
from mobisim.runner import run
from mobisim.scenario.load import load, loads

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the toy scenario."""
    out = tmp_path_factory.mktemp("toy") / "result"
    return run(loads(TOY, "toy.yaml"), Options(plots=False, out=out)).path


@pytest.fixture(scope="module")
def lte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a shipped scenario with sources and a ledger."""
    out = tmp_path_factory.mktemp("lte") / "result"
    return run(load("lte", ["num_batches=5"]), Options(plots=False, out=out)).path


def _page(tmp_path: Path, *places: Path) -> tuple[str, Webpage]:
    text = write_report(places, tmp_path / "report.html").read_text("utf-8")
    return text, Webpage.of(text)


@pytest.mark.parametrize("several", [False, True])
def test_nothing_is_fetched_and_everybody_can_read(
    several: bool, toy: Path, lte: Path, tmp_path: Path
) -> None:
    """No reference leads outside, the policy names the page's own bytes, and nothing hinders."""
    _, page = _page(tmp_path, lte, *([toy, lte] if several else []))
    assert outside(page) == []
    assert problems(page) == []
    (meta,) = (m for m in page.find("meta") if "http-equiv" in m.attributes)
    policy = meta.attributes["content"].split("; ")
    (style,) = page.find("style")
    (script,) = (s for s in page.find("script") if "type" not in s.attributes)
    assert policy == [
        "default-src 'none'",
        "img-src data:",
        f"style-src {digest(style.text)}",
        f"script-src {digest(script.text)}",
        "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_answer_comes_first_and_each_value_has_its_source(lte: Path, tmp_path: Path) -> None:
    """The first words after the heading are the verdict; sources, ledger and fields are there."""
    _, page = _page(tmp_path, lte)
    (main,) = page.find("main")
    paragraphs = [one.words for one in main.all() if one.tag == "p"]
    assert re.match(r"5 steps in .*, all work done\.", paragraphs[0])
    assert paragraphs[1].startswith("The uplink sets the pace")
    manifest = json.loads((lte / "manifest.json").read_text("utf-8"))
    cells = {one.words for one in page.find("th", "td")}
    assert {origin["path"] for origin in manifest["provenance"]} <= cells
    assert {"devices[0].link.uplink.value", "wire.codec", "num_batches", "15 Mbit/s"} <= cells
    assert {"activations", "labels", "framing"} <= cells
    assert "mobisim" in page.find("footer")[0].words


def test_several_results_stand_side_by_side(toy: Path, lte: Path, tmp_path: Path) -> None:
    """The quickest is named, and results of one name are told apart by digest."""
    _, page = _page(tmp_path, toy, lte, toy)
    headings = [one.words for one in page.find("h2")]
    assert headings[0] == "The answer"
    assert headings[2] == "lte"
    assert headings[1].startswith("toy ")
    times = [json.loads((p / "summary.json").read_text())["makespan_s"] for p in (toy, lte)]
    quickest = "toy" if times[0] < times[1] else "lte"
    assert page.find("p")[1].words.startswith(quickest)


def test_hostile_words_stay_words(lte: Path, tmp_path: Path) -> None:
    """Whatever a result says, it adds no element, no attribute and no script to the page."""
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in lte.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    summary = json.loads((bad / "summary.json").read_text("utf-8"))
    manifest = json.loads((bad / "manifest.json").read_text("utf-8"))
    summary |= {"name": HOSTILE, "warnings": [HOSTILE], "method": HOSTILE}
    manifest["provenance"][0] |= {"note": HOSTILE, "path": HOSTILE, "source": HOSTILE}
    manifest |= {"command": HOSTILE}
    manifest["scenario"]["devices"][0]["profile"]["name"] = HOSTILE
    (bad / "summary.json").write_text(json.dumps(summary), "utf-8")
    (bad / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    for places in ((bad,), (bad, lte)):
        _, page = _page(tmp_path, *places)
        assert HOSTILE in page.find("title")[0].words or len(places) > 1
        assert sum(HOSTILE in one.text for one in page.root.all()) >= 5
        assert outside(page) == []
        assert {i.attributes["src"][:10] for i in page.find("img")} == {"data:image"}
        assert {s.attributes.get("type") for s in page.find("script")} == {None, "application/json"}


def test_colours_can_be_read() -> None:
    """Words have a contrast of 4.5 at least on both of their backgrounds, in every scheme."""
    schemes = palettes(asset("page.css")) + palettes(asset("report.css"))
    assert len(schemes) == 3  # light, dark, print
    for colours in schemes:
        for words in ("ink", "grey", "link", "alarm", "warning", "good"):
            for ground in ("paper", "soft"):
                assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground, colours)


def test_the_zoom_holds_all_spans_while_they_are_few(lte: Path) -> None:
    """Each span that occupies somebody is there, with its times."""
    manifest = json.loads((lte / "manifest.json").read_text("utf-8"))
    end = json.loads((lte / "summary.json").read_text("utf-8"))["makespan_s"]
    found = zoomable(lte / "spans.parquet", manifest["actors"], end)
    assert found is not None
    assert found["until"] == end
    assert found["bins"] == []
    names = [found["kinds"][kind]["name"] for kind in found["exact"]["kind"]]
    assert names.count("forward") == names.count("transfer") == names.count("step") == 5
    assert 0 <= end - max(found["exact"]["end"]) < 0.1  # a latency comes last


def test_the_zoom_is_bounded(lte: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound there are bins, whose shares add up to the time that was worked."""
    manifest = json.loads((lte / "manifest.json").read_text("utf-8"))
    summary = json.loads((lte / "summary.json").read_text("utf-8"))
    monkeypatch.setattr(timeline, "MAX_EXACT", 10)
    found = zoomable(lte / "spans.parquet", manifest["actors"], summary["makespan_s"])
    assert found is not None
    assert len(found["exact"]["start"]) == 10
    assert found["until"] < summary["makespan_s"]
    for row in found["bins"]:
        assert len(row["percent"]) == timeline.NUM_BINS
    worked = sum(
        sum(row["percent"])
        for row in found["bins"]
        if found["actors"][row["actor"]] == "uplink-0"
        and found["kinds"][row["kind"]]["name"] == "transfer"
    )
    share = summary["utilisation"]["uplink-0"]
    assert worked / 100 / timeline.NUM_BINS == pytest.approx(share, abs=0.005)


def test_shares_of_bins() -> None:
    """A span that covers parts of bins counts with these parts."""
    starts, ends = np.array([0.5, 2.0]), np.array([1.25, 4.0])
    shares = shares_of(starts, ends, np.linspace(0, 5, 6))
    assert shares.tolist() == pytest.approx([0.5, 0.25, 1.0, 1.0, 0.0])


def test_what_is_no_result_is_told(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No result, and more results than a page holds, are errors; nothing is written."""
    out = tmp_path / "page.html"
    ran = mobisim(capsys, "report", tmp_path, "--out", out)
    assert ran.code == 2
    assert "no result here" in ran.err
    with pytest.raises(InputError, match="at most 8"):
        write_report([toy] * 9, out)
    assert not out.exists()
    assert mobisim(capsys, "report", toy, "--out", out).code == 0
    assert out.exists()


def test_what_does_not_fit_is_a_report(tmp_path: Path) -> None:
    """Without a timeline the page says by how much memory is short."""
    scenario = load("lte", ["devices[0].profile.memory=1 GiB"])
    result = run(scenario, Options(plots=False, out=tmp_path / "short"))
    _, page = _page(tmp_path, result.path)
    assert "It does not fit" in page.find("main")[0].words
    assert problems(page) == []


def test_templates_say_nothing_unescaped() -> None:
    """No template switches escaping off."""
    for file in (HERE / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape", file.read_text("utf-8")), file
    assert "innerHTML" not in "".join(file.read_text("utf-8") for file in STATIC.glob("*.js"))
