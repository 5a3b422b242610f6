"""A scenario: one question, as the user asks it. Frozen once validated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mobisim.errors import nearest
from mobisim.scenario import catalog
from mobisim.scenario.federation import Federation
from mobisim.scenario.method_options import Cache, Codec, Count, Keep, Tuning
from mobisim.scenario.methods import AttentionKernel, BackboneWeights, Learns, Prediction, Tokens
from mobisim.scenario.profiles import (
    Absences,
    DeviceProfile,
    FixedDevice,
    FixedServer,
    LinkProfile,
    Measured,
    ModelProfile,
    Outages,
    ServerProfile,
    spread_of,
)
from mobisim.scenario.quantities import (
    PositiveByteCount,
    PowerOrZero,
    Rate,
    Sourced,
    Strict,
    Time,
    TimeOrZero,
    problem_of,
)

SCHEMA_VERSION = 1

Method = Literal[
    "mobillm", "pae-mobillm", "fed-mobillm", "full", "lora", "bitfit", "adapters", "lst",
    "server-only", "split-lora", "fwdllm", "fedavg-lora", "fedavg-adapters", "splitfed-lora",
    "hetlora", "fedbuff-lora", "fed-fwdllm",
]  # fmt: skip
Discipline = Literal["first-come", "round-robin", "shortest-job", "fair"]
Pooling = Literal["mean", "first", "last"]
Metric = Literal["accuracy", "f1", "mcc", "token_accuracy", "perplexity", "loss"]
LOWER_IS_BETTER: tuple[Metric, ...] = ("perplexity", "loss")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


@dataclass(frozen=True)
class Nameable:
    """Annotation: in a file, the name of a shipped profile may stand for the profile."""

    kind: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = catalog.names(self.kind)
        name = {"type": "string", "description": f"mobisim show {self.kind}", "examples": names}
        return {"anyOf": [name, handler(schema)]}


class SideNetwork(Strict):
    """The trainable bypass: one parallel adapter for each tap.

    `taps` are 1-based layers of the timed model, or `all`. `learns` says on what it is trained:
    the labels, or the residuals that they leave of the device's own `prediction`, which comes
    from a head fitted on the device or from a verbaliser, or takes each class for as likely; null
    leaves both to the method. A verbaliser needs `words`, one for each class in order, each one
    token of the backbone.
    """

    bottleneck: Annotated[int, Field(ge=1, le=65536, strict=True)] = 64
    taps: Literal["all"] | tuple[Count, ...] = "all"
    learns: Learns | None = None
    prediction: Prediction | None = None
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _taps_ascend(self) -> Self:
        if self.taps != "all" and (not self.taps or list(self.taps) != sorted(set(self.taps))):
            raise problem_of("taps", "expected: all, or layers in ascending order, each once")
        return self


class Wire(Strict):
    """What an uploaded value costs: a codec, or a stated payload per mini-batch.

    `payload_bytes` is all that crosses per mini-batch, labels and framing included. `tokens` says
    whose activations go up: all, or those that enter the loss; null leaves it to the method.
    `keep` filters them.
    """

    codec: Codec | None = None
    block_size: Annotated[int, Field(ge=1, le=65536, strict=True)] = 64
    payload_bytes: PositiveByteCount | None = None
    tokens: Tokens | None = None
    keep: Keep | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.codec is None and self.payload_bytes is None:
            raise ValueError("expected: a codec, or payload_bytes")
        return self


class Optimizer(Strict):
    """The optimiser of the side network; momentum counts for sgd, betas for adamw."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Target(Strict):
    """The quality that counts as good: time to target is when an evaluation first meets it."""

    metric: Metric
    value: float

    def met_by(self, value: float) -> bool:
        """Whether an evaluation of `value` meets the target."""
        return value <= self.value if self.metric in LOWER_IS_BETTER else value >= self.value


class Training(Strict):
    """Real learning on the simulated timeline.

    `padding` says which tokens are sent: every sample padded to `sequence_length` (fixed), to the
    longest of its mini-batch (longest), or real tokens only (none). `validation` is a share of the
    training samples, cut from them by the seed: evaluations during training go to it, and the
    held-out split is read at the end alone. With `patience` the run ends after so many evaluations
    in a row that are no better than the best before.
    """

    task: str = "builtin"
    backbone: str = "builtin"
    batch_size: Count
    sequence_length: Count
    epochs: Count
    optimizer: Optimizer = Optimizer()
    target: Target | None = None
    stop_at_target: bool = False
    patience: Count | None = None
    padding: Literal["fixed", "longest", "none"] = "fixed"
    num_samples: Count | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    evaluate_every: Count | None = None
    head: Literal["classification", "next_token"] = "classification"
    pooling: Pooling | None = None

    @model_validator(mode="after")
    def _stop_needs_target(self) -> Self:
        if self.stop_at_target and self.target is None:
            raise problem_of("stop_at_target", "this needs a target: {metric: …, value: …}")
        return self


