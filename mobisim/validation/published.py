"""`mobisim validate --published`: figures of papers that are fit for it, against what we predict.

Nothing is fitted to them. A figure is fit where it says of what it is; shapes and precisions that
its source does not state are ours, and named. Grades: P was read in the source itself, S in a
secondary source, not checked against the paper. Margins over rivals whose rounds are not stated,
as Fed MobiLLM has them, are not fit: results/gallery/papers has them by rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from mobisim.cost.memory import DeviceMemory
from mobisim.cost.training_memory import TrainingMemory
from mobisim.cost.work import BatchShape
from mobisim.fit_methods import Fit, fit_of
from mobisim.scenario.catalog import scenario
from mobisim.scenario.load import load, resolve
from mobisim.scenario.methods import METHODS
from mobisim.simulation import Simulation, simulate
from mobisim.units import human_flop, human_size

COLUMNS = ("figure", "source, grade", "published", "ours", "ours taken at")
TERA, GB, MB = 1e12, 1e9, 1e6


@dataclass(frozen=True)
class Figure:
    """One published figure and ours beside it, in bytes or FLOPs.

    `bound` says what the figure bounds, `said` how such figures are written.
    """

    what: str
    source: str
    published: float
    bound: str
    ours: float
    at: str
    said: Callable[[float], str] = human_size

    @property
    def agrees(self) -> bool | None:
        """Whether a bound is met; None for a value, which is compared and not judged."""
        if self.bound == "above":
            return self.ours > self.published
        return None

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        sign = "> " if self.bound == "above" else ""
        verdict = {None: f" ({self.ours / self.published - 1:+.0%})", True: " (met)"}
        return (
            self.what,
            self.source,
            f"{sign}{self.said(self.published)}",
            f"{self.said(self.ours)}{verdict.get(self.agrees, ' (not met)')}",
            self.at,
        )


def _fit(model: str, *changes: str) -> Fit:
    return fit_of(resolve(scenario("layer_streaming"), [f"model={model}", *changes]))


def _peak(model: str, method: str, shape: tuple[int, int], *changes: str) -> float:
    found = _fit(model, *changes).memory(METHODS[method], BatchShape.uniform(*shape))
    assert isinstance(found, DeviceMemory | TrainingMemory)
    return float(found.peak)


def _held(model: str) -> float:
    """Weights, gradients and states alone: no shape enters."""
    found = _fit(model).memory(METHODS["full"], BatchShape.uniform(1, 1), "fp32")
    assert isinstance(found, TrainingMemory)
    return float(found.weights + found.gradients + found.optimizer)


@cache
def _federated() -> Simulation:
    """Fed MobiLLM's one pass on a hundred devices."""
    return simulate(load("papers/fed_roberta"))


def _of_each(total: float | None) -> float:
    """What a device has of a total, in the mean."""
    assert total is not None
    return total / _federated().scenario.num_devices


def _runtime_apart() -> float:
    """The peak of the device with least room, but for what a framework takes."""
    found = _federated().summary
    assert found.device_memory_bytes is not None
    assert found.device_peak_bytes is not None
    return float(found.device_peak_bytes - found.device_memory_bytes["runtime"])


class _Told(NamedTuple):
    """A published figure, how ours is worked out, and at what."""

    what: str
    source: str
    published: float
    bound: str
    ours: Callable[[], float]
    at: str
    said: Callable[[float], str] = human_size


MOBILLM = "MobiLLM (arXiv 2502.20421), S"
FEDERATED = "Fed MobiLLM (arXiv 2508.06765), S"
FIGURES = (
    _Told("full fine-tuning of OPT-6.7B, memory", MOBILLM, 70 * GB, "above",
     lambda: _held("opt-6.7b"), "weights, gradients, states; any shape"),
    _Told("OPT-1.3B forward on a Xavier NX", MOBILLM, 4.49 * GB, "value",
     lambda: _peak("opt-1.3b", "mobillm", (16, 64), "devices[0].run_ahead=4"),
     "16 x 64 tokens, fp16, by layer; not stated there"),
    _Told("LoRA on 1.3 B parameters", MOBILLM, 14.5 * GB, "above",
     lambda: _peak("opt-1.3b", "lora", (16, 64)), "16 x 64 tokens, fp16; not stated there"),
    _Told("LoRA on 1.3 B parameters", MOBILLM, 14.5 * GB, "above",
     lambda: _peak("opt-1.3b", "lora", (8, 512)), "8 x 512 tokens, fp16; not stated there"),
    _Told("a device sends, RoBERTa-base on MRPC", FEDERATED, 1.1 * MB, "value",
     lambda: _of_each(_federated().summary.uplink_bytes),
     "30 samples, a token of 12 taps each, fp32: read from this figure; overhead included"),
    _Told("a device computes, likewise", FEDERATED, 2.7 * TERA, "value",
     lambda: _of_each(_federated().summary.device_flop), "30 x 512 tokens: read from this figure",
     human_flop),
    _Told("a device holds, likewise", FEDERATED, 0.38 * GB, "value",
     _runtime_apart, "10 x 512 tokens, fp16, no runtime of a framework; not stated there"),
)  # fmt: skip


def published() -> list[Figure]:
    """Every figure with ours."""
    return [
        Figure(what, source, value, bound, ours(), at, said)
        for what, source, value, bound, ours, at, said in FIGURES
    ]
