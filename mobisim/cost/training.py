"""What training on the device costs, method by method: kept activations, parameters, FLOPs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from mobisim.cost.architecture import Architecture
from mobisim.cost.block import Pass, Tuning
from mobisim.cost.tape import FP32_BYTES, Calls, Tally, Tape, Value
from mobisim.cost.work import BatchShape
from mobisim.scenario.methods import AttentionKernel, Ladder, MethodInfo

BackbonePart = Literal["all", "below", "above"]
ROTARY = "rotary"  # one table for all blocks


@dataclass(frozen=True)
class Head:
    """What is trained for: classes, from the mean of a sample's tokens, or the next token.

    A next-token head is the backbone's own output embedding, and trains only where all does.
    """

    num_classes: int = 2
    next_token: bool = False


@lru_cache(maxsize=4096)
def _tally(training: Training, shape: BatchShape) -> Tally:
    """What many worlds ask for that differ in their links alone."""
    return training.count(shape)


@dataclass(frozen=True)
class Training:
    """A method training a backbone on one device.

    Args:
        method: what trains.
        sizes: the backbone.
        head: what it is trained for.
        float_bytes: bytes of an activation.
        checkpointing: whether blocks keep their input only and are computed again in the backward;
            the rungs of a ladder are not.
        attention: how attention is computed.
        part: of a split backbone the layers below the cut, with the embedding, or those above it,
            with the head; `sizes` has so many layers only.
    """

    method: MethodInfo
    sizes: Architecture
    head: Head = Head()
    float_bytes: int = FP32_BYTES
    checkpointing: bool = False
    attention: AttentionKernel = "fused"
    part: BackbonePart = "all"

    def forward_only(self, shape: BatchShape) -> Tally:
        """What trains, held still: a forward without a graph."""
        found = self.tally(shape)
        return replace(
            found,
            kept=Counter(),
            backward_flop=0.0,
            forward_calls=_without_graph(found.forward_calls),
            backward_calls=Counter(),
        )

    def tally(self, shape: BatchShape) -> Tally:
        """All that one step keeps, trains and computes."""
        return _tally(self, shape)

    def count(self, shape: BatchShape) -> Tally:
        """The same, operator by operator."""
        if isinstance(self.method.bypass, Ladder):
            return self._ladder(self.method.bypass, shape)
        return self._backbone(shape)

    def logit_bytes(self, shape: BatchShape) -> int:
        """Logits and their gradient, which the loss computes in fp32."""
        rows, width = shape.num_samples, self.head.num_classes
        if self.head.next_token:
            rows, width = shape.num_tokens, self.sizes.vocab_size
        return rows * width * (self.float_bytes + FP32_BYTES)

    def _pass(self, shape: BatchShape, sizes: Architecture, tuning: Tuning) -> Pass:
        return Pass(Tape(self.float_bytes), sizes, shape, tuning, self.attention)

    def _backbone(self, shape: BatchShape) -> Tally:
        tuning = Tuning.of(self.method)
        around = self._pass(shape, self.sizes, tuning)
        # What comes up to the cut goes down again as its gradient.
        received = Value("received", shape.num_tokens, self.sizes.width, needs_grad=True)
        x = received if self.part == "above" else _embedded(around)
        blocks, x = self._blocks(shape, self.sizes, tuning, x)
        if self.part == "below":
            return around.tape.tally() + blocks
        self._head(around, _projected(around, _normed(around, x), self.sizes))
        return around.tape.tally() + blocks

    def _blocks(
        self, shape: BatchShape, sizes: Architecture, tuning: Tuning, x: Value
    ) -> tuple[Tally, Value]:
        """All blocks: the first may need no gradient for its input, the others are alike."""
        first, x = self._block(shape, sizes, tuning, x)
        rest, x = self._block(shape, sizes, tuning, x)
        blocks = first + rest * (sizes.num_layers - 1)
        if ROTARY in rest.kept:
            blocks.kept[ROTARY] = rest.kept[ROTARY]
        spares = self.checkpointing and rest.kept  # a frozen backbone keeps nothing anyway
        return (self._recomputed(blocks, rest, x) if spares else blocks), x

    def _recomputed(self, blocks: Tally, rest: Tally, x: Value) -> Tally:
        """Each block's input, one block's own, and one forward more."""
        inputs = self.sizes.num_layers * x.rows * x.width * self.float_bytes
        return replace(
            blocks,
            kept=rest.kept + Counter({"block inputs": inputs}),
            backward_flop=blocks.backward_flop + blocks.forward_flop,
            forward_calls=_without_graph(blocks.forward_calls),
            backward_calls=blocks.backward_calls + blocks.forward_calls,
        )

    def _block(
        self, shape: BatchShape, sizes: Architecture, tuning: Tuning, x: Value
    ) -> tuple[Tally, Value]:
        run = self._pass(shape, sizes, tuning)
        out = run.block(replace(x, name="block"))
        return run.tape.tally(), out

    def _ladder(self, ladder: Ladder, shape: BatchShape) -> Tally:
        """The backbone forward only; beside it the ladder, rung by rung."""
        frozen = self._pass(shape, self.sizes, Tuning())
        x = _embedded(frozen)
        blocks, x = self._blocks(shape, self.sizes, Tuning(), x)
        side = narrowed(self.sizes, ladder.reduction)
        around = self._pass(shape, side, _ALL)
        state = around.trained("ladder.start", replace(x, name="embedding"), side.width)
        rung, state = self._rung(shape, side, x, state)
        out = around.trained("ladder.up", _normed(around, state), self.sizes.width)
        last = replace(_normed(frozen, x), name="backbone")
        mixed = _mixed(around.tape, "ladder.out", out, last)
        self._head(around, _projected(frozen, mixed, self.sizes))
        return frozen.tape.tally() + blocks + around.tape.tally() + rung * side.num_layers

    def _rung(
        self, shape: BatchShape, side: Architecture, x: Value, state: Value
    ) -> tuple[Tally, Value]:
        """Project a block's output down, mix it in, run the side block."""
        run = self._pass(shape, side, _ALL)
        down = run.trained("ladder.down", replace(x, name="tap"), side.width)
        mixed = _mixed(run.tape, "ladder.mixed", replace(state, name="state"), down)
        out = run.block(mixed)
        return run.tape.tally(), out

    def _head(self, run: Pass, x: Value) -> None:
        """The head and the loss, which keeps the logarithms of the probabilities, and labels."""
        tape = run.tape
        if not self.head.next_token:
            pooled = Value("pooled", run.shape.num_samples, x.width, x.needs_grad)
            classes = self.head.num_classes  # too few to be timed
            logits = tape.linear(
                "logits", pooled, classes, weight=True, bias=True, biases=classes, timed=False
            )
        else:
            full, vocabulary = "all" in self.method.trains, self.sizes.vocab_size
            logits = tape.project("logits", x, vocabulary, weight=full)
            # There and back to the input; the vocabulary's own gradient comes besides.
            tape.called("head:next_token", (x.rows, x.width, vocabulary))
            if full:
                tape.called_back("linear:grad_weight", (x.rows, x.width, vocabulary))
            tied = self.sizes.tied_head and self.part == "all"  # else the table is elsewhere
            own = 0 if tied else x.width * vocabulary
            tape.hold(own + vocabulary * self.sizes.head_bias, trains=full)
        tape.loss("loss", logits)


