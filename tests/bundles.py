"""Measured profiles for tests: operators of a made-up machine whose times follow a known law."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from mobisim.scenario.samples import HEADER, Sample

TOKENS, WIDTHS, BLOCK = ((1, 16), (4, 16), (4, 64), (16, 64)), (256, 512, 1024), 64

YAML = """\
name: bench
kind: measured
version: 1
role: device
precision: {value: fp32, source: measured}
threads: 1
machine: a made-up machine
software: {torch: '2.13.0'}
date: '2026-11-20'
method: by hand
grid: by hand
ranges: {num_tokens: [16, 1024]}
num_samples: COUNT
samples: bench.csv
"""


def law_s(tokens: float, width: float, out: float = 1.0) -> float:
    """Seconds of every operator: a launch, and work that grows with all sizes."""
    return 1e-5 + 1e-10 * tokens * width * out


def rows(*, training: bool = False) -> Iterator[Sample]:
    """All samples of the machine; with `training`, those of backward passes besides."""
    yield from _forward_rows()
    if training:
        yield from _training_rows()


def _training_rows() -> Iterator[Sample]:
    """Every part of a backward lasts as long as its forward."""
    for row in _forward_rows():
        name = row.operator
        if name == "linear":
            parts = [f"{name}:{part}" for part in ("training", "grad_input", "grad_bias")]
        elif name.startswith(("norm", "attention", "activation", "add")):
            parts = [f"{name}:{part}" for part in ("training", "backward")]
            parts += [f"{name}:grad_weight"] * name.startswith("norm")
        else:
            continue
        yield from (row._replace(operator=part) for part in parts)


def _forward_rows() -> Iterator[Sample]:
    for (batch, length), width in product(TOKENS, WIDTHS):
        tokens = batch * length
        for operator in ("norm:layer", "add", "embedding"):
            yield _row(operator, batch, length, width, 1, law_s(tokens, width))
        for inner in (width, 4 * width):
            yield _row("activation:relu", batch, length, inner, 1, law_s(tokens, inner))
        for fan_in, fan_out in ((width, width), (width, 4 * width), (4 * width, width)):
            yield _row("linear", batch, length, fan_in, fan_out, law_s(tokens, fan_in, fan_out))
        yield _row("attention:causal", batch, length, width, 64, law_s(tokens, width, length))
        for operator in ("encode:nf4", "decode:nf4"):
            yield _row(operator, batch, length, width, BLOCK, law_s(tokens, width))
        for operator, rank in product(("adapter:forward", "adapter:backward"), (16, 128)):
            yield _row(operator, batch, length, width, rank, law_s(tokens, width, rank))
    for parameters in (1, 4**6, 4**12):
        yield _row("optimizer:adamw", 1, 1, parameters, 1, law_s(1, parameters))


def _row(operator: str, batch: int, length: int, width: int, out: int, seconds: float) -> Sample:
    median, p10, p90 = (float(f"{factor * seconds:.6g}") for factor in (1.0, 0.9, 1.2))
    return Sample(operator, batch, length, width, out, "fp32", 1, median, p10, p90, 9)


def write_bundle(folder: Path) -> Path:
    """The machine's bundle; the path of its YAML."""
    lines = [HEADER, *(",".join(map(str, row)) for row in rows())]
    (folder / "bench.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "bench.yaml"
    path.write_text(YAML.replace("COUNT", str(len(lines) - 1)), encoding="utf-8")
    return path
