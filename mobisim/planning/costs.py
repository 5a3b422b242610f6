"""Costs: an expression over the paths of knobs, such as `300 * server.workers`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mobisim.errors import InputError, unknown_name
from mobisim.units import DIMENSIONS, ENERGY

WHERE = "--cost"
EXAMPLE = "300 * server.workers + 2 * devices[0].link.uplink / 1 Mbit/s"
_UNITS = {unit: factor for d in (*DIMENSIONS, ENERGY) for unit, factor in d.units.items() if unit}
_WITH_UNIT = re.compile(
    r"(?<![\w.\]])(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*("
    + "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
    + r")(?![\w/(])"
)
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max}

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """What a choice of values costs: quantities in SI units, names by their weights."""

    text: str
    work: Callable[[Weights], float]

    def __call__(self, weights: Weights) -> float:
        """The cost of a weight for each path.

        Raises:
            InputError: it divides by zero.
        """
        try:
            return self.work(weights)
        except (ArithmeticError, ValueError) as error:
            raise InputError(str(error), where=WHERE, got=self.text) from error


def parse_cost(text: str, paths: tuple[str, ...]) -> Cost:
    """The cost that an expression states: numbers with units, paths, + - * / **, min and max.

    Raises:
        InputError: no such expression, or a path that is no knob.
    """
    plain = _WITH_UNIT.sub(lambda m: f"({float(m[1]) * _UNITS[m[2]]!r})", text)
    try:
        tree = _parsed(plain)
    except SyntaxError as error:
        raise InputError("no cost", where=WHERE, expected=EXAMPLE, got=text) from error
    return Cost(text, _compiled(tree, {ast.unparse(_parsed(path)): path for path in paths}))


def _parsed(text: str) -> ast.expr:
    return ast.parse(text.replace("[*]", "[...]").strip(), mode="eval").body


def _compiled(node: ast.expr, known: Mapping[str, str]) -> Callable[[Weights], float]:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return lambda weights: float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b, way = _compiled(left, known), _compiled(right, known), _OPERATORS[type(op)]
            return lambda weights: way(a(weights), b(weights))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _compiled(operand, known)
            return lambda weights: -inner(weights)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            found, parts = _FUNCTIONS[name], [_compiled(part, known) for part in arguments]
            return lambda weights: found(*(part(weights) for part in parts))
        case ast.Name() | ast.Attribute() | ast.Subscript():
            return _path(node, known)
    raise InputError("no cost", where=WHERE, expected=EXAMPLE, got=ast.unparse(node))


def _path(node: Any, known: Mapping[str, str]) -> Callable[[Weights], float]:
    text = ast.unparse(node)
    if text not in known:
        raise unknown_name("knob", text.replace("[...]", "[*]"), known.values(), where=WHERE)
    path = known[text]
    return lambda weights: weights[path]
