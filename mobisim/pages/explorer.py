"""The explorer: a scenario's timing at any setting of its knobs, soon enough to be dragged."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobisim.answer import summarise
from mobisim.pages.knobs import Knob, Settings, knobs_of, overrides_of
from mobisim.pages.rows import roles
from mobisim.prepare import Options, Prepared, prepare
from mobisim.report import verdict
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.report.wording import count
from mobisim.runner import collector_at_rest
from mobisim.scenario import catalog
from mobisim.scenario.load import placing_errors, resolve
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import STEP, SpanColumns
from mobisim.units import J_PER_WH, human_size, human_time
from mobisim.workload import Drawn, draw, drawn_from

GLANCE_SPANS = 6_000  # simulated while a knob moves: some 50 ms
BLOCK_ROWS = 1_500
FAST = Options(train=False, plots=False)

Json = dict[str, Any]


class OvertakenError(Exception):
    """An answer was not worked out to its end: nobody waits for it any more."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Seen:
    """What was simulated: all, or the first `totals.num_learned` steps.

    `ends` and `devices` say when each ended, and whose mini-batch it was.
    """

    prepared: Prepared
    totals: Totals
    ends: NDArray[np.float64]
    devices: NDArray[np.int32]
    whole: bool

    @property
    def all_steps(self) -> int:
        """Steps of the whole run."""
        return self.totals.num_learned if self.whole else self.prepared.world.total_steps

    @property
    def every_s(self) -> float:
        """Seconds from one step to the next in the long run: over the second half of them."""
        return _pace(self.ends)

    @cached_property
    def makespan_s(self) -> float:
        """Of the whole run: known, or until the last device is done where all keep their pace.

        Nor less than all steps take at the pace of all: of a large fleet few devices have been seen
        to step, let alone twice.
        """
        if self.whole:
            return self.totals.makespan_s
        batches = self.prepared.world.batches_of
        done = [self.ends[self.devices == device] for device in range(len(batches))]
        left = zip(done, batches.tolist(), strict=True)
        lasts = (float(e[-1]) + (n - len(e)) * _pace(e) for e, n in left if len(e))
        together = self.totals.makespan_s + (self.all_steps - len(self.ends)) * self.every_s
        return float(max(together, *lasts))

    @property
    def scale(self) -> float:
        """How much more the whole run is than what was seen."""
        return 1.0 if self.whole else self.all_steps / max(self.totals.num_learned, 1)


class Explorer:
    """A scenario, its knobs, and its answers.

    Its data, where it trains, is read once; all answers are of timing alone.

    Raises:
        InputError: the scenario cannot be simulated as it stands.
    """

    def __init__(self, name: str, overrides: Sequence[str] = ()) -> None:
        self.name, self.given = name, tuple(overrides)
        self.document = catalog.scenario(name)
        self.scenario = self._scenario(())
        self.knobs: list[Knob] = knobs_of(self.scenario)
        self.answer({}, whole=False)

    def answer(
        self, settings: Settings, *, whole: bool, overtaken: Callable[[], bool] = _never
    ) -> Json:
        """What the page shows of a setting; a glance at a long run's beginning unless `whole`.

        Raises:
            InputError: the setting makes no scenario, or one that cannot be simulated.
            OvertakenError: it was `overtaken`, as is asked now and then.
        """
        moved = overrides_of(self.knobs, settings)
        with placing_errors(self.document):
            scenario = self._scenario(moved)
            prepared = prepare(scenario, FAST, self._drawn(scenario))
        shown = (
            _of_run(_look(prepared, whole=whole, overtaken=overtaken))
            if prepared.runs
            else _of_misfit(prepared)
        )
        return {**shown, "command": self.command(moved)}

    def command(self, moved: Sequence[str]) -> str:
        """The command line that runs a setting."""
        sets = [word for text in (*self.given, *moved) for word in ("--set", text)]
        timing = ["--no-train"] if self.scenario.training else []
        return shlex.join(["mobisim", "run", self.name, *timing, *sets])

    def _scenario(self, moved: Sequence[str]) -> Scenario:
        return resolve(copy.deepcopy(self.document), [*self.given, *moved])

    @cached_property
    def _data(self) -> Drawn | None:
        training = self.scenario.training
        return draw(training, self.scenario.seed) if training else None

    def _drawn(self, scenario: Scenario) -> Drawn | None:
        """No knob changes the data, only how it is cut into mini-batches."""
        if self._data is None or scenario.training is None:
            return None
        return drawn_from(self._data.data, scenario.training, scenario.seed)


