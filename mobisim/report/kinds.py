"""The pictures of `mobisim plot`, by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mobisim.errors import InputError
from mobisim.report.bandwidth import draw_bandwidth
from mobisim.report.breakdown import draw_breakdown
from mobisim.report.convergences import draw_convergences
from mobisim.report.frontier import draw_frontier
from mobisim.report.results import check_writable
from mobisim.report.sweep_table import Sweep, read_all
from mobisim.report.timeline import draw_timeline

ENDINGS = (".png", ".svg")


def _timeline(sweep: Sweep, out: Path) -> None:
    if len(sweep.rows) != 1:
        raise InputError(
            "a timeline is that of one run",
            where="--kind timeline",
            got=f"{len(sweep.rows)} points",
            hint="name the folder of one of them: points/DIGEST",
        )
    if not draw_timeline(sweep.rows[0]["place"], out):
        raise InputError("nothing was simulated here", where=str(sweep.rows[0]["place"]))


KINDS: dict[str, Callable[[Sweep, Path], None]] = {
    "convergence": draw_convergences,
    "bandwidth": draw_bandwidth,
    "breakdown": draw_breakdown,
    "timeline": _timeline,
    "frontier": draw_frontier,
}


def plot(paths: Sequence[Path], kind: str, out: Path | None = None) -> list[Path]:
    """Draw one kind of picture of sweeps or runs, as PNG and as SVG; the files.

    `out` says what they are called, without an ending: the kind, unless stated.

    Raises:
        InputError: there is nothing of the kind to draw, or no sweep or run to draw it from.
    """
    found = read_all(paths)
    base = out or Path(kind)
    stem = base.with_suffix("") if base.suffix in ENDINGS else base
    check_writable(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + ending) for ending in ENDINGS]
    for file in files:
        KINDS[kind](found, file)
    return files
