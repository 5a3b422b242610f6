"""The command line of sweeps and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mobisim import options

PICTURES = {
    "convergence": "the metric against simulated time, a line per bandwidth",
    "bandwidth": "time to target against bandwidth",
    "breakdown": "what the work on a mini-batch is made of",
    "timeline": "who worked when in one run",
    "frontier": "final quality against time to target",
    "stragglers": "what the devices of a run wait for until they are through",
    "saturation": "how busy the server is, and who waits, against the number of devices",
    "sensitivity": "time to target as the devices differ more",
    "fairness": "the metric by group of devices",
}
_WHAT = "\b\n" + "\n".join(f"{kind:<13}{what}" for kind, what in PICTURES.items())


@click.command()
@click.argument("scenario")
@options.overrides
@click.option(
    "--vary", "varied", multiple=True, metavar="PATH=VALUE,…",
    help="Vary a field, e.g. 'devices[*].link.uplink=1,5,20 Mbit/s'; repeated, every combination.",
)  # fmt: skip
@click.option("--zip", "in_step", is_flag=True, help="Vary the fields in step, not as a grid.")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="COUNT", help="Repeat each with so many seeds.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Put table and points right here.")
@options.jobs
@click.option(
    "--scheduler", metavar="ADDRESS",
    help="Use the workers of a Dask scheduler, e.g. tcp://127.0.0.1:8786 (extra: cluster).",
)  # fmt: skip
@options.no_train
@options.ignore_memory
@options.allow_extrapolation
def sweep(
    scenario: str,
    overrides: Sequence[str],
    varied: Sequence[str],
    in_step: bool,
    seeds: int | None,
    out: Path | None,
    jobs: int | None,
    scheduler: str | None,
    no_train: bool,
    ignore_memory: bool,
    allow_extrapolation: bool,
) -> None:
    """Run SCENARIO with each combination of varied fields, into one table.

    What was finished is kept: the same command goes on where an earlier one ended.
    """
    from rich.console import Console  # noqa: PLC0415

    from mobisim.asking import asking  # noqa: PLC0415
    from mobisim.prepare import Options  # noqa: PLC0415
    from mobisim.report.sweep_table import print_sweep  # noqa: PLC0415
    from mobisim.sweeps.grid import parse_axis  # noqa: PLC0415
    from mobisim.sweeps.plan import plan_sweep  # noqa: PLC0415
    from mobisim.sweeps.pools import cluster, processes  # noqa: PLC0415
    from mobisim.sweeps.run import sweep as run_sweep  # noqa: PLC0415

    chosen = Options(
        train=not no_train,
        plots=False,
        ignore_memory=ignore_memory,
        allow_extrapolation=allow_extrapolation,
        out=out,
    )
    with asking(scenario, chosen) as (document, chosen):
        axes = [parse_axis(text) for text in varied]
        plan = plan_sweep(
            document, axes, chosen, overrides=overrides, num_seeds=seeds, in_step=in_step
        )
        swept = run_sweep(plan, cluster(scheduler) if scheduler else processes(jobs))
    print_sweep(swept.path, Console())


@click.command(epilog=_WHAT)
@click.argument(
    "found", metavar="RESULT…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--kind", type=click.Choice([*PICTURES]), required=True, help="What to draw.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Files, without ending [default: KIND].",
)  # fmt: skip
def plot(found: Sequence[Path], kind: str, out: Path | None) -> None:
    """Draw sweeps or runs as PNG and SVG."""
    from mobisim.report.kinds import plot as draw  # noqa: PLC0415

    for file in draw(found, kind, out):
        click.echo(file)
