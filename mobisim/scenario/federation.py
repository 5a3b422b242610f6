"""How devices of different sorts learn together, as a scenario states it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mobisim.scenario.method_options import Count
from mobisim.scenario.quantities import Strict, Time, problem_of

# Of each block of a backbone's layers, which layer is tapped.
Sample = Literal["last", "first", "average", "importance"]
Projection = Literal["per-backbone", "per-device"]


class Alignment(Strict):
    """How different backbones feed one side network.

    Each is cut into as many blocks as the shallowest has layers; `sample` says which layer of a
    block is tapped: its last, its first, the one that changes activations most (`importance`), or
    with `average` layers at equal intervals from the first to the last of all. Activations of
    another width than the side network's, the median of all devices' unless `width` is stated, go
    through a trainable `projection`.
    """

    sample: Sample = "last"
    projection: Projection = "per-backbone"
    width: Count | None = None


class Partition(Strict):
    """How samples are dealt to devices, by the seed.

    iid: equal shares at random. dirichlet: of each label, devices have shares drawn from a
    symmetric Dirichlet law of concentration `alpha`; quantity: of all samples alike. The smaller
    alpha is, the more unequal the shares.
    """

    kind: Literal["iid", "dirichlet", "quantity"] = "iid"
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _law_has_its_number(self) -> Self:
        if (self.alpha is None) != (self.kind == "iid"):
            missing = "this key is missing; the shares' concentration"
            extra = "this goes with dirichlet and quantity"
            raise problem_of("alpha", missing if self.alpha is None else extra)
        return self


class Replay(Strict):
    """What a server learns after the devices' one pass: `steps` more mini-batches.

    They are drawn from what it has kept of all devices, in a new random order for each time that
    it goes through that.
    """

    steps: Count


class Rounds(Strict):
    """How devices take part in the rounds of methods that have them.

    Each of `count` rounds, by default as many as go through the data as often as `epochs` says,
    waits for updates of `participants` devices, all with data if null. `over_selection` times as
    many are selected at random, and it ends without the rest; or at the `deadline`. Whoever takes
    part goes `local_epochs` times through its own data, once unless stated, or works through
    `local_steps` mini-batches.

    Where rounds are buffered `participants` devices are at work at any time, and every `buffer`
    updates, ten unless stated or as many as are at work if that is less, make one of `count`
    versions: they move what all have learned by `server_lr` times their mean.
    """

    count: Count | None = None
    participants: Count | None = None
    local_epochs: Count | None = None
    local_steps: Count | None = None
    deadline: Time | None = None
    over_selection: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    buffer: Count | None = None
    server_lr: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _work_is_stated_once(self) -> Self:
        if self.local_epochs is not None and self.local_steps is not None:
            raise problem_of("local_steps", "expected: local_epochs or local_steps, not both")
        return self


class Federation(Strict):
    """How devices with data, and perhaps backbones, of their own learn together.

    Without a `partition` each device goes through all samples; without a `replay` the server is
    done when the devices are.
    """

    partition: Partition | None = None
    replay: Replay | None = None
    rounds: Rounds = Rounds()
    alignment: Alignment = Alignment()
