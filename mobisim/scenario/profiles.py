"""What is known of devices, servers, links and models: the schemas of profile files."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mobisim.scenario.quantities import (
    Bandwidth,
    ByteCount,
    Compute,
    Duration,
    Energy,
    PositiveByteCount,
    PositiveDuration,
    PowerOrZero,
    PowerPerRate,
    Rate,
    Size,
    SizeOrZero,
    Sourced,
    Strict,
    Time,
    TimeOrZero,
    is_number,
    problem_of,
)
from mobisim.scenario.samples import Sample
from mobisim.scenario.traces import OpportunityTrace, RateOrTrace

Share = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]


class Covers(Strict):
    """The shapes for which a profile's rates were measured or are taken to hold."""

    num_tokens: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    source: str = "stated"
    note: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.num_tokens[0] > self.num_tokens[1]:
            raise ValueError("expected: num_tokens: [low, high] with low <= high")
        return self


class Profile(Strict):
    """What every profile says of itself."""

    name: str = "inline"
    description: str = ""


class Heat(Strict):
    """What warmth takes from a machine that cannot shed it.

    Under steady load its pace falls from 1 towards `sustained_clock` with `time_constant`, and
    comes back at rest.
    """

    sustained_clock: Sourced[Annotated[float, Field(gt=0, le=1)]]
    time_constant: Sourced[Time]


class Machine(Profile):
    """What devices and servers share: memory and power, and heat and a battery, where stated."""

    memory: Sourced[Size] | None = None
    runtime_memory: Sourced[SizeOrZero] | None = None
    idle_power: Sourced[PowerOrZero] | None = None
    load_power: Sourced[PowerOrZero] | None = None
    heat: Heat | None = None
    battery: Sourced[Energy] | None = None

    @model_validator(mode="after")
    def _both_powers(self) -> Self:
        if (self.idle_power is None) != (self.load_power is None):
            raise ValueError("expected: idle_power and load_power together, or neither")
        if self.idle_power and self.load_power and self.idle_power.value > self.load_power.value:
            raise problem_of("load_power", "expected: at least idle_power")
        return self


class Prefill(Strict):
    """A published prefill rate: how many tokens of one prompt an engine took in per second.

    The model is a shipped one, or `num_parameters` counts its weights without embeddings and head.
    """

    model: str | None = None
    num_parameters: Annotated[float, Field(gt=0)] | None = None
    num_tokens: Annotated[int, Field(ge=1)]
    tokens_per_s: Annotated[float, Field(gt=0)]
    engine: str
    source: str
    note: str | None = None

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.num_parameters is None):
            raise ValueError("expected: a model, or num_parameters")
        return self


class Roofline(Machine):
    """A machine whose kernels last max(FLOPs / rate, bytes / bandwidth) + operators x overhead.

    `prefill` holds the published rates that `flop_per_s` is fitted to, at this precision.
    """

    kind: Literal["roofline"]
    precision: Sourced[Precision]
    flop_per_s: Sourced[Compute]
    memory_bandwidth: Sourced[Bandwidth]
    op_overhead: Sourced[TimeOrZero]
    memory: Sourced[Size]
    runtime_memory: Sourced[SizeOrZero]
    covers: Covers
    prefill: tuple[Prefill, ...] = ()


BUNDLE_VERSION = 1


class FitError(Strict):
    """How far the predictor is off at measured blocks that were left out of it, as shares."""

    median: Annotated[float, Field(ge=0)]
    p90: Annotated[float, Field(ge=0)]
    left_out: Annotated[int, Field(ge=0)]


Above = Annotated[float, Field(gt=0)]
Times = Annotated[int, Field(ge=1)]


class Spread(Strict):
    """How far whole pieces of work vary: tenth and ninetieth percentile over the median."""

    p10: Annotated[float, Field(gt=0, le=1)]
    p90: Annotated[float, Field(ge=1)]
    repeats: Times


class Spreads(Strict):
    """The spread of a mini-batch's forward and of its encoding, or of a server's whole step."""

    forward: Spread | None = None
    encode: Spread | None = None
    step: Spread | None = None


class Contention(Strict):
    """Device and server on one machine: seconds beside the other over seconds alone.

    `slowdown` is the median over interleaved pairs, `p10` and `p90` their percentiles; `beside`
    says what ran on another core meanwhile.
    """

    slowdown: Sourced[Above]
    p10: Above
    p90: Above
    repeats: Times
    beside: str

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.p10 <= self.slowdown.value <= self.p90:
            raise ValueError("expected: p10 <= slowdown <= p90")
        return self


