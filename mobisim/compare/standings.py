"""What each method comes to: its rows of the sweep, folded over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from mobisim.compare.choice import Choice
from mobisim.compare.clock import Clock
from mobisim.compare.ledger import ledger
from mobisim.compare.question import METHOD, RUNS, Question
from mobisim.compare.statistics import interval, paired
from mobisim.report.comparison import Interval, Standing
from mobisim.report.results import STEPS_FILE
from mobisim.report.series import mean
from mobisim.report.sweep_table import POINTS, Row

SEED = "seed"


def standings(
    question: Question, chosen: Mapping[str, Choice], rows: Sequence[Row], clock: Clock
) -> Iterator[Standing]:
    """The standing of each method, the first one being what the others are paired with."""
    groups = {m: [r for r in rows if r[METHOD] == m] for m in question.methods}
    reference = _finals(groups[question.methods[0]])
    for method, group in groups.items():
        choice = chosen[method]
        errors = [row["error"] for row in group if row["error"]]
        if choice.error or errors:
            yield Standing(method, error=choice.error or errors[0])
        else:
            yield _standing(method, group, choice, reference, clock)


def _standing(
    method: str,
    rows: Sequence[Row],
    choice: Choice,
    reference: Mapping[int, float] | None,
    clock: Clock,
) -> Standing:
    first = rows[0]
    makespan, steps = mean(rows, "makespan_s"), first["num_steps"] or None
    met = [row for row in rows if row.get("time_to_target_s") is not None]
    finals = _finals(rows)
    return Standing(
        method=method,
        **_memory(first),
        learning_rate=choice.learning_rate,
        at_edge=choice.at_edge,
        num_seeds=len(rows),
        num_steps=steps,
        makespan_s=makespan,
        step_s=makespan / steps if makespan is not None and steps else None,
        time_to_target_s=mean(rows, "time_to_target_s"),
        num_met=len(met) if first.get("target.metric") is not None and finals else None,
        final=interval(list(finals.values())) if finals else None,
        against=_against(finals, reference),
        uplink_bytes=mean(rows, "uplink_bytes") if makespan is not None else None,
        downlink_bytes=mean(rows, "downlink_bytes") if makespan is not None else None,
        energy_j=mean(rows, "energy_j"),
        device_busy_s=_busy(rows),
        leaves=_leaves(clock, first) if makespan is not None else None,
        labels_given_away=_given_away(clock, first) if finals else None,
    )


def _busy(rows: Sequence[Row]) -> float | None:
    """The seconds that the busiest device works, in the mean over rows."""
    shares = [row.get("utilisation.device") for row in rows]
    if None in shares:
        return None
    return fmean(s * row["makespan_s"] for s, row in zip(shares, rows, strict=True))


def _leaves(clock: Clock, row: Row) -> Mapping[str, int] | None:
    prepared = clock.ready(row[METHOD], row[SEED])
    return ledger(prepared, row["uplink_payload_bytes"]) if prepared is not None else None


def _given_away(clock: Clock, row: Row) -> float | None:
    """How often the residuals that a method sends give the label away, by their argmax."""
    from mobisim.trainers import make_trainer  # noqa: PLC0415 - torch, where something was learned
    from mobisim.training.trainer import Trainer  # noqa: PLC0415

    prepared = clock.ready(row[METHOD], row[SEED])
    if prepared is None or prepared.system.options.learns != "residuals":
        return None
    trainer = make_trainer(prepared.system, prepared.planned)
    return trainer.labels_given_away() if isinstance(trainer, Trainer) else None


def _memory(row: Row) -> dict[str, Any]:
    short = {side: row.get(f"{side}_short_bytes") or 0 for side in ("device", "server")}
    side = max(short, key=lambda name: short[name])
    known = row.get("device_fits") is not None
    return {
        "fits": not any(short.values()) if known else None,
        "peak_bytes": row.get("device_peak_bytes"),
        "capacity_bytes": row.get("device_capacity_bytes"),
        "short_bytes": short[side] if known else None,
        "short_side": side if short[side] else None,
    }


def _finals(rows: Sequence[Row]) -> dict[int, float] | None:
    """The final metric of each seed; None where one has none."""
    found = {row[SEED]: row.get("final_metric") for row in rows if not row["error"]}
    return found if found and None not in found.values() else None  # type: ignore[return-value]


def _against(
    finals: Mapping[int, float] | None, reference: Mapping[int, float] | None
) -> Interval | None:
    if finals is None or reference is None or finals.keys() != reference.keys():
        return None
    if finals is reference or finals == reference:
        return None
    return paired(list(finals.values()), [reference[seed] for seed in finals])


def steps_to_target(
    question: Question, rows: Sequence[Row]
) -> dict[tuple[str, int], int | None] | None:
    """How many steps each method and seed took to the target; None where no target is met."""
    clock_rows = [row for row in rows if row["error"] is None]
    if not any(row.get("time_to_target_s") is not None for row in clock_rows):
        return None
    return {(row[METHOD], row[SEED]): _steps(question, row) for row in clock_rows}


def _steps(question: Question, row: Row) -> int | None:
    import pyarrow.parquet as pq  # noqa: PLC0415

    at = row.get("time_to_target_s")
    if at is None:
        return None
    steps = question.place / RUNS / POINTS / str(row["digest"]) / STEPS_FILE
    ends = pq.read_table(steps, columns=["end"]).column("end").to_numpy()
    return int(np.searchsorted(ends, at)) + 1
