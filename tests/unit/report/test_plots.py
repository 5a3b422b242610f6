"""Pictures show what the result holds, say what they leave out, and never change by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mobisim.report import figure, gantt, plots, timeline
from mobisim.report.figure import Page, key_rows, time_unit
from mobisim.report.plots import binned, draw_convergence, draw_timeline, read_curves
from mobisim.report.slices import Slice

Writer = Callable[..., Path]
Words = list[str]

SHAPES: dict[str, dict[str, float]] = {
    "one": {},
    "fleet": {"num_devices": 12, "num_batches": 10, "run_ahead": 2},
    "one step": {"num_batches": 1},
    "layer": {"taps": 6},
    "horizon": {"horizon_s": 7.3},
    "no step before the horizon": {"horizon_s": 0.6},
    "queue": {"num_batches": 300, "forward_s": 0.01, "transfer_s": 0.02, "run_ahead": 300},
    "days": {"forward_s": 9e4, "transfer_s": 2e5},
    "microseconds": {
        "forward_s": 1e-6,
        "encode_s": 0.0,
        "transfer_s": 2e-6,
        "latency_s": 0.0,
        "step_s": 1e-6,
    },
}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test draws."""
    drawn: list[Figure] = []
    make = figure.page

    @contextmanager
    def spy(width: float, height: float) -> Iterator[Page]:
        with make(width, height) as sheet:
            drawn.append(sheet.figure)
            yield sheet

    monkeypatch.setattr(plots, "page", spy)
    monkeypatch.setattr(timeline, "page", spy)
    return drawn


def _words(drawn: Figure) -> Words:
    return [text.get_text() for text in drawn.findobj(Text) if isinstance(text, Text)]


