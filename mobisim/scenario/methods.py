"""The methods of fine-tuning, each as data: what trains, where, and what crosses the link.

Memory, FLOPs and traffic follow from these answers (mobisim.cost); no method has a loop of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What of the backbone's own parameters trains; "norms" means weights and biases of the norms.
OwnWeights = Literal["all", "biases", "norms"]
Site = Literal["device", "server", "split"]
# Transformers' scaled_dot_product_attention, or products and softmax one by one.
AttentionKernel = Literal["fused", "eager"]
# What can cross the link. Up, per mini-batch or sample; down, as a reply to a mini-batch or, what
# trained at the server, once at the end. A model, all that trains, crosses for each round.
Crossing = Literal[
    "activations", "labels", "residuals", "tokens", "scalars", "gradients", "update", "trained",
    "model",
]  # fmt: skip
# What the device does for a mini-batch: nothing; the frozen backbone's forward; forwards with its
# bypass perturbed; the training of the layers below a cut; all of the training.
DeviceWork = Literal["nothing", "forward", "perturbed_forwards", "lower_layers", "training"]
Tokens = Literal["all", "loss"]
# What makes a version: the updates that a round waits for, or those that came in its time; or every
# so many updates of devices that are called one by one, whatever version they began from.
Barrier = Literal["synchronous", "buffered"]
Learns = Literal["labels", "residuals"]
Prediction = Literal["head", "verbaliser", "uniform"]
BackboneWeights = Literal["int8", "nf4"]
# How it learns: a side network beside a frozen backbone; gradients through the backbone, or through
# one that is cut in two; slopes of the loss along random directions.
Kernel = Literal["side_network", "gradients", "cut_gradients", "slopes"]


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
class Defaults:
    """What a method takes for the options that a scenario leaves to it.

    Attributes:
        caches: whether the server keeps what it received, for later epochs.
        tokens: which tokens' activations go up: all, or those that enter the loss.
        learns: what the side network is trained on: the labels, or what they differ by from the
            device's own prediction.
        prediction: where that prediction comes from; None where a scenario has to say.
    """

    caches: bool = False
    tokens: Tokens = "all"
    learns: Learns = "labels"
    prediction: Prediction | None = None


@dataclass(frozen=True)
class MethodInfo:
    """A method as its paper presents it; `reference` is a key of references.bib.

    Attributes:
        trains: which of the backbone's own parameters train; the head always does, unless it is
            the backbone's own output embedding.
        bypass: what is added and trains.
        site: where the trainable part lives; with `split`, the layers up to a cut on the device.
        device: what the device does for a mini-batch.
        backward_through_backbone: whether gradients flow through the backbone, so that autograd
            keeps its activations; otherwise it runs forward only.
        up: what goes from the device to the server for each mini-batch; labels stand for what
            `Defaults.learns` says.
        down: what comes back: gradients or an update for each mini-batch, for which the device
            waits; what trained at the server once, when training is done.
        ranks: whether devices may have ranks of their own, up to the bypass's.
        rounds: what makes a version of what devices learn apart, if they do.
        single_pass: whether devices go through their data once, and the server may learn on from
            what it has kept of all of them.
        defaults: what it takes for the options of methods with a side network.
    """

    title: str
    description: str
    reference: str
    trains: tuple[OwnWeights, ...] = ()
    bypass: Bypass | None = None
    site: Site = "device"
    device: DeviceWork = "training"
    backward_through_backbone: bool = True
    up: tuple[Crossing, ...] = ()
    down: tuple[Crossing, ...] = ()
    rounds: Barrier | None = None
    ranks: bool = False
    single_pass: bool = False
    defaults: Defaults = Defaults()

    @property
    def exchanges(self) -> tuple[tuple[Crossing, ...], tuple[Crossing, ...]]:
        """What goes down and what goes up for each round."""
        if self.rounds is None:
            return (), ()
        down, up = (
            tuple(what for what in way if what in ("model", "scalars"))
            for way in (self.down, self.up)
        )
        return down, up

    @property
    def replies(self) -> tuple[Crossing, ...]:
        """What the device waits for after each mini-batch."""
        return tuple(what for what in self.down if what in ("gradients", "update"))

    @property
    def has_side_network(self) -> bool:
        """Whether a server trains a side network of parallel adapters."""
        return isinstance(self.bypass, ParallelAdapters)

    @property
    def kernel(self) -> Kernel:
        """How it learns."""
        if self.has_side_network:
            return "side_network"
        if self.device == "perturbed_forwards":
            return "slopes"
        return "cut_gradients" if self.site == "split" else "gradients"

    @property
    def learns_like(self) -> tuple[object, ...]:
        """What of the description decides what is learned: methods that share it learn the same.

        LoRA does at the server alone what it does on the device.
        """
        own = (self.defaults,) if self.has_side_network else ()
        return (self.kernel, self.trains, self.bypass, self.rounds, self.ranks, *own)


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
        device="forward",
        backward_through_backbone=False,
        up=("activations", "labels"),
        down=("trained",),
    ),
    "pae-mobillm": MethodInfo(
        title="PAE MobiLLM: additive side-tuning with a cache",
        description=(
            "as mobillm, but activations of the tokens in the loss go up once and are kept at the "
            "server, which learns what the device's own prediction lacks and never sees labels"
        ),
        reference="pae-mobillm",
        bypass=ParallelAdapters(),
        site="server",
        device="forward",
        backward_through_backbone=False,
        up=("activations", "residuals"),
        down=("trained",),
        defaults=Defaults(caches=True, tokens="loss", learns="residuals", prediction="head"),
    ),
    "fed-mobillm": MethodInfo(
        title="Fed MobiLLM: one side network for many devices",
        description=(
            "devices with backbones and data of their own send activations once, aligned by "
            "layers and trainable projections; the server trains one side network whenever any "
            "arrive, and learns on from all that it has kept, shuffled"
        ),
        reference="fed-mobillm",
        bypass=ParallelAdapters(),
        site="server",
        device="forward",
        backward_through_backbone=False,
        up=("activations", "residuals"),
        down=("trained",),
        single_pass=True,
        defaults=Defaults(caches=True, tokens="loss", learns="residuals", prediction="head"),
    ),
    "full": MethodInfo(
        title="Full fine-tuning",
        description="every parameter trains, on the device",
        reference="adamw",
        trains=("all",),
    ),
    "lora": MethodInfo(
        title="LoRA",
        description=(
            "low-rank matrices beside the query and value projections train, on the device"
        ),
        reference="lora",
        bypass=Lora(),
    ),
    "bitfit": MethodInfo(
        title="BitFit",
        description="the biases alone train, on the device",
        reference="bitfit",
        trains=("biases",),
    ),
    "adapters": MethodInfo(
        title="Houlsby adapters",
        description=("bottlenecks within each block and the norms train, on the device"),
        reference="houlsby-adapters",
        trains=("norms",),
        bypass=Adapters(),
    ),
    "lst": MethodInfo(
        title="LST: ladder side-tuning",
        description=("a narrow ladder beside the frozen backbone trains, on the device"),
        reference="lst",
        bypass=Ladder(),
        backward_through_backbone=False,
    ),
    "server-only": MethodInfo(
        title="Server only",
        description=(
            "tokens and labels go up once, the server trains LoRA there and sends it back: the "
            "reference without privacy"
        ),
        reference="lora",
        bypass=Lora(),
        site="server",
        device="nothing",
        up=("tokens", "labels"),
        down=("trained",),
        defaults=Defaults(caches=True),
    ),
    "split-lora": MethodInfo(
        title="Split learning with LoRA",
        description=(
            "the device trains the layers up to a cut, the server those above it: activations go "
            "up, their gradients come down, and the device waits for them; the server's share of "
            "LoRA follows at the end"
        ),
        reference="splitlora",
        bypass=Lora(),
        site="split",
        device="lower_layers",
        up=("activations", "labels"),
        down=("gradients", "trained"),
    ),
    "fwdllm": MethodInfo(
        title="FwdLLM: zeroth-order LoRA",
        description=(
            "the device runs forward with LoRA perturbed in random directions and sends each "
            "one's slope of the loss, one number; the server steps and sends the update"
        ),
        reference="fwdllm",
        bypass=Lora(),
        site="server",
        device="perturbed_forwards",
        backward_through_backbone=False,
        up=("scalars",),
        down=("update",),
    ),
    "fedavg-lora": MethodInfo(
        title="FedAvg with LoRA (FedPETuning)",
        description=(
            "round by round devices train LoRA on data of their own from what all learned before, "
            "and the server averages what they send"
        ),
        reference="fedpetuning",
        bypass=Lora(),
        up=("model",),
        down=("model", "trained"),
        rounds="synchronous",
    ),
    "fedavg-adapters": MethodInfo(
        title="FedAvg with Houlsby adapters (FedPETuning)",
        description="as fedavg-lora, but adapters and the norms train",
        reference="fedpetuning",
        trains=("norms",),
        bypass=Adapters(),
        up=("model",),
        down=("model", "trained"),
        rounds="synchronous",
    ),
    "splitfed-lora": MethodInfo(
        title="SplitFed with LoRA",
        description=(
            "as split-lora, with many devices in rounds: the server trains a copy of its share for "
            "each, and averages both shares of all"
        ),
        reference="splitfed",
        bypass=Lora(),
        site="split",
        device="lower_layers",
        up=("activations", "labels", "model"),
        down=("gradients", "model", "trained"),
        rounds="synchronous",
    ),
    "hetlora": MethodInfo(
        title="HetLoRA: FedAvg with LoRA of different ranks",
        description=(
            "as fedavg-lora, but each device trains the first ranks alone, as many as it has room "
            "for; the average weighs what devices learned by its norm"
        ),
        reference="hetlora",
        bypass=Lora(),
        up=("model",),
        down=("model", "trained"),
        rounds="synchronous",
        ranks=True,
    ),
    "fedbuff-lora": MethodInfo(
        title="FedBuff: asynchronous, buffered FedAvg with LoRA",
        description=(
            "devices train LoRA on data of their own from the newest version when they are called; "
            "the server takes every few updates together, the staler the less, and nobody waits"
        ),
        reference="fedbuff",
        bypass=Lora(),
        up=("model",),
        down=("model", "trained"),
        rounds="buffered",
    ),
    "fed-fwdllm": MethodInfo(
        title="FwdLLM with many devices: zeroth-order LoRA in rounds",
        description=(
            "round by round devices run forward with LoRA perturbed in directions of their own, "
            "and send each one's slope of the loss over their data; the server steps along all"
        ),
        reference="fwdllm",
        bypass=Lora(),
        site="server",
        device="perturbed_forwards",
        backward_through_backbone=False,
        up=("scalars",),
        down=("model", "trained"),
        rounds="synchronous",
    ),
}


def name_of(method: MethodInfo) -> str:
    """The name of a described method."""
    return next(name for name, info in METHODS.items() if info is method)
