"""`mobisim report`: results as one file that opens from disk, prints, and asks no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mobisim.errors import InputError
from mobisim.pages.result import Picture, Shown, picture, read_shown
from mobisim.pages.template import asset, whole_page
from mobisim.report.kinds import KINDS
from mobisim.report.results import check_writable, replacing
from mobisim.report.sweep_table import read_all
from mobisim.report.wording import count
from mobisim.units import human_time

MAX_RESULTS = 8
TOGETHER = {
    "breakdown": "What the work on a mini-batch is made of",
    "convergence": "Learning against simulated time",
}


def write_report(places: Sequence[Path], out: Path) -> Path:
    """Write the report of some results to `out`.

    Raises:
        InputError: a folder holds no result, or there are more than a page holds side by side.
    """
    if len(places) > MAX_RESULTS:
        raise InputError(
            "more results than a page holds side by side",
            where="RESULT",
            expected=f"at most {MAX_RESULTS}",
            got=str(len(places)),
        )
    shown = read_shown(places)
    check_writable(out)
    page = whole_page(
        "report.html",
        asset("page.css") + asset("report.css"),
        asset("timeline.js"),
        title=_title(shown),
        together=_together(shown),
        results=shown,
        overall=_overall(shown),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as aside:
        aside.write_text(page, "utf-8")
    return out


def _title(shown: Sequence[Shown]) -> str:
    if len(shown) == 1:
        return shown[0].name
    return f"{count(len(shown), 'result')} side by side"


def _overall(shown: Sequence[Shown]) -> str:
    """Several results in a sentence: the quickest, and how much longer the others take."""
    times = {one.name: one.summary.get("makespan_s") for one in shown}
    ranked = sorted((t, name) for name, t in times.items() if t is not None)
    if len(shown) == 1 or not ranked:
        return ""
    (least, first), *others = ranked
    rest = ", ".join(
        f"{name} takes {seconds / least:.3g} times as long" for seconds, name in others
    )
    none = [name for name, seconds in times.items() if seconds is None]
    missing = f" Without a time: {', '.join(none)}." if none else ""
    return f"{first} is the quickest, {human_time(least)}{f'; {rest}' if rest else ''}.{missing}"


def _together(shown: Sequence[Shown]) -> list[Picture]:
    """Pictures of all results in one, those that there is something to draw for."""
    if len(shown) == 1:
        return []
    sweep, found = read_all([one.place for one in shown]), []
    for kind, title in TOGETHER.items():
        try:
            data = picture(partial(KINDS[kind], sweep))
        except InputError:  # nothing was trained, or nothing ran
            continue
        assert data is not None
        names = ", ".join(one.name for one in shown)
        found.append(Picture(title, f"{title}: {names}. The tables hold the numbers.", data))
    return found
