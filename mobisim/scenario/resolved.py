"""A scenario's options as they hold: what it leaves to the method is filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobisim.errors import InputError
from mobisim.scenario.method_options import Codec, Keep
from mobisim.scenario.methods import (
    METHODS,
    BackboneWeights,
    Crossing,
    Learns,
    Lora,
    MethodInfo,
    Prediction,
    Tokens,
)
from mobisim.scenario.schema import Scenario


@dataclass(frozen=True)
class Options:
    """The options of a scenario's method.

    Attributes:
        method: its description.
        cache_bytes: what the server may keep of activations; None for all of them.
        eviction: what makes room.
        cache_codec: what is kept is packed in this codec, the wire's unless another is stated.
        tokens: whose activations go up.
        learns: what a side network is trained on.
        prediction: where the device's own prediction comes from, where that is needed.
        keep: which activations are kept of them, if not all.
        backbone_weights: what the device's frozen weights are quantised to, if at all.
    """

    method: MethodInfo
    cache_bytes: int | None
    eviction: Literal["fifo", "lru"]
    cache_codec: Codec | None
    tokens: Tokens
    learns: Learns
    prediction: Prediction | None
    keep: Keep | None
    backbone_weights: BackboneWeights | None

    @property
    def caches(self) -> bool:
        """Whether the server keeps anything."""
        return self.cache_bytes != 0

    @property
    def up(self) -> tuple[Crossing, ...]:
        """What goes up for each mini-batch, with what the side network learns for labels."""
        said: tuple[Crossing, ...] = ("labels", "residuals")
        return tuple(self.learns if what in said else what for what in self.method.up)

    @property
    def scores(self) -> bool:
        """Whether activations are filtered by a score."""
        return self.keep is not None


def options_of(scenario: Scenario) -> Options:
    """The options of a scenario's method, those of other methods at their neutral values."""
    method = METHODS[scenario.method]
    wire, side, cache = scenario.wire, scenario.side_network, scenario.cache
    if not method.has_side_network:
        kept = _cache_bytes(None, caches=method.defaults.caches)
        return Options(method, kept, "lru", None, "all", "labels", None, None, None)
    learns = side.learns or method.defaults.learns
    prediction = side.prediction or method.defaults.prediction
    return Options(
        method=method,
        cache_bytes=_cache_bytes(cache.capacity, caches=method.defaults.caches),
        eviction=cache.eviction,
        cache_codec=cache.codec or wire.codec,
        tokens=wire.tokens or method.defaults.tokens,
        learns=learns,
        prediction=prediction if learns == "residuals" else None,
        keep=wire.keep,
        backbone_weights=scenario.backbone_weights,
    )


def _cache_bytes(stated: int | Literal["all"] | None, *, caches: bool) -> int | None:
    if stated is None:
        return None if caches else 0
    return None if stated == "all" else stated


def check_options(scenario: Scenario) -> None:
    """Refuse options that contradict each other, and what is not built yet.

    Raises:
        InputError: with the option.
    """
    found = options_of(scenario)
    if found.learns == "residuals":
        _check_residuals(scenario, found)
    _check_devices(scenario, found)
    if found.backbone_weights is not None:
        _check_weights(scenario, found.backbone_weights)
    if found.method.single_pass and (scenario.training or scenario).epochs > 1:
        raise InputError(
            "devices go through their data once with this method",
            where="training.epochs" if scenario.training else "epochs",
            expected="1; federation.replay says how long the server learns on",
        )
    if scenario.federation.replay is not None and found.method.rounds is None:
        _check_replay(scenario, found)
    if scenario.federation.partition is not None:
        _check_partition(scenario, found)
    if any(group.model not in (None, scenario.model) for group in scenario.devices):
        _check_different_models(scenario, found)
    if found.scores and scenario.granularity == "layer":
        raise InputError(
            "what is kept of the first taps is known when the last is there",
            where="wire.keep",
            expected="granularity: batch",
            got="layer",
        )
    if found.method.has_side_network and found.caches and scenario.wire.payload_bytes is not None:
        raise InputError(
            "what a server keeps is counted sample by sample, a stated payload is not",
            where="wire.payload_bytes",
            expected="a codec alone",
        )


def _check_devices(scenario: Scenario, found: Options) -> None:
    if found.method.rounds is not None:
        _check_rounds(scenario, found)
    elif found.method.device == "training" and scenario.num_devices > 1:
        raise InputError(
            "devices that train alone know nothing of one another; simulate one of them",
            where="devices",
            expected="one device",
            got=f"{scenario.num_devices} devices",
        )


def _check_weights(scenario: Scenario, weights: BackboneWeights) -> None:
    """Refuse to quantise what a device holds in integers already."""
    for index, group in enumerate(scenario.devices):
        precision = group.profile.precision.value
        if precision in ("int8", "int4") and precision != weights:
            raise InputError(
                "the device's weights are integers already",
                where="backbone_weights",
                expected=f"{precision}, or a device profile of a floating-point precision",
                got=f"{weights} on devices[{index}] at {precision}",
            )


def _check_replay(scenario: Scenario, found: Options) -> None:
    """Refuse to learn on from what is not kept, or not known."""
    if not found.method.single_pass:
        raise InputError(
            "this method learns from mini-batches of devices only",
            where="federation.replay",
            expected="fed-mobillm, or null",
            got=scenario.method,
        )
    if found.cache_bytes is not None:
        raise InputError(
            "what a bounded cache still has of all devices is not known beforehand",
            where="cache.capacity",
            expected="all, where there is a federation.replay",
        )
    if scenario.training is None and scenario.batch_size is None:
        raise InputError(
            "the server learns on from samples",
            where="batch_size",
            expected="batch_size and sequence_length, and a model",
        )


