"""`mobisim show`: what mobisim knows of devices, servers, links, models, codecs and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mobisim.calibrate import in_words
from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.calibration import calibrate
from mobisim.cost.operators import Operators
from mobisim.cost.wire import CODEC_BITS, SCALE_BYTES, UNSCALED
from mobisim.errors import unknown_name
from mobisim.report.citations import read_entries, readable
from mobisim.scenario import catalog
from mobisim.scenario.load import validate_profile
from mobisim.scenario.method_options import Codec
from mobisim.scenario.methods import METHODS
from mobisim.scenario.profiles import (
    ConstantLink,
    DeviceProfile,
    LinkProfile,
    Measured,
    ModelProfile,
    Profile,
    Roofline,
    ServerProfile,
    TraceLink,
    TransformerProfile,
)
from mobisim.scenario.provenance import SORTS, Origin, count_sorts, origins
from mobisim.scenario.traces import mean_rate
from mobisim.units import BITS_PER_BYTE, human_rate, human_size, human_time

WIDTH = 80
BLOCK_SIZE = 64  # of the codecs' table

Cells = tuple[str | Text, ...]

PROFILE_TYPES: dict[str, Any] = {
    "devices": DeviceProfile,
    "servers": ServerProfile,
    "links": LinkProfile,
    "models": ModelProfile,
}


@dataclass(frozen=True)
class CodecInfo:
    """What a codec's values are, and who defined them."""

    values: str
    source: str


CODECS: dict[Codec, CodecInfo] = {
    "fp32": CodecInfo("floats as they are", "IEEE 754"),
    "fp16": CodecInfo("half-precision floats", "IEEE 754"),
    "bf16": CodecInfo("the upper half of a float", "common practice"),
    "int8": CodecInfo("integers from -127 to 127, scaled per block", "common practice"),
    "int4": CodecInfo("integers from -7 to 7, scaled per block", "common practice"),
    "int3": CodecInfo("integers from -3 to 3, scaled per block", "common practice"),
    "int2": CodecInfo("-1, 0 and 1, scaled per block", "common practice"),
    "fp4": CodecInfo("16 floats of 4 bits, scaled per block", "bitsandbytes' code table"),
    "nf4": CodecInfo("16 quantiles of the normal distribution, scaled per block", "qlora"),
}


def show_kind(kind: str) -> None:
    """List all that mobisim knows of a kind: devices, servers, links, models, scenarios and so on.

    Raises:
        InputError: there is no such kind.
    """
    headings, rows = _of_kind(kind)
    table = Table(box=None, padding=(0, 2, 0, 0), width=min(WIDTH, Console().width))
    for heading in headings:
        right = heading in NUMERIC
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "about")
    for row in rows:
        table.add_row(*row)
    legend = "\nsources: 2p 7a means 2 values published, 7 assumed" if "sources" in headings else ""
    more = f"\nOne of them with all its values: mobisim show {kind} NAME"
    _print(table, Text(legend + more, "dim"))


def show_one(kind: str, name: str) -> None:
    """Show one of a kind with every value, its unit, source, range and note.

    Raises:
        InputError: there is none of that name; names the nearest.
    """
    if kind in PROFILE_TYPES:
        _print(*_profile_page(kind, name))
        return
    if name not in _names(kind):
        raise unknown_name(kind.removesuffix("s"), name, _names(kind))
    pages = {"scenarios": _scenario_page, "codecs": _codec_page, "methods": _method_page}
    _print(*pages[kind](name))


def _names(kind: str) -> list[str]:
    """The names of what there is of a kind that has no profiles."""
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    named: dict[str, list[str]] = {"codecs": [*CODECS], "methods": [*METHODS]}
    return named.get(kind) or catalog.scenario_names()


def _print(*parts: RenderableType) -> None:
    console = Console(highlight=False)
    console.print(Group(*parts), width=min(WIDTH, console.width))


