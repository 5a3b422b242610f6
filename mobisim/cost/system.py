"""The sizes that one scenario implies: backbone, taps and side network, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.quantised import PackedWeights
from mobisim.cost.side_network import ADAMW_STATES, SideCost
from mobisim.errors import InputError
from mobisim.scenario.resolved import Options, options_of
from mobisim.scenario.schema import Scenario

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
    """Backbone and taps of a scenario; a scenario of stated times may have no backbone."""

    scenario: Scenario
    num_classes: int = DEFAULT_CLASSES

    @cached_property
    def backbone(self) -> Architecture | None:
        """The timed backbone."""
        model = self.scenario.model
        return architecture(model.config) if model is not None else None

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
        layers = self.backbone.num_layers
        if stated == "all":
            return tuple(range(1, layers + 1))
        if stated[-1] > layers:
            raise InputError(
                f"no layer {stated[-1]}", where="side_network.taps", expected=f"1 to {layers}"
            )
        return stated

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
        return SideCost(
            num_taps=len(self.taps),
            width=self.backbone.width,
            bottleneck=self.scenario.side_network.bottleneck,
            head_width=self.backbone.vocab_size if next_token else self.num_classes,
            head_trains=not next_token,
            optimizer_states=self._optimizer_states(),
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