class WhenLow(Strict):
    """What a device does while its battery is below a share of its capacity.

    `pause`: it rests until the charge is back at `resume`. `slow`: it works the share `duty` of
    the time and rests in between.
    """

    below: Annotated[float, Field(gt=0, lt=1)]
    rule: Literal["pause", "slow"]
    resume: Annotated[float, Field(gt=0, le=1)] | None = None
    duty: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _rule_has_its_number(self) -> Self:
        needed, other = ("resume", "duty") if self.rule == "pause" else ("duty", "resume")
        if getattr(self, needed) is None:
            raise problem_of(needed, f"this key is missing; rule: {self.rule} needs it")
        if getattr(self, other) is not None:
            raise problem_of(other, f"this goes with the other rule, not with {self.rule}")
        if self.resume is not None and self.resume <= self.below:
            raise problem_of("resume", "expected: a share above `below`")
        return self


class BatteryUse(Strict):
    """How a device's battery stands at the start, what charges it, and what a low one means.

    `charge` is a share of the profile's capacity, `charger` the power that flows into the battery,
    but for when it is `unplugged`: in windows, or by turns plugged in (up) and not (down).
    """

    charge: Annotated[float, Field(gt=0, le=1)] = 1.0
    charger: PowerOrZero = 0.0
    unplugged: Outages | None = None
    when_low: WhenLow | None = None


class Cell(Strict):
    """An air interface that links share: what it carries in all, up and down apart."""

    uplink: Sourced[Rate]
    downlink: Sourced[Rate]


class Sampled(Strict):
    """How far the devices of a group differ, each by a log-normal factor of its own.

    `pace` and `rate` are the standard deviations of the factors' logarithms: of how fast a device
    computes and its link carries, around what profile and link state, which are the medians.
    """

    pace: Sourced[Annotated[float, Field(ge=0, le=3)]] | None = None
    rate: Sourced[Annotated[float, Field(ge=0, le=3)]] | None = None


class DeviceGroup(Strict):
    """`count` devices of one sort, each with a link of its own.

    `model` is their backbone, the scenario's unless one is stated, and `backbone` the one that they
    are really trained on, that of `training` unless one is stated: `minilm:3` means the first three
    layers of minilm. `rank` is that of their LoRA where a method lets devices have their own. Links
    in a `cell` share its rate by their `weight`, each at no more than its own rate. During
    `absences` a device begins no mini-batch.
    """

    profile: Annotated[DeviceProfile, Nameable("devices")]
    link: Annotated[LinkProfile, Nameable("links")]
    count: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 1
    model: Annotated[ModelProfile, Nameable("models")] | None = None
    backbone: str | None = None
    run_ahead: Annotated[int, Field(ge=1, lt=2**62, strict=True)] = 4
    battery: BatteryUse | None = None
    rank: Count | None = None
    cell: Name | None = None
    weight: Annotated[int, Field(ge=1, le=10**6, strict=True)] = 1
    absences: Absences | None = None
    sampled: Sampled | None = None

    @model_validator(mode="after")
    def _cell_shares_a_constant_rate(self) -> Self:
        link = self.link
        slow_start = link.tcp is not None and link.tcp.slow_start
        if self.cell and (link.kind != "constant" or link.outages or slow_start):
            raise problem_of(
                "cell",
                "a cell shares links of constant rate; expected: kind: constant, without outages "
                "and with tcp.slow_start: false if there is tcp",
            )
        return self

    @model_validator(mode="after")
    def _sampled_links_are_plain(self) -> Self:
        link = self.link
        slow_start = link.tcp is not None and link.tcp.slow_start
        varies = link.kind != "constant" or link.outages or slow_start or self.cell
        if self.sampled is not None and self.sampled.rate is not None and varies:
            raise problem_of(
                "sampled.rate",
                "known of links of constant rate of their own, without outages and with "
                "tcp.slow_start: false if there is tcp",
            )
        return self

    @model_validator(mode="after")
    def _battery_is_known(self) -> Self:
        use = self.battery
        if use is None:
            return self
        missing = next((k for k in ("battery", "idle_power") if not getattr(self.profile, k)), None)
        if missing is not None:
            raise problem_of("battery", f"the device's profile must state {missing} for this")
        assert self.profile.idle_power is not None
        pauses = use.when_low is not None and use.when_low.rule == "pause"
        if pauses and use.charger <= self.profile.idle_power.value:
            raise problem_of(
                "battery", "a paused device would never go on; expected: a charger above idle_power"
            )
        return self


