"""What workers do for a sweep: look at a point, train a trajectory, lay it on a point's timeline.

Each is a pure function of what it is given, so it makes no difference which process or machine
runs it, or how often. Results travel back as bytes: workers need no folder in common.
"""

from __future__ import annotations

import math
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mobisim.errors import MobisimError
from mobisim.learning import History, Learning, Recorded
from mobisim.prepare import Options, Prepared, prepare
from mobisim.runner import produce, timeline, will_learn
from mobisim.scenario.schema import Scenario, Training
from mobisim.sweeps.order import Order, Trajectory, order_of
from mobisim.workload import Drawn, draw

if TYPE_CHECKING:
    from mobisim.lessons import Taught
    from mobisim.training.backbone import Backbone

KEPT = 8  # sets of data that a worker keeps at hand
AT_HAND = 32  # points that it keeps ready: all methods of a comparison, and then some
_ending: list[int] = []  # signals that end this process as soon as it works again


@dataclass(frozen=True)
class Setting:
    """What all work of one sweep shares.

    `session` is new each time a sweep or comparison is started: nothing read in an earlier one is
    used again.
    `folder` is that of the sweep and `trajectories` where its trainings are, both of use only to a
    worker that sees them; `shares` says whether
    more than one trajectory is trained, `reads_held_out` whether what was learned may be judged on
    the held-out split.
    """

    session: str
    options: Options
    folder: Path | None = None
    trajectories: Path | None = None
    shares: bool = False
    reads_held_out: bool = True

    def below(self, name: str) -> Path | None:
        """A folder of the sweep where this worker sees it."""
        seen = self.folder is not None and self.folder.is_dir()
        return self.folder / name if self.folder is not None and seen else None


@dataclass(frozen=True)
class Seen:
    """What a look at a point tells: its digest, and what it learns if it does."""

    digest: str
    order: Order | None


@dataclass(frozen=True)
class Trained:
    """What a trajectory learned; `parameters` at its ends where the held-out split waits."""

    history: History
    parameters: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Why a point, or a training, came to nothing."""

    reason: str


def end_within_work(number: int, frame: FrameType | None) -> None:
    """End this process where it works, or as soon as it does.

    Elsewhere it may be writing a result, of which whoever reads it would wait for the other half.
    """
    while frame is not None and frame.f_code is not guarded.__code__:
        frame = frame.f_back
    if frame is not None:
        os._exit(128 + number)
    _ending.append(number)


def guarded(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of work, or its failure: errors of all kinds are answers about a point."""
    if _ending:
        os._exit(128 + _ending[0])
    try:
        return work(*arguments)
    except MobisimError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("this machine's memory does not suffice")
    except Exception as error:  # noqa: BLE001 - one point's defect must not end the others
        return Failure(f"{type(error).__name__}: {error}")


def look(setting: Setting, scenario: Scenario) -> Seen:
    """Work out what a point is, without recording anything."""
    prepared = prepared_for(setting, scenario)
    return Seen(prepared.digest, order_of(prepared) if will_learn(prepared) else None)


def train(setting: Setting, trajectory: Trajectory) -> Trained:
    """Train a trajectory as far as any of its members needs it."""
    # torch takes seconds to import, and sweeps of timing alone must not pay for it.
    from mobisim.lessons import Checkpoints, Taught, packed  # noqa: PLC0415

    prepared = prepared_for(setting, trajectory.scenario)
    seen = setting.trajectories if setting.below("") else None
    place = seen or Path(tempfile.gettempdir()) / "mobisim"
    checkpoints = Checkpoints(
        place / trajectory.digest,
        trajectory.digest,
        every_s=prepared.options.checkpoint_every_s if seen else math.inf,
        resume=True,
    )
    progress = partial(prepared.options.progress, "training")
    lessons = Taught(prepared.system, prepared.planned, checkpoints, progress, make=_maker(setting))
    _follow(lessons, trajectory, reads_held_out=setting.reads_held_out)
    checkpoints.clear()
    kept = {step: packed(parameters) for step, parameters in lessons.kept.items()}
    return Trained(lessons.history, kept)


def judge(
    setting: Setting, trajectory: Trajectory, parameters: Mapping[int, bytes]
) -> dict[int, float]:
    """The metrics on the held-out split at the ends of a trajectory that is trained."""
    from mobisim.lessons import held_out_metric, unpacked  # noqa: PLC0415

    prepared, make = prepared_for(setting, trajectory.scenario), _maker(setting)
    return {
        step: held_out_metric(prepared.system, prepared.planned, unpacked(content), make)
        for step, content in parameters.items()
    }


def _maker(setting: Setting) -> Callable[..., Any]:
    from mobisim.trainers import make_trainer  # noqa: PLC0415

    shared = setting.below("activations") if setting.shares else None
    return partial(make_trainer, load=partial(_backbone, setting.session), shared=shared)


def _follow(lessons: Taught, trajectory: Trajectory, *, reads_held_out: bool) -> None:
    history = lessons.history
    for done, (device, batch, version_read) in enumerate(trajectory.order.steps.tolist(), 1):
        if done > len(history.loss):  # else a checkpoint has brought it back
            merged = trajectory.order.merged_by(done - 1)
            lessons.step(device, batch, version_read, merged)
        if done in trajectory.ends and math.isnan(history.after(done)):
            history.ends[done] = lessons.evaluate()
        elif math.isnan(history.metric[done - 1]):
            continue
        if done == len(history.loss) and trajectory.ends_one(history.metric):
            lessons.end(reads_held_out=reads_held_out)
        if trajectory.suffices(history.metric[:done]):
            return


def play(
    setting: Setting, scenario: Scenario, digest: str, history: History | None
) -> dict[str, bytes]:
    """The files of a point: its timeline, with what was learned laid on it."""
    prepared = prepared_for(setting, scenario)
    if prepared.digest != digest:
        raise MobisimError(
            "the workers of this sweep differ: in their versions of mobisim, or in their data"
        )
    learning = Learning(prepared.system, Recorded(history)) if history is not None else None
    with tempfile.TemporaryDirectory(prefix="mobisim-point-") as aside:
        produce(prepared, learning, timeline(prepared), Path(aside))
        return {path.name: path.read_bytes() for path in sorted(Path(aside).iterdir())}


def new_session() -> str:
    """A name that no other session has."""
    return uuid.uuid4().hex


def prepared_for(setting: Setting, scenario: Scenario) -> Prepared:
    """A point made ready, once per session for all that is done with it."""
    point = _Point(scenario.model_dump_json(), scenario)
    return _prepared(setting.session, setting.options, point)


def drawn_for(session: str, scenario: Scenario) -> Drawn | None:
    """The data of a scenario that trains, read once per session."""
    training = scenario.training
    return _drawn(session, training, scenario.seed) if training else None


@dataclass(frozen=True)
class _Point:
    """A scenario by what it says, since it cannot be hashed itself."""

    text: str
    scenario: Scenario = field(compare=False)


@lru_cache(maxsize=AT_HAND)
def _prepared(session: str, options: Options, point: _Point) -> Prepared:
    return prepare(point.scenario, options, drawn_for(session, point.scenario))


@lru_cache(maxsize=KEPT)
def _drawn(_session: str, training: Training, seed: int) -> Drawn:
    return draw(training, seed)


@lru_cache(maxsize=KEPT)
def _backbone(_session: str, name: str) -> Backbone:
    from mobisim.training.backbone import load_backbone  # noqa: PLC0415 - imports torch

    return load_backbone(name)
