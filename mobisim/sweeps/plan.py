"""What a sweep is: its points as asked for, and what a look at each of them tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.manifest import VERSION
from mobisim.prepare import Options
from mobisim.scenario.document import Document
from mobisim.scenario.load import apply
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.grid import Axis, Point, as_text, points, seeds
from mobisim.sweeps.order import Trajectory, trajectories
from mobisim.sweeps.pools import Job, Pool, drive
from mobisim.sweeps.work import Failure, Seen, Setting, look


@dataclass(frozen=True)
class Plan:
    """A sweep as it is asked for: axes, the points that they give, and how to run each.

    `trajectories` is where trainings are kept if other sweeps use them, too; a sweep that does not
    read the held-out split leaves that to one of these.
    """

    name: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    options: Options
    trajectories: Path | None = None
    reads_held_out: bool = True


def plan_sweep(
    document: Document,
    axes: Sequence[Axis],
    options: Options,
    *,
    overrides: Sequence[str] = (),
    num_seeds: int | None = None,
    in_step: bool = False,
) -> Plan:
    """The points of a sweep: a grid of axes, or a list of axes `in_step`; of each so many seeds.

    Raises:
        InputError: nothing varies, a field varies twice, or a path or value that no point allows.
    """
    for override in overrides:
        apply(document, override)
    lists = [tuple(axes)] if in_step and axes else [(axis,) for axis in axes]
    if num_seeds is not None:
        lists.append((seeds(num_seeds, document),))
    if not lists:
        raise InputError("nothing varies", where="sweep", hint="say what with --vary or --seeds")
    found = points(document, lists)
    name = next(point.scenario.name for point in found if point.scenario is not None)
    return Plan(name, tuple(axis for group in lists for axis in group), tuple(found), options)


@dataclass(frozen=True)
class Survey:
    """What is to be done: each point's digest, or why it has none, and what is learned.

    `seen` and `failed` go by the numbers of points; where points are the same, so are digests.
    """

    plan: Plan
    seen: dict[int, Seen]
    failed: dict[int, str]

    @cached_property
    def scenarios(self) -> dict[str, Scenario]:
        """The scenario of each digest."""
        points = self.plan.points
        found = {seen.digest: points[number].scenario for number, seen in self.seen.items()}
        return {digest: scenario for digest, scenario in found.items() if scenario is not None}

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """The fewest trainings that serve all points."""
        found = {
            seen.digest: (self.scenarios[seen.digest], seen.order)
            for seen in self.seen.values()
            if seen.order is not None
        }
        return trajectories(found)

    @cached_property
    def digest(self) -> str:
        """A digest of the values of all points, and of what each one is."""
        identity = [
            [list(map(as_text, point.values)), self._identity(number)]
            for number, point in enumerate(self.plan.points)
        ]
        return hashlib.sha256(json.dumps([VERSION, identity]).encode()).hexdigest()[:12]

    def _identity(self, number: int) -> str:
        return self.seen[number].digest if number in self.seen else self.failed[number]

    def manifest(self) -> dict[str, Any]:
        """The content of sweep.json."""
        return {
            "schema_version": 1,
            "name": self.plan.name,
            "digest": self.digest,
            "version": VERSION,
            "command": self.plan.options.command,
            "num_points": len(self.plan.points),
            "num_trajectories": len(self.trajectories),
            "axes": [
                {"path": axis.path, "unit": axis.unit, "values": list(map(axis.plain, axis.values))}
                for axis in self.plan.axes
            ],
        }


def survey(plan: Plan, pool: Pool, setting: Setting) -> Survey:
    """Look at every point."""
    seen: dict[int, Seen] = {}
    failed = {n: str(p.error) for n, p in enumerate(plan.points) if p.error is not None}
    jobs = [
        Job(str(number), look, (setting, point.scenario))
        for number, point in enumerate(plan.points)
        if point.scenario is not None
    ]

    def done(job: Job, result: Seen | Failure) -> list[Job]:
        if isinstance(result, Failure):
            failed[int(job.name)] = result.reason
        else:
            seen[int(job.name)] = result
        plan.options.progress("looking at points", len(seen) + len(failed), len(plan.points))
        return []

    drive(pool, jobs, done)
    return Survey(plan, dict(sorted(seen.items())), failed)
