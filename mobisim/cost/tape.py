"""What autograd keeps, computes and calls, for a forward pass written in the tape's operators.

Each operator follows the rule of its torch counterpart: which tensors its backward needs depends
on which of its inputs need a gradient. A tensor is named after its storage, so that one that
several operators keep counts once. Parameters are not counted as kept: they are there anyway.
One multiply-add counts two FLOPs; only matrix products count. Operators that can be timed (see
mobisim.cost.operators) are told besides: with a graph they are called NAME:training, going back
NAME:backward; a product's parts are linear:grad_input, linear:grad_weight, linear:grad_bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

Calls = Counter[tuple[str, tuple[float, ...]]]  # operators at their sizes, and how many of each
FP32_BYTES = 4
INDEX_BYTES = 8


@dataclass(frozen=True)
class Value:
    """A tensor of the forward pass: its storage's name and size, its rows and columns.

    A `wide` one is in fp32 whatever the precision.
    """

    name: str
    rows: int
    width: int
    needs_grad: bool
    wide: bool = False


@dataclass(frozen=True)
class Tally:
    """What a piece of the forward pass keeps (bytes, by tensor), holds, trains, costs and calls.

    `parameters` are all of its values, `trainable` those that train; `updated` are the sizes of
    the tensors that train.
    """

    kept: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    trainable: int = 0
    forward_flop: float = 0.0
    backward_flop: float = 0.0
    forward_calls: Calls = field(default_factory=Counter)
    backward_calls: Calls = field(default_factory=Counter)
    updated: Counter[int] = field(default_factory=Counter)

    @property
    def kept_bytes(self) -> int:
        """All that is kept."""
        return self.kept.total()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.kept + other.kept,
            self.parameters + other.parameters,
            self.trainable + other.trainable,
            self.forward_flop + other.forward_flop,
            self.backward_flop + other.backward_flop,
            self.forward_calls + other.forward_calls,
            self.backward_calls + other.backward_calls,
            self.updated + other.updated,
        )

    def __mul__(self, times: int) -> Tally:
        return Tally(
            _times(self.kept, times),
            times * self.parameters,
            times * self.trainable,
            times * self.forward_flop,
            times * self.backward_flop,
            _times(self.forward_calls, times),
            _times(self.backward_calls, times),
            _times(self.updated, times),
        )


Key = TypeVar("Key")


def _times(counter: Counter[Key], times: int) -> Counter[Key]:
    return Counter({key: times * count for key, count in counter.items()})


class Tape:
    """Records what the backward of the operators called on it will need.

    Args:
        float_bytes: bytes of an activation.
    """

    def __init__(self, float_bytes: int = FP32_BYTES) -> None:
        self._float_bytes = float_bytes
        self._kept: dict[str, int] = {}
        self._parameters = self._trainable = 0
        self._forward_flop = self._backward_flop = 0.0
        self._forward_calls: Calls = Counter()
        self._backward_calls: Calls = Counter()
        self._updated: Counter[int] = Counter()
        self._read: set[str] = set()

    def tally(self) -> Tally:
        """What was recorded."""
        return Tally(
            Counter(self._kept),
            self._parameters,
            self._trainable,
            self._forward_flop,
            self._backward_flop,
            self._forward_calls,
            self._backward_calls,
            self._updated,
        )

    def called(
        self,
        operator: str,
        sizes: tuple[float, ...],
        *inputs: Value,
        back: str = "",
        weights: Iterable[str] = (),
    ) -> None:
        """An operator that can be timed; a value read twice has its gradients added up.

        Args:
            operator: its name without a graph.
            sizes: on its axes.
            inputs: the activations that it reads.
            back: what computes their gradients; nothing does where it is empty.
            weights: what computes those of its weights that train.
        """
        weights = list(weights)
        through = any(value.needs_grad for value in inputs)
        self._forward_calls[operator + ":training" * bool(through or weights), sizes] += 1
        for name in ([back] if back and through else []) + weights:
            self.called_back(name, sizes)
        for value in (v for v in inputs if v.needs_grad):
            if value.name in self._read:
                self.called_back("add:backward", (value.rows, value.width))
            self._read.add(value.name)

    def called_back(self, operator: str, sizes: tuple[float, ...]) -> None:
        """An operator of the backward alone."""
        self._backward_calls[operator, sizes] += 1

    def _keep(self, *values: Value) -> None:
        for value in (v for v in values if v.rows):
            each = FP32_BYTES if value.wide else self._float_bytes
            self._kept[value.name] = value.rows * value.width * each

    def _product(self, flop: float, num_gradients: int) -> None:
        self._forward_flop += flop
        self._backward_flop += num_gradients * flop

    def hold(self, count: int, *, trains: bool) -> None:
        """Parameters, and whether they train."""
        self._parameters += count
        self._trainable += count * trains
        if count and trains:
            self._updated[count] += 1

    def embedding(self, name: str, num_tokens: int, rows: int, width: int, *, trains: bool) -> None:
        """A look-up in a table of [rows, width]: keeps the indices where the table trains."""
        self.hold(rows * width, trains=trains)
        if trains:
            self._kept[name] = num_tokens * INDEX_BYTES
            self.called_back("table:backward", (num_tokens, width, rows))

    def linear(
        self,
        name: str,
        x: Value,
        width: int,
        *,
        weight: bool,
        bias: bool = False,
        biases: int = 0,
        timed: bool = True,
    ) -> Value:
        """A product with a matrix, which keeps its input where the matrix trains.

        Args:
            name: of the output.
            x: the input.
            width: columns of the output.
            weight: whether the matrix trains.
            bias: whether the bias trains.
            biases: how many there are.
            timed: whether it counts as called.
        """
        self.hold(x.width * width, trains=weight)
        self.hold(biases, trains=bias)
        out = self.project(name, x, width, weight=weight)
        trained = {"weight": weight, "bias": bias and biases > 0}
        parts = [f"linear:grad_{part}" for part, trains in trained.items() if trains]
        if timed:
            sizes = x.rows, x.width, width
            self.called("linear", sizes, x, back="linear:grad_input", weights=parts)
        return replace(out, needs_grad=out.needs_grad or (bias and biases > 0))

    def project(self, name: str, x: Value, width: int, *, weight: bool) -> Value:
        """A product with a matrix that is counted elsewhere."""
        if weight:
            self._keep(x)
        self._product(2.0 * x.rows * x.width * width, weight + x.needs_grad)
        return Value(name, x.rows, width, x.needs_grad or weight)

    def matmul(self, out: Value, a: Value, b: Value, flop: float) -> Value:
        """A product of two activations: each is kept for the other's gradient.

        `out` has the name and size of the product, all heads and samples laid end to end.
        """
        self._product(flop, a.needs_grad + b.needs_grad)
        return self.multiply(out.name, a, b, out)

    def fused_attention(
        self, out: Value, query: Value, key: Value, value: Value, heads: int, flop: float
    ) -> Value:
        """Both products and the softmax between them in one kernel.

        Where any input needs a gradient it keeps all three, its output, and the logarithm of each
        query's sum of exponentials in fp32. The scores, which it computes again going back, are
        counted once, as torch's counter of eager attention counts them.
        """
        inputs = query, key, value
        needs_grad = any(each.needs_grad for each in inputs)
        found = replace(out, needs_grad=needs_grad)
        if needs_grad:
            sums = Value(f"{out.name}.sums", out.rows, heads, needs_grad=True, wide=True)
            self._keep(*inputs, found, sums)
        seen = query.needs_grad or key.needs_grad
        self._product(flop, query.needs_grad + key.needs_grad)
        self._product(flop, seen + value.needs_grad)
        return found

    def multiply(self, name: str, a: Value, b: Value, like: Value | None = None) -> Value:
        """An elementwise product, as large as `like` (else as a): keeps each for the other."""
        if b.needs_grad:
            self._keep(a)
        if a.needs_grad:
            self._keep(b)
        size = like or a
        return Value(name, size.rows, size.width, a.needs_grad or b.needs_grad)

    def add(self, name: str, *terms: Value) -> Value:
        """A sum, which keeps nothing."""
        return Value(name, terms[0].rows, terms[0].width, any(t.needs_grad for t in terms))

    def copy(self, name: str, x: Value, width: int | None = None) -> Value:
        """The same values in a storage of their own: rearranged, scaled or repeated."""
        return Value(name, x.rows, width or x.width, x.needs_grad)

    def keeping_output(self, name: str, x: Value, *, wide: bool = False) -> Value:
        """An operator whose backward needs its output: ReLU, tanh, softmax, square root."""
        out = Value(name, x.rows, x.width, x.needs_grad, wide)
        if x.needs_grad:
            self._keep(out)
        return out

    def keeping_input(self, name: str, x: Value) -> Value:
        """An operator whose backward needs its input: GELU, SiLU, a power."""
        if x.needs_grad:
            self._keep(x)
        return Value(name, x.rows, x.width, x.needs_grad, x.wide)

    def layer_norm(self, name: str, x: Value, *, weight: bool, bias: bool) -> Value:
        """LayerNorm keeps its input and each row's mean and deviation, whatever of it trains."""
        self.hold(x.width, trains=weight)
        self.hold(x.width, trains=bias)
        needs_grad = x.needs_grad or weight or bias
        if needs_grad:
            self._keep(x)
            self._keep(Value(f"{name}.mean", x.rows, 1, needs_grad))
            self._keep(Value(f"{name}.deviation", x.rows, 1, needs_grad))
        return Value(name, x.rows, x.width, needs_grad)

    def rms_norm(self, name: str, x: Value, *, weight: bool, gemma: bool = False) -> Value:
        """RMSNorm as transformers computes it: in fp32, operator by operator.

        Gemma's scales by 1 + weight, in fp32 as well.
        """
        self.hold(x.width, trains=weight)
        wide = self._widened(x)
        if x.needs_grad:
            self._keep(wide)
            self._keep(Value(f"{name}.scale", x.rows, 1, needs_grad=True, wide=True))
            self._keep(Value(f"{name}.gain", gemma, x.width, needs_grad=True, wide=True))
        if weight:
            self._keep(Value(f"{name}.normed", x.rows, x.width, x.needs_grad, wide=gemma))
        return Value(name, x.rows, x.width, x.needs_grad or weight)

    def loss(self, name: str, logits: Value) -> None:
        """Cross-entropy keeps the logarithms of the probabilities, in fp32, and the labels."""
        self.keeping_output(name, logits, wide=True)
        if logits.needs_grad:
            self._kept["labels"] = logits.rows * INDEX_BYTES + FP32_BYTES  # and their number

    def _widened(self, x: Value) -> Value:
        if self._float_bytes == FP32_BYTES:
            return x
        return Value(f"{x.name}.fp32", x.rows, x.width, x.needs_grad, wide=True)

    def softmax(self, name: str, x: Value, *, wide: bool) -> Value:
        """Softmax; a `wide` one is computed in fp32, then cast to the precision."""
        if not wide or self._float_bytes == FP32_BYTES:
            return self.keeping_output(name, x)
        return self.copy(name, self.keeping_output(f"{name}.fp32", x, wide=True))