class Batching(Strict):
    """A server that lets mini-batches wait, and learns from several in one step.

    A worker takes up what waits, `most` at once, when so many do or the first has waited for the
    `window`. `shared` is the share of a stated step that several pay once; of measured and roofline
    servers the cost model says how a step grows.
    """

    window: TimeOrZero
    most: Annotated[int, Field(ge=1, le=10_000, strict=True)]
    shared: Annotated[float, Field(ge=0, le=1)] | None = None


class Server(Strict):
    """The trainer of the side network; its workers share one queue.

    `discipline` says which of the mini-batches that wait is next, of each device its first: the one
    that came first, that of the next device in turn, the one with least work, or that of the device
    that had least of the workers' time so far.
    `colocated`: the one device and the one worker compute on one machine, and slow each other
    down as their profiles measured.
    `room`: how many mini-batches may have come or be coming in without being taken up; further ones
    wait on their devices.
    `batching`: mini-batches wait for one another, and are learned from in one step.
    `restarts`: when the server is down. What has arrived and what was stepped is kept; what is
    under way is lost and done anew.
    """

    profile: Annotated[ServerProfile, Nameable("servers")]
    workers: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 1
    colocated: bool = False
    discipline: Discipline = "first-come"
    room: Annotated[int, Field(ge=1, le=10**6, strict=True)] | None = None
    restarts: Outages | None = None
    batching: Batching | None = None

    @model_validator(mode="after")
    def _shares_what_is_stated(self) -> Self:
        shared = None if self.batching is None else self.batching.shared
        if shared is not None and not isinstance(self.profile, FixedServer):
            raise problem_of(
                "batching.shared", "known of a server of stated times; others have a cost model"
            )
        return self

    @model_validator(mode="after")
    def _restarts_alone(self) -> Self:
        if self.restarts is not None and self.colocated:
            raise problem_of("restarts", "not covered where the server is colocated with a device")
        return self

    @model_validator(mode="after")
    def _stays_cool(self) -> Self:
        for key in ("heat", "battery"):
            if getattr(self.profile, key) is not None:
                raise problem_of("profile", f"{key} is known of devices only, not of a server")
        return self


def _knows_contention(profile: DeviceProfile | ServerProfile) -> bool:
    return isinstance(profile, Measured) and profile.contention is not None