def _check_rounds(scenario: Scenario, found: Options) -> None:
    """Refuse rounds that nobody could end, and what they do not know."""
    _check_participants(scenario, found)
    _check_buffer(scenario, found)
    _check_ranks(scenario, found)
    _check_machines(scenario, found)


def _check_participants(scenario: Scenario, found: Options) -> None:
    """Refuse more participants than devices, and a deadline where each of them is waited for."""
    rounds = scenario.federation.rounds
    participants = rounds.participants
    if found.method.replies and (rounds.deadline is not None or rounds.over_selection > 1):
        raise InputError(
            "a round of models that are cut in two waits for all of its devices",
            where="federation.rounds",
            expected="no deadline and no over_selection",
        )
    if participants is not None and participants > scenario.num_devices:
        raise InputError(
            "a round has at most all devices",
            where="federation.rounds.participants",
            expected=f"at most {scenario.num_devices}",
            got=str(participants),
        )


def _check_ranks(scenario: Scenario, found: Options) -> None:
    """Refuse a device with a higher rank than the average."""
    for index, group in enumerate(scenario.devices):
        most = bypass.rank if isinstance(bypass := found.method.bypass, Lora) else None
        if found.method.ranks and group.rank is not None and most and group.rank > most:
            raise InputError(
                "no device has a higher rank than what all learn together",
                where=f"devices[{index}].rank",
                expected=f"at most {most}",
                got=str(group.rank),
            )


def _check_machines(scenario: Scenario, found: Options) -> None:
    """Refuse what no machine does that takes part in rounds."""
    trains = bool(found.method.replies)  # halves of models, mini-batch by mini-batch
    for key, is_known in (("restarts", False), ("room", trains), ("batching", False)):
        if getattr(scenario.server, key) is not None and not is_known:
            raise InputError(
                f"{key} is known of a server that trains what devices send",
                where=f"server.{key}",
                expected="null, or a method without rounds",
            )
    for index, group in enumerate(scenario.devices):
        if group.absences is not None and group.absences.kind == "abrupt":
            raise InputError(
                "who takes part in rounds leaves between mini-batches",
                where=f"devices[{index}].absences.kind",
                expected="graceful, or a method without rounds",
            )
    if scenario.server.colocated:
        raise InputError(
            "one machine for device and worker is known of methods without rounds only",
            where="server.colocated",
            expected="false",
        )


def _check_buffer(scenario: Scenario, found: Options) -> None:
    """Refuse what ends synchronous rounds where rounds are buffered, and the other way round."""
    rounds = scenario.federation.rounds
    if found.method.rounds != "buffered":
        for key in ("buffer", "server_lr"):
            if getattr(rounds, key) is not None:
                raise InputError(
                    "a synchronous round averages all that came in time",
                    where=f"federation.rounds.{key}",
                    expected="null, or fedbuff-lora",
                    got=scenario.method,
                )
        return
    if rounds.deadline is not None or rounds.over_selection > 1:
        raise InputError(
            "where updates are buffered nobody waits for the slow, and none comes too late",
            where="federation.rounds",
            expected="no deadline and no over_selection",
        )
    at_work = rounds.participants or scenario.num_devices
    if rounds.buffer is not None and rounds.buffer > at_work:
        raise InputError(
            "a buffer takes no more updates than there are devices at work",
            where="federation.rounds.buffer",
            expected=f"at most {at_work}, or more participants",
            got=str(rounds.buffer),
        )


def _check_partition(scenario: Scenario, found: Options) -> None:
    """Refuse shares of samples that a scenario without data does not have."""
    partition = scenario.federation.partition
    assert partition is not None
    if scenario.training is not None:
        return
    if partition.kind == "dirichlet":
        raise InputError(
            "samples have labels where there is data",
            where="federation.partition.kind",
            expected="iid or quantity, or a training",
            got="dirichlet",
        )
    if scenario.batch_size is None:
        raise InputError(
            "samples are dealt where mini-batches have a size",
            where="batch_size",
            expected="batch_size and sequence_length, and a model",
        )
    if found.caches and scenario.epochs > 1:
        raise InputError(
            "which samples a server keeps of dealt ones is known of data",
            where="epochs",
            expected="1, or a training",
            got=str(scenario.epochs),
        )


def _check_different_models(scenario: Scenario, found: Options) -> None:
    """Refuse what is known of devices with one model only."""
    if not found.method.has_side_network:
        raise InputError(
            "only a side network can be shared by devices with different models",
            where="method",
            expected="mobillm, pae-mobillm or fed-mobillm, or one model for all devices",
            got=scenario.method,
        )
    if scenario.training is not None and scenario.training.head == "next_token":
        raise InputError(
            "a next-token head is the backbone's own, and different models have none in common",
            where="training.head",
            expected="classification, or one model for all devices",
        )
    if found.cache_bytes and scenario.federation.partition is None:
        raise InputError(
            "which samples a bounded cache keeps differs between models",
            where="cache.capacity",
            expected="all, 0, one model for all devices, or a federation.partition",
        )


def _check_residuals(scenario: Scenario, found: Options) -> None:
    if found.prediction is None:
        raise InputError(
            "residuals are what the labels leave of the device's own prediction",
            where="side_network.prediction",
            expected="where that comes from: head, verbaliser, or uniform",
        )
    if found.prediction == "verbaliser" and not scenario.side_network.words:
        raise InputError(
            "a verbaliser predicts a class by the probability of its word",
            where="side_network.words",
            expected="one word for each class, in their order",
        )
    if scenario.training is not None and scenario.training.head == "next_token":
        raise InputError(
            "residuals are known of a classification head only",
            where="side_network.learns",
            hint="take learns: labels, or training.head: classification",
        )
