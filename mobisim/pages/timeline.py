"""A timeline to zoom: the first spans one by one, all of the run in bins, in bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mobisim.report.figure import KIND_COLOUR
from mobisim.report.gantt import IDLE
from mobisim.report.slices import WORK, pick_actors

MAX_EXACT = 8_000  # spans that a page holds one by one
NUM_BINS = 500
SHOWN = tuple(kind for kind in KIND_COLOUR if kind in WORK or kind in IDLE)
DIGITS = 9  # significant, of times: below a millisecond in a month

Columns = dict[str, NDArray[Any]]
Json = dict[str, Any]


def zoomable(spans: Path, actors: Sequence[str], end: float) -> Json | None:
    """What the page draws: actors, kinds, exact spans, bins; None where there is nothing.

    `exact` holds all spans that start before `until`; `bins` the share of each bin of the run that
    an actor spends on a kind. Queues and latencies, in which many may be at once, are left out.
    """
    picked = pick_actors(actors)
    found = _read(spans, picked)
    if end <= 0 or not len(found["start"]):
        return None
    order = np.argsort(found["start"], kind="stable")
    found = {name: column[order] for name, column in found.items()}
    exact = {name: column[:MAX_EXACT] for name, column in found.items()}
    whole = len(found["start"]) <= MAX_EXACT
    seen = sorted(set(found["actor"].tolist()))
    codes = sorted(set(found["kind"].tolist()))
    return {
        "end": end,
        "actors": [picked[code] for code in seen],
        "left_out": len(actors) - len(picked),
        "kinds": [{"name": SHOWN[code], "colour": KIND_COLOUR[SHOWN[code]]} for code in codes],
        "until": end if whole else _rounded(found["start"][MAX_EXACT]),
        "exact": {
            "kind": [codes.index(code) for code in exact["kind"].tolist()],
            "actor": [seen.index(code) for code in exact["actor"].tolist()],
            "start": [_rounded(at) for at in exact["start"].tolist()],
            "end": [_rounded(at) for at in exact["end"].tolist()],
            "batch": exact["batch"].tolist(),
        },
        "bins": [] if whole else _bins(found, seen, codes, end),
    }


def _read(path: Path, picked: Sequence[str]) -> Columns:
    """The spans that occupy some actors; `kind` and `actor` are places in SHOWN and `picked`."""
    names = ("kind", "actor", "start", "end", "batch")
    kinds, actors = _places(SHOWN), _places(picked)
    none: Columns = {name: np.zeros(0, np.int64) for name in names}
    parts: list[Columns] = []
    with pq.ParquetFile(path) as file:
        for rows in file.iter_batches(columns=list(names)):
            kind, actor = _codes(rows.column("kind"), kinds), _codes(rows.column("actor"), actors)
            shown = (kind >= 0) & (actor >= 0)
            batch = rows.column("batch").fill_null(-1).to_numpy()
            times = (rows.column(name).to_numpy() for name in ("start", "end"))
            columns = zip(names, (kind, actor, *times, batch), strict=True)
            parts.append({name: column[shown] for name, column in columns})
    return {name: np.concatenate([part[name] for part in parts or [none]]) for name in names}


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _codes(column: pa.Array, places: dict[str, int]) -> NDArray[np.int64]:
    names = column.cast(pa.string()).to_pylist()
    return np.array([places.get(name, -1) for name in names], np.int64)


def _bins(found: Columns, seen: Sequence[int], kinds: Sequence[int], end: float) -> list[Json]:
    """The shares of the bins in per cent, a row for each actor and kind that it ever does."""
    edges = np.linspace(0, end, NUM_BINS + 1)
    rows = []
    for place, code in enumerate(seen):
        mine = {name: column[found["actor"] == code] for name, column in found.items()}
        for number, kind in enumerate(kinds):
            is_kind = mine["kind"] == kind
            if is_kind.any():
                shares = shares_of(mine["start"][is_kind], mine["end"][is_kind], edges)
                percent = np.rint(100 * shares).astype(int).tolist()
                rows.append({"actor": place, "kind": number, "percent": percent})
    return rows


def shares_of(
    start: NDArray[np.float64], end: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The covered share of each bin, by spans in order that do not overlap.

    Shapes: `start` and `end` are [spans], `edges` [bins + 1], the result [bins].
    """
    covered = np.concatenate([[0.0], np.cumsum(end - start)])
    at = np.stack([start, end], axis=1).ravel()
    until = np.stack([covered[:-1], covered[1:]], axis=1).ravel()
    seconds = np.diff(np.interp(edges, at, until, left=0.0))
    return np.asarray(seconds / np.diff(edges), np.float64)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
