"""The command line of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mobisim import options


@click.command()
@click.argument("scenario")
@options.overrides
@click.option(
    "--methods", metavar="NAME,…", help="Which ones, the first as the reference [default: all].",
)  # fmt: skip
@click.option(
    "--lr", "learning_rates", metavar="RATE,…",
    help="Learning rates; each method gets its best by validation [default: the scenario's].",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, metavar="COUNT",
    help="Repeat each with so many seeds.",
)  # fmt: skip
@click.option(
    "--rates", metavar="RATE,… UNIT",
    help="Of the uplink, to say which method wins at each [default: 1,2,5,…,200 Mbit/s].",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Put the answer right here.")
@options.jobs
@options.no_train
@click.option("--no-plots", is_flag=True, help="Leave the picture out.")
@click.option("--json", "as_json", is_flag=True, help="Print compare.json and nothing else.")
@options.ignore_memory
@options.allow_extrapolation
def compare(
    scenario: str,
    overrides: Sequence[str],
    methods: str | None,
    learning_rates: str | None,
    seeds: int,
    rates: str | None,
    out: Path | None,
    jobs: int | None,
    no_train: bool,
    no_plots: bool,
    as_json: bool,
    ignore_memory: bool,
    allow_extrapolation: bool,
) -> None:
    """Compare methods of fine-tuning on SCENARIO: memory, time, quality, bytes, energy, privacy.

    Every method sees the same samples with the same learning rates to choose from. What was
    finished is kept: the same command goes on where an earlier one ended.
    """
    from rich.console import Console  # noqa: PLC0415

    from mobisim.asking import asking  # noqa: PLC0415
    from mobisim.compare.question import ask  # noqa: PLC0415
    from mobisim.compare.run import ANSWER  # noqa: PLC0415
    from mobisim.compare.run import compare as run_comparison  # noqa: PLC0415
    from mobisim.prepare import Options  # noqa: PLC0415
    from mobisim.report.comparison_table import print_comparison  # noqa: PLC0415
    from mobisim.sweeps.pools import here, processes  # noqa: PLC0415

    chosen = Options(
        train=not no_train,
        plots=not no_plots,
        ignore_memory=ignore_memory,
        allow_extrapolation=allow_extrapolation,
        out=out,
    )
    with asking(scenario, chosen) as (document, chosen):
        question = ask(
            document,
            chosen,
            methods=_words(methods),
            learning_rates=_numbers(learning_rates),
            num_seeds=seeds,
            rates=_rates(rates),
            overrides=overrides,
        )
        place, found = run_comparison(question, processes(jobs) if question.trains else here())
    if as_json:
        click.echo((place / ANSWER).read_text(encoding="utf-8"), nl=False)
        return
    print_comparison(found, Console())
    click.echo(f"\n{place}: compare.csv, compare.json" + ", compare.png" * (not no_plots))


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str | None) -> list[float]:
    from mobisim.errors import InputError  # noqa: PLC0415

    try:
        found = [float(word) for word in _words(text)]
    except ValueError:
        found = [0.0]
    if not all(rate > 0 for rate in found):
        raise InputError(
            "no learning rates", where="--lr", expected="numbers above zero: 1e-3,3e-4", got=text
        )
    return found


def _rates(text: str | None) -> list[float] | None:
    from mobisim.errors import InputError  # noqa: PLC0415
    from mobisim.sweeps.grid import parse_axis  # noqa: PLC0415

    if text is None:
        return None
    axis = parse_axis(f"rates={text}")
    if axis.unit != "bit/s":
        raise InputError(
            "no rates", where="--rates", expected="numbers with a unit: 1,5,20 Mbit/s", got=text
        )
    return [axis.plain(value) for value in axis.values]
