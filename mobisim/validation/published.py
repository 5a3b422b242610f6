"""`mobisim validate --published`: figures of papers that are fit for it, against what we predict.

Nothing is fitted to them. A figure is fit where it says of what it is; shapes and precisions that
its source does not state are ours, and named. Grades: P was read in the source itself, S in a
secondary source, not checked against the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mobisim.cost.memory import DeviceMemory
from mobisim.cost.training_memory import TrainingMemory
from mobisim.cost.work import BatchShape
from mobisim.fit_methods import Fit, fit_of
from mobisim.scenario.catalog import scenario
from mobisim.scenario.load import resolve
from mobisim.scenario.methods import METHODS

COLUMNS = ("figure", "source, grade", "published", "ours", "ours taken at")
GB = 1e9


@dataclass(frozen=True)
class Figure:
    """One published figure and ours beside it, in bytes; `bound` says what the figure bounds."""

    what: str
    source: str
    published: float
    bound: str
    ours: float
    at: str

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
            f"{sign}{self.published / GB:.2f} GB",
            f"{self.ours / GB:.2f} GB{verdict.get(self.agrees, ' (not met)')}",
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


MOBILLM = "MobiLLM (arXiv 2502.20421), S"
FIGURES: tuple[tuple[str, str, float, str, Callable[[], float], str], ...] = (
    ("full fine-tuning of OPT-6.7B, memory", MOBILLM, 70 * GB, "above",
     lambda: _held("opt-6.7b"), "weights, gradients, states; any shape"),
    ("OPT-1.3B forward on a Xavier NX", MOBILLM, 4.49 * GB, "value",
     lambda: _peak("opt-1.3b", "mobillm", (16, 64), "devices[0].run_ahead=4"),
     "16 x 64 tokens, fp16, by layer; not stated there"),
    ("LoRA on 1.3 B parameters", MOBILLM, 14.5 * GB, "above",
     lambda: _peak("opt-1.3b", "lora", (16, 64)), "16 x 64 tokens, fp16; not stated there"),
    ("LoRA on 1.3 B parameters", MOBILLM, 14.5 * GB, "above",
     lambda: _peak("opt-1.3b", "lora", (8, 512)), "8 x 512 tokens, fp16; not stated there"),
)  # fmt: skip


def published() -> list[Figure]:
    """Every figure with ours."""
    return [
        Figure(what, source, value, bound, ours(), at)
        for what, source, value, bound, ours, at in FIGURES
    ]
