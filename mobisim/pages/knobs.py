"""Knobs: what can be moved on the page, and the overrides of a scenario that each stop stands for.

A knob that is not touched overrides nothing, so that the page opens with the scenario as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mobisim.cost.architecture import architecture
from mobisim.errors import InputError, unknown_name
from mobisim.scenario import catalog
from mobisim.scenario.schema import Scenario
from mobisim.scenario.traces import OpportunityTrace, RateTrace
from mobisim.units import human_rate

CODECS = ("fp32", "fp16", "bf16", "int8", "nf4", "fp4", "int4", "int3", "int2")
RATES = tuple(factor * 10.0**power for power in range(4, 8) for factor in (10, 15, 20, 30, 50, 70))
SIZES = tuple(2**power for power in range(9))
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200)
WORKERS = (1, 2, 3, 4, 6, 8, 12, 16)

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Knob:
    """A field to move: its stops, the one at which it begins, and what a stop overrides.

    `stated` is what the scenario says; `sets` gives overrides as `--set` takes them.
    """

    key: str
    label: str
    stops: tuple[str, ...]
    begin: int
    stated: str
    slides: bool
    sets: Callable[[str], list[str]]


def knobs_of(scenario: Scenario) -> list[Knob]:
    """The knobs that a scenario has a use for."""
    makers = (_uplink, _codec, _device, _batch, _taps, _devices, _workers)
    return [knob for make in makers if (knob := make(scenario)) is not None]


def overrides_of(knobs: Sequence[Knob], settings: Settings) -> list[str]:
    """The overrides of the knobs that were moved, in the order of the knobs.

    Raises:
        InputError: no such knob, or no such stop.
    """
    by_key = {knob.key: knob for knob in knobs}
    for key, value in settings.items():
        if key not in by_key:
            raise unknown_name("knob", key, by_key)
        if value not in by_key[key].stops:
            raise InputError(
                "no such stop", where=key, expected=", ".join(by_key[key].stops), got=value
            )
    return [text for k in knobs if k.key in settings for text in k.sets(settings[k.key])]


def _uplink(scenario: Scenario) -> Knob | None:
    rates = [group.link.uplink.value for group in scenario.devices]
    stated = [rate for rate in rates if not isinstance(rate, RateTrace | OpportunityTrace)]
    if len(stated) < len(rates):
        return None
    values = sorted({*RATES, stated[0]})
    stops = tuple(human_rate(value) for value in values)
    return Knob(
        "uplink",
        "bandwidth of each uplink",
        stops,
        values.index(stated[0]),
        _each(human_rate(rate) for rate in stated),
        True,
        lambda stop: [f"devices[*].link.uplink={stop}"],
    )


def _codec(scenario: Scenario) -> Knob | None:
    codec = scenario.wire.codec
    if codec is None or scenario.wire.payload_bytes is not None:
        return None
    begin = CODECS.index(codec)
    return Knob("codec", "codec", CODECS, begin, codec, False, lambda stop: [f"wire.codec={stop}"])


def _device(scenario: Scenario) -> Knob | None:
    if scenario.all_fixed:
        return None
    names = tuple(catalog.names("devices"))
    stated = [str(getattr(group.profile, "name", "inline")) for group in scenario.devices]
    begin = names.index(stated[0]) if stated[0] in names else 0
    return Knob(
        "device",
        "device",
        names,
        begin,
        _each(stated),
        False,
        lambda stop: [f"devices[*].profile={stop}"],
    )


def _batch(scenario: Scenario) -> Knob | None:
    training = scenario.training
    stated = training.batch_size if training else scenario.batch_size
    if stated is None or scenario.all_fixed:
        return None
    path = "training.batch_size" if training else "batch_size"
    return _numbers("batch", "samples in a mini-batch", SIZES, stated, lambda n: [f"{path}={n}"])


def _taps(scenario: Scenario) -> Knob | None:
    models = [group.model or scenario.model for group in scenario.devices]
    depths = [architecture(model.config).num_layers for model in models if model is not None]
    if not depths:
        return None
    most, taps = min(depths), scenario.side_network.taps
    stated = most if taps == "all" else len(taps)

    def sets(number: int) -> list[str]:
        spread = [-(-place * most // number) for place in range(1, number + 1)]
        chosen = "all" if number == most else f"[{', '.join(map(str, spread))}]"
        return [f"side_network.taps={chosen}"]

    return _numbers("taps", "tapped layers", range(1, most + 1), stated, sets)


def _devices(scenario: Scenario) -> Knob:
    counts = [group.count for group in scenario.devices]
    total, groups = sum(counts), len(counts)

    def sets(number: int) -> list[str]:
        """As many of each sort as before, as far as that goes; every sort keeps one."""
        ends = [sum(counts[: i + 1]) * (number - groups) // total + i + 1 for i in range(groups)]
        each = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return [f"devices[{i}].count={count}" for i, count in enumerate(each)]

    stops = [count for count in COUNTS if count >= groups]
    return _numbers("devices", "devices per server", stops, total, sets)


def _workers(scenario: Scenario) -> Knob:
    workers = scenario.server.workers
    return _numbers(
        "workers", "workers of the server", WORKERS, workers, lambda n: [f"server.workers={n}"]
    )


def _numbers(
    key: str, label: str, stops: Sequence[int], stated: int, sets: Callable[[int], list[str]]
) -> Knob:
    values = sorted({*stops, stated})
    texts = tuple(map(str, values))
    begin = values.index(stated)
    return Knob(key, label, texts, begin, str(stated), True, lambda stop: sets(int(stop)))


def _each(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