class Scenario(Strict):
    """Devices, their links and a server, one model and method, and what is to be learned.

    What a method has no use for may be stated, so that methods can be compared by changing
    `method` alone. `backbone_weights` quantises the device's frozen backbone. `attention` says how
    a device computes it, which decides what it keeps in memory. Without training `num_batches` may
    go through the same samples in `epochs`, which matters where a server keeps what it received,
    and `pooling` says which tokens' activations a head would read.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    method: Method = "mobillm"
    model: Annotated[ModelProfile, Nameable("models")] | None = None
    side_network: SideNetwork = SideNetwork()
    wire: Wire
    tuning: Tuning = Tuning()
    cache: Cache = Cache()
    federation: Federation = Federation()
    backbone_weights: BackboneWeights | None = None
    attention: AttentionKernel = "fused"
    training: Training | None = None
    num_batches: Count | None = None
    batch_size: Count | None = None
    sequence_length: Count | None = None
    epochs: Count = 1
    pooling: Pooling | None = None
    granularity: Literal["batch", "layer"] = "batch"
    deliver: Literal["trained", "none"] = "trained"
    cells: dict[Name, Cell] = Field(default_factory=dict)
    devices: Annotated[tuple[DeviceGroup, ...], Field(min_length=1)]
    server: Server
    horizon: Time | None = None
    jitter: Literal["none", "measured"] = "none"

    @property
    def num_devices(self) -> int:
        """Devices of all groups together."""
        return sum(group.count for group in self.devices)

    @property
    def ranges(self) -> list[range]:
        """The numbers of each group's devices."""
        ends = list(accumulate((group.count for group in self.devices), initial=0))
        return [range(first, last) for first, last in pairwise(ends)]

    @property
    def all_fixed(self) -> bool:
        """Whether every time and the payload are stated, so that no shape is needed."""
        return (
            all(isinstance(group.profile, FixedDevice) for group in self.devices)
            and isinstance(self.server.profile, FixedServer)
            and self.wire.payload_bytes is not None
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as text: pydantic's generic quantities cannot be."""
        return Scenario.model_validate_json, (self.model_dump_json(),)

    @model_validator(mode="after")
    def _cells_are_known(self) -> Self:
        for index, group in enumerate(self.devices):
            if group.cell is not None and group.cell not in self.cells:
                guess = nearest(group.cell, self.cells)
                hint = f"did you mean {guess!r}?" if guess else "expected: a key of cells"
                raise problem_of(f"devices[{index}].cell", f"no cell {group.cell!r}; {hint}")
        return self

    @model_validator(mode="after")
    def _work_is_stated_once(self) -> Self:
        shape = {"batch_size": self.batch_size, "sequence_length": self.sequence_length}
        if self.training is not None:
            only = {
                "num_batches": self.num_batches, **shape, "epochs": self.epochs > 1,
                "pooling": self.pooling,
            }  # fmt: skip
            stated = [k for k, v in only.items() if v]
            if stated:
                raise problem_of(
                    stated[0], "this goes with training: null; training states its own"
                )
            return self
        if self.num_batches is None:
            raise problem_of(
                "num_batches", "this key is missing; without training it says how many mini-batches"
            )
        if self.num_batches % self.epochs:
            raise problem_of("epochs", "expected: as many mini-batches in each epoch")
        missing = [key for key, value in shape.items() if value is None]
        if missing and (len(missing) == 1 or not self.all_fixed):
            raise problem_of(
                missing[0],
                "this key is missing; batch_size and sequence_length may be absent, both, only "
                "where every profile is fixed and wire.payload_bytes is stated",
            )
        return self

    @model_validator(mode="after")
    def _room_is_given_back(self) -> Self:
        if self.server.room is None:
            return self
        vanish = any(g.absences is not None and g.absences.kind == "abrupt" for g in self.devices)
        if self.server.colocated or vanish:
            raise problem_of(
                "server.room",
                "not covered where devices leave abruptly, or share the server's machine",
            )
        return self

    @model_validator(mode="after")
    def _spreads_are_known(self) -> Self:
        if self.jitter == "none":
            return self
        sides = {f"devices[{i}].profile": group.profile for i, group in enumerate(self.devices)}
        for where, profile in (sides | {"server.profile": self.server.profile}).items():
            kinds = ("step",) if where.startswith("server") else ("forward", "encode")
            if missing := [kind for kind in kinds if spread_of(profile, kind) is None]:
                raise problem_of(
                    "jitter",
                    f"{where} has no measured spread of {' and '.join(missing)}; measure one with "
                    "mobisim profile, or take jitter: none",
                )
        return self

    @model_validator(mode="after")
    def _contention_is_known(self) -> Self:
        if not self.server.colocated:
            return self
        device, server = self.devices[0].profile, self.server.profile
        if self.num_devices > 1 or self.server.workers > 1:
            raise problem_of("server", "colocated is known of one device and one worker only")
        if not (_knows_contention(device) and _knows_contention(server)):
            raise problem_of(
                "server",
                "colocated needs device and server profiles that state a measured contention; "
                "take them with mobisim profile --contention",
            )
        if device.heat is not None:
            raise problem_of("server", "colocated with a device that states heat is not covered")
        return self

    @model_validator(mode="after")
    def _some_devices_have_the_model(self) -> Self:
        models = [group.model or self.model for group in self.devices]
        if self.model not in models:
            raise problem_of(
                "model",
                "no device has this model; expected: that of a group, which may then leave its own "
                "out",
            )
        return self

    @model_validator(mode="after")
    def _model_is_known(self) -> Self:
        if self.model is not None:
            return self
        if self.training is not None or not self.all_fixed:
            raise problem_of(
                "model",
                "this key is missing; it may be absent only without training, where every "
                "profile is fixed and wire.payload_bytes is stated",
            )
        if self.deliver != "none":
            raise problem_of(
                "deliver",
                "without a model the size of what trains is unknown; expected: none, or a model",
            )
        if self.granularity == "layer" and self.side_network.taps == "all":
            raise problem_of(
                "granularity", "without a model, layer needs side_network.taps as a list"
            )
        return self
