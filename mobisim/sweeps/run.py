"""A sweep: from a plan to one table, going on from whatever is done already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobisim.learning import History
from mobisim.prepare import RESULTS
from mobisim.report import results
from mobisim.report.frames import read_frame
from mobisim.report.sweep_table import TABLE, Row, metrics
from mobisim.sweeps.order import Trajectory
from mobisim.sweeps.plan import Plan, Survey, survey
from mobisim.sweeps.pools import Job, Pool, drive
from mobisim.sweeps.store import Store
from mobisim.sweeps.table import write_table
from mobisim.sweeps.work import Failure, Setting, Trained, judge, new_session, play, train

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Swept:
    """A finished sweep: its folder, its table row by row, and how many trainings it took."""

    plan: Plan
    path: Path
    rows: list[Row]
    num_trajectories: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per point with varied fields, in SI units, and metrics; `error` says why not.

        The columns are those of table.csv: `makespan_s`, `time_to_target_s`, `final_metric`, …
        """
        return read_frame(self.path / TABLE)

    @property
    def num_failed(self) -> int:
        """Points that came to nothing."""
        return sum(row["error"] is not None for row in self.rows)


def sweep(plan: Plan, pool: Pool, session: str | None = None) -> Swept:
    """Have every point of a plan done that is not done yet, and put the table together.

    It is part of a session that goes on, or a session of its own.

    Raises:
        InputError: the sweep cannot begin as it stands.
        MobisimError: the workers have gone; what is finished is kept.
    """
    out = plan.options.out
    results.check_writable(out or RESULTS / plan.name / "digest")
    setting = Setting(
        session or new_session(), plan.options.bare, reads_held_out=plan.reads_held_out
    )
    found = survey(plan, pool, setting)
    place = out or RESULTS / plan.name / f"sweep-{found.digest}"
    store = Store(place.resolve(), found.digest, plan.trajectories)
    with store.opened(found.manifest()):
        work = _Work(found, store, setting)
        drive(pool, work.jobs(), work.done)
        rows = list(work.rows())
        write_table(store.folder, rows, [axis.path for axis in plan.axes])
    return Swept(plan, place, rows, len(found.trajectories))


class _Work:
    """What is still to be done for a table, and what failed."""

    def __init__(self, found: Survey, store: Store, setting: Setting) -> None:
        self.found, self.store = found, store
        shares = len(found.trajectories) > 1
        self.setting = replace(
            setting, folder=store.folder, trajectories=store.trajectories, shares=shares
        )
        self.trajectories = {t.digest: t for t in found.trajectories}
        self.learns = {point: t.digest for t in found.trajectories for point in t.members}
        self.wanted = {point for point in found.scenarios if not store.has(point)}
        self.failed: dict[str, str] = {}
        self.trained = 0

    def jobs(self) -> Iterator[Job]:
        """What can begin at once, trainings first: they take longest."""
        for trajectory in self.trajectories.values():
            if self.wanted.isdisjoint(trajectory.members):
                continue
            history = self.store.history(trajectory.digest)
            if history is None:
                yield Job(trajectory.digest, train, (self.setting, trajectory))
            else:
                yield from self._learned(trajectory, history)
        yield from self._plays((p for p in self.found.scenarios if p not in self.learns), None)

    def _learned(self, trajectory: Trajectory, history: History) -> Iterator[Job]:
        """What follows a training: judging it, where that was put off, or the points."""
        found = self.store.parameters(trajectory.digest).items()
        waiting = {step: kept for step, kept in found if step not in history.held_out}
        if self.setting.reads_held_out and waiting:
            yield Job(trajectory.digest, judge, (self.setting, trajectory, waiting))
        else:
            yield from self._plays(trajectory.members, history)

    def _plays(self, points: Iterable[str], history: History | None) -> Iterator[Job]:
        for point in points:
            if point in self.wanted:
                scenario = self.found.scenarios[point]
                yield Job(point, play, (self.setting, scenario, point, history))

    def done(self, job: Job, result: Any) -> Iterable[Job]:
        """Keep a result; a training makes way for the points that it serves."""
        if job.work in (train, judge):
            return self._trained(self.trajectories[job.name], result)
        self._finish(job.name, result)
        return ()

    def _trained(
        self, trajectory: Trajectory, result: Trained | dict[int, float] | Failure
    ) -> Iterable[Job]:
        self.trained += 1
        self.found.plan.options.progress("training", self.trained, len(self.trajectories))
        if isinstance(result, Failure):
            for point in self.wanted.intersection(trajectory.members):
                self._finish(point, result)
            return ()
        if isinstance(result, Trained):
            history = result.history
            self.store.keep_parameters(trajectory.digest, result.parameters)
        else:
            known = self.store.history(trajectory.digest)
            assert known is not None
            history = replace(known, held_out=known.held_out | result)
        self.store.keep(trajectory.digest, history)
        return self._plays(trajectory.members, history)

    def _finish(self, point: str, result: dict[str, bytes] | Failure) -> None:
        if isinstance(result, Failure):
            self.failed[point] = result.reason
        else:
            self.store.publish(point, result)
        self.wanted.discard(point)
        total = len(self.found.scenarios)
        self.found.plan.options.progress("points", total - len(self.wanted), total)

    def rows(self) -> Iterator[Row]:
        """The rows of the table, in the order of the points."""
        plan = self.found.plan
        for number, point in enumerate(plan.points):
            values = zip(plan.axes, point.values, strict=True)
            varied = {axis.path: axis.plain(value) for axis, value in values}
            yield self._row(number) | varied

    def _row(self, number: int) -> Row:
        seen = self.found.seen.get(number)
        if seen is None:
            return {"error": _line(self.found.failed[number])}
        if seen.digest in self.failed:
            return {"digest": seen.digest, "error": _line(self.failed[seen.digest])}
        trajectory = self.learns.get(seen.digest)
        return metrics(self.store.summary(seen.digest)) | {"trajectory": trajectory, "error": None}


def _line(text: str) -> str:
    """An error in one line: where it is, then what is wrong, expected and got."""
    first, *rest = text.splitlines() or [""]
    placed = rest and all(line.startswith(" ") for line in rest)
    details = "; ".join(" ".join(line.split()) for line in (rest if placed else [first, *rest]))
    return f"{first}: {details}" if placed else details
