"""The sizes that one scenario implies: backbone, taps and side network, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mobisim.cost.architecture import Architecture, architecture
from mobisim.cost.side_network import ADAMW_STATES, SideCost
from mobisim.errors import InputError
from mobisim.scenario.schema import Scenario

DEFAULT_CLASSES = 2


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
        """The tapped layers, 1-based; empty where nothing says.

        Raises:
            InputError: a tap beyond the backbone's last layer.
        """
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
        return self.scenario.granularity == "layer"

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

    def _optimizer_states(self) -> int:
        training = self.scenario.training
        if training is None or training.optimizer.name == "adamw":
            return ADAMW_STATES
        return int(training.optimizer.momentum > 0)
