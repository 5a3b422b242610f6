"""The sizes that one scenario implies: backbone, taps and side network, worked out once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from mobisim.cost.alignment import projected_widths, sampled_layers, shared_width
from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.quantised import PackedWeights
from mobisim.cost.side_network import ADAMW_STATES, SideCost
from mobisim.errors import InputError
from mobisim.scenario.profiles import ModelProfile
from mobisim.scenario.resolved import Options, options_of
from mobisim.scenario.schema import DeviceGroup, Scenario

DEFAULT_CLASSES = 2


def forward_parts(
    taps: tuple[int, ...], block_s: float, embedding_s: float, *, by_layer: bool
) -> tuple[float, ...]:
    """Seconds of a forward, part by part: the embedding comes first, nothing after the last tap."""
    ends = taps if by_layer else taps[-1:]
    parts = [(last - first) * block_s for first, last in pairwise((0, *ends))]
    return (parts[0] + embedding_s, *parts[1:])


def check_positions(scenario: Scenario, backbone: Architecture, longest: int) -> None:
    """Refuse samples longer than the backbone has positions, which nothing can allow.

    Raises:
        InputError: with the number of positions.
    """
    if longest > backbone.max_positions:
        raise InputError(
            "the model has not so many positions",
            where="training.sequence_length" if scenario.training else "sequence_length",
            expected=f"at most {backbone.max_positions}",
            got=str(longest),
        )


@dataclass(frozen=True)
class System:
    """Backbone and taps of a scenario; a scenario of stated times may have no backbone.

    `model` is that of the devices at hand, None for the scenario's; `rank` of their LoRA, None for
    the method's. `mixture` are the projections
    of a mini-batch of several devices, as SideCost has them.
    """

    scenario: Scenario
    num_classes: int = DEFAULT_CLASSES
    model: ModelProfile | None = None
    rank: int | None = None
    mixture: tuple[tuple[int, float], ...] | None = None
    _views: list[System] = field(default_factory=list, repr=False, compare=False)

    def on(self, group: DeviceGroup) -> System:
        """The same as it is on a group's devices, with their backbone."""
        model = group.model or self.scenario.model
        rank = group.rank if self.options.method.ranks else None
        if (model, rank) == (self.model or self.scenario.model, self.rank):
            return self
        known = next((v for v in self._views if (v.model, v.rank) == (model, rank)), None)
        if known is None:
            known = replace(self, model=model, rank=rank, _views=[])
            self._views.append(known)
        return known

    def mixing(self, projected: tuple[tuple[int, float], ...]) -> System:
        """The same at a mini-batch of several sorts of devices."""
        return replace(self, mixture=projected, _views=[])

    @property
    def views(self) -> list[System]:
        """The same on the devices of each group."""
        return [self.on(group) for group in self.scenario.devices]

    @cached_property
    def backbone(self) -> Architecture | None:
        """The timed backbone."""
        model = self.model or self.scenario.model
        return architecture(model.config) if model is not None else None

    @cached_property
    def _fleet(self) -> list[tuple[int, Architecture, int]]:
        """Of each group the first one with its model, that model's sizes, and its devices."""
        models = [group.model or self.scenario.model for group in self.scenario.devices]
        return [
            (models.index(model), architecture(model.config), group.count)
            for model, group in zip(models, self.scenario.devices, strict=True)
            if model is not None
        ]

    @property
    def num_blocks(self) -> int:
        """The blocks that each backbone is cut into: the layers of the shallowest."""
        return min(sizes.num_layers for _, sizes, _ in self._fleet)

    @cached_property
    def taps(self) -> tuple[int, ...]:
        """The tapped layers that go up, 1-based; empty where nothing says.

        Which ones a filter keeps is known of data only; the last ones are there last.

        Raises:
            InputError: a tap beyond the backbone's last layer.
        """
        keep = self.options.keep
        return self._tapped if keep is None or keep.taps is None else self._tapped[-keep.taps :]

    @property
    def _tapped(self) -> tuple[int, ...]:
        stated = self.scenario.side_network.taps
        if self.backbone is None:
            return () if stated == "all" else stated
        sample, blocks = self.scenario.federation.alignment.sample, self.num_blocks
        layers = sampled_layers(self.backbone.num_layers, blocks, sample)
        if stated == "all":
            return layers
        if stated[-1] > blocks:
            raise InputError(
                f"no layer {stated[-1]}", where="side_network.taps", expected=f"1 to {blocks}"
            )
        return tuple(layers[block - 1] for block in stated)

    @property
    def by_layer(self) -> bool:
        """Whether each tap travels on its own."""
        return self.scenario.granularity == "layer" and self.options.method.has_side_network

    @cached_property
    def options(self) -> Options:
        """The options of the scenario's method."""
        return options_of(self.scenario)

    @cached_property
    def side(self) -> SideCost | None:
        """The side network, counted."""
        if self.backbone is None:
            return None
        training = self.scenario.training
        next_token = training is not None and training.head == "next_token"
        pooling = training.pooling if training is not None else None
        usual = "last" if self.backbone.is_decoder else "mean"
        stated = self.scenario.federation.alignment
        width = stated.width or shared_width((one.width, count) for _, one, count in self._fleet)
        own = self.backbone.width
        alone = ((own, 1.0),) if own != width else ()
        return SideCost(
            num_taps=len(self.taps),
            width=width,
            projected=alone if self.mixture is None else self.mixture,
            projections=tuple(projected_widths(self._fleet, width, stated.projection)),
            bottleneck=self.scenario.side_network.bottleneck,
            head_width=self.backbone.vocab_size if next_token else self.num_classes,
            head_trains=not next_token,
            optimizer_states=self._optimizer_states(),
            averages=(pooling or usual) == "mean",
        )

    @cached_property
    def packed(self) -> PackedWeights | None:
        """The weights of the device's backbone where they are quantised."""
        codec = self.options.backbone_weights
        if codec is None or self.backbone is None:
            return None
        return PackedWeights(self.backbone, codec)

    @property
    def optimizer(self) -> str:
        """The optimiser's name."""
        training = self.scenario.training
        return training.optimizer.name if training is not None else "adamw"

    def _optimizer_states(self) -> int:
        training = self.scenario.training
        if training is None or training.optimizer.name == "adamw":
            return ADAMW_STATES
        return int(training.optimizer.momentum > 0)
