"""What Python programs call that the command line reads from its words: sweeps and plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobisim.planning.question import SEEDS, ask
from mobisim.planning.run import plan as find_plan
from mobisim.prepare import Options
from mobisim.report.plan_answer import PlanAnswer
from mobisim.scenario import catalog
from mobisim.scenario.document import Document
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.grid import Axis
from mobisim.sweeps.plan import plan_sweep
from mobisim.sweeps.pools import here, processes
from mobisim.sweeps.run import Swept
from mobisim.sweeps.run import sweep as run_sweep


def sweep(
    scenario: str | Path | Scenario,
    vary: Mapping[str, Sequence[Any]],
    options: Options | None = None,
    *,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    in_step: bool = False,
    jobs: int | None = 1,
) -> Swept:
    """Run a scenario with every combination of varied fields, into one table.

    What was finished is kept: the same call goes on where an earlier one ended.

    Args:
        scenario: a file, the name of a shipped scenario, or what `mobisim.load` gives.
        vary: the values of each field, by its path; quantities as text with their unit.
        options: how to run; the result goes to `options.out`, or results/NAME/sweep-DIGEST.
        overrides: `PATH=VALUE`, applied first.
        seeds: repeat each combination with so many seeds.
        in_step: the fields change together, not as a grid.
        jobs: processes; one for each core where None. With 1 all is done in this process.

    Raises:
        InputError: nothing varies, a field varies twice, or a path or value that no point allows.

    Example:
        >>> import mobisim
        >>> rates = {"devices[*].link.uplink": ["5 Mbit/s", "500 Mbit/s"]}
        >>> found = mobisim.sweep("lte", rates, overrides=["num_batches=20"])
        >>> found.table[["devices[*].link.uplink", "bottleneck"]].values.tolist()
        [[5000000.0, 'uplink'], [500000000.0, 'device']]
    """
    axes = [Axis(path, tuple(values)) for path, values in vary.items()]
    chosen = replace(options or Options(), plots=False)
    plan = plan_sweep(
        document_of(scenario),
        axes,
        chosen,
        overrides=overrides,
        num_seeds=seeds,
        in_step=in_step,
    )
    return run_sweep(plan, here() if jobs == 1 else processes(jobs))


def plan(
    scenario: str | Path | Scenario,
    target: str | Sequence[str],
    find: str | Sequence[str],
    options: Options | None = None,
    *,
    cost: str | None = None,
    seeds: int = SEEDS,
    overrides: Sequence[str] = (),
    reasons: bool = True,
) -> PlanAnswer:
    """Find the values of fields that meet a target by as little as possible.

    Args:
        scenario: a file, the name of a shipped scenario, or what `mobisim.load` gives.
        target: what must be met, such as `accuracy >= 0.9 within 2 h`; all of several.
        find: a knob, such as `min devices[0].link.uplink`; several need a cost.
        options: how to run; the answer goes to `options.out`, or results/NAME/plan-DIGEST.
        cost: what is to be least, an expression over the paths of the knobs, in SI units.
        seeds: how many seeds verify the answer.
        overrides: `PATH=VALUE`, applied first.
        reasons: look into what a little more is worth, and on which assumed values it leans.

    Raises:
        InputError: a target or knob that cannot be read, or a search without bounds.

    Example:
        >>> import mobisim
        >>> least = "min devices[0].link.uplink from 1 to 99 Mbit/s"
        >>> found = mobisim.plan("textbook_pipeline", "makespan <= 90 s", least)
        >>> found.met, found.knobs[0].value, found.pace.part
        (True, 5600000.0, 'uplink')
    """
    question = ask(
        document_of(scenario),
        options or Options(),
        target=[target] if isinstance(target, str) else target,
        find=[find] if isinstance(find, str) else find,
        cost=cost,
        num_seeds=seeds,
        overrides=overrides,
        reasons=reasons,
    )
    return find_plan(question)[1]


def document_of(scenario: str | Path | Scenario) -> Document:
    """The document of a scenario, however it is given."""
    if isinstance(scenario, Scenario):
        return Document(scenario.model_dump(mode="json"), {})
    return catalog.scenario(str(scenario))
