"""What studies of many points share: a table that they add to as they go on, and when they end."""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """The points that are done, as CSV: one row each, in the order in which they were."""

    path: Path
    fields: tuple[str, ...]

    def rows(self) -> list[Row]:
        """What is done."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def append(self, row: Row) -> None:
        """Add a row, after a header where it is the first."""
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def asked(about: str | None, tasks: Sequence[str]) -> tuple[list[str], Callable[[], bool]]:
    """The tasks that the command line names, all if none, and whether there is time for more."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(tasks)}; all if none is named")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which to end")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    return arguments.tasks or list(tasks), lambda: time.monotonic() < end