def _without_graph(calls: Calls) -> Calls:
    found = Calls()
    for (operator, sizes), count in calls.items():
        found[operator.removesuffix(":training"), sizes] += count
    return found


_ALL = Tuning(weights=True, biases=True, norms=True)


def narrowed(sizes: Architecture, reduction: int) -> Architecture:
    """An architecture that is `reduction` times narrower throughout, with as many heads."""
    head_dim = max(1, sizes.head_dim // reduction)
    return replace(
        sizes,
        width=sizes.width // reduction,
        head_dim=head_dim,
        ff_width=sizes.ff_width // reduction,
        embedding_width=sizes.width // reduction,
        rotary_dim=sizes.rotary_dim // reduction,
    )


def _mixed(tape: Tape, name: str, a: Value, b: Value) -> Value:
    """Mix as g a + (1 - g) b: the trained gate g keeps both for its gradient."""
    tape.hold(1, trains=True)
    gate = Value("ladder.gate", 1, 1, needs_grad=True)
    sizes = a.rows, a.width
    for part in (a, b):  # times the gate: going back, for the gate as well
        tape.called("add", sizes, part, back="add:backward", weights=["add:backward"])
    tape.called("add", sizes, gate)
    return tape.add(name, tape.multiply(name, a, gate), tape.multiply(name, b, gate))


def _embedded(run: Pass) -> Value:
    """Tables, their projection and norm."""
    tape, sizes, tokens = run.tape, run.sizes, run.shape.num_tokens
    full = run.tuning.weights
    tape.called("embedding", (tokens, sizes.width))
    tape.embedding("tokens", tokens, sizes.vocab_size, sizes.embedding_width, trains=full)
    positions = sizes.position_rows + sizes.type_rows
    if positions:
        tape.embedding("positions", tokens, positions, sizes.width, trains=full)
    x = Value("embedding", tokens, sizes.embedding_width, full)
    if sizes.embedding_width != sizes.width:
        x = tape.linear("embedding.projected", x, sizes.width, weight=full)
    return run.norm("embedding.norm", x) if sizes.embedding_norm else x


def _normed(run: Pass, x: Value) -> Value:
    return run.norm("final.norm", replace(x, name="final")) if run.sizes.final_norm else x


def _projected(run: Pass, x: Value, sizes: Architecture) -> Value:
    if sizes.embedding_width == sizes.width:
        return x
    return run.tape.linear("final.projected", x, sizes.embedding_width, weight=run.tuning.weights)
