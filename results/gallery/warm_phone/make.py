"""What warmth and a low battery cost a phone: mini-batches done and the phone's pace, over time.

Run from anywhere with `python results/gallery/warm_phone/make.py`: it takes seconds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import mobisim
from mobisim.cost.system import System
from mobisim.report.figure import GREY, INK, Box, page
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import FORWARD, STEP, SpanColumns
from mobisim.workload import plan
from mobisim.world import build

HERE = Path(__file__).parent
REST_S = 60.0  # a longer gap between forwards is a rest
COLD = "devices[0].profile.heat.sustained_clock=1.0"
CASES = {
    "cold, plugged in": ([COLD, "devices[0].battery={}"], (0, (1, 1))),
    "warm, plugged in": (["devices[0].battery={}"], (0, (5, 2))),
    "warm, battery low": ([], "-"),
}


def spans(scenario: Scenario) -> SpanColumns:
    """Every span of a timing-only scenario."""
    world = replace(build(System(scenario), plan(scenario).workload), deliver=False)
    return SpanColumns.concatenate(block.columns for block in simulate(world))


def main() -> None:
    """Simulate the three cases and draw them."""
    with page(8.0, 3.6) as sheet:
        done = sheet.axes(Box(0.75, 0.75, 3.1, 2.2))
        pace = sheet.axes(Box(4.65, 0.75, 3.1, 2.2))
        for name, (overrides, line) in CASES.items():
            columns = spans(mobisim.load("warm_phone", overrides))
            ends = columns.end[columns.kind == STEP] / 3600
            forwards = columns[columns.kind == FORWARD]
            style = {"color": INK, "ls": line, "lw": 1.4, "label": name}
            done.step(np.r_[0, ends], np.arange(len(ends) + 1), where="post", **style)
            lasted = forwards.end - forwards.start
            rests = np.flatnonzero(forwards.start[1:] - forwards.end[:-1] > REST_S) + 1
            hours = np.insert(forwards.start / 3600, rests, np.nan)  # no line through a rest
            pace.plot(hours, np.insert(lasted, rests, np.nan), **style)
        done.set_ylabel("mini-batches done")
        pace.set_ylabel("seconds per forward")
        pace.set_ylim(0)
        for axes in (done, pace):
            axes.set_xlim(0)
            axes.set_xlabel("simulated time (h)")
        done.legend(frameon=False, fontsize=8.5, loc="lower right")
        title = "A phone at work: it warms up, and rests below 20 % of charge"
        sheet.write(0.3, 0.2, title, fontsize=11.5)
        note = "opt-350m, 16 x 64 tokens, oneplus-12 over wifi-5; heat is assumed, see the profile"
        sheet.write(0.3, 0.42, note, color=GREY)
        sheet.save(HERE / "warm_phone.png")


if __name__ == "__main__":
    main()
