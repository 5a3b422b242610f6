"""The forward pass of transformers on a tape, as transformers computes it.

Fused attention, transformers' default, keeps what goes in and what comes out, and computes the
attention probabilities again; eager attention keeps them: heads x length^2 values per sample.
Dropout is taken as zero: it would keep its masks besides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mobisim.cost.architecture import Architecture
from mobisim.cost.tape import Tape, Value
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import Adapters, AttentionKernel, Lora, MethodInfo


@dataclass(frozen=True)
class Tuning:
    """What trains within a backbone."""

    weights: bool = False
    biases: bool = False
    norms: bool = False
    lora: Lora | None = None
    adapters: Adapters | None = None

    @classmethod
    def of(cls, method: MethodInfo) -> Tuning:
        """What trains of the backbone itself and inside its blocks."""
        full, bypass = "all" in method.trains, method.bypass
        return cls(
            weights=full,
            biases=full or "biases" in method.trains,
            norms=full or "norms" in method.trains,
            lora=bypass if isinstance(bypass, Lora) else None,
            adapters=bypass if isinstance(bypass, Adapters) else None,
        )


@dataclass(frozen=True)
class Pass:
    """One forward pass over a mini-batch: where it is recorded, and what trains."""

    tape: Tape
    sizes: Architecture
    shape: BatchShape
    tuning: Tuning
    attention_kernel: AttentionKernel = "fused"

    def block(self, x: Value) -> Value:
        """A transformer block."""
        if self.sizes.parallel:
            h = self.norm("norm", x)
            parts = self.tape.add("parts", self.attention(h), self.mlp(h))
            return self._sum("next", parts, x)
        middle = self._residual("attention", x, self.attention(self._before("attention", x)))
        return self._residual("mlp", middle, self.mlp(self._before("mlp", middle)))

    def _before(self, part: str, x: Value) -> Value:
        return self.norm(f"{part}.norm", x) if self.sizes.pre_norm else x

    def _residual(self, part: str, x: Value, out: Value) -> Value:
        """The sum of both, normed after it with post-norm; Gemma norms what it adds, too."""
        if self.sizes.is_gemma:
            out = self.norm(f"{part}.norm_after", out)
        total = self._sum(f"{part}.sum", x, out)
        return total if self.sizes.pre_norm else self.norm(f"{part}.norm", total)

    def _sum(self, name: str, left: Value, right: Value) -> Value:
        self.tape.called("add", (left.rows, left.width), left, right)
        return self.tape.add(name, left, right)

    def norm(self, name: str, x: Value, tokens: int | None = None) -> Value:
        """LayerNorm or RMSNorm, by the family; of one with more rows than tokens, tell these."""
        tuning = self.tuning
        operator = "norm:rms" if self.sizes.rms_norm else "norm:layer"
        rows = tokens or x.rows
        self.tape.called(
            operator,
            (rows, x.rows * x.width // rows),
            x,
            back=f"{operator}:backward",
            weights=[f"{operator}:grad_weight"] * self._norm_trains,
        )
        if self.sizes.rms_norm:
            return self.tape.rms_norm(name, x, weight=tuning.norms, gemma=self.sizes.is_gemma)
        biases = tuning.norms or tuning.biases
        return self.tape.layer_norm(name, x, weight=tuning.norms, bias=biases)

    @property
    def _norm_trains(self) -> bool:
        return self.tuning.norms or (self.tuning.biases and not self.sizes.rms_norm)

    def attention(self, h: Value) -> Value:
        """Self-attention with all of its pairs; adapters after it where the method has them."""
        sizes = self.sizes
        projections = self._projections(h)
        shape = self.shape
        operator = "attention:causal" if sizes.is_decoder else "attention:full"
        length = shape.num_pairs / shape.num_tokens  # at which as many pairs attend
        self.tape.called(
            operator,
            (shape.num_tokens, length, sizes.attention_width, sizes.head_dim),
            *projections,
            back=f"{operator}:backward",
        )
        fused = self.attention_kernel == "fused" and not sizes.score_cap  # which no kernel has
        context = self._fused(projections) if fused else self._eager(projections)
        out = self._linear("out", context, sizes.width, has_bias=sizes.dense_bias)
        return self._adapter("attention.adapter", out)

    def _fused(self, projections: list[Value]) -> Value:
        """One kernel: it keeps its inputs, its output and a sum of exponentials per head."""
        query, key, value = projections
        flop = 2.0 * self.shape.num_pairs * self.sizes.attention_width
        empty = Value(
            "context", self.shape.num_tokens, self.sizes.attention_width, needs_grad=False
        )
        context = self.tape.fused_attention(empty, query, key, value, self.sizes.num_heads, flop)
        # Queries that are turned in part come head by head, and so does what follows from them.
        by_head = 0 < self.sizes.rotary_dim < self.sizes.head_dim
        return self.tape.copy("context.by_token", context) if by_head else context

    def _eager(self, projections: list[Value]) -> Value:
        """Operator by operator."""
        tape, sizes, shape = self.tape, self.sizes, self.shape
        query, key, value = (self._repeated(v) for v in projections)
        flop = 2.0 * shape.num_pairs * sizes.attention_width
        empty = Value("scores", shape.num_pairs, sizes.num_heads, needs_grad=False)
        scores = tape.matmul(empty, query, key, flop)
        if sizes.score_cap:
            scores = tape.keeping_output("scores.tanh", scores)
        seen = tape.softmax("probabilities", scores, wide=sizes.wide_softmax)
        empty = Value("context", shape.num_tokens, sizes.attention_width, needs_grad=False)
        return tape.matmul(empty, seen, value, flop)

    def _projections(self, h: Value) -> list[Value]:
        sizes = self.sizes
        widths = {"query": sizes.attention_width, "key": sizes.kv_width, "value": sizes.kv_width}
        if sizes.fused_qkv:
            fused = self._linear("qkv", h, sum(widths.values()), has_bias=sizes.qkv_bias)
            return [self.tape.copy(name, fused, width) for name, width in widths.items()]
        query, key, value = (
            self._linear(name, h, width, has_bias=sizes.qkv_bias) for name, width in widths.items()
        )
        query, key = self._normed(query), self._normed(key)
        if sizes.rotary_dim:
            turned = h.rows, query.width + key.width
            self.tape.called("rotary", turned, query, key, back="rotary:backward")
        return [self._positioned(query), self._positioned(key), value]

    def _normed(self, x: Value) -> Value:
        """Norms per head, where the family has them."""
        sizes = self.sizes
        if not sizes.head_norm:
            return x
        heads = Value(x.name, x.rows * x.width // sizes.head_dim, sizes.head_dim, x.needs_grad)
        normed = self.norm(f"{x.name}.norm", heads, x.rows)
        return Value(normed.name, x.rows, x.width, normed.needs_grad)

    def _positioned(self, x: Value) -> Value:
        """Rotary positions, where the family has them."""
        sizes = self.sizes
        if not sizes.rotary_dim:
            return x
        # One table of the sines and one of the cosines, which all samples and layers share.
        angles = Value("rotary", 2 * self.shape.max_length, sizes.rotary_dim, needs_grad=False)
        turned = self.tape.multiply(f"{x.name}.turned", x, angles)
        return Value(turned.name, x.rows, x.width, turned.needs_grad)

    def _repeated(self, x: Value) -> Value:
        """Keys and values that several queries share are repeated for them."""
        same = x.width == self.sizes.attention_width
        return x if same else self.tape.copy(f"{x.name}.repeated", x, self.sizes.attention_width)

    def mlp(self, h: Value) -> Value:
        """The feed-forward part; adapters after it where the method has them."""
        sizes, bias = self.sizes, self.sizes.dense_bias
        inner = self._linear("mlp.in", h, sizes.ff_width, has_bias=bias)
        operator, inputs = activation_operator(sizes), [inner]
        active = activation(self.tape, "mlp.active", inner, sizes.activation)
        if sizes.gated_mlp:
            up = self._linear("mlp.up", h, sizes.ff_width, has_bias=bias)
            active = self.tape.multiply("mlp.gated", active, up)
            inputs.append(up)
        self._called_activation(operator, *inputs)
        out = self._linear("mlp.out", active, sizes.width, has_bias=bias)
        return self._adapter("mlp.adapter", out)

    def _linear(self, name: str, x: Value, width: int, *, has_bias: bool) -> Value:
        tuning, biases = self.tuning, width * has_bias
        out = self.tape.linear(
            name, x, width, weight=tuning.weights, bias=tuning.biases, biases=biases
        )
        lora = tuning.lora
        adapted = ("query", "key", "value") if name == "qkv" else (name,)
        if lora is None or not set(adapted) & set(lora.targets):
            return out
        low = self.tape.linear(f"{name}.low", x, lora.rank, weight=True)
        high = self.tape.linear(f"{name}.high", low, width, weight=True)
        self.tape.called("add", (high.rows, width), high, back="add:backward")  # times its scale
        return self._sum(name, replace(out, name=f"{name}.frozen"), high)

    def _adapter(self, name: str, h: Value) -> Value:
        if self.tuning.adapters is None:
            return h
        bottleneck = self.tuning.adapters.bottleneck
        down = self.trained(f"{name}.down", h, bottleneck)
        active = activation(self.tape, f"{name}.active", down, "gelu")
        self._called_activation("activation:gelu", down)
        return self._sum(name, h, self.trained(f"{name}.up", active, h.width))

    def _called_activation(self, operator: str, *inputs: Value) -> None:
        sizes = inputs[0].rows, inputs[0].width
        self.tape.called(operator, sizes, *inputs, back=f"{operator}:backward")

    def trained(self, name: str, x: Value, width: int) -> Value:
        """A linear layer of the method's own, with a bias."""
        return self.tape.linear(name, x, width, weight=True, bias=True, biases=width)


def activation_operator(sizes: Architecture) -> str:
    """The timed operator of a family's activation: one that is not ReLU counts as GELU."""
    if sizes.gated_mlp:
        return "activation:gated"
    return "activation:relu" if sizes.activation == "relu" else "activation:gelu"


def activation(tape: Tape, name: str, x: Value, kind: str) -> Value:
    """A non-linearity as transformers names it.

    Raises:
        InputError: one whose backward is not described here.
    """
    if kind == "relu":
        return tape.keeping_output(name, x)
    if kind in ("gelu", "gelu_pytorch_tanh", "silu"):
        return tape.keeping_input(name, x)
    if kind != "gelu_new":
        raise InputError(
            f"it is not known what {kind!r} keeps for training",
            where="model.config",
            expected="relu, gelu, gelu_new, gelu_pytorch_tanh or silu",
        )
    # 0.5 x (1 + tanh(c (x + 0.044715 x^3))), operator by operator.
    cube = tape.keeping_input(f"{name}.cube", x)
    bent = tape.keeping_output(f"{name}.tanh", tape.add(f"{name}.inner", x, cube))
    return tape.multiply(name, tape.copy(f"{name}.half", x), tape.copy(f"{name}.one_plus", bent))
