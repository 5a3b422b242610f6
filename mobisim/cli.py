"""The command line. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import click

from mobisim import options
from mobisim.compare.commands import compare
from mobisim.errors import MobisimError
from mobisim.interrupts import remembering
from mobisim.pages.commands import explore, report
from mobisim.planning.commands import plan
from mobisim.sweeps.commands import plot, sweep
from mobisim.testbed.commands import device, serve, testbed
from mobisim.validation.commands import validate

INTERRUPTED = 130


EXAMPLES = """\b
Begin with:   mobisim run wifi_5mbps
See what is:  mobisim show scenarios
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(package_name="mobisim")
def cli() -> None:
    """Simulate the fine-tuning of language models on phones with a server's help."""


@cli.command()
@click.argument("scenario")
@options.overrides
@click.option("--out", type=click.Path(path_type=Path), help="Write the result right here.")
@options.no_train
@click.option("--no-plots", is_flag=True, help="Leave pictures and trace out.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json and nothing else.")
@options.ignore_memory
@options.allow_extrapolation
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of this very run.")
@click.option(
    "--checkpoint-every", default=120.0, show_default=True, metavar="SECONDS",
    type=click.FloatRange(min=0), help="Keep a checkpoint when training takes longer than this.",
)  # fmt: skip
def run(
    scenario: str,
    overrides: Sequence[str],
    out: Path | None,
    no_train: bool,
    no_plots: bool,
    as_json: bool,
    ignore_memory: bool,
    allow_extrapolation: bool,
    resume: bool,
    checkpoint_every: float,
) -> None:
    """Simulate SCENARIO and publish the result.

    It is a file, a shipped scenario by name, or that of a result by its folder: it runs again.
    """
    from mobisim.asking import asking  # noqa: PLC0415
    from mobisim.prepare import Options  # noqa: PLC0415
    from mobisim.runner import run as run_scenario  # noqa: PLC0415
    from mobisim.scenario.load import resolve  # noqa: PLC0415

    chosen = Options(
        train=not no_train,
        plots=not no_plots,
        ignore_memory=ignore_memory,
        allow_extrapolation=allow_extrapolation,
        resume=resume,
        checkpoint_every_s=checkpoint_every,
        out=out,
    )
    with asking(scenario, chosen) as (document, chosen):
        result = run_scenario(resolve(document, overrides), chosen)
    if as_json:
        click.echo((result.path / "summary.json").read_text(encoding="utf-8"), nl=False)
    else:
        _print_summary(result.path)


def _print_summary(place: Path) -> None:
    from rich.console import Console  # noqa: PLC0415

    from mobisim.report.results import SUMMARY, read_result  # noqa: PLC0415
    from mobisim.report.terminal import print_summary  # noqa: PLC0415

    print_summary(read_result(place, SUMMARY), Console(), result_dir=place)


@cli.command()
@click.argument("scenario")
@options.overrides
@click.option(
    "--group", default=0, show_default=True, metavar="INDEX",
    help="Which of the scenario's groups of devices.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("fit.png"),
    show_default=True, help="Where to draw what fits over batch size and sequence length.",
)  # fmt: skip
@click.option(
    "--checkpointing", is_flag=True,
    help="Let methods that train on the device compute each block twice, to keep less.",
)  # fmt: skip
@click.option("--no-plots", is_flag=True, help="Leave the picture out.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON and nothing else.")
def fit(
    scenario: str,
    overrides: Sequence[str],
    group: int,
    out: Path,
    checkpointing: bool,
    no_plots: bool,
    as_json: bool,
) -> None:
    """Compare methods, on-device baselines included, with the memory of SCENARIO's devices."""
    import json  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from mobisim.fit_methods import fit_map, fit_of, numbers, table  # noqa: PLC0415
    from mobisim.report.fit_map import draw_fit  # noqa: PLC0415
    from mobisim.report.fit_table import print_fit  # noqa: PLC0415
    from mobisim.scenario.catalog import scenario as read_scenario  # noqa: PLC0415
    from mobisim.scenario.load import placing_errors, resolve  # noqa: PLC0415

    document = read_scenario(scenario)
    with placing_errors(document):
        found = fit_of(resolve(document, overrides), group, checkpointing=checkpointing)
    if as_json:
        click.echo(json.dumps(numbers(found), indent=2))
        return
    print_fit(table(found), Console())
    if not no_plots:
        draw_fit(fit_map(found), out)
        click.echo(f"\n{out}: what fits over batch size, sequence length and precision")


KINDS = ("devices", "servers", "links", "models", "scenarios", "codecs", "methods")


@cli.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", required=False)
def show(kind: str, name: str | None) -> None:
    """List what mobisim knows of a KIND, or show NAME with the source of each value."""
    from mobisim.show import show_kind, show_one  # noqa: PLC0415

    if name is None:
        show_kind(kind)
    else:
        show_one(kind, name)


@cli.command()
@click.argument("profile")
def calibrate(profile: str) -> None:
    """Fit the compute rate of a roofline PROFILE, a name or a YAML file, to its prefill rates."""
    from mobisim.calibrate import show_calibration  # noqa: PLC0415

    show_calibration(profile)


