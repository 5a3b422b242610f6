from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any
from unittest.mock import MagicMock

import pytest

from mobisim.learning import History, Learning, Recorded
from mobisim.scenario.profiles import Measured
from mobisim.scenario.schema import Scenario, Target, Training
from mobisim.span import NONE, STEP, SpanColumns
from mobisim.validation import neighbours, suite, validate
from mobisim.validation.compare import Comparison, Figures, compare
from mobisim.validation.neighbours import Neighbours
from mobisim.validation.pieces import Pieces
from mobisim.validation.plots import draw_comparison, draw_suite
from mobisim.validation.profile import Child, Profiles, _delayed, _profile
from mobisim.validation.published import published
from mobisim.validation.simulation import late_target
from mobisim.validation.suite import STRATA, Drawn, accuracies, draws
from mobisim.validation.tables import SUITE_COLUMNS, accuracy_rows, markdown, suite_rows
from mobisim.validation.theory import check_all
from mobisim.validation.validate import CALM, DOUBT, TRIES, Effort, _in_calm, as_numbers

FIGURES = Figures(
    kinds={"forward": 0.1, "transfer": 0.4, "step": 0.05},
    step_s=0.4,
    makespan_s=10.0,
    target=0.65,
    time_to_target_s=5.0,
    busy={"device-0": 0.25, "uplink-0": 1.0, "server/worker-0": 0.125},
    losses=(0.7, 0.6),
    bottleneck="uplink",
)


def figures(**changes: Any) -> Figures:
    return dataclasses.replace(FIGURES, **changes)


def comparison() -> Comparison:
    """Three real runs with makespans of 9, 12 and 10 s, and simulated ones of 11 s."""
    real = [figures(makespan_s=seconds) for seconds in (9.0, 12.0, 10.0)]
    kinds = {"forward": 0.13, "transfer": 0.42, "step": 0.05}
    return compare(real, [figures(makespan_s=11.0, kinds=kinds, losses=(0.7, 0.5))] * 3)


def test_errors_stand_beside_the_spread_of_repeats() -> None:
    """Means over the pairs, how sure they are, and from the least to the greatest real run."""
    line = comparison().line("makespan")
    assert line.measured == pytest.approx(31 / 3)
    assert line.simulated == pytest.approx(11)
    assert line.error == pytest.approx(33 / 31 - 1)
    assert line.spread == pytest.approx(3 / (31 / 3))
    assert line.doubt == pytest.approx(stdev([2, -1, 1]) / (31 / 3) / math.sqrt(3))
    assert compare([FIGURES], [FIGURES]).line("makespan").doubt is None


@pytest.mark.parametrize(
    ("count", "doubt", "enough"),
    [
        (2, 0.0, False),  # three at least
        (3, DOUBT, True),
        (3, 2 * DOUBT, False),  # they scatter
        (8, 2 * DOUBT, True),  # but there are as many as shall be
        (8, None, True),
    ],
)
def test_more_runs_are_made_where_they_scatter(
    count: int, doubt: float | None, *, enough: bool
) -> None:
    """By the doubt of the error, never by the error."""
    assert Effort(repeats=3, most=8).suffices(count, doubt) == enough
    assert Effort(repeats=3).suffices(count, doubt) == (count >= 3)


def test_the_kind_of_span_that_is_furthest_off_is_blamed() -> None:
    """In seconds of a mini-batch: 30 ms of forward count for more than 20 of transfer."""
    assert comparison().blamed == "forward"


def test_losses_are_held_together_step_by_step() -> None:
    """The largest gap; nothing where nothing was learned."""
    assert comparison().loss_gap == pytest.approx(0.1)
    silent = figures(losses=(math.nan, math.nan))
    assert compare([silent], [silent]).loss_gap is None


def test_no_time_to_target_where_a_run_missed_it() -> None:
    """A line is there only if every run has its figure."""
    assert comparison().line("time to target").error == 0
    missed = compare([FIGURES, figures(time_to_target_s=None)], [FIGURES] * 2)
    assert "time to target" not in [line.name for line in missed.lines]
    assert missed.missed == (1, 0)
    none = figures(target=None, time_to_target_s=None)
    assert compare([none], [none]).missed is None


METRIC = (math.nan, 0.7, math.nan, 0.5, math.nan, 0.4)  # of six steps, every other one evaluated


def time_to_target(ends: Sequence[float], value: float) -> float | None:
    """What learning says of made-up steps that ended then."""
    training = Training(
        batch_size=1, sequence_length=1, epochs=6, target=Target(metric="loss", value=value)
    )
    learned = History(loss=[0.5] * len(ends), metric=list(METRIC), initial=0.8)
    learning = Learning(MagicMock(scenario=MagicMock(training=training)), Recorded(learned))
    rows = [
        (STEP, 2, end - 0.5, end, 0, number, NONE, NONE, number, number + 1, False)
        for number, end in enumerate(ends)
    ]
    learning.add(SpanColumns.from_rows(rows))
    return learning.time_to_target_s


