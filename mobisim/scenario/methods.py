"""The methods of fine-tuning, each as data: what trains, where, and what crosses the link.

Memory, FLOPs and traffic follow from these answers (mobisim.cost); no method has a loop of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What of the backbone's own parameters trains; "norms" means weights and biases of the norms.
OwnWeights = Literal["all", "biases", "norms"]
Site = Literal["device", "server"]
# What can cross the link. Up, per mini-batch or sample; down, during training or once at its end.
Crossing = Literal["activations", "labels", "side_network"]


@dataclass(frozen=True)
class Lora:
    """Pairs of matrices d_in x rank and rank x d_out beside some projections of each block.

    The defaults are peft's for OPT and Llama; where a backbone has one matrix for queries, keys
    and values (GPT-2), that one is adapted, as peft does.
    """

    rank: int = 8
    targets: tuple[Literal["query", "key", "value", "out"], ...] = ("query", "value")


@dataclass(frozen=True)
class Adapters:
    """Two bottlenecks with GELU and biases in each block: after attention and after the MLP."""

    bottleneck: int = 64


@dataclass(frozen=True)
class Ladder:
    """A side network of the backbone's own sort of block, `reduction` times narrower.

    Each block's output is projected down and mixed in by a gate before its side block; at the end
    a projection back up, and a last gate between side network and backbone.
    """

    reduction: int = 8


@dataclass(frozen=True)
class ParallelAdapters:
    """MobiLLM's side network: one gated bottleneck per tap; a scenario states its sizes."""


Bypass = Lora | Adapters | Ladder | ParallelAdapters


@dataclass(frozen=True)
class MethodInfo:
    """A method as its paper presents it; `reference` is a key of references.bib.

    Attributes:
        trains: which of the backbone's own parameters train; the head always does, unless it is
            the backbone's own output embedding.
        bypass: what is added and trains.
        site: where the trainable part lives.
        backward_through_backbone: whether gradients flow through the backbone, so that autograd
            keeps its activations; otherwise it runs forward only.
        up: what goes from the device to the server for each mini-batch.
        down: what comes back; a side network comes once, when training is done.
    """

    title: str
    description: str
    reference: str
    trains: tuple[OwnWeights, ...] = ()
    bypass: Bypass | None = None
    site: Site = "device"
    backward_through_backbone: bool = True
    up: tuple[Crossing, ...] = ()
    down: tuple[Crossing, ...] = ()


METHODS: dict[str, MethodInfo] = {
    "mobillm": MethodInfo(
        title="MobiLLM: server-assisted side-tuning",
        description=(
            "the device runs a frozen backbone forward and sends quantised activations one way; "
            "the server trains a side network of parallel adapters"
        ),
        reference="mobillm",
        bypass=ParallelAdapters(),
        site="server",
        backward_through_backbone=False,
        up=("activations", "labels"),
        down=("side_network",),
    ),
    "full": MethodInfo(
        title="Full fine-tuning",
        description="every parameter trains, on the device (memory and FLOPs only, so far)",
        reference="adamw",
        trains=("all",),
    ),
    "lora": MethodInfo(
        title="LoRA",
        description=(
            "low-rank matrices beside the query and value projections train, on the device "
            "(memory and FLOPs only, so far)"
        ),
        reference="lora",
        bypass=Lora(),
    ),
    "bitfit": MethodInfo(
        title="BitFit",
        description="the biases alone train, on the device (memory and FLOPs only, so far)",
        reference="bitfit",
        trains=("biases",),
    ),
    "adapters": MethodInfo(
        title="Houlsby adapters",
        description=(
            "bottlenecks within each block and the norms train, on the device (memory and FLOPs "
            "only, so far)"
        ),
        reference="houlsby-adapters",
        trains=("norms",),
        bypass=Adapters(),
    ),
    "lst": MethodInfo(
        title="LST: ladder side-tuning",
        description=(
            "a narrow ladder beside the frozen backbone trains, on the device (memory and FLOPs "
            "only, so far)"
        ),
        reference="lst",
        bypass=Ladder(),
        backward_through_backbone=False,
    ),
}
