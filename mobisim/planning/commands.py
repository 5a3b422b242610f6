"""The command line of plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mobisim import options

_HOW = """\b
Targets: makespan <= 2 h, energy <= 5 Wh, device_memory <= 4 GiB, p95 finish <= 1 h,
         accuracy >= 0.9 within 2 h; several joined by 'and'
Knobs:   min devices[0].link.uplink, max devices[0].count, min wire.codec,
         min training.epochs from 1 to 10, server.profile among rtx-4090, h100-sxm
"""


@click.command(epilog=_HOW)
@click.argument("scenario")
@options.overrides
@click.option(
    "--target", "targets", multiple=True, metavar="TARGET",
    help="What must be met, e.g. 'accuracy >= 0.9 within 2 h'.",
)  # fmt: skip
@click.option(
    "--find", "finds", multiple=True, metavar="KNOB",
    help="What to find, e.g. 'min devices[0].link.uplink'; several with --cost.",
)  # fmt: skip
@click.option(
    "--cost", metavar="EXPRESSION",
    help="What is to be least, e.g. '300 * server.workers + devices[0].link.uplink / 1 Mbit/s'.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, metavar="COUNT",
    help="Verify the answer with so many seeds.",
)  # fmt: skip
@click.option(
    "--no-reasons", is_flag=True,
    help="The answer alone: not what a little more is worth, nor what is assumed.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Put the answer right here.")
@click.option("--json", "as_json", is_flag=True, help="Print plan.json and nothing else.")
@options.allow_extrapolation
def plan(
    scenario: str,
    overrides: Sequence[str],
    targets: Sequence[str],
    finds: Sequence[str],
    cost: str | None,
    seeds: int,
    no_reasons: bool,
    out: Path | None,
    as_json: bool,
    allow_extrapolation: bool,
) -> None:
    """Find what meets a target: the least bandwidth, the most devices, the cheapest of both.

    What was trained is kept: the same command goes on where an earlier one ended.
    """
    from rich.console import Console  # noqa: PLC0415

    from mobisim.asking import asking  # noqa: PLC0415
    from mobisim.planning.question import ask  # noqa: PLC0415
    from mobisim.planning.run import ANSWER  # noqa: PLC0415
    from mobisim.planning.run import plan as find_answer  # noqa: PLC0415
    from mobisim.prepare import Options  # noqa: PLC0415
    from mobisim.report.plan_text import print_plan  # noqa: PLC0415

    chosen = Options(
        plots=False,
        allow_extrapolation=allow_extrapolation,
        out=out,
    )
    with asking(scenario, chosen) as (document, chosen):
        question = ask(
            document,
            chosen,
            target=targets,
            find=finds,
            cost=cost,
            num_seeds=seeds,
            overrides=overrides,
            reasons=not no_reasons,
        )
        place, found = find_answer(question)
    if as_json:
        click.echo((place / ANSWER).read_text(encoding="utf-8"), nl=False)
        return
    print_plan(found, Console())
    click.echo(f"{place}: {ANSWER}")
