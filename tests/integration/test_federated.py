"""Fed MobiLLM as users run it: mixed fleets from end to end, and one device that learns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from mobisim.prepare import Options
from mobisim.runner import run
from mobisim.scenario.load import load

FLEET = (
    "method=fed-mobillm",
    "training.epochs=1",
    "training.num_samples=200",
    "devices[0].count=5",
    "federation.partition={kind: dirichlet, alpha: 0.3}",
    "federation.replay={steps: 6}",
)


def test_one_device_learns_bit_by_bit_as_an_epoch_of_pae_mobillm(tmp_path: Path) -> None:
    """Without replay and projection: the same losses, metrics and parameters."""
    found = []
    for name, more in (
        ("pae-mobillm", []),
        ("fed-mobillm", ["federation.partition={kind: quantity, alpha: 1}"]),
    ):
        overrides = [f"method={name}", "training.epochs=1", "training.num_samples=96", *more]
        result = run(load("wifi_5mbps", overrides), Options(out=tmp_path / name, plots=False))
        steps = pq.read_table(result.path / "steps.parquet").to_pydict()
        parameters = (result.path / "side_network.safetensors").read_bytes()
        found.append((steps, parameters, result.summary.final_metric, result.summary.makespan_s))
    assert found[0] == found[1]


def test_a_federation_runs_from_end_to_end(tmp_path: Path) -> None:
    """Samples dealt by label, then a replay: all of it in steps, spans, summary and pictures."""
    scenario = load("wifi_5mbps", FLEET)
    result = run(scenario, Options(out=tmp_path / "fleet", train=False))
    steps = pq.read_table(result.path / "steps.parquet")
    owned = steps.filter(steps["device"].is_valid())
    replayed = steps.filter(steps["device"].is_null())
    assert sum(owned["num_samples"].to_pylist()) == 200
    assert replayed["num_samples"].to_pylist() == [16] * 6
    assert set(replayed["epoch"].to_pylist()) == {None}
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary["num_steps"] == summary["num_batches"] + 6
    assert summary["ended_by"] == "finished"
    assert 0 < summary["cache_hit_rate"] < 1
    assert (result.path / "timeline.png").stat().st_size > 0
