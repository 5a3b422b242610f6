"""What a scenario's devices have to work through: the shapes of their mini-batches, in order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.cache import Hits, Visits, serve
from mobisim.cost.sending import Reads, sending_of
from mobisim.cost.system import System
from mobisim.cost.traffic import kept_bytes
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.partition import Dealt, owners, sizes_of
from mobisim.replay import KeptSamples, replay_work
from mobisim.rounds import epochs_needed, rounds_work
from mobisim.scenario.federation import Partition
from mobisim.scenario.schema import Metric, Scenario, Training
from mobisim.span import NONE
from mobisim.streams import permutation
from mobisim.training.tokens import backbone_config
from mobisim.world import RoundsWork, Workload

if TYPE_CHECKING:
    from mobisim.training.data import TaskData

EVALUATIONS_PER_EPOCH = 10
Starts = NDArray[np.int64] | None
Rounds = RoundsWork | None
MAX_MINI_BATCHES, MAX_SAMPLE_VISITS = 1_000_000, 100_000_000


@dataclass(frozen=True)
class Drawn:
    """The data of a training, and the samples of its mini-batches in the order of the seed."""

    data: TaskData
    samples: tuple[NDArray[np.int64], ...]

    def dealt(self, system: System) -> tuple[tuple[NDArray[np.int64], ...], Starts, Rounds]:
        """The samples of each device's mini-batches, where those of each begin, if apart; rounds.

        With rounds there are as many epochs as a device goes through in all of them.
        """
        scenario, training = system.scenario, system.scenario.training
        # Reading data costs start-up time that timing-only scenarios must not pay.
        from mobisim.training.data import epoch_orders, mini_batches  # noqa: PLC0415

        assert training is not None
        labels, size, seed = self.data.train.labels, training.batch_size, scenario.seed
        if scenario.federation.partition is None:
            rounds, needed = _rounds(system, np.full(1, -(-len(labels) // size)), training.epochs)
            if rounds is None:
                return self.samples, None, None
            _check_planned(-(-len(labels) // size) * int(needed.max()))
            return tuple(mini_batches(len(labels), size, int(needed.max()), seed)), None, rounds
        owner = owners(scenario.federation.partition, labels, scenario.num_devices, seed)
        dealt = Dealt(np.bincount(owner, minlength=scenario.num_devices), size, training.epochs)
        rounds, needed = _rounds(system, dealt.per_epoch, training.epochs)
        if rounds is not None:
            _check_planned(int((dealt.per_epoch * needed).sum()))
        dealt = replace(dealt, epochs=needed)
        orders = epoch_orders(len(labels), int(needed.max()), seed)
        return tuple(dealt.samples(owner, orders)), dealt.starts, rounds


def _rounds(
    system: System, per_epoch: NDArray[np.int64], epochs: int
) -> tuple[Rounds, NDArray[np.int64]]:
    """The rounds of devices with so many mini-batches, and how often each goes through its data."""
    scenario = system.scenario
    per_epoch = np.broadcast_to(per_epoch, scenario.num_devices)
    if system.options.method.rounds is None:
        return None, np.full(len(per_epoch), epochs)
    buffered = system.options.method.rounds == "buffered"
    stated = scenario.federation.rounds
    found = rounds_work(stated, per_epoch, epochs, scenario.seed, buffered=buffered)
    if buffered:  # who is called how often is known when it is over; orders begin anew till then
        return found, np.full(len(per_epoch), epochs)
    return found, epochs_needed(found, per_epoch)


@dataclass(frozen=True)
class Planned:
    """A workload and the data that it comes from, if any.

    `hits` says of each mini-batch's samples which the server has kept; it is empty where it keeps
    none, or all. `replayed` are the mini-batches that it draws from what it has kept, numbered in
    the order of the devices' mini-batches. `staleness` is the greatest of a step on the timeline.
    """

    workload: Workload
    data: TaskData | None = None
    samples: tuple[NDArray[np.int64], ...] = ()
    padding_fraction: float | None = None
    hits: tuple[Hits, ...] = ()
    replayed: tuple[NDArray[np.int64], ...] = ()
    staleness: int = 0

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples of each mini-batch."""
        return np.array([len(batch) for batch in self.samples], dtype=np.int64)

    def samples_of(
        self, device: NDArray[np.int32], batch: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Samples of some mini-batches, of those replayed where no device is named."""
        if not self.samples:
            return None
        if self.workload.rounds is not None:
            return None  # a step is an average
        found, drawn = np.empty(len(batch), np.int64), device == NONE
        found[~drawn] = self.num_samples[self.workload.at(device[~drawn], batch[~drawn])]
        found[drawn] = [len(self.replayed[number]) for number in batch[drawn].tolist()]
        return found

    @property
    def at_the_end(self) -> Planned:
        """The same, judged on the held-out split."""
        assert self.data is not None
        return replace(self, data=self.data.at_the_end)

    @cached_property
    def fingerprint(self) -> str | None:
        """A digest of the training data's tokens and labels; None without data."""
        if self.data is None:
            return None
        digest = hashlib.sha256()
        for split in self.data.splits:
            digest.update(np.concatenate(split.tokens).tobytes())
            digest.update(split.lengths.tobytes() + split.labels.tobytes())
        return digest.hexdigest()[:16]


def plan(scenario: Scenario, drawn: Drawn | None = None) -> Planned:
    """The workload of a scenario; with training, that of its data, `drawn` where that is done.

    Raises:
        InputError: the data cannot be found or read.
    """
    training = scenario.training
    if training is None:
        return _plan_stated(scenario)
    drawn = drawn or draw(training, scenario.seed)
    system = System(scenario, drawn.data.num_classes)
    samples, starts, rounds = drawn.dealt(system)
    of_all = drawn.data.train.lengths
    lengths = [of_all[batch].tolist() for batch in samples]
    visits = Visits(samples, lengths, training.padding, training.sequence_length, starts)
    planned = replace(_plan(system, visits), data=drawn.data, samples=samples)
    if rounds is not None:
        return replace(planned, workload=replace(planned.workload, rounds=rounds))
    if scenario.federation.replay is None:
        return planned
    sending = sending_of(system, _reads(system))
    return _with_replay(planned, system, KeptSamples.of(visits, sending, scenario.num_devices))


def _plan(system: System, visits: Visits) -> Planned:
    sending = sending_of(system, _reads(system))
    shapes = visits.shapes(sending)
    computed = sum(shape.num_tokens for shape in shapes)
    padding = 1 - sum(map(sum, visits.lengths)) / computed if sending.pads else 0.0
    if not system.options.caches:
        return Planned(_distinct(shapes, visits.starts), padding_fraction=padding)
    served = serve(system, sending, visits, shapes)
    workload = replace(_distinct(served.shapes, visits.starts), kept_bytes=served.peak)
    hits = () if system.options.cache_bytes is None else served.hits
    return Planned(workload, padding_fraction=padding, hits=hits)


def _distinct(shapes: Sequence[BatchShape], starts: Starts = None) -> Workload:
    """Each shape once, and the order in which they come."""
    distinct = tuple(dict.fromkeys(shapes))
    index = {shape: i for i, shape in enumerate(distinct)}
    order = np.array([index[shape] for shape in shapes], dtype=np.int32)
    return _workload(distinct, order, starts)


def _workload(shapes: tuple[BatchShape, ...], order: NDArray[np.int32], starts: Starts) -> Workload:
    most = len(order) if starts is None else int(np.diff(starts).max())
    return Workload(most, shapes, order, starts=starts)


def _plan_stated(scenario: Scenario) -> Planned:
    """Mini-batches of one stated shape, which differ where a server keeps some."""
    total, epochs, size = scenario.num_batches, scenario.epochs, scenario.batch_size
    assert total is not None
    if size is None or scenario.sequence_length is None:
        return Planned(Workload(total, (None,)))
    system = System(scenario)
    if scenario.federation.partition is not None:
        return _plan_dealt(system, scenario.federation.partition, size, scenario.sequence_length)
    if system.options.caches and epochs > 1:
        _check_visits(total, size)
        orders = (
            permutation(scenario.seed, epoch, size * total // epochs) for epoch in range(epochs)
        )
        samples = [batch for order in orders for batch in order.reshape(-1, size)]
        lengths = [[scenario.sequence_length] * size] * total
        return replace(_plan(system, Visits(samples, lengths)), padding_fraction=None)
    shape = uniform_shape(system, size, scenario.sequence_length)
    rounds, _ = _rounds(system, np.full(1, total // epochs), epochs)
    planned = Planned(Workload(total, (shape,), rounds=rounds))
    return _passed_once(planned, system, np.full(1, total * size))


def _plan_dealt(system: System, partition: Partition, size: int, length: int) -> Planned:
    """Mini-batches of devices with so many samples of one length each, `num_batches` on average."""
    scenario = system.scenario
    epochs, num_devices = scenario.epochs, scenario.num_devices
    assert scenario.num_batches is not None
    total = num_devices * size * scenario.num_batches // epochs
    dealt = Dealt(sizes_of(partition, total, num_devices, scenario.seed), size, epochs)
    counts, order = np.unique(dealt.counts, return_inverse=True)
    shapes = tuple(uniform_shape(system, count, length) for count in counts.tolist())
    workload = _workload(shapes, order.astype(np.int32), dealt.starts)
    rounds, _ = _rounds(system, dealt.per_epoch, epochs)
    return _passed_once(Planned(replace(workload, rounds=rounds)), system, dealt.sizes)


def _passed_once(planned: Planned, system: System, sizes: NDArray[np.int64]) -> Planned:
    """With what the server keeps of devices with so many stated samples each, and draws of it."""
    if not system.options.method.single_pass:
        return planned
    first = planned.workload.shapes[0]
    assert first is not None
    tokens, labels = first.tokens_sent // first.num_samples, first.num_labels // first.num_samples
    of_device = np.broadcast_to(sizes, system.scenario.num_devices)
    kept = 0
    if system.options.cache_bytes != 0:
        of_groups = zip(system.views, system.scenario.ranges, strict=True)
        kept = sum(
            int(of_device[devices.start : devices.stop].sum()) * kept_bytes(view, tokens, labels)
            for view, devices in of_groups
        )
    bound = system.options.cache_bytes
    workload = replace(planned.workload, kept_bytes=kept if bound is None else min(kept, bound))
    owner = np.repeat(np.arange(len(of_device)), of_device)
    samples = KeptSamples(owner, np.full(len(owner), tokens))
    return _with_replay(replace(planned, workload=workload), system, samples)


def _with_replay(planned: Planned, system: System, kept: KeptSamples) -> Planned:
    """With the mini-batches that the server draws from what it has kept, if it does."""
    replay, scenario = system.scenario.federation.replay, system.scenario
    size = (scenario.training or scenario).batch_size
    if replay is None or size is None:
        return planned
    _check_visits(replay.steps, size, "federation.replay.steps")
    drawn = kept.drawn(size, replay.steps, scenario.seed)
    work = replay_work(system, kept, drawn)
    workload = replace(planned.workload, replay=work)
    return replace(planned, workload=workload, replayed=tuple(drawn))


def uniform_shape(system: System, num_samples: int, length: int) -> BatchShape:
    """The shape of a mini-batch of equally long samples, as the scenario's method sends it."""
    return sending_of(system, _reads(system)).shape([length] * num_samples)


def _reads(system: System) -> Reads:
    """What of a sample the head reads; only a decoder's last token has read all of them."""
    training, pooling = system.scenario.training, system.scenario.pooling
    if training is not None:
        if training.head == "next_token":
            return "next"
        if system.options.tokens == "all":
            return "mean"  # all go up, whatever is read
        pooling = training.pooling
    if pooling is not None:
        return "mean" if pooling == "mean" else "one"
    sizes = system.backbone if training is None else trained_sizes(training.backbone)
    return "one" if sizes is None or sizes.is_decoder else "mean"


def trained_sizes(name: str) -> Architecture:
    """The sizes of a backbone that is really trained on."""
    return architecture(backbone_config(name))


def models_of(scenario: Scenario) -> str | None:
    """The names of all devices' models."""
    if scenario.model is None:
        return None
    names = ((group.model or scenario.model).name for group in scenario.devices)
    return ", ".join(dict.fromkeys(names))


def trained_names(scenario: Scenario) -> list[str]:
    """The backbone that is really trained on, of each group of devices."""
    assert scenario.training is not None
    return [group.backbone or scenario.training.backbone for group in scenario.devices]


def draw(training: Training, seed: int) -> Drawn:
    """The data of a training, in the order of the seed.

    Raises:
        InputError: the data cannot be found or read.
    """
    # Reading data costs start-up time that timing-only scenarios must not pay.
    from mobisim.training.data import load_task  # noqa: PLC0415

    try:
        data = load_task(
            training.task,
            backbone=training.backbone,
            sequence_length=training.sequence_length,
            num_samples=training.num_samples,
            validation=training.validation,
            seed=seed,
        )
    except InputError as error:
        raise error if error.where else error.placed("training") from error
    return drawn_from(data, training, seed)


def drawn_from(data: TaskData, training: Training, seed: int) -> Drawn:
    """Mini-batches of data that has been read.

    Raises:
        InputError: there are more of them than a run may have.
    """
    from mobisim.training.data import mini_batches  # noqa: PLC0415 - as above

    _check_length(len(data.train), training)
    samples = mini_batches(len(data.train), training.batch_size, training.epochs, seed)
    return Drawn(data, tuple(samples))


def _check_visits(num_batches: int, batch_size: int, where: str = "num_batches") -> None:
    """Refuse a list of mini-batches that would not fit in memory.

    Raises:
        InputError: too many of them.
    """
    most = min(MAX_MINI_BATCHES, MAX_SAMPLE_VISITS // batch_size)
    if num_batches > most:
        raise InputError(
            "longer than any order of samples that mobisim plans",
            where=where,
            expected=f"at most {most} where the server keeps some",
            got=str(num_batches),
        )


def _check_planned(num_batches: int) -> None:
    """Refuse rounds whose mini-batches would not fit in memory as a list.

    Raises:
        InputError: too many of them.
    """
    if num_batches > MAX_MINI_BATCHES:
        raise InputError(
            "longer than any training that mobisim plans",
            where="federation.rounds",
            expected=f"at most {MAX_MINI_BATCHES:,} mini-batches of devices with data of their own",
            got=f"{num_batches:,}",
        )


def _check_length(num_samples: int, training: Training) -> None:
    """Refuse a training whose mini-batches would not fit in memory as a list.

    Raises:
        InputError: too many of them.
    """
    per_epoch = -(-num_samples // training.batch_size)
    most = min(MAX_MINI_BATCHES // per_epoch, MAX_SAMPLE_VISITS // num_samples)
    if training.epochs > most:
        raise InputError(
            "longer than any training that mobisim plans",
            where="training.epochs",
            expected=f"at most {most} with {num_samples} samples, {per_epoch} mini-batches each",
            got=str(training.epochs),
        )


_METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "f1", "mcc", "loss"),
    "next_token": ("perplexity", "loss", "token_accuracy"),
}


def metric_name(training: Training) -> Metric:
    """The metric that evaluations report: the target's, or the head's usual one.

    Raises:
        InputError: the target's metric is none of those that the head has.
    """
    known = _METRICS[training.head]
    metric = training.target.metric if training.target is not None else known[0]
    if metric not in known:
        raise InputError(
            f"a {training.head} head has no {metric}",
            where="training.target.metric",
            expected=f"one of {', '.join(known)}",
        )
    return metric


def evaluation_interval(training: Training, num_batches: int) -> int:
    """After how many mini-batches, or rounds, each what trains is evaluated."""
    per_epoch = math.ceil(num_batches / training.epochs)
    return training.evaluate_every or max(1, per_epoch // EVALUATIONS_PER_EPOCH)


def is_judged(done: int, every: int, total: int, together: int = 1) -> bool:
    """Whether an evaluation follows the step that brings what is learned from to `done`.

    The step is on as many of them as are learned from `together`.
    """
    return done % every < together or done == total
