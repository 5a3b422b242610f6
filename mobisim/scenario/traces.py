"""Bandwidth traces: CSV files of time and rate, and Mahimahi files of delivery opportunities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from mobisim.errors import InputError
from mobisim.scenario.document import Document, Location, read_text
from mobisim.scenario.quantities import Rate, Strict
from mobisim.units import RATE

OPPORTUNITY_BYTES = 1500  # each line of a Mahimahi file delivers so much
MS_PER_S = 1000
MAX_BYTES = 1 << 26
MAX_SHOWN = 60

TIME_COLUMNS = {"t_s": 1.0, "time_s": 1.0, "s": 1.0, "t_ms": 1e-3, "time_ms": 1e-3, "ms": 1e-3}
RATE_COLUMNS = {
    "bit_per_s": 1.0, "bps": 1.0, "kbit_per_s": 1e3, "kbps": 1e3, "mbit_per_s": 1e6, "mbps": 1e6,
}  # fmt: skip

Problem = tuple[int, str, str, str]  # the row, what is wrong with it, expected, got


class RateTrace(Strict):
    """Rates over time: each holds from its row to the next, the last as long as the one before."""

    format: Literal["csv"] = "csv"
    file: str = "inline"
    time_s: tuple[float, ...]
    bit_per_s: tuple[float, ...]

    @model_validator(mode="after")
    def _can_be_walked(self) -> Self:
        if len(self.time_s) != len(self.bit_per_s):
            raise ValueError("expected: as many rates as times")
        _say(_rate_problems(self.time_s, self.bit_per_s))
        return self

    @property
    def period_s(self) -> float:
        """Seconds after which the trace begins anew."""
        return 2 * self.time_s[-1] - self.time_s[-2] - self.time_s[0]

    @property
    def mean_bits_per_s(self) -> float:
        """The mean rate over one period."""
        ends = (*self.time_s[1:], self.time_s[0] + self.period_s)
        spans = zip(self.time_s, ends, self.bit_per_s, strict=True)
        return math.fsum((end - start) * rate for start, end, rate in spans) / self.period_s

    def __str__(self) -> str:
        return _described(self)


class OpportunityTrace(Strict):
    """Delivery opportunities as Mahimahi records them: 1,500 bytes at each of these milliseconds.

    The last one is the period.
    """

    format: Literal["mahimahi"]
    file: str = "inline"
    ms: tuple[int, ...]

    @model_validator(mode="after")
    def _can_be_walked(self) -> Self:
        _say(_opportunity_problems(self.ms))
        return self

    @property
    def period_s(self) -> float:
        """Seconds after which the trace begins anew."""
        return self.ms[-1] / MS_PER_S

    @property
    def mean_bits_per_s(self) -> float:
        """The mean rate over one period."""
        return len(self.ms) * OPPORTUNITY_BYTES * 8 / self.period_s

    def __str__(self) -> str:
        return _described(self)


Trace = RateTrace | OpportunityTrace


def _described(trace: Trace) -> str:
    return f"{trace.file}: {trace.mean_bits_per_s / 1e6:.3g} Mbit/s over {trace.period_s:g} s"


def _sort_of(value: Any) -> str:
    if isinstance(value, RateTrace | OpportunityTrace):
        return value.format
    return str(value.get("format", "csv")) if isinstance(value, dict) else "rate"


# A rate, or a trace of it. In a file the trace's own file stands in its place.
RateOrTrace = Annotated[
    Annotated[Rate, Tag("rate")]
    | Annotated[RateTrace, Tag("csv")]
    | Annotated[OpportunityTrace, Tag("mahimahi")],
    Field(discriminator=Discriminator(_sort_of)),
]


def mean_rate(value: float | Trace) -> float:
    """The rate of a link in bit/s, of a trace its mean."""
    return value if isinstance(value, float) else value.mean_bits_per_s


def _say(problems: Iterator[Problem]) -> None:
    for row, wrong, expected, got in problems:
        raise ValueError(f"row {row + 1}: {wrong}; expected: {expected}; got: {got}")


def _rate_problems(times: Sequence[float], rates: Sequence[float]) -> Iterator[Problem]:
    for row, (time, rate) in enumerate(zip(times, rates, strict=True)):
        if not math.isfinite(time):
            yield row, "this is no time", "a finite number", repr(time)
        if row and time <= times[row - 1]:
            yield row, "time goes backwards", f"a time after {times[row - 1]:g} s", f"{time:g} s"
        if not (math.isfinite(rate) and rate >= 0):
            yield row, "this is no rate", "a finite rate of at least zero", f"{rate:g} bit/s"
    if len(times) < 2:  # noqa: PLR2004 - how long the last row lasts follows from the one before
        yield len(times), "the trace is too short", "at least two rows", str(len(times))
    elif not any(rates):
        yield len(times) - 1, "the rate is zero throughout", "a rate above zero somewhere", "0"


def _opportunity_problems(stamps: Sequence[int]) -> Iterator[Problem]:
    for row, stamp in enumerate(stamps):
        if stamp < 0 or (row and stamp < stamps[row - 1]):
            least = stamps[row - 1] if row else 0
            yield row, "time goes backwards", f"at least {least} ms", f"{stamp} ms"
    if not stamps:
        yield 0, "the trace is empty", "a millisecond on each line", "nothing"
    elif stamps[-1] == 0:
        yield len(stamps) - 1, "the trace has no length", "a last millisecond above zero", "0"


def read_trace(path: Path, shown: str) -> dict[str, Any]:
    """The trace in a file, as a scenario holds it: `.csv` by its columns, any other as Mahimahi's.

    Raises:
        InputError: with file and line: backwards, empty, no numbers, or a rate of zero throughout.
    """
    lines = read_text(path, "trace", MAX_BYTES).split("\n")
    if lines[-1] == "":
        lines.pop()
    if path.suffix.lower() == ".csv":
        return _read_csv(lines, shown, path.name)
    stamps = [_number(int, line, f"{shown}:{at}") for at, line in enumerate(lines, start=1)]
    _refuse(_opportunity_problems(stamps), shown, first_line=1)
    return {"format": "mahimahi", "file": path.name, "ms": stamps}


def _read_csv(lines: list[str], shown: str, name: str) -> dict[str, Any]:
    header = [cell.strip().lower() for cell in (lines[0] if lines else "").split(",")]
    columns = _factor(header, TIME_COLUMNS, shown), _factor(header, RATE_COLUMNS, shown)
    times, rates = [], []
    for at, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        if len(cells) != len(header):
            raise InputError(
                "a line with another number of cells",
                where=f"{shown}:{at}", expected=str(len(header)), got=str(len(cells)),
            )  # fmt: skip
        time, rate = (
            _number(float, cells[place], f"{shown}:{at}") * factor for place, factor in columns
        )
        times.append(time)
        rates.append(rate)
    _refuse(_rate_problems(times, rates), shown, first_line=2)
    return {"format": "csv", "file": name, "time_s": times, "bit_per_s": rates}


def _factor(header: list[str], known: dict[str, float], shown: str) -> tuple[int, float]:
    for place, name in enumerate(header):
        if name in known:
            return place, known[name]
    raise InputError(
        "the first line does not name a column of time and one of rate with their units",
        where=f"{shown}:1",
        expected=f"one of {', '.join(known)}",
        got=",".join(header)[:MAX_SHOWN] or "nothing: the file is empty",
    )


def _number(sort: type[Any], cell: str, where: str) -> Any:
    try:
        return sort(cell)
    except ValueError as error:
        expected = "a whole number of milliseconds" if sort is int else "a number"
        raise InputError(
            "this is no number", where=where, expected=expected, got=repr(cell[:MAX_SHOWN])
        ) from error


def _refuse(problems: Iterator[Problem], shown: str, first_line: int) -> None:
    for row, wrong, expected, got in problems:
        raise InputError(wrong, where=f"{shown}:{row + first_line}", expected=expected, got=got)


def inline_traces(document: Document, at: Location, find: Callable[[str, str], Path]) -> None:
    """Replace the names of trace files in the link at `at` by what they hold.

    `find` gives a file's path by its name and the place where that stands.

    Raises:
        InputError: there is no such file, or it is no trace.
    """
    link: Any = document.data
    for key in at:
        link = link[key]
    if not isinstance(link, dict) or link.get("kind") != "trace":
        return
    for key in ("uplink", "downlink"):
        holder, last = (link[key], "value") if _is_sourced(link.get(key)) else (link, key)
        if _is_file(holder.get(last)):
            place = document.places.get((*at, key), document.places.get(at, "<scenario>"))
            path = find(holder[last], place)
            holder[last] = read_trace(path, str(path))


def _is_sourced(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value


def _is_file(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        RATE.parse(value)
    except ValueError:
        return " " not in value and (not value[0].isdigit() or Path(value).suffix != "")
    return False
