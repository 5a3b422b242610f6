"""The methods that can be simulated, and the papers that describe them."""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.scenario.schema import Method


@dataclass(frozen=True)
class MethodInfo:
    """A method as its paper presents it; `reference` is a key of references.bib."""

    title: str
    description: str
    reference: str


METHODS: dict[Method, MethodInfo] = {
    "mobillm": MethodInfo(
        title="MobiLLM: server-assisted side-tuning",
        description=(
            "the device runs a frozen backbone forward and sends quantised activations one way; "
            "the server trains a side network of parallel adapters"
        ),
        reference="mobillm",
    ),
}
