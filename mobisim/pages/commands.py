"""The commands whose answer is a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mobisim import options


@click.command()
@click.argument(
    "found", metavar="RESULT…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"),
    show_default=True, help="File to write.",
)  # fmt: skip
def report(found: Sequence[Path], out: Path) -> None:
    """Write results as one page to read, print and pass on; several stand side by side."""
    from mobisim.pages.report import write_report  # noqa: PLC0415

    click.echo(f"{write_report(found, out)}: open it in a browser")


@click.command()
@click.argument("scenario")
@options.overrides
@click.option(
    "--port", default=8377, show_default=True, type=click.IntRange(0, 65535),
    help="On this machine; 0 is one that is free.",
)  # fmt: skip
def explore(scenario: str, overrides: Sequence[str], port: int) -> None:
    """Open a page on this machine where the knobs of SCENARIO can be moved (timing only)."""
    from mobisim.pages.explorer import Explorer  # noqa: PLC0415
    from mobisim.pages.serve import explore as serve  # noqa: PLC0415

    serve(Explorer(scenario, overrides), port, click.echo)