def _summary(result: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((result / "summary.json").read_text("utf-8"))
    return content


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_run_is_drawn(write: Writer, shape: str, tmp_path: Path) -> None:
    """From one step to hundreds in line, both pictures are PNG files."""
    result = write(**SHAPES[shape])
    assert draw_timeline(result, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    drawn = draw_convergence(result, tmp_path / "c.png")
    assert drawn is (tmp_path / "c.png").exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_words_stay_on_the_page_and_apart(
    write: Writer, shape: str, tmp_path: Path, pages: list[Figure]
) -> None:
    """No word of a timeline leaves the page or lies over another one."""
    draw_timeline(write(**SHAPES[shape]), tmp_path / "t.png")
    page = pages[0].bbox
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in pages[0].findobj(Text)
        if isinstance(text, Text) and text.get_text() and text.get_visible()
    ]
    seen = [(word, box) for word, box in boxes if box.width > 0 and page.overlaps(box)]
    for word, box in seen:
        assert page.x0 <= box.x0, word
        assert box.x1 <= page.x1, word
    for index, (word, box) in enumerate(seen):
        crossed = [w for w, other in seen[index + 1 :] if box.shrunk(0.9, 0.8).overlaps(other)]
        assert crossed == [], word


def test_letters_are_large_enough(write: Writer, tmp_path: Path, pages: list[Figure]) -> None:
    """Nothing is written smaller than nine points."""
    result = write(num_devices=12)
    draw_timeline(result, tmp_path / "t.png")
    draw_convergence(result, tmp_path / "c.png")
    words = [text for page in pages for text in page.findobj(Text) if isinstance(text, Text)]
    assert min(float(text.get_fontsize()) for text in words) >= 9


def test_nothing_trained_gives_no_convergence(write: Writer, tmp_path: Path) -> None:
    """A timing-only run has no curve: nothing is written, and the caller is told."""
    result = write(trained=False)
    assert draw_convergence(result, tmp_path / "c.png") is False
    assert not (tmp_path / "c.png").exists()


def test_no_spans_give_no_timeline(write: Writer, tmp_path: Path) -> None:
    """A run that did not fit has nothing to draw."""
    result = write(num_batches=0)
    assert draw_timeline(result, tmp_path / "t.png") is False
    assert not (tmp_path / "t.png").exists()


def test_curve_starts_before_training(write: Writer) -> None:
    """The metric before the first step stands at time zero, evaluations at the end of theirs."""
    result = write()
    curves = read_curves(result / "steps.parquet", _summary(result))
    assert (curves.metric_at[0], curves.metric[0]) == (0.0, 0.52)
    assert curves.metric_at[-1] == curves.makespan_s
    assert len(curves.metric) == 15


def test_convergence_tells_target_and_time(
    write: Writer, tmp_path: Path, pages: list[Figure]
) -> None:
    """The target line is labelled, and the moment that it is met."""
    result = write()
    draw_convergence(result, tmp_path / "c.png")
    words = _words(pages[0])
    assert "target 0.9" in words
    assert "reached after 24.7 s" in words
    assert "simulated time (s)" in words


def test_convergence_tells_a_missed_target(
    write: Writer, tmp_path: Path, pages: list[Figure]
) -> None:
    """A target out of reach is drawn and said to be missed."""
    draw_convergence(write(target=0.99), tmp_path / "c.png")
    assert "target 0.99 (not met)" in _words(pages[0])


@pytest.mark.parametrize("draw", [draw_convergence, draw_timeline])
def test_stand_in_is_said(
    write: Writer, tmp_path: Path, pages: list[Figure], draw: Callable[[Path, Path], bool]
) -> None:
    """Every picture of a run with a stand-in names both models."""
    draw(write(), tmp_path / "p.png")
    assert "trained: builtin stand-in, timed: opt-350m" in " ".join(_words(pages[0]))


def test_setup_is_said(write: Writer, tmp_path: Path, pages: list[Figure]) -> None:
    """Title and subtitle tell scenario, model, devices, links and server."""
    draw_convergence(write(num_devices=12), tmp_path / "p.png")
    words = " ".join(_words(pages[0]))
    assert "toy_pipeline: accuracy against simulated time" in words
    fleet = "12 \N{MULTIPLICATION SIGN} jetson-xavier-nx over wifi-5mbps"
    assert f"opt-350m · {fleet} · server a100-80gb" in words


def test_timeline_shows_first_steps(write: Writer, tmp_path: Path, pages: list[Figure]) -> None:
    """The window is short enough to read, and its title says of how much it is a part."""
    draw_timeline(write(num_batches=400), tmp_path / "t.png")
    words = _words(pages[0])
    assert "toy_pipeline: the first 10 of 400 steps" in words
    assert "9" in words
    assert "busy, whole run" in words


def test_timeline_tells_what_set_the_pace(
    write: Writer, tmp_path: Path, pages: list[Figure]
) -> None:
    """The blame of the whole run is written out, part by part."""
    draw_timeline(write(), tmp_path / "t.png")
    assert "uplink 37.8 s (93 %)" in _words(pages[0])


def test_timeline_tells_the_longest_line(
    write: Writer, tmp_path: Path, pages: list[Figure]
) -> None:
    """Hundreds in line are a height with a number, not hundreds of bars."""
    result = write(
        num_batches=300, forward_s=0.01, encode_s=0.0, transfer_s=0.01, step_s=9.0, run_ahead=300
    )
    draw_timeline(result, tmp_path / "t.png")
    assert "299 at the server)" in " ".join(_words(pages[0]))


def test_timeline_marks_the_horizon(write: Writer, tmp_path: Path, pages: list[Figure]) -> None:
    """A cut run shows where, and which work was cut."""
    draw_timeline(write(horizon_s=7.3), tmp_path / "t.png")
    assert {"the horizon cuts at 7.3 s", "cut"} <= set(_words(pages[0]))


def test_timeline_says_which_actors_it_leaves_out(
    write: Writer, tmp_path: Path, pages: list[Figure]
) -> None:
    """A fleet beyond the bound is cut to whole devices, and the picture counts them."""
    draw_timeline(write(num_devices=60, num_batches=2), tmp_path / "t.png")
    assert "shows 38 of 182 actors" in " ".join(_words(pages[0]))


def test_timeline_says_which_slices_it_leaves_out(
    write: Writer, tmp_path: Path, pages: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window beyond the bound ends earlier, and the picture says so."""
    monkeypatch.setattr(timeline, "MAX_SLICES", 20)
    draw_timeline(write(), tmp_path / "t.png")
    assert "shows the first 20 slices of this window" in " ".join(_words(pages[0]))


@pytest.mark.parametrize("draw", [draw_convergence, draw_timeline])
def test_pictures_are_deterministic(
    write: Writer, tmp_path: Path, draw: Callable[[Path, Path], bool]
) -> None:
    """The same result gives the same bytes."""
    result = write(num_devices=2)
    for name in ("a.png", "b.png"):
        draw(result, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_global_figures() -> None:
    """Drawing uses no pyplot, so that nothing is shared between runs or needs a display."""
    code = "import sys, mobisim.report.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("span_s", "name"),
    [(3e-5, "us"), (0.5, "ms"), (1.0, "s"), (119.0, "s"), (600.0, "min"), (8e3, "h"), (2e5, "d")],
)
def test_time_is_shown_in_units_of_people(span_s: float, name: str) -> None:
    """An axis has the unit in which its numbers stay small."""
    assert time_unit(span_s).name == name


def test_losses_are_thinned_by_their_means() -> None:
    """A thinned curve keeps the mean and a bounded length, a short one is kept whole."""
    many = binned(np.arange(100_000, dtype=np.float64))
    assert len(many) == plots.LOSS_BINS
    assert many.mean() == pytest.approx(49_999.5)
    assert binned(np.array([3.0, 1.0])).tolist() == [3.0, 1.0]
    assert binned(np.array([])).tolist() == []


def _queue(start: float, end: float) -> Slice:
    return Slice("queue", "uplink-0", start, end, 0, 0, None, None, None, None, cut=False)


def test_depth_counts_who_waits() -> None:
    """The line grows when one joins and shrinks when one leaves; who never waits never counts."""
    at, depth = gantt.queue_depth([_queue(0.0, 3.0), _queue(1.0, 2.0), _queue(1.5, 1.5)])
    assert at.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert depth.tolist() == [1, 2, 1, 0]


def test_narrow_work_stays_visible(write: Writer, tmp_path: Path, pages: list[Figure]) -> None:
    """A step of a millisecond in minutes of transfer is drawn at least a pixel wide."""
    result = write(transfer_s=30.0, step_s=0.001, latency_s=0.0)
    draw_timeline(result, tmp_path / "t.png")
    axes = pages[0].axes[0]
    bars = [path.get_extents() for group in axes.collections for path in group.get_paths()]
    to_pixels = axes.get_window_extent().width / np.diff(axes.get_xlim())[0]
    assert min(bar.width for bar in bars if bar.height > 0.5) * to_pixels >= 1.0


def test_key_breaks_where_the_page_ends() -> None:
    """A key that is too long for one row goes on in the next, complete and in order."""
    entries = [(f"kind number {n}", "#000000", "") for n in range(20)]
    rows = key_rows(entries, 8.0)
    assert len(rows) > 1
    assert [entry for row in rows for entry in row] == entries
    assert key_rows(entries[:2], 8.0) == [entries[:2]]
