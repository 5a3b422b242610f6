"""`mobisim calibrate`: a roofline's compute rate from published prefill rates, point by point."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mobisim.cost.calibration import Fit, calibrate
from mobisim.errors import InputError
from mobisim.report.citations import readable
from mobisim.scenario.load import find_profile, validate_profile
from mobisim.scenario.profiles import DeviceProfile, Prefill, Roofline

WIDTH = 100


def show_calibration(name: str) -> None:
    """Fit the profile of that name or path to its prefill rates, and print how it meets them.

    Raises:
        InputError: no such profile, not a roofline, or none that its rates explain.
    """
    kind: Any = DeviceProfile
    machine = validate_profile(kind, find_profile("devices", name))
    if not isinstance(machine, Roofline):
        raise InputError(
            f"profile {name!r} is no roofline",
            expected="kind: roofline",
            got=f"kind: {machine.kind}",
        )
    console = Console(highlight=False)
    console.print(Group(*_page(machine)), width=min(WIDTH, console.width))


def _page(machine: Roofline) -> tuple[Text | Table, ...]:
    fit = calibrate(machine)
    stated = readable(f"{machine.flop_per_s.value!r} flop/s")
    head = Text(f"{machine.name}, {machine.precision.value}\n", "bold")
    return (
        head,
        in_words(fit),
        Text(f"the profile states {stated}; rates in tokens per second\n", "dim"),
        _points(fit),
    )


def in_words(fit: Fit) -> Text:
    """A fit in one sentence."""
    rate = readable(f"{fit.flop_per_s!r} flop/s")
    if fit.residual is None:
        return Text(f"{rate} fits the one published prefill rate; how well, one cannot tell")
    off = f"{100 * fit.residual:.1f} % off at most"
    return Text(f"{rate} fits {len(fit.points)} published prefill rates, {off}")


def _points(fit: Fit) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "tokens", "published", "predicted", "off"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    table.add_column("by", overflow="fold")
    for point in fit.points:
        published = point.published
        rates = f"{published.tokens_per_s:.4g}", f"{point.predicted:.4g}"
        by = Text(published.source, "cyan").append(f"\n{published.engine}", "default")
        if published.note:
            by.append(f"\n{published.note}", "dim")
        off = f"{100 * point.error:+.1f} %"
        table.add_row(_model(published), str(published.num_tokens), *rates, off, by)
    return table


def _model(point: Prefill) -> str:
    return point.model or f"{point.num_parameters:.3g} weights"