@cli.command()
@click.argument("result", type=click.Path(path_type=Path))
def cite(result: Path) -> None:
    """Print the bibliography of RESULT, and how much of it is assumed."""
    from mobisim.report.citations import bibliography  # noqa: PLC0415
    from mobisim.report.results import MANIFEST, read_result  # noqa: PLC0415
    from mobisim.scenario.catalog import references  # noqa: PLC0415

    click.echo(str(bibliography(read_result(result, MANIFEST), references())))


@cli.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--from", "start", default=None, metavar="TIME", help="Begin here, e.g. '10 min'.")
@click.option("--to", "end", default=None, metavar="TIME", help="End here, e.g. '1 h'.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write [default: trace.json].")
def trace(result: Path, start: str | None, end: str | None, out: Path | None) -> None:
    """Write the trace of RESULT between two times, for Perfetto (ui.perfetto.dev)."""
    from mobisim.report.results import MANIFEST, read_result  # noqa: PLC0415
    from mobisim.report.trace import write_trace  # noqa: PLC0415

    read_result(result, MANIFEST)
    target = out or Path("trace.json")
    left_out = write_trace(result, target, start_s=_time(start, "--from"), end_s=_time(end, "--to"))
    rest = f"; {left_out:,} slices did not fit, choose a shorter window" if left_out else ""
    click.echo(f"{target}: open it at ui.perfetto.dev{rest}")


def _time(text: str | None, where: str) -> float | None:
    from mobisim.errors import InputError  # noqa: PLC0415
    from mobisim.units import TIME  # noqa: PLC0415

    if text is None:
        return None
    try:
        return TIME.parse(text)
    except ValueError as error:
        raise InputError(str(error), where=where, got=repr(text)) from error


@cli.command()
@click.option("--name", default="my-device", show_default=True, help="Of the profile's files.")
@click.option(
    "--role", type=click.Choice(["device", "server"]), default="device", show_default=True,
    help="Time the backbone and encoding, or decoding and the side network.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--budget", default=None, metavar="TIME", help="Measure so long [default: 6min].")
@click.option(
    "--clock", type=click.Choice(["wall", "processor"]), default="wall", show_default=True,
    help="Processor time, for one thread, leaves out what other programs take.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Fewer shapes, fp32 only, under two minutes.")
@click.option(
    "--precisions", metavar="NAMES",
    help="Of fp32, bf16, fp16, int8, the profile's own first [default: fp32, and bf16 where the "
    "processor has it].",
)  # fmt: skip
@click.option(
    "--models", metavar="NAMES",
    help="Measure these models' own shapes as well, e.g. opt-125m,gpt2.",
)  # fmt: skip
@click.option(
    "--contention", is_flag=True,
    help="Time the role's work beside the other role's as well, for `server.colocated`.",
)  # fmt: skip
@click.option(
    "--training/--no-training", default=None,
    help="Time training on the device as well [default: unless --quick].",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(), help="Folder of the files.",
)  # fmt: skip
def profile(
    name: str, role: Literal["device", "server"], threads: int, budget: str | None,
    clock: Literal["wall", "processor"], quick: bool, precisions: str | None, models: str | None,
    contention: bool, training: bool | None, out: Path,
) -> None:  # fmt: skip
    """Measure this machine's operators and write a profile that scenarios can name."""
    from mobisim.profiling.profile import Plan, explained, quickly  # noqa: PLC0415
    from mobisim.profiling.profile import profile as measure  # noqa: PLC0415
    from mobisim.progress import showing_progress  # noqa: PLC0415

    plan = Plan(name, out, role, threads, clock=clock, contention=contention)
    plan = quickly(plan) if quick else plan
    plan = plan.at(precisions).of_models(models)
    plan = plan.within(_time(budget, "--budget")).with_training(training)
    with showing_progress() as progress:
        path = measure(plan, lambda words: click.echo(f"mobisim: {words}", err=True), progress)
    click.echo(explained(plan, path))


cli.add_command(sweep)
cli.add_command(compare)
cli.add_command(plan)
cli.add_command(plot)
cli.add_command(report)
cli.add_command(explore)
cli.add_command(testbed)
cli.add_command(serve)
cli.add_command(device)
cli.add_command(validate)


@cli.command()
@click.argument("what", type=click.Choice(["scenario", "summary"]), default="scenario")
def schema(what: str) -> None:
    """Print the JSON schema of scenario files (for editors) or of summary.json."""
    import json  # noqa: PLC0415

    from mobisim.report.summary import Summary  # noqa: PLC0415
    from mobisim.scenario.schema import Scenario  # noqa: PLC0415

    found = (Scenario if what == "scenario" else Summary).model_json_schema()
    click.echo(json.dumps(found, indent=2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors become one message and an exit code, never a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with remembering(), cli.make_context("mobisim", list(words), obj=words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except MobisimError as error:
        _end(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        kept = (
            "the same command goes on"
            if words[:1] in (["sweep"], ["compare"], ["plan"])
            else "nothing was published"
        )
        _end(f"interrupted; {kept}", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone; the exit must not write to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that vanished
        place = f"{error.filename}\n  " if error.filename else ""
        _end(f"{place}{error.strerror or error}; nothing was published", MobisimError.exit_code)
    except MemoryError:
        _end("this machine's memory does not suffice to simulate that", MobisimError.exit_code)
    sys.exit(0)


def _end(message: str, exit_code: int) -> NoReturn:
    click.echo(f"mobisim: {message}", err=True)
    sys.exit(exit_code)