def test_time_to_target_is_compared_at_the_step_that_meets_it() -> None:
    """The fourth step decides, however far apart the last ones are."""
    real, simulated = (1.0, 2.0, 3.0, 5.0, 6.0, 7.0), (1.0, 2.0, 3.0, 4.0, 7.0, 14.0)
    target = late_target(METRIC)
    assert target is not None
    assert target == pytest.approx(0.6)
    found = compare(
        *([figures(time_to_target_s=time_to_target(ends, target))] for ends in (real, simulated))
    )
    line = found.line("time to target")
    assert (line.measured, line.simulated) == (5.0, 4.0)
    assert line.error == pytest.approx(-0.2)
    assert time_to_target(real, 0.39) is None


@pytest.mark.parametrize(
    ("losses", "value"),
    [
        ((0.9, 0.8, 0.7, 0.6), 0.75),  # the third is the first of the second half
        ((0.9, 0.5, 0.7, 0.6), None),  # never again as good as in the first half
        ((0.5, 0.9, 0.7, 0.3), 0.4),  # only the last one is better than the first
        ((math.nan, math.nan, math.nan, 0.3), None),  # nothing before it to be better than
    ],
)
def test_the_target_is_met_late_and_not_before(
    losses: Sequence[float], value: float | None
) -> None:
    """Between the first loss of the second half that is below all before it, and these."""
    assert late_target(losses) == (None if value is None else pytest.approx(value))


def test_the_suite_tells_times_to_target_where_there_are_any() -> None:
    """Each group counts those that met their target; the others say who missed it."""
    met, missed, none = rows()
    lines = [line for line in missed["lines"] if line["name"] != "time to target"]
    missed |= {"lines": lines, "missed": (2, 0), "bottleneck": "server"}
    none |= {"lines": lines, "missed": (3, 3), "bottleneck": "server"}
    next(line for line in met["lines"] if line["name"] == "time to target")["error"] = -0.02
    found = accuracies([met, missed, none], "time to target")
    assert {group: one.count for group, one in found.items()} == {"uplink": 1, "all": 1}
    assert found["all"].median == found["all"].p90 == pytest.approx(0.02)
    column = SUITE_COLUMNS.index("to target")
    told = [row[column] for row in suite_rows([met, missed, none])]
    assert told[0] == "-2.0 %"
    assert told[1:] == ["missed by 2 of 3 real runs, 0 of 3 simulated", "not met, as simulated"]


def rows() -> list[dict[str, Any]]:
    found = as_numbers(comparison())
    ones = [next(draws(stratum)) for stratum in STRATA]
    return [vars(one) | {"side_bottleneck": one.bottleneck} | found for one in ones]


def _some(drawn: Iterator[Drawn]) -> list[Drawn]:
    return list(itertools.islice(drawn, 5))