def _of_kind(kind: str) -> tuple[tuple[str, ...], Iterator[Cells]]:
    if kind in PROFILE_TYPES:
        headings, row = KINDS[kind]
        return headings, (row(_profile(kind, name)) for name in catalog.names(kind))
    names = _names(kind)
    headings, row = KINDS[kind]
    return headings, (row(name) for name in names)


def _profile(kind: str, name: str) -> Profile:
    found: Profile = validate_profile(PROFILE_TYPES[kind], catalog.profile(kind, name))
    return found


def _machine_row(profile: Profile) -> Cells:
    assert isinstance(profile, Roofline | Measured)
    if isinstance(profile, Measured):
        rate = Operators.of(profile).best_flop_per_s
    else:
        rate = profile.flop_per_s.value
    return (
        profile.name,
        profile.precision.value,
        readable(f"{rate!r} flop/s") if rate else "measured",
        human_size(profile.memory.value) if profile.memory else "",
        _sources(profile),
        _about(profile),
    )


def _link_row(profile: Profile) -> Cells:
    assert isinstance(profile, ConstantLink | TraceLink)
    return (
        profile.name,
        human_rate(mean_rate(profile.uplink.value)),
        human_rate(mean_rate(profile.down.value)),
        human_time(profile.latency.value.mean),
        _sources(profile),
        _about(profile),
    )


def _model_row(profile: Profile) -> Cells:
    sizes = _sizes(profile)
    layers, width = str(sizes.num_layers), str(sizes.width)
    return profile.name, _count(sizes.backbone_parameters), layers, width, _about(profile)


def _scenario_row(name: str) -> Cells:
    return name, Text(_question(name))


def _codec_row(name: str) -> Cells:
    info = CODECS[name]  # type: ignore[index]  # one of its keys
    return name, f"{_bits(name):g}", info.source, Text(info.values)


def _method_row(name: str) -> Cells:
    info = METHODS[name]
    return name, info.reference, Text(info.description)


Row = Callable[[Any], Cells]
KINDS: dict[str, tuple[tuple[str, ...], Row]] = {
    "devices": (("name", "type", "rate", "memory", "sources", "about"), _machine_row),
    "servers": (("name", "type", "rate", "memory", "sources", "about"), _machine_row),
    "links": (("name", "up", "down", "latency", "sources", "about"), _link_row),
    "models": (("name", "parameters", "layers", "width", "about"), _model_row),
    "scenarios": (("name", "about"), _scenario_row),
    "codecs": (("name", "bits per value", "source", "about"), _codec_row),
    "methods": (("name", "paper", "about"), _method_row),
}
OF_DEVICES = ("heat", "battery")
NUMERIC = ("rate", "memory", "up", "down", "latency", "parameters", "layers", "width")


def _about(profile: Profile) -> Text:
    return Text(profile.description, "dim")


def _sources(profile: Profile) -> str:
    """How well a profile is founded: `3p 8a` for 3 published and 8 assumed values."""
    counts = count_sorts(origins(profile))
    return " ".join(f"{number}{sort[0]}" for sort, number in counts.items() if number)


def _sizes(profile: Profile) -> Architecture:
    assert isinstance(profile, TransformerProfile)
    return architecture(profile.config, where=f"profiles/models/{profile.name}.yaml")


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M"


def _bits(codec: str) -> float:
    """Bits of one value, its share of the block's scale included."""
    share = 0.0 if codec in UNSCALED else SCALE_BYTES * BITS_PER_BYTE / BLOCK_SIZE
    return CODEC_BITS[codec] + share  # type: ignore[index]  # one of its keys


def _question(name: str) -> str:
    """A scenario's first line: the question that it asks."""
    return _scenario_text(name).partition("\n")[0].removeprefix("#").strip()


def _scenario_text(name: str) -> str:
    return (catalog.shipped("scenarios") / f"{name}.yaml").read_text("utf-8")


