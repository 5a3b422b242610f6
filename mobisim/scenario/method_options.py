"""The options of methods, as a scenario states them; null leaves one to the method."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mobisim.scenario.quantities import ByteCount, Strict

Codec = Literal["fp32", "fp16", "bf16", "int8", "int4", "int3", "int2", "fp4", "nf4"]
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]


class Tuning(Strict):
    """How methods train that change the backbone or a bypass within it.

    `checkpointing` keeps each block's input only and runs it again in the backward. A mini-batch
    is worked through in `micro_batches` pieces of one update. `cut` is the last layer on the
    device with split-lora, the middle one if null. `perturbations` are the directions that fwdllm
    tries for each mini-batch, with one forward each and one without any.
    """

    checkpointing: bool = False
    micro_batches: Count = 1
    cut: Count | None = None
    perturbations: Count = 8


class Cache(Strict):
    """What the server keeps of received activations for later epochs.

    A `capacity` of 0 keeps nothing, `all` everything. What makes room is what came first (fifo)
    or was used least recently (lru). `codec` is what it is kept in; null as it was received.
    """

    capacity: Literal["all"] | ByteCount | None = None
    eviction: Literal["fifo", "lru"] = "lru"
    codec: Codec | None = None


class Keep(Strict):
    """Which activations go up: of each sample the share `tokens`, and `taps` of all taps.

    Those with the highest `score` are kept; norm is the Euclidean norm of an activation.
    """

    score: Literal["norm"]
    tokens: Annotated[float, Field(gt=0, le=1)] = 1.0
    taps: Count | None = None

    @model_validator(mode="after")
    def _leaves_something_out(self) -> Self:
        if self.tokens == 1 and self.taps is None:
            raise ValueError("expected: tokens, a share below 1, or taps, how many of them to keep")
        return self
