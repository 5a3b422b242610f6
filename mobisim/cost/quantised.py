"""A frozen backbone whose blocks' linear weights are held in few bits, as bitsandbytes holds them.

Each weight lies in the repository's codec, in blocks of 64 inputs of one output; embeddings, norms
and biases stay as they are. Before each product the weight is unpacked to the precision of the
activations: that this is done anew for every mini-batch is assumed, and what kernels that multiply
packed weights would spare is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.cost.architecture import Architecture
from mobisim.cost.operators import Call
from mobisim.cost.wire import encoded_bytes
from mobisim.cost.work import Work
from mobisim.scenario.methods import BackboneWeights

BLOCK_SIZE = 64
UNPACK_OPS = 3  # of one weight: codes apart, looked up or converted, scaled


@dataclass(frozen=True)
class PackedWeights:
    """The linear weights of one block in a codec."""

    backbone: Architecture
    codec: BackboneWeights

    @property
    def _matrices(self) -> tuple[tuple[int, int, int], ...]:
        return self.backbone.linear_sizes

    @property
    def num_values(self) -> int:
        """How many weights are packed."""
        return sum(fan_in * fan_out * count for fan_in, fan_out, count in self._matrices)

    @property
    def num_bytes(self) -> int:
        """What they take, scales included."""
        return sum(
            count * encoded_bytes(fan_out, fan_in, self.codec, BLOCK_SIZE)
            for fan_in, fan_out, count in self._matrices
        )

    @property
    def largest(self) -> int:
        """The values of the largest weight, which are unpacked at a time."""
        return max(fan_in * fan_out for fan_in, fan_out, _ in self._matrices)

    def unpacking(self, float_bytes: int) -> Work:
        """Reading all codes and writing all values, one weight after the other."""
        number = sum(count for *_, count in self._matrices)
        num_bytes = self.num_bytes + float_bytes * self.num_values
        return Work(0.0, float(num_bytes), UNPACK_OPS * number)

    @property
    def unpacking_calls(self) -> list[Call]:
        """The same as operators: the codec's decoding of as many rows as a weight has outputs."""
        return [
            Call(f"decode:{self.codec}", (float(fan_out), float(fan_in), float(BLOCK_SIZE)), count)
            for fan_in, fan_out, count in self._matrices
        ]
