"""A comparison: sweeps over methods, what they say of each, and the answer in a folder.

compare.json, compare.csv   the answer
compare.png, compare.svg    its picture
learning_rates/             a sweep: every method at every learning rate, by validation
methods/                    a sweep: every method at the rate chosen for it
trajectories/               what was trained, once for both
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobisim.compare.choice import Choice, choose
from mobisim.compare.clock import Clock
from mobisim.compare.crossing import crossings
from mobisim.compare.question import METHOD, PARTS, RUNS, Question
from mobisim.compare.standings import standings, steps_to_target
from mobisim.errors import InputError
from mobisim.report import results, wording
from mobisim.report.comparison import AtRate, Comparison, as_json, as_rows
from mobisim.report.series import unnested
from mobisim.report.sweep_table import Row
from mobisim.scenario.schema import DeviceGroup, Scenario
from mobisim.sweeps.pools import Pool
from mobisim.sweeps.run import sweep
from mobisim.sweeps.work import Setting
from mobisim.workload import metric_name

ANSWER = "compare.json"
TABLE = "compare.csv"
PICTURES = ("compare.png", "compare.svg")


def compare(question: Question, pool: Pool) -> tuple[Path, Comparison]:
    """Have all done that is not done yet, and publish the answer.

    Raises:
        InputError: the comparison cannot begin as it stands.
        MobisimError: the workers have gone; what is finished is kept.
    """
    place = question.place
    results.check_writable(place / RUNS)
    _check_free(place, question.digest)
    chosen = _chosen(question, pool)
    rates = {m: c.learning_rate for m, c in chosen.items() if c.error is None}
    rows = sweep(question.runs(rates), pool, question.session).rows if rates else []
    found = _comparison(question, chosen, rows)
    _publish(place, found, question)
    return place, found


def _check_free(place: Path, digest: str) -> None:
    """Let nothing be in the folder but this comparison, whole or as far as it came."""
    found = results.read_digest(place, ANSWER)
    if found == digest or (found is None and not _strangers(place)):
        return
    sort = "another comparison" if found else "something that is no comparison"
    raise InputError(f"{sort} is there already", where=str(place), hint="choose another --out")


def _strangers(place: Path) -> set[str]:
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    own = {*PARTS, TABLE, *PICTURES}
    return {name for name in names - own if not name.startswith(".")}


def _chosen(question: Question, pool: Pool) -> dict[str, Choice]:
    if not question.trains or not question.learning_rates:
        return dict.fromkeys(question.methods, Choice())
    if len(question.learning_rates) == 1:  # nothing to choose
        return dict.fromkeys(question.methods, Choice(question.learning_rates[0]))
    return choose(question, sweep(question.grid(), pool, question.session).rows)


def _comparison(
    question: Question, chosen: Mapping[str, Choice], rows: Sequence[Row]
) -> Comparison:
    setting = Setting(question.session, replace(question.options.bare, train=False))
    wanted = _steps_to_target(question, rows)
    clock = Clock(question, setting, wanted)
    failed = {row[METHOD] for row in rows if row["error"] is not None}
    methods = [m for m, choice in chosen.items() if choice.error is None and m not in failed]
    return Comparison(
        **_about(question.scenario),
        digest=question.digest,
        stand_in=next((wording.stand_in(unnested(r)) for r in rows if not r["error"]), None),
        num_seeds=question.num_seeds,
        learning_rates=question.learning_rates,
        timed_by="time to target" if wanted else "makespan",
        standings=tuple(standings(question, chosen, rows, clock)),
        rates=tuple(AtRate(r, {m: clock.seconds(m, r) for m in methods}) for r in question.rates),
        crossings=tuple(crossings(clock, methods, question.rates)) if question.rates else (),
        notes=tuple(_notes(question, rows, wanted)),
    )


def _about(scenario: Scenario) -> dict[str, Any]:
    groups, training = scenario.devices, scenario.training
    link = groups[0].link
    models = [scenario.model, *(group.model for group in groups)]
    return {
        "name": scenario.name,
        "model": _listed(model.name for model in models if model) or None,
        "device": _listed(_devices(group) for group in groups),
        "num_devices": scenario.num_devices,
        "link": _listed(group.link.name for group in groups),
        "server": scenario.server.profile.name,
        "rate": link.uplink.value if link.kind == "constant" else None,
        "metric": metric_name(training) if training else None,
        "target": training.target.value if training and training.target else None,
    }


def _devices(group: DeviceGroup) -> str:
    times = f"{group.count} {wording.TIMES} " if group.count > 1 else ""
    return f"{times}{group.profile.name}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _steps_to_target(
    question: Question, rows: Sequence[Row]
) -> dict[tuple[str, int], int | None] | None:
    """Where steps come in the same order at every rate: how many it takes to the target."""
    return steps_to_target(question, rows) if question.trains and _in_order(question) else None


def _in_order(question: Question) -> bool:
    return question.scenario.num_devices == question.scenario.server.workers == 1


def _notes(question: Question, rows: Sequence[Row], wanted: object) -> Iterator[str]:
    warnings = (row["warnings"].split("; ") for row in rows if row.get("warnings"))
    yield from dict.fromkeys(words for found in warnings for words in found if "radio" in words)
    if question.fixed_link:
        yield f"{question.fixed_link}: no rates are compared, and no crossing is looked for"
    target = question.scenario.training.target if question.scenario.training else None
    if not question.trains or target is None or wanted:
        return
    if _in_order(question):
        yield f"no method meets {target.metric} {target.value:g}: times are those of whole runs"
    else:
        yield "several workers take steps in another order at every rate: times are of whole runs"


def _publish(place: Path, found: Comparison, question: Question) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if question.options.plots:
        _draw(place, found)
    with results.replacing(place / TABLE) as aside:
        aside.write_text(_csv(list(as_rows(found))), encoding="utf-8")
    with results.replacing(place / ANSWER) as aside:
        results.write_json(aside, as_json(found) | {"command": question.options.command})


def _draw(place: Path, found: Comparison) -> None:
    from mobisim.report.comparison_plot import drawn_comparison  # noqa: PLC0415 - matplotlib

    with drawn_comparison(found) as page:
        for name in PICTURES:
            with results.replacing(place / name) as aside:
                page.save(aside, Path(name).suffix[1:])


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
