"""A bibliography lists exactly the sources that a run used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobisim.report.citations import bibliography, read_entries, readable

BIB = """
% A comment that mentions @article{nobody, in passing is no entry of its own line.
@comment{ignored, title = {not an entry}}
@article{zeta2024,
  title = {Braces {in {nested}} titles and an @ sign},
  year = 2024,
}

@misc{alpha-2020, title = "One line", note = {5~Mbit/s}}
@online{unused:2019,
  title = {Nobody asked},
}
"""


def _value(path: str, source: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "value": "1 s", "source": source, "range": None, "note": None} | more


MANIFEST = {
    "provenance": [
        _value("devices[0].profile.flop_per_s", "assumed", range=["0.3 Tflop/s", "3 Tflop/s"]),
        _value("devices[0].link.uplink", "zeta2024"),
        _value("devices[0].profile.memory", "alpha-2020"),
        _value("devices[0].link.latency", "zeta2024"),
        _value("server.profile.step_s", "measured"),
        _value("wire.payload_bytes", "stated"),
    ]
}


@pytest.fixture
def bib(tmp_path: Path) -> Path:
    path = tmp_path / "references.bib"
    path.write_text(BIB, "utf-8")
    return path


def test_entries_are_read_whole(bib: Path) -> None:
    """Entries end at their own brace, and comments are none."""
    entries = read_entries(bib)
    assert set(entries) == {"zeta2024", "alpha-2020", "unused:2019"}
    assert entries["zeta2024"].startswith("@article{zeta2024,")
    assert entries["zeta2024"].endswith("year = 2024,\n}")
    assert entries["alpha-2020"].count("\n") == 0


def test_exactly_the_used_keys_are_listed(bib: Path) -> None:
    """Each source once, by key, with the values that rest on it."""
    found = bibliography(MANIFEST, bib)
    assert [(r.key, r.paths) for r in found.references] == [
        ("alpha-2020", ("devices[0].profile.memory",)),
        ("zeta2024", ("devices[0].link.uplink", "devices[0].link.latency")),
    ]
    assert found.missing == ()


def test_values_are_counted_by_sort(bib: Path) -> None:
    """Published counts values, not papers."""
    found = bibliography(MANIFEST, bib)
    counts = (found.num_measured, found.num_published, found.num_assumed, found.num_stated)
    assert counts == (1, 3, 1, 1)
    assert found.num_values == 6


def test_text_says_how_many_are_assumed_and_which(bib: Path) -> None:
    """The text opens with the counts, then the assumptions with their ranges."""
    text = bibliography(MANIFEST, bib).text()
    assert text.startswith("% 6 values: 1 measured, 3 published, 1 assumed, 1 stated")
    assert "devices[0].profile.flop_per_s = 1 s (0.3 Tflop/s to 3 Tflop/s)" in text
    assert "@online" not in text


def test_text_is_a_bibliography(bib: Path, tmp_path: Path) -> None:
    """The text can be used as a BibTeX file."""
    again = tmp_path / "again.bib"
    again.write_text(bibliography(MANIFEST, bib).text(), "utf-8")
    used = {key: entry for key, entry in read_entries(bib).items() if key != "unused:2019"}
    assert read_entries(again) == used


def test_source_without_entry_is_named(bib: Path) -> None:
    """A key that the bibliography lacks is neither hidden nor an error."""
    manifest = {"provenance": [_value("devices[0].link.uplink", "own-notes")]}
    found = bibliography(manifest, bib)
    assert found.missing == (("own-notes", ("devices[0].link.uplink",)),)
    assert "no entry for 'own-notes'" in found.text()


def test_run_without_values_has_an_empty_bibliography(bib: Path) -> None:
    """Nothing used, nothing listed."""
    found = bibliography({"provenance": []}, bib)
    assert found.references == ()
    assert found.text().startswith("% 0 values")


@pytest.mark.parametrize(
    ("exact", "said"),
    [
        ("900000000000.0 flop/s", "900 Gflop/s"),
        ("2.9999999999999997e-05 s", "30 us"),
        ("0.0 B", "0 B"),
        ("1073741824.0 B", "1.074 GB"),
        ("1.45e-08 W/(bit/s)", "1.45e-08 W/(bit/s)"),
        ("1 to 8192", "1 to 8192"),
        (66, "66"),
        ("fp16", "fp16"),
    ],
)
def test_values_are_readable(exact: object, said: str) -> None:
    """Exact values lose their noise digits, and words stay as they are."""
    assert readable(exact) == said


def test_printing_a_bibliography_prints_its_text(bib: Path) -> None:
    """A bibliography reads as its text wherever it is printed."""
    found = bibliography(MANIFEST, bib)
    assert str(found) == found.text()