def _profile_page(kind: str, name: str) -> Iterator[RenderableType]:
    profile = _profile(kind, name)
    yield Text(profile.name, "bold")
    yield Text(profile.description)
    yield Text(f"profiles/{kind}/{name}.yaml\n", "dim")
    if isinstance(profile, TransformerProfile):
        yield _grid(_model_values(profile))
    else:
        yield _grid((origin.path, _value(origin)) for origin in _every_origin(kind, profile))
        if isinstance(profile, Roofline) and profile.prefill:
            yield Text("\n").append(in_words(calibrate(profile)))
    yield from _bibliography({origin.source for origin in origins(profile)})


def _every_origin(kind: str, profile: Profile) -> Iterator[Origin]:
    """All sourced values, those of defaults included, and what the profile leaves open."""
    yield from origins(profile)
    for field in type(profile).model_fields:
        if getattr(profile, field) is None and not (kind == "servers" and field in OF_DEVICES):
            yield Origin(field, "not stated", "", None, None)


def _model_values(profile: TransformerProfile) -> Iterator[tuple[str, Text]]:
    sizes = _sizes(profile)
    yield "source", Text(profile.source)
    yield "parameters", Text(f"{sizes.backbone_parameters:,} in the backbone, counted")
    yield "", Text(f"{sizes.language_model_parameters:,} with the output head, counted")
    if profile.num_parameters is not None:
        yield "", Text(f"{profile.num_parameters:,} as published")
    for key, value in asdict(sizes).items():
        if isinstance(value, int) and not isinstance(value, bool) and value:
            yield key.replace("_", " "), Text(f"{value:,}")
    yield "reads", Text("left to right" if sizes.is_decoder else "both ways")


def _value(origin: Origin) -> Text:
    """A value with its source and range, its note below."""
    text = Text(_readable(origin.value, origin.path))
    if origin.source:
        text.append(f"  {origin.source}", "cyan" if origin.sort != "assumed" else "yellow")
    if origin.range is not None:
        low, high = (_readable(bound, origin.path) for bound in origin.range)
        text.append(f", {low} to {high}", "yellow")
    if origin.note:
        text.append(f"\n{origin.note}", "dim")
    return text


def _readable(value: str, path: str) -> str:
    number, _, unit = value.partition(" ")
    if unit == "W/(bit/s)":  # nobody thinks in watts per bit per second
        return f"{float(number) * 1e9:.4g} mW/(Mbit/s)"
    if path.endswith("_bytes"):
        return f"{value} B"
    if path.endswith("num_tokens"):
        return f"{value} tokens"
    return readable(value)


def _grid(rows: Iterator[tuple[str, Text]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, value in rows:
        grid.add_row(name, value)
    return grid


def _bibliography(sources: set[str]) -> Iterator[RenderableType]:
    """Title and address of each source that is a key of the bibliography."""
    entries = read_entries(catalog.references())
    for key in sorted(sources & set(entries)):
        yield Text(f"\n{entries[key]}", "dim")
    for key in sorted(sources - set(entries) - set(SORTS)):
        yield Text(f"\n{key}: not in the bibliography", "yellow")


def _scenario_page(name: str) -> Iterator[RenderableType]:
    yield Text(f"scenarios/{name}.yaml\n", "dim")
    yield Text(_scenario_text(name).rstrip("\n"))


def _codec_page(name: str) -> Iterator[RenderableType]:
    info = CODECS[name]  # type: ignore[index]  # one of its keys
    scale = "none" if name in UNSCALED else f"one of {SCALE_BYTES} bytes per block"
    values = {
        "values": info.values,
        "bits per value": f"{CODEC_BITS[name]}, without scales",  # type: ignore[index]
        "": f"{_bits(name):g}, with the scales of blocks of {BLOCK_SIZE}",
        "scale": scale,
        "source": info.source,
    }
    yield Text(f"{name}\n", "bold")
    yield _grid((key, Text(value)) for key, value in values.items())
    yield from _bibliography({info.source} & set(read_entries(catalog.references())))


def _method_page(name: str) -> Iterator[RenderableType]:
    info = METHODS[name]
    yield Text(info.title, "bold")
    yield Text(info.description)
    yield from _bibliography({info.reference})
