"""Where the values that a scenario rests on come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mobisim.scenario.profiles import Covers, Measured, Prefill, TransformerProfile
from mobisim.scenario.quantities import Sourced
from mobisim.scenario.traces import OpportunityTrace, RateTrace

SORTS = ("measured", "published", "assumed", "stated")


@dataclass(frozen=True)
class Origin:
    """One value, as text, and its source."""

    path: str
    value: str
    source: str
    range: tuple[str, str] | None
    note: str | None

    @property
    def sort(self) -> str:
        """One of SORTS; a key of the bibliography counts as published."""
        return self.source if self.source in SORTS else "published"


def origins(description: BaseModel) -> list[Origin]:
    """The origins of all sourced values below a description, in the order of its fields."""
    return list(_walk(description, ""))


def count_sorts(found: list[Origin]) -> dict[str, int]:
    """How many of the values are measured, published, assumed and stated."""
    return {sort: sum(origin.sort == sort for origin in found) for sort in SORTS}


def _walk(value: Any, path: str) -> Iterator[Origin]:
    if isinstance(value, Sourced):
        yield _of_sourced(value, path)
    elif isinstance(value, Covers):
        low, high = value.num_tokens
        yield Origin(f"{path}.num_tokens", f"{low} to {high}", value.source, None, value.note)
    elif isinstance(value, TransformerProfile):
        yield Origin(f"{path}.config", value.name, value.source, None, None)
    elif isinstance(value, Prefill):
        yield _of_prefill(value, path)
    elif isinstance(value, BaseModel):
        if isinstance(value, Measured):
            yield _of_samples(value, path)
        for name in type(value).model_fields:
            yield from _walk(getattr(value, name), f"{path}.{name}".removeprefix("."))
    else:
        for key, item in _items(value):
            yield from _walk(item, f"{path}{key}")


def _items(value: Any) -> list[tuple[str, Any]]:
    """What a container holds, by what its paths add."""
    if isinstance(value, dict):
        return [(f".{name}", item) for name, item in value.items()]
    return [(f"[{i}]", item) for i, item in enumerate(value)] if isinstance(value, tuple) else []


def _of_prefill(point: Prefill, path: str) -> Origin:
    model = point.model or f"{point.num_parameters:.3g} weights"
    facts = (model, f"{point.num_tokens} tokens", point.engine, point.note)
    note = ", ".join(fact for fact in facts if fact)
    return Origin(path, f"{point.tokens_per_s:g} tok/s", point.source, None, note)


def _of_samples(profile: Measured, path: str) -> Origin:
    operators = len({sample.operator for sample in profile.samples})
    text = f"{len(profile.samples)} medians of {operators} operators"
    note = f"{profile.machine}, threads: {profile.threads}, {profile.date}: {profile.method}"
    return Origin(f"{path}.samples".removeprefix("."), text, "measured", None, note)


def _of_sourced(value: Sourced[Any], path: str) -> Origin:
    if isinstance(value.value, RateTrace | OpportunityTrace):
        return Origin(path, str(value.value), value.source, None, value.note)
    written = value.model_dump(mode="json")
    limits = written["range"]
    return Origin(
        path,
        _text(written["value"]),
        value.source,
        (_text(limits[0]), _text(limits[1])) if limits else None,
        value.note,
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a duration
        constant = value["distribution"] == "constant"
        return value["mean"] if constant else f"{value['mean']}, {value['distribution']}"
    return str(value)
