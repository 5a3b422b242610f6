"""Simulate server-assisted fine-tuning of language models on phones and edge devices.

The names below are imported when they are first used, so that `import mobisim` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobisim.errors import InputError, InvariantError, MobisimError
    from mobisim.library import plan, sweep
    from mobisim.prepare import Options
    from mobisim.report.plan_answer import PlanAnswer
    from mobisim.runner import Result, run
    from mobisim.scenario.load import load
    from mobisim.simulation import Simulation, simulate
    from mobisim.sweeps.run import Swept
    from mobisim.training.artifact import load_side_network
    from mobisim.training.tuned_artifact import load_tuned

__all__ = [
    "InputError",
    "InvariantError",
    "MobisimError",
    "Options",
    "PlanAnswer",
    "Result",
    "Simulation",
    "Swept",
    "load",
    "load_side_network",
    "load_tuned",
    "plan",
    "run",
    "simulate",
    "sweep",
]

_HOMES = {
    "InputError": "mobisim.errors",
    "InvariantError": "mobisim.errors",
    "MobisimError": "mobisim.errors",
    "Options": "mobisim.prepare",
    "Result": "mobisim.runner",
    "PlanAnswer": "mobisim.report.plan_answer",
    "plan": "mobisim.library",
    "Simulation": "mobisim.simulation",
    "Swept": "mobisim.sweeps.run",
    "run": "mobisim.runner",
    "simulate": "mobisim.simulation",
    "sweep": "mobisim.library",
    "load": "mobisim.scenario.load",
    "load_side_network": "mobisim.training.artifact",
    "load_tuned": "mobisim.training.tuned_artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mobisim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