class Measured(Machine):
    """A machine whose operators were timed by `mobisim profile`; `samples` holds what it took."""

    kind: Literal["measured"]
    version: int
    role: Literal["device", "server"]
    precision: Sourced[Precision]
    threads: Annotated[int, Field(ge=1)]
    machine: str
    accelerator: str = "cpu"
    software: dict[str, str]
    date: str
    method: str
    grid: str
    ranges: dict[str, tuple[int, int]]
    fit_error: FitError | None = None
    spread: Spreads | None = None
    contention: Contention | None = None
    num_samples: Annotated[int, Field(ge=1)]
    samples: Annotated[tuple[Sample, ...], Field(min_length=1)]

    @field_validator("version")
    @classmethod
    def _version_is_known(cls, version: int) -> int:
        if version != BUNDLE_VERSION:
            raise ValueError(
                f"expected: version {BUNDLE_VERSION} of measured profiles; profile again, or use "
                "the mobisim that wrote it"
            )
        return version

    @model_validator(mode="after")
    def _precision_was_measured(self) -> Self:
        timed = sorted({sample.precision for sample in self.samples})
        if self.precision.value not in timed:
            raise problem_of("precision", f"expected: one that was timed: {', '.join(timed)}")
        return self


def spread_of(profile: Machine, kind: str) -> Spread | None:
    """The measured spread of a `kind` of work; None where the profile tells of none."""
    if not isinstance(profile, Measured) or profile.spread is None:
        return None
    found: Spread | None = getattr(profile.spread, kind)
    return found


class FixedDevice(Machine):
    """A device with stated times, for teaching and for tests against theory."""

    kind: Literal["fixed"]
    forward_s: Sourced[PositiveDuration]
    encode_s: Sourced[Duration]
    precision: Sourced[Precision] = Sourced[Precision](value="fp16")


class FixedServer(Machine):
    """A server with a stated time per step, decoding included.

    `forward_share` is the part of the step that is side-network forward; layer granularity can
    begin it before all taps have arrived.
    """

    kind: Literal["fixed"]
    step_s: Sourced[PositiveDuration]
    precision: Sourced[Precision] = Sourced[Precision](value="fp32")
    forward_share: Sourced[Share] = Sourced[Share](
        value=1 / 3, source="assumed", range=(0.2, 0.5), note="backward costs about two forwards"
    )


def _needs_unit(value: Any) -> Any:
    if is_number(value) and value != 0:
        raise ValueError("the unit is missing; expected: a duration such as '10 ms'")
    return value


Latency = Annotated[Duration, BeforeValidator(_needs_unit)]


class Radio(Strict):
    """Power of the radio while it sends: base_power + power_per_rate x rate."""

    power_per_rate: Sourced[PowerPerRate]
    base_power: Sourced[PowerOrZero]


