"""The command line of the validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mobisim import options
from mobisim.testbed.commands import LIMITS, require_zmq


@click.command()
@click.argument("scenario", required=False)
@options.overrides
@click.option("--suite", is_flag=True, help="A dozen configurations or more, drawn by a seed.")
@click.option(
    "--at-most", type=click.IntRange(min=1), metavar="N",
    help="Do so many of the suite now; the same command goes on with the others.",
)  # fmt: skip
@click.option("--theory", is_flag=True, help="The engine against closed forms and queues.")
@click.option("--published", is_flag=True, help="Our figures against those of the papers.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("validation"),
    show_default=True, help="Folder of all runs, the table and the pictures.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True,
    help="Run it for real so often.",
)  # fmt: skip
@click.option(
    "--most", type=click.IntRange(min=1), metavar="N",
    help="More often where runs scatter, up to N times.  [default: with --suite 12]",
)  # fmt: skip
@click.option(
    "--link", "limit", type=click.Choice(LIMITS), default="auto", show_default=True,
    help="Who limits the link: the kernel (Linux, as root), or the sender.",
)  # fmt: skip
def validate(
    scenario: str | None, overrides: Sequence[str], out: Path, repeats: int, limit: str,
    at_most: int | None, most: int | None, *, suite: bool, theory: bool, published: bool,
) -> None:  # fmt: skip
    """Measure how far SCENARIO simulated is from SCENARIO run for real, here and now."""
    if suite + theory + published + (scenario is not None) != 1:
        raise click.UsageError("Name one: a SCENARIO, --suite, --theory or --published.")
    if theory or published:
        _from_the_desk(theory=theory)
        return
    require_zmq()
    from mobisim.validation.validate import MOST, Effort  # noqa: PLC0415

    most = most or (MOST if suite else None)
    effort = Effort(repeats, limit, aim=suite, most=most, resume=suite)
    if suite:
        _suite(out, effort, at_most)
    else:
        _one(str(scenario), overrides, out, effort)


def _notice(words: str) -> None:
    click.echo(f"mobisim: {words}", err=True)


def _one(scenario: str, overrides: Sequence[str], out: Path, effort: object) -> None:
    from rich.console import Console  # noqa: PLC0415

    from mobisim.report.results import write_json  # noqa: PLC0415
    from mobisim.scenario.load import load  # noqa: PLC0415
    from mobisim.validation.plots import draw_comparison  # noqa: PLC0415
    from mobisim.validation.suite import FOUND  # noqa: PLC0415
    from mobisim.validation.tables import print_comparison  # noqa: PLC0415
    from mobisim.validation.validate import Effort, as_numbers, validate  # noqa: PLC0415

    assert isinstance(effort, Effort)
    found = validate(load(scenario, overrides), out, effort, _notice)
    write_json(out / FOUND, as_numbers(found))
    draw_comparison(found, out / "comparison.png")
    print_comparison(found, Console())
    click.echo(f"\n{out}: every run with its spans, {FOUND}, comparison.png")


def _suite(out: Path, effort: object, at_most: int | None) -> None:
    from rich.console import Console  # noqa: PLC0415

    from mobisim.report.results import write_json  # noqa: PLC0415
    from mobisim.validation import tables  # noqa: PLC0415
    from mobisim.validation.plots import draw_suite  # noqa: PLC0415
    from mobisim.validation.profile import where_and_when  # noqa: PLC0415
    from mobisim.validation.suite import Suite  # noqa: PLC0415
    from mobisim.validation.validate import Effort  # noqa: PLC0415

    assert isinstance(effort, Effort)
    suite = Suite(out, effort, _notice)
    complete, rows = suite.run(at_most), suite.rows
    every, groups = tables.suite_rows(rows), tables.accuracy_rows(rows)
    text = "\n".join(
        [
            f"{where_and_when()}\n",
            tables.markdown(tables.ACCURACY_COLUMNS, groups),
            tables.markdown(tables.SUITE_COLUMNS, every),
        ]
    )
    (out / "table.md").write_text(text, encoding="utf-8")
    write_json(out / "suite.json", rows)
    draw_suite(rows, out / "suite.png")
    console = Console()
    tables.print_found(every, console)
    console.print()
    tables.print_rows(tables.ACCURACY_COLUMNS, groups, console)
    click.echo(f"\n{out}: every run, table.md, suite.json, suite.png")
    if not complete:
        click.echo("Not all yet: the same command goes on.")


def _from_the_desk(*, theory: bool) -> None:
    """What needs no machine."""
    from rich.console import Console  # noqa: PLC0415

    from mobisim.validation import tables  # noqa: PLC0415
    from mobisim.validation.published import COLUMNS, published  # noqa: PLC0415
    from mobisim.validation.theory import COLUMNS as FORMS  # noqa: PLC0415
    from mobisim.validation.theory import check_all  # noqa: PLC0415

    if theory:
        tables.print_rows(FORMS, [one.cells for one in check_all()], Console())
    else:
        tables.print_rows(COLUMNS, [one.cells for one in published()], Console())