def _pace(ends: NDArray[np.float64]) -> float:
    """Seconds from one step to the next, over the second half of them."""
    middle = len(ends) // 2
    apart = len(ends) - 1 - middle
    return float(ends[-1] - ends[middle]) / apart if apart > 0 else 0.0


def _look(prepared: Prepared, *, whole: bool, overtaken: Callable[[], bool] = _never) -> Seen:
    fold, steps, num_spans, finished = MetricsFold(prepared.world), [], 0, True
    whole = whole or prepared.world.replay is not None  # whose pace the beginning does not show
    with collector_at_rest():
        for block in simulate(prepared.world, BLOCK_ROWS):
            if not whole and num_spans >= GLANCE_SPANS:
                finished = False
                break
            if overtaken():
                raise OvertakenError
            fold.add(block)
            columns = block.columns
            num_spans += len(columns)
            steps.append(columns[(columns.kind == STEP) & ~columns.cut])
    done = SpanColumns.concatenate(steps)
    return Seen(prepared, fold.totals(), done.end, done.device, finished)


def _of_run(seen: Seen) -> Json:
    summary = summarise(seen.prepared, None, seen.totals).model_dump(mode="json")
    sentences = list(verdict.answer(summary | ({} if seen.whole else {"ended_by": "finished"})))
    about = "" if seen.whole else "about "
    time = f"{count(seen.all_steps, 'step')} in {about}{human_time(seen.makespan_s)}."
    return {
        "whole": seen.whole,
        "fits": True,
        "headline": f"{time} {sentences[0][1]}",
        "details": [text for _, text in sentences[1:]] if seen.whole else [_glance(seen)],
        "numbers": list(_numbers(seen, summary)),
        "bars": _bars(summary["utilisation"]),
    }


def _glance(seen: Seen) -> str:
    return (
        f"A glance: the first {count(seen.totals.num_learned, 'step')} of {seen.all_steps:,} were "
        "simulated, the rest goes on at their pace."
    )


def _of_misfit(prepared: Prepared) -> Json:
    summary = summarise(prepared, None, None).model_dump(mode="json")
    sentences = [text for tone, text in verdict.answer(summary)]
    rooms = [(f"{part} memory", verdict.room(summary, part)) for part in ("device", "server")]
    return {
        "whole": True,
        "fits": False,
        "headline": sentences[0],
        "details": sentences[1:-1],
        "numbers": [(name, room) for name, room in rooms if room],
        "bars": [],
    }


def _numbers(seen: Seen, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    about = "" if seen.whole else "about "
    yield "simulated time", f"{about}{human_time(seen.makespan_s)}"
    if seen.every_s:
        yield "a step every", f"{human_time(seen.every_s)}"
    yield "sets the pace", str(summary["bottleneck"] or "nobody")
    yield "sent up", f"{about}{human_size(seen.scale * summary['uplink_bytes'])}"
    steps = max(seen.totals.num_learned, 1)
    yield "sent up for a step", human_size(summary["uplink_bytes"] / steps)
    for part in ("device", "server"):
        room = verdict.room(summary, part)
        if room is not None:
            yield f"{part} memory", room
    if summary["energy_j"] is not None:
        watt_hours = seen.scale * summary["energy_j"] / J_PER_WH
        yield "energy of the devices", f"{about}{watt_hours:,.3g} Wh"


def _bars(utilisation: Mapping[str, float]) -> list[Json]:
    return [
        {"name": name, "role": role, "words": words, "share": share}
        for name, role, words, share in roles(utilisation)
    ]
