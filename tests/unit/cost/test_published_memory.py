"""Memory figures of the papers against what the model predicts; nothing here is tuned to them.

Grades are those of the reading notes: S is a secondary source, not checked against the paper.
"""

from __future__ import annotations

import pytest

from mobisim.cost.memory import DeviceMemory
from mobisim.cost.training_memory import TrainingMemory
from mobisim.cost.work import BatchShape
from mobisim.fit_methods import Fit, fit_of
from mobisim.scenario.catalog import scenario
from mobisim.scenario.load import resolve
from mobisim.scenario.methods import METHODS, AttentionKernel
from mobisim.scenario.profiles import Precision

GB = 1e9
REPORTED_OPT_1_3B = 4.49 * GB  # OPT-1.3B on a Xavier NX, grade S; shape and precision not stated
LENGTHS = [32, 64, 128, 256, 512]


def _fit(
    model: str, granularity: str = "layer", run_ahead: int = 1, attention: AttentionKernel = "fused"
) -> Fit:
    """The shipped scenario of a Xavier NX (fp16), with another model."""
    changes = [f"model={model}", f"granularity={granularity}", f"attention={attention}"]
    changes.append(f"devices[0].run_ahead={run_ahead}")
    return fit_of(resolve(scenario("layer_streaming"), changes))


def _growth(fit: Fit, name: str, length: int, precision: Precision) -> float:
    """Bytes by which the device's memory grows with each token, at 1 to 16 samples."""
    one, many = (
        fit.memory(METHODS[name], BatchShape.uniform(count, length), precision).peak
        for count in (1, 16)
    )
    return (many - one) / (15 * length)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_full_fine_tuning_of_opt_6_7b_passes_70_gb(precision: Precision) -> None:
    """Reported: more than 70 GB (grade S).

    Both precisions come to 16 bytes per parameter: fp32 throughout, or fp16 weights and gradients
    with states and a copy in fp32.
    """
    fit = _fit("opt-6.7b")
    found = fit.memory(METHODS["full"], BatchShape.uniform(1, 1), precision)
    assert isinstance(found, TrainingMemory)
    held = found.weights + found.gradients + found.optimizer
    assert held == pytest.approx(16 * fit.backbone.backbone_parameters, rel=1e-4)
    assert held > 70 * GB


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_opt_1_3b_runs_forward_on_a_xavier_nx(granularity: str) -> None:
    """It fits, and the reported 4.49 GB (grade S) are more than what the model accounts for.

    Half a gigabyte or more of the report stays unexplained at 16 x 64 tokens; the shape that was
    measured is not known, and the runtime's share is assumed, not fitted to the report.
    """
    fit = _fit("opt-1.3b", granularity, run_ahead=4)
    peak = fit.memory(METHODS["mobillm"], BatchShape.uniform(16, 64)).peak
    assert peak < fit.capacity
    unexplained = REPORTED_OPT_1_3B - peak
    assert unexplained / GB == pytest.approx({"batch": 0.52, "layer": 0.64}[granularity], abs=0.01)


CASES = [("eager", 1), ("eager", 2), ("eager", 4), ("fused", 1), ("fused", 2), ("fused", 3)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("attention", "run_ahead"), CASES)
@pytest.mark.parametrize("length", LENGTHS)
def test_side_tuning_grows_an_eighth_as_fast_as_lora(
    precision: Precision, attention: AttentionKernel, run_ahead: int, length: int
) -> None:
    """Queue included, with layer granularity."""
    fit = _fit("opt-1.3b", "layer", run_ahead, attention)
    side, lora = (_growth(fit, name, length, precision) for name in ("mobillm", "lora"))
    assert side <= lora / 8


@pytest.mark.parametrize(
    ("granularity", "attention", "share"),
    [("layer", "fused", 0.127), ("batch", "fused", 0.235), ("batch", "eager", 0.2035)],
)
def test_a_queue_of_four_can_make_it_more_than_an_eighth(
    granularity: str, attention: AttentionKernel, share: float
) -> None:
    """At 64 tokens: LoRA keeps less with fused attention; in batches all taps are held at once."""
    fit = _fit("opt-1.3b", granularity, 4, attention)
    side, lora = (_growth(fit, name, 64, "fp16") for name in ("mobillm", "lora"))
    assert side / lora == pytest.approx(share, abs=0.001)


@pytest.mark.parametrize("shape", [(1, 64), (16, 64), (16, 128), (4, 256), (16, 256), (16, 384)])
def test_side_tuning_without_queue_is_flat(shape: tuple[int, int]) -> None:
    """Within 5 % of one token's memory up to 6,144 tokens."""
    assert _flatness(*shape) < 0.05


@pytest.mark.parametrize(
    ("attention", "num_samples", "length", "growth"),
    [("fused", 16, 512, 0.066), ("eager", 16, 128, 0.021), ("eager", 16, 256, 0.051)],
)
def test_longer_mini_batches_are_not_flat(
    attention: AttentionKernel, num_samples: int, length: int, growth: float
) -> None:
    """What lives within one block then shows; scores do from 4,096 tokens on, where kept."""
    assert _flatness(num_samples, length, attention) == pytest.approx(growth, abs=0.001)


def _flatness(num_samples: int, length: int, attention: AttentionKernel = "fused") -> float:
    """Growth of the device's memory from one token, the queue left out, as a share."""
    fit = _fit("opt-1.3b", "layer", attention=attention)
    peaks = []
    for shape in (BatchShape.uniform(1, 1), BatchShape.uniform(num_samples, length)):
        found = fit.memory(METHODS["mobillm"], shape)
        assert isinstance(found, DeviceMemory)
        peaks.append(found.peak - found.queue)
    return peaks[1] / peaks[0] - 1
