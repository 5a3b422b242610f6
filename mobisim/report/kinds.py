"""The pictures of `mobisim plot`, by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mobisim.errors import InputError
from mobisim.report.bandwidth import draw_bandwidth
from mobisim.report.breakdown import draw_breakdown
from mobisim.report.convergences import draw_convergences
from mobisim.report.fairness import draw_fairness
from mobisim.report.frontier import draw_frontier
from mobisim.report.results import check_writable
from mobisim.report.saturation import draw_saturation
from mobisim.report.sensitivity import draw_sensitivity
from mobisim.report.stragglers import draw_stragglers
from mobisim.report.sweep_table import Sweep, read_all
from mobisim.report.timeline import draw_timeline

ENDINGS = (".png", ".svg")


def _of_one_run(kind: str, draw: Callable[[Path, Path], bool]) -> Callable[[Sweep, Path], None]:
    """A picture of a run, which sweeps have none of."""

    def drawn(sweep: Sweep, out: Path) -> None:
        if len(sweep.rows) != 1:
            raise InputError(
                "this is a picture of one run",
                where=f"--kind {kind}",
                got=f"{len(sweep.rows)} points",
                hint="name the folder of one of them: points/DIGEST",
            )
        if not draw(sweep.rows[0]["place"], out):
            raise InputError("nothing was simulated here", where=str(sweep.rows[0]["place"]))

    return drawn


KINDS: dict[str, Callable[[Sweep, Path], None]] = {
    "convergence": draw_convergences,
    "bandwidth": draw_bandwidth,
    "breakdown": draw_breakdown,
    "timeline": _of_one_run("timeline", draw_timeline),
    "stragglers": _of_one_run("stragglers", draw_stragglers),
    "frontier": draw_frontier,
    "saturation": draw_saturation,
    "sensitivity": draw_sensitivity,
    "fairness": draw_fairness,
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
