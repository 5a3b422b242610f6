"""A block's training pass: forward with gradients, then back, a lap after each operator's part.

Each operator is a graph of its own, so that the gradients of its inputs and of its weights, which
torch computes one after the other anyway, are timed apart. What the forward keeps stays until its
backward, and weights' gradients until the pass is over, as in a model.
Axes: B samples, T positions, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobisim.profiling.blocks import Block, BlockSizes, Lap, attend, rotate
from mobisim.profiling.stopwatch import Timed

Operation = Callable[..., Tensor | tuple[Tensor, ...]]
Weights = dict[str, tuple[Tensor, ...]]  # by the operator that computes their gradients


class TrainingBlock(Block):
    """A block whose weights all train, with low-rank pairs beside queries and values, as LoRA's."""

    def __init__(self, sizes: BlockSizes, precision: str, device: torch.device, rank: int) -> None:
        super().__init__(sizes, precision, device)
        options: dict[str, Any] = {"device": device, "dtype": self.query.weight.dtype}
        widths = sizes.attention_width, sizes.kv_width
        self.down_to_rank = nn.ModuleList(
            nn.Linear(sizes.width, rank, bias=False, **options) for _ in widths
        )
        self.up_from_rank = nn.ModuleList(
            nn.Linear(rank, width, bias=False, **options) for width in widths
        )
        self.requires_grad_(requires_grad=True)


@dataclass(frozen=True)
class _Node:
    """An operator that ran forward: numbers of what went in and came out, and its graph."""

    operator: str
    sizes: tuple[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    leaves: tuple[Tensor, ...]
    graph: tuple[Tensor, ...]
    weights: Weights


class TrainingPass:
    """One pass through a block, there and back; values have numbers, the block's input is 0."""

    def __init__(self, block: TrainingBlock, lap: Lap) -> None:
        self.block, self.sizes, self._lap = block, block.sizes, lap
        self._values: list[Tensor] = []
        self._nodes: list[_Node] = []
        self._gradients: list[Tensor] = []  # of weights, which live until the step is over
        self._others: list[tuple[str, tuple[int, int], Operation, tuple[int, ...]]] = []

    def forward(self, h_BTD: Tensor) -> Tensor:
        """The block's output."""
        block = self.block
        self._values = [h_BTD]
        normed = self._norm(block.norms[0], 0)
        query, key, value = (self._linear(m, normed) for m in (block.query, block.key, block.value))
        query, value = self._adapted(0, normed, query), self._adapted(1, normed, value)
        middle = self._add(0, self._linear(block.out, self._attend(query, key, value)))
        inner = self._mlp(self._norm(block.norms[1], middle))
        return self._values[self._add(middle, self._linear(block.down, inner))]

    def backward(self, gradient_BTD: Tensor) -> Tensor:
        """The gradient of the block's input."""
        gradients = {len(self._values) - 1: gradient_BTD}
        while self._nodes:
            node = self._nodes.pop()
            found = self._back(node, tuple(gradients.pop(number) for number in node.outputs))
            for number, gradient in zip(node.inputs, found, strict=True):
                if number in gradients:
                    gradients[number] = gradients[number] + gradient
                    self._told("add:backward", gradient.shape[-1], 1)
                else:
                    gradients[number] = gradient
        return gradients[0]

    def others(self) -> None:
        """What other blocks do in place of this one's operators, on this one's values."""
        for operator, sizes, function, inputs in self._others:
            out = self._run(operator, sizes, function, inputs, {})
            self._back(self._nodes.pop(), (torch.ones_like(self._values[out[0]]),))

    def _told(self, operator: str, width: int, width_out: int) -> None:
        batch, length = self._values[0].shape[:2]
        self._lap(Timed(operator, batch, length, width, width_out, self.block.precision))

    def _run(
        self,
        operator: str,
        sizes: tuple[int, int],
        function: Operation,
        inputs: tuple[int, ...],
        weights: Weights,
    ) -> tuple[int, ...]:
        """The numbers of the outputs of a function of these values."""
        leaves = tuple(self._values[number].detach().requires_grad_() for number in inputs)
        out = function(*leaves)
        graph = out if isinstance(out, tuple) else (out,)
        self._told(f"{operator}:training", *sizes)
        outputs = tuple(range(len(self._values), len(self._values) + len(graph)))
        self._values += [one.detach() for one in graph]
        self._nodes.append(_Node(operator, sizes, inputs, outputs, leaves, graph, weights))
        return outputs

    def _back(self, node: _Node, gradients: tuple[Tensor, ...]) -> Iterable[Tensor]:
        if node.operator == "add":
            return gradients * 2
        parts = {_backward_of(node.operator): node.leaves} | node.weights
        found = [self._gradient(node, name, of, gradients) for name, of in parts.items()]
        for others in found[1:]:
            self._gradients += others
        return found[0]

    def _gradient(
        self, node: _Node, name: str, of: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(node.graph, of, gradients, retain_graph=True)
        self._told(name, *node.sizes)
        return found

    def _norm(self, norm: nn.Module, x: int) -> int:
        name = self.block.norm_name
        weights: Weights = {f"{name}:grad_weight": tuple(norm.parameters())}
        return self._run(name, (self.sizes.width, 1), norm, (x,), weights)[0]

    def _linear(self, linear: nn.Linear, x: int) -> int:
        weights: Weights = {"linear:grad_weight": (linear.weight,)}
        if linear.bias is not None:
            weights["linear:grad_bias"] = (linear.bias,)
        sizes = linear.in_features, linear.out_features
        return self._run("linear", sizes, linear, (x,), weights)[0]

    def _adapted(self, pair: int, x: int, out: int) -> int:
        low = self._linear(self.block.down_to_rank[pair], x)  # type: ignore[arg-type]  # of linears
        return self._add(out, self._linear(self.block.up_from_rank[pair], low))  # type: ignore[arg-type]

    def _add(self, left: int, right: int) -> int:
        width = self._values[left].shape[-1]
        return self._run("add", (width, 1), torch.add, (left, right), {})[0]

    def _attend(self, *inputs: int) -> int:
        sizes = self.sizes
        if sizes.modern:
            query, key, value = inputs
            widths = sizes.attention_width + sizes.kv_width, 1
            inputs = (*self._run("rotary", widths, self._rotated, (query, key), {}), value)
        shape = sizes.attention_width, sizes.head_dim
        full = functools.partial(self._attended, causal=False)
        self._others.append(("attention:full", shape, full, inputs))
        return self._run("attention:causal", shape, self._attended, inputs, {})[0]

    def _rotated(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(self.sizes, query), rotate(self.sizes, key)

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = True
    ) -> Tensor:
        return attend(self.sizes, query, key, value, causal=causal)

    def _mlp(self, x: int) -> int:
        inner, up = (self.sizes.ff_width, 1), self._linear(self.block.up, x)
        if self.block.gate is None:
            self._others.append(("activation:gelu", inner, functional.gelu, (up,)))
            return self._run("activation:relu", inner, functional.relu, (up,), {})[0]
        gate = self._linear(self.block.gate, x)
        return self._run("activation:gated", inner, _gated, (gate, up), {})[0]


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def _backward_of(operator: str) -> str:
    return "linear:grad_input" if operator == "linear" else f"{operator}:backward"
