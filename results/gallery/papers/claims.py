"""A claim of a paper and ours beside it, as a line of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Evidence = TypeVar("Evidence")


@dataclass(frozen=True)
class Claim(Generic[Evidence]):
    """What a source says, how sure that is, what we get, and why it differs.

    `grade`: P, read in the source; S, a secondary source, not checked; S-, a weak one.
    """

    says: str
    grade: str
    source: str
    ours: Callable[[Evidence], str]
    why: str


def claims_table(claims: Iterable[Claim[Evidence]], found: Evidence) -> str:
    """Claim, grade and source, ours, and why they differ, in Markdown."""
    lines = ["| claim | grade, source | ours | why they differ |", "|---|---|---|---|"]
    for claim in claims:
        cells = (claim.says, f"{claim.grade}, {claim.source}", claim.ours(found), claim.why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
