"""The command line of the testbed: the whole of it, or one of its two halves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobisim import options

if TYPE_CHECKING:
    from mobisim.prepare import Progress
    from mobisim.testbed.plan import Plan
    from mobisim.testbed.radio import Line

Limit = str
LOOK_S = 0.05
LIMITS = ("auto", "kernel", "sender")


@click.command()
@click.argument("scenario")
@options.overrides
@click.option("--out", type=click.Path(path_type=Path), help="Write the result right here.")
@click.option("--no-train", is_flag=True, help="Report no learning; needed for several devices.")
@click.option("--no-plots", is_flag=True, help="Leave pictures and trace out.")
@click.option(
    "--link", "limit", type=click.Choice(LIMITS), default="auto", show_default=True,
    help="Who limits the link: the kernel (Linux, as root), or the sender.",
)  # fmt: skip
@click.option(
    "--checkpoint-every", default=30.0, show_default=True, metavar="SECONDS",
    type=click.FloatRange(min=0), help="How often the server keeps a checkpoint.",
)  # fmt: skip
def testbed(
    scenario: str, overrides: Sequence[str], out: Path | None, *, no_train: bool, no_plots: bool,
    limit: Limit, checkpoint_every: float,
) -> None:  # fmt: skip
    """Run SCENARIO for real on this machine: processes, sockets, a limited link."""
    require_zmq()
    from mobisim.testbed.bed import Bed, run_bed  # noqa: PLC0415

    bed = Bed(
        scenario, tuple(overrides), not no_train, out, limit,
        plots=not no_plots, checkpoint_every_s=checkpoint_every,
    )  # fmt: skip
    place = run_bed(bed)
    _print(place)


def require_zmq() -> None:
    """Refuse without the library that speaks TCP.

    Raises:
        InputError: it is not installed.
    """
    import importlib.util  # noqa: PLC0415

    from mobisim.errors import InputError  # noqa: PLC0415

    if importlib.util.find_spec("zmq") is None:
        hint = "install it with: pip install 'mobisim[testbed]'"
        raise InputError("the testbed needs the package pyzmq", hint=hint)


def _print(place: Path) -> None:
    from rich.console import Console  # noqa: PLC0415

    from mobisim.report.results import SUMMARY, read_result  # noqa: PLC0415
    from mobisim.report.terminal import print_summary  # noqa: PLC0415

    print_summary(read_result(place, SUMMARY), Console(), result_dir=place)


@dataclass(frozen=True)
class _Half:
    """What both halves are given."""

    scenario: str
    overrides: Sequence[str]
    train: bool
    plots: bool = False
    out: Path | None = None
    resume: bool = False
    checkpoint_every: float = 120.0

    def plan(self, progress: Progress | None = None) -> Plan:
        from mobisim.prepare import Options  # noqa: PLC0415
        from mobisim.scenario.load import load  # noqa: PLC0415
        from mobisim.testbed.plan import Plan  # noqa: PLC0415

        chosen = Options(
            train=self.train, plots=self.plots, out=self.out, resume=self.resume,
            checkpoint_every_s=self.checkpoint_every, command=options.command_line(),
            progress=progress or (lambda what, done, total: None),
        )  # fmt: skip
        return Plan.of(load(self.scenario, self.overrides), chosen)


@click.command()
@click.argument("scenario", required=False)
@options.overrides
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT")
@click.option("--keys", "key_folder", type=click.Path(path_type=Path), help="Folder of keys.")
@click.option("--make-keys", type=click.Path(path_type=Path), help="Make keys there, and stop.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the result right here.")
@click.option("--no-train", is_flag=True, help="Report no learning; needed for several devices.")
@click.option("--no-plots", is_flag=True, help="Leave pictures and trace out.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of this very run.")
@click.option(
    "--checkpoint-every", default=120.0, show_default=True, metavar="SECONDS",
    type=click.FloatRange(min=0), help="How often to keep a checkpoint.",
)  # fmt: skip
@click.option(
    "--patience", default=600.0, show_default=True, metavar="SECONDS",
    type=click.FloatRange(min=1), help="How long a device may be silent.",
)  # fmt: skip
@click.option("--core", type=int, help="Run on this core only.")
@click.option("--kernel-link", is_flag=True, help="The network itself limits the link.")
@click.option("--about", default="{}", hidden=True)
@click.option("--leash", is_flag=True, hidden=True)
@click.option("--address-file", type=click.Path(path_type=Path), hidden=True)
def serve(
    scenario: str | None, overrides: Sequence[str], listen: str, key_folder: Path | None,
    make_keys: Path | None, out: Path | None, checkpoint_every: float, patience: float,
    core: int | None, about: str, address_file: Path | None, *,
    no_train: bool, no_plots: bool, resume: bool, kernel_link: bool, leash: bool,
) -> None:  # fmt: skip
    """The server of SCENARIO: lets its devices in, learns, and publishes the result."""
    require_zmq()
    import json  # noqa: PLC0415

    from mobisim.progress import showing_progress  # noqa: PLC0415
    from mobisim.testbed.endpoint import Address, Keys, check_listening  # noqa: PLC0415

    if make_keys is not None:
        Keys.make(make_keys)
        click.echo(f"{make_keys}: give devices server.key, device.key and device.key_secret")
        return
    if scenario is None:
        raise click.UsageError("Missing argument 'SCENARIO'.")
    address = Address.parse(listen, "--listen")
    keys = Keys(key_folder) if key_folder else None
    check_listening(address, keys)
    begin(core, leash=leash)
    from mobisim.testbed.server import Service, serve  # noqa: PLC0415

    half = _Half(scenario, overrides, not no_train, not no_plots, out, resume, checkpoint_every)
    service = Service(address, keys, not kernel_link, patience, json.loads(about))

    def opened(at: Address) -> None:
        logging.getLogger("mobisim.testbed").info("serving on %s", at)
        if address_file is not None:
            aside = address_file.with_suffix(".partial")
            aside.write_text(str(at), encoding="utf-8")
            aside.replace(address_file)

    with showing_progress() as progress:
        result = serve(half.plan(progress), service, opened)
    click.echo(str(result.path))


@click.command()
@click.argument("scenario")
@options.overrides
@click.option("--connect", required=True, metavar="HOST:PORT", help="Where the server listens.")
@click.option("--keys", "key_folder", type=click.Path(path_type=Path), help="Folder of keys.")
@click.option("--index", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--no-train", is_flag=True, help="As the server was told.")
@click.option(
    "--patience", default=600.0, show_default=True, metavar="SECONDS",
    type=click.FloatRange(min=1), help="How long the server may be silent.",
)  # fmt: skip
@click.option("--core", type=int, help="Run on this core only.")
@click.option("--kernel-link", is_flag=True, help="The network itself limits the link.")
@click.option("--leash", is_flag=True, hidden=True)
@click.option("--address-file", type=click.Path(path_type=Path), hidden=True)
def device(
    scenario: str, overrides: Sequence[str], connect: str, key_folder: Path | None, index: int,
    patience: float, core: int | None, address_file: Path | None, *,
    no_train: bool, kernel_link: bool, leash: bool,
) -> None:  # fmt: skip
    """One device of SCENARIO: computes, sends, and receives the side network in the end."""
    require_zmq()
    begin(core, leash=leash)
    from mobisim.testbed.device import be_device  # noqa: PLC0415
    from mobisim.testbed.endpoint import Address, Keys  # noqa: PLC0415
    from mobisim.testbed.radio import Line  # noqa: PLC0415

    plan = _Half(scenario, overrides, not no_train).plan()
    plan.check_device(index)
    group = plan.group(index)
    line = Line(
        address=Address.parse(connect, "--connect"),
        keys=Keys(key_folder) if key_folder else None,
        device=index,
        digest=plan.digest,
        pace=None if kernel_link else plan.uplink_pace(index),
        latency_s=group.latency_s,
        patience_s=patience,
    )
    be_device(plan, line, lambda line: _found(line, address_file))


def _found(line: Line, address_file: Path | None) -> Line:
    """The line once the server is there; where it listens at any port, with that which it says."""
    import time  # noqa: PLC0415
    from dataclasses import replace  # noqa: PLC0415

    from mobisim.testbed.endpoint import Address  # noqa: PLC0415

    if address_file is None:
        return line
    while not address_file.exists():  # whoever holds the leash knows for how long
        time.sleep(LOOK_S)
    if line.address.port:
        return line
    said = address_file.read_text(encoding="utf-8")
    return replace(line, address=Address.parse(said, "--address-file"))


def begin(core: int | None, *, leash: bool) -> None:
    """Set a half of the testbed up: its process, its log.

    On a leash it ends with whoever holds its standard input, however that one ends.
    """
    import os  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from mobisim.testbed.process import settle  # noqa: PLC0415

    def end_with_holder() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    if leash:
        threading.Thread(target=end_with_holder, daemon=True).start()

    settle(core)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("mobisim: %(message)s"))
    log = logging.getLogger("mobisim.testbed")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.WARNING if leash else logging.INFO)