PacketCount = Annotated[int, Field(ge=1, le=65536, strict=True)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Window = tuple[TimeOrZero, TimeOrZero]


class Outages(Strict):
    """When a link carries nothing, a device is away or the server down: windows, or by turns.

    By turns it is up first. Durations may be constant, or exponential with random factors of each
    link's, device's or server's own.
    """

    windows: tuple[Window, ...] = ()
    up: Sourced[PositiveDuration] | None = None
    down: Sourced[PositiveDuration] | None = None

    @model_validator(mode="after")
    def _stated_one_way(self) -> Self:
        if self._says_enough() and not self.windows and self.up is self.down is None:
            return self
        if (self.up is None) != (self.down is None) or bool(self.windows) == (self.up is not None):
            raise ValueError("expected: windows: [[start, end], ...], or up and down")
        ends = [0.0, *(instant for window in self.windows for instant in window)]
        if any(a > b for a, b in pairwise(ends)) or any(a == b for a, b in self.windows):
            raise problem_of("windows", "expected: windows in ascending order, each with a length")
        return self

    def _says_enough(self) -> bool:
        """Whether windows and turns may both be left out."""
        return False


class Joins(Strict):
    """When devices join: each at an instant of its own, drawn from a window that begins at 0.

    `shares` weigh equal parts of the window, such as the hours of a day; without them every instant
    is as likely as any other, as in a Poisson stream.
    """

    within: Sourced[Time]
    shares: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _somebody_joins(self) -> Self:
        if self.shares and not any(self.shares):
            raise problem_of("shares", "expected: a share above zero among them")
        return self


class Absences(Outages):
    """When a device is away, how it leaves, and when it joins, from when turns are counted.

    `graceful`: between mini-batches; what it has begun is finished and sent. `abrupt`: at once;
    what it computes and sends then is lost and begun anew once it is back.
    """

    kind: Literal["graceful", "abrupt"] = "graceful"
    joins: Joins | None = None

    def _says_enough(self) -> bool:
        return self.joins is not None


class Tcp(Strict):
    """What TCP makes of a link, in simple form: slow start, a greatest window, random loss."""

    slow_start: bool = True
    initial_packets: Sourced[PacketCount] = Sourced[PacketCount](
        value=10, source="rfc6928", note="packets that may be on their way before any answer"
    )
    restart_after: Sourced[Time] = Sourced[Time](
        value="0.2 s",
        source="assumed",
        range=("0.2 s", "1 s"),
        note="idle time that makes windows small again: Linux's least timeout; RFC 6298: 1 s",
    )
    max_window: Sourced[Size] | None = None
    loss: Sourced[Probability] | None = None


class Link(Profile):
    """What all links share.

    Each `mtu_bytes` of a message, or a rest of it, travels as one packet that costs
    `overhead_bytes` more. `latency` is one way, delays arrival and never occupies the link.
    """

    kind: str
    uplink: Sourced[Any]
    downlink: Sourced[Any] | None = None
    latency: Sourced[Latency]
    overhead_bytes: Sourced[ByteCount]
    mtu_bytes: Sourced[PositiveByteCount] = Sourced[PositiveByteCount](
        value=1500, source="assumed", range=(576, 9000), note="Ethernet's usual packet"
    )
    radio: Radio | None = None
    tcp: Tcp | None = None
    outages: Outages | None = None

    @model_validator(mode="after")
    def _tcp_has_a_round_trip(self) -> Self:
        if self.tcp is not None and self.latency.value.mean == 0:
            raise problem_of("tcp", "this needs a latency above zero: TCP's rounds are round trips")
        return self

    def wire_bytes(self, message_bytes: int) -> int:
        """Bytes that occupy the link for a message: its own and its packets' overhead."""
        packets = math.ceil(message_bytes / self.mtu_bytes.value)
        return message_bytes + packets * self.overhead_bytes.value


class ConstantLink(Link):
    """A link of constant rate, first come first served, up and down apart."""

    kind: Literal["constant"]
    uplink: Sourced[Rate]
    downlink: Sourced[Rate] | None = None

    @property
    def down(self) -> Sourced[Rate]:
        """The downlink's rate: the uplink's where none is stated."""
        return self.downlink or self.uplink


class TraceLink(Link):
    """A link whose rate follows a trace that repeats, up and down apart.

    The traces start at `offset`, or at a random one of each link's own.
    """

    kind: Literal["trace"]
    uplink: Sourced[RateOrTrace]
    downlink: Sourced[RateOrTrace]
    offset: Sourced[TimeOrZero] | Literal["random"] = Sourced[TimeOrZero](value=0.0)

    @property
    def down(self) -> Sourced[RateOrTrace]:
        """The downlink's rate or trace."""
        return self.downlink

    @model_validator(mode="after")
    def _opportunities_stay_whole(self) -> Self:
        limited = self.tcp is not None and (self.tcp.max_window or self.tcp.loss)
        for key in ("uplink", "downlink"):
            if limited and isinstance(getattr(self, key).value, OpportunityTrace):
                raise problem_of(key, "tcp.max_window and tcp.loss limit rates; expected: a CSV")
        return self


class TransformerProfile(Profile):
    """A backbone, by the keys of its Hugging Face config.json."""

    kind: Literal["transformer"] = "transformer"
    config: dict[str, Any]
    source: str = "stated"
    num_parameters: Annotated[int, Field(ge=1)] | None = None

    @field_validator("config")
    @classmethod
    def _numbers_are_finite(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key, value in config.items():
            if is_number(value) and not math.isfinite(value):
                raise problem_of(key, "expected: a finite number")
        return config


DeviceProfile = Annotated[FixedDevice | Measured | Roofline, Field(discriminator="kind")]
ServerProfile = Annotated[FixedServer | Measured | Roofline, Field(discriminator="kind")]
LinkProfile = Annotated[ConstantLink | TraceLink, Field(discriminator="kind")]
ModelProfile = TransformerProfile
