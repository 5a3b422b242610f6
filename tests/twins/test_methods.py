"""Each method's costs against the real trainer at work on a mini-batch: none is without a twin.

Bytes up and down have twins in test_traffic and test_payload_bytes.
"""

from __future__ import annotations

import functools

import pytest
from builtin_runs import Meter, Run, counted, small_run

from mobisim.cost.method_flop import method_flop
from mobisim.cost.method_memory import memory_on_device, memory_on_server
from mobisim.cost.training_memory import TrainingMemory, training
from mobisim.scenario.methods import METHODS

# All samples as long as one another, and all in single precision, as they are trained.
ALIKE = (
    "attention=eager", "training.sequence_length=8", "training.epochs=1",
    "devices[0].profile.precision.value=fp32", "server.profile.precision.value=fp32",
)  # fmt: skip
CASES = [
    *((name,) for name in METHODS),
    ("split-lora", "tuning.cut=1"),
    ("split-lora", "tuning.cut=3"),
    ("pae-mobillm", "training.pooling=mean"),
    ("mobillm", "training.head=next_token", "training.target=null"),
    ("server-only", "training.head=next_token", "training.target=null"),
]


@functools.cache
def _run(method: str, *more: str) -> Run:
    return small_run(*ALIKE, f"method={method}", *more)


@functools.cache
def _counted(*case: str) -> Meter:
    return counted(_run(*case), 0)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_trainable_parameters_are_exact(case: tuple[str, ...]) -> None:
    """Those of the optimiser."""
    run = _run(*case)
    side = run.system.side
    assert side is not None
    predicted = side.trainable_parameters
    if not run.system.options.method.has_side_network:
        predicted = training(run.system, "fp32").tally(run.shape(0)).trainable
    assert predicted == sum(p.numel() for p in run.trainer.parameters)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_flops_are_those_that_torch_counts(case: tuple[str, ...]) -> None:
    """Of the device and of the server, each within one per cent."""
    predicted, real = method_flop(_run(*case).system, _run(*case).shape(0)), _counted(*case)
    assert predicted is not None
    assert predicted.device == pytest.approx(real.device.flop, rel=0.01)
    assert predicted.server == pytest.approx(real.server.flop, rel=0.01)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_stored_activations_are_what_autograd_keeps(case: tuple[str, ...]) -> None:
    """Of the device and of the server, each within one per cent; forwards keep nothing."""
    run, real = _run(*case), _counted(*case)
    device = memory_on_device(run.system, run.system.scenario.devices[0], run.shape(0), 0, 0)
    server = memory_on_server(run.system, run.shape(0), 0)
    on_device = device.stored if isinstance(device, TrainingMemory) else 0
    on_server = server.stored if server is not None else 0
    assert on_device == pytest.approx(real.device.kept_bytes, rel=0.01)
    assert on_server == pytest.approx(real.server.kept_bytes, rel=0.01)
