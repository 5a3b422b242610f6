"""After a run: its summary, put together from spans, learning and memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mobisim.cost.method_flop import method_flop, replay_flop
from mobisim.cost.work import BatchShape
from mobisim.fit import by_group
from mobisim.learning import Learning
from mobisim.prepare import Prepared
from mobisim.report.metrics import Totals
from mobisim.report.summary import NO_TIMING, Summary, energy_fields, timing_fields
from mobisim.scenario.provenance import count_sorts, origins
from mobisim.scenario.schema import Scenario
from mobisim.workload import metric_name, models_of

PADDING_WORTH_A_WARNING = 0.25


def ended_by(prepared: Prepared, learning: Learning | None, totals: Totals | None) -> str:
    """Why the run ended: finished, horizon, target, plateau or memory."""
    if totals is None:
        return "memory"
    if learning is not None and learning.stopped is not None:
        return learning.stopped
    unfinished = totals.num_cut or totals.num_learned < prepared.world.total_steps
    return "horizon" if unfinished else "finished"


def summarise(prepared: Prepared, learning: Learning | None, totals: Totals | None) -> Summary:
    """The summary of a run; `totals` is None where it does not fit."""
    scenario, world = prepared.scenario, prepared.world
    if totals is None:
        timing, memory = NO_TIMING, prepared.memory.verdict
    else:
        timing = timing_fields(world, totals) | energy_fields(world, totals)
        timing |= _work_fields(prepared, totals)
        backlog = by_group(world, totals.device_backlog.tolist())
        memory = prepared.memory.fields(backlog, totals.server_backlog)
    fields: dict[str, Any] = {
        "name": scenario.name,
        "digest": prepared.digest,
        "seed": scenario.seed,
        "method": scenario.method,
        "model": models_of(scenario),
        "granularity": scenario.granularity,
        "ended_by": ended_by(prepared, learning, totals),
        "num_batches": world.total_batches,
        **timing,
        **_learning_fields(prepared, learning),
        **memory,
        "padding_fraction": prepared.planned.padding_fraction,
        "provenance_counts": count_sorts(origins(scenario)),
        "extrapolated": prepared.extrapolated,
    }
    return Summary(**fields, warnings=_warnings(scenario, fields, learning))


def _work_fields(prepared: Prepared, totals: Totals) -> dict[str, object]:
    """The summary's fields on FLOPs, and on samples that the server had kept."""
    system, workload = prepared.system, prepared.planned.workload
    shapes, views = workload.shapes, system.views
    mixtures = workload.replay.mixtures if workload.replay is not None else ()
    mixed = [[(views[group], shape) for group, shape in mixture] for mixture in mixtures]
    flops = [method_flop(view, shape) for view in views for shape in shapes]
    flops += map(replay_flop, mixed)
    known = [flop for flop in flops if flop is not None]
    device, server = (totals.stepped @ np.array(known)).tolist() if known == flops else (None, None)
    drawn = [sum(shape.num_samples for _, shape in parts) for parts in mixed]
    of_sort = [_kept_of(shape) for shape in shapes] * len(views) + [(n, n) for n in drawn]
    kept, samples = totals.stepped @ np.array(of_sort)
    counts = system.options.caches and totals.num_steps > 0
    return {
        "device_flop": device,
        "server_flop": server,
        "cache_hit_rate": float(kept / samples) if counts else None,
    }


def _kept_of(shape: BatchShape | None) -> tuple[int, int]:
    """Samples that the server had kept, and all of a mini-batch."""
    if shape is None:
        return 0, 1
    return shape.kept.num_samples if shape.kept is not None else 0, shape.num_samples


def _learning_fields(prepared: Prepared, learning: Learning | None) -> dict[str, Any]:
    training = prepared.scenario.training
    return {
        "target": training.target if training else None,
        "metric_name": metric_name(training) if training else None,
        "time_to_target_s": learning.time_to_target_s if learning else None,
        "initial_metric": _number(learning.history.initial) if learning else None,
        "final_metric": _number(learning.final_metric()) if learning else None,
        "validation_metric": _validation(learning),
        "metric_of_groups": _by_group(learning),
        "stand_in": learning.stand_in if learning else None,
    }


def _validation(learning: Learning | None) -> float | None:
    if learning is None or learning.training.validation is None:
        return None
    return _number(learning.last_metric())


def _by_group(learning: Learning | None) -> list[dict[str, float | None]] | None:
    found = learning.by_group() if learning is not None else None
    if found is None:
        return None
    names = ("mean", "least", "greatest")
    return [dict(zip(names, map(_number, values), strict=True)) for values in found]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _warnings(scenario: Scenario, fields: dict[str, Any], learning: Learning | None) -> list[str]:
    found = []
    if learning is not None and learning.diverged_at is not None:
        found.append(
            f"learning diverged: from step {learning.diverged_at} on the loss is no number; "
            "lower training.optimizer.lr"
        )
    padding = fields["padding_fraction"]
    if padding is not None and padding > PADDING_WORTH_A_WARNING:
        found.append(
            f"{padding * 100:.0f} % of the tokens sent are padding; "
            "training.padding: longest or none sends fewer"
        )
    silent = [group for group in scenario.devices if group.link.radio is None]
    if silent and fields["energy_j"] is not None:
        found.append(f"energy leaves out the radio of link {silent[0].link.name}: none is stated")
    if fields["ended_by"] == "horizon":
        found.append("the horizon ended the run before all mini-batches were stepped")
    return found
