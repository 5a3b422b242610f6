"""A measured operator as a surface over its sizes: true where measured, smooth in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sizes = tuple[float, ...]
Array = NDArray[np.float64]
REACH = 4.0  # of the correlation along each size, in e-folds
NUGGET = 1e-3  # noise beside what varies with size: medians are met within a thousandth or so


@dataclass(frozen=True)
class Surface:
    """Seconds over sizes by kriging: a power law, and the correlated rest of what was measured.

    The correlation is once differentiable (Matérn 3/2 along each size): times bend from launching
    to working, and chords between points, which a rougher one draws, lie above such a bend.
    """

    points: Array
    centre: Array
    law: Array
    weights: Array

    @classmethod
    def through(cls, measured: Mapping[Sizes, float]) -> Surface:
        """The surface through these seconds at these sizes."""
        points = np.log(np.array(list(measured), dtype=float))
        logs = np.log(np.array(list(measured.values())))
        centre = points.mean(axis=0)
        terms = _terms(points - centre)
        law = np.linalg.lstsq(terms, logs, rcond=None)[0]
        rest = np.linalg.solve(_correlation(points, points, NUGGET), logs - terms @ law)
        return cls(points, centre, law, rest)

    def seconds(self, sizes: Sizes) -> float:
        """Seconds at these sizes."""
        point = np.log(np.array([sizes], dtype=float))
        log = _terms(point - self.centre) @ self.law
        log += _correlation(point, self.points) @ self.weights
        return float(np.exp(log[0]))

    def range_of(self, axis: int) -> tuple[float, float]:
        """The least and the greatest measured size along an axis."""
        sizes = np.exp(self.points[:, axis])
        return float(sizes.min()), float(sizes.max())

    @property
    def range_of_product(self) -> tuple[float, float]:
        """The least and the greatest product of all sizes."""
        products = np.exp(self.points.sum(axis=1))
        return float(products.min()), float(products.max())


def _terms(points: Array) -> Array:
    return np.hstack([np.ones((len(points), 1)), points])


def _correlation(left: Array, right: Array, nugget: float = 0.0) -> Array:
    apart = math.sqrt(3) / REACH * np.abs(left[:, None, :] - right[None, :, :])
    correlation: Array = np.prod((1 + apart) * np.exp(-apart), axis=-1)
    correlation += nugget * (apart.sum(axis=-1) == 0)
    return correlation