def test_the_suite_goes_on_until_each_has_set_the_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound to be slow at the server, a configuration may yet be paced by the link: draw more."""
    done: list[str] = []

    def pretended(drawn: Scenario, folder: Path, *_: object) -> Comparison:
        assert drawn.training is not None
        assert drawn.training.task == str(folder / "task")
        done.append(drawn.name)
        stratum, number = drawn.name.split("-")
        paced_by = "uplink" if number == "2" else stratum
        return dataclasses.replace(comparison(), bottleneck=paced_by)

    monkeypatch.setattr(suite, "validate", pretended)
    monkeypatch.setattr(suite, "EACH", 2)
    effort, quietly = Effort(), lambda _: None
    assert not suite.Suite(tmp_path, effort, quietly).run(at_most=4)
    whole = suite.Suite(tmp_path, effort, quietly)
    assert whole.run()
    assert done == [
        "device-1", "uplink-1", "server-1", "device-2", "server-2", "device-3", "server-3",
    ]  # fmt: skip
    assert [row["name"] for row in whole.rows] == done


def test_the_suite_is_drawn_and_not_chosen() -> None:
    """A seed decides, another seed decides otherwise, and every range is covered."""
    for stratum, ranges in STRATA.items():
        first, again, other = (_some(draws(stratum, seed)) for seed in (1, 1, 2))
        assert first == again != other
        for one in first:
            low, high = ranges["mbit"]
            assert low <= one.mbit <= high
            assert one.scenario(Path()).devices[0].run_ahead in ranges["run_ahead"]


def test_accuracy_is_told_for_each_group_and_over_all() -> None:
    """Groups are those of the real runs."""
    found = accuracies(rows(), "makespan")
    assert set(found) == {"uplink", "all"}
    assert found["all"].count == 3
    assert found["all"].median == pytest.approx(33 / 31 - 1)


def test_tables_and_pictures_are_made(tmp_path: Path) -> None:
    """One line for each configuration, and a picture of each sort."""
    text = markdown(["a", "b"], [("1", "2")])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert len(suite_rows(rows())) == 3
    assert len(accuracy_rows(rows())) == 6
    draw_comparison(comparison(), tmp_path / "one.png")
    draw_suite(rows(), tmp_path / "suite.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    assert (tmp_path / "suite.png").stat().st_size > 10_000


def test_pieces_make_a_profile() -> None:
    """Means over the round, the long pieces, too."""
    pieces: Pieces = {
        ("piece:block", 8, 32): [0.1, 0.1, 0.13],
        ("piece:block", 4, 32): [0.05] * 3,
    }
    found = _profile("device", pieces)
    assert isinstance(found, Measured)
    assert [sample.median_s for sample in found.samples] == pytest.approx([0.05, 0.11])
    assert [sample.repeats for sample in found.samples] == [3, 3]


def test_the_rhythm_is_that_of_all_rounds() -> None:
    """Rounds are pooled piece by piece, and the last one stays what it is."""
    child = Child("server", MagicMock(), {("piece:step", 8, 32): [0.1]})
    child.pool()
    child.pieces = {("piece:step", 8, 32): [0.3, 0.2]}
    assert child.pool() == {("piece:step", 8, 32): [0.1, 0.3, 0.2]}
    assert child.pieces == {("piece:step", 8, 32): [0.3, 0.2]}


def test_what_messages_take_besides_the_link_is_latency() -> None:
    """Added to a stated one; a random one, and one that TCP's rounds hang on, are left alone."""
    scenario = next(draws("uplink")).scenario(Path())
    profile = _profile("device", {("piece:block", 8, 32): [1.0]})
    late = Profiles(profile, profile, 0.002).put_into(scenario)
    assert late.devices[0].link.latency.value.mean == 0.002
    random = {"value": {"mean": "1 s", "distribution": "exponential"}, "source": "stated"}
    changed = scenario.devices[0].link.model_dump(mode="json") | {"latency": random}
    link = type(scenario.devices[0].link).model_validate(changed)
    assert _delayed(link, 0.002) == link


def test_the_engine_meets_theory() -> None:
    """Closed forms but for rounding, queues within what chance allows."""
    found = check_all()
    assert len(found) == 6
    assert all(one.worst <= one.allowed for one in found)


def test_published_figures_are_told_with_source_and_grade() -> None:
    """Of what bounds something, at least the bounds that do not hang on a shape are met."""
    found = published()
    assert all(one.source.endswith((", S", ", P")) for one in found)
    assert found[0].agrees
    assert [one.agrees for one in found].count(False) == 2  # LoRA, with fused attention
    federated = [one.ours / one.published for one in found if one.source.startswith("Fed ")]
    assert federated[:2] == pytest.approx([1, 1], abs=0.1)  # what is sent and computed
    assert federated[2] < 1  # fp16 weights and one mini-batch, no more


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([CALM / 2], CALM / 2),
        ([2 * CALM, CALM], CALM),  # one disturbed round and run are left out
        ([2 * CALM] * TRIES, 2 * CALM),  # never calm: the last one counts, and is told
    ],
)
def test_a_run_that_others_disturbed_is_done_again(
    monkeypatch: pytest.MonkeyPatch, shares: list[float], told: float
) -> None:
    """With its round of the measurement, whatever its figures."""
    left, run = iter(shares), MagicMock()

    class Watched(Neighbours):
        def __exit__(self, *_: object) -> None:
            self.share = next(left)

    monkeypatch.setattr(validate, "Neighbours", Watched)
    monkeypatch.setattr(validate, "run_bed", run)
    measurement = MagicMock()
    assert _in_calm(TRIES, measurement, MagicMock(), lambda _: None)[1] == told
    assert run.call_count == measurement.round.call_count == len(shares)


BUSY = "import time\nwhile time.process_time() < 0.5: pass"
ORPHAN = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}])"


@pytest.mark.parametrize("own", [True, False])
def test_neighbours_are_told_from_our_own(*, own: bool) -> None:
    """All work makes the machine busy; a process whose parent has gone is nobody's child."""
    before = neighbours._busy_s(), neighbours._own_s()
    subprocess.run([sys.executable, "-c", BUSY if own else ORPHAN.format(code=BUSY)], check=True)
    while neighbours._busy_s() - before[0] < 0.45:
        time.sleep(0.05)
    assert (neighbours._own_s() - before[1] > 0.4) == own
