"""Comparisons end to end: fair, trained once, resumable, and each failure a row."""

from __future__ import annotations

import copy
import csv
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import mobisim as command
from numpy.typing import NDArray
from pools import AtOnce
from tasks import write_task

import mobisim
from mobisim.compare.question import Question, ask
from mobisim.compare.run import compare
from mobisim.errors import MobisimError
from mobisim.report.comparison import Comparison
from mobisim.scenario import catalog
from mobisim.scenario.load import apply, resolve
from mobisim.sweeps import work
from mobisim.sweeps.work import judge, play, train

NEVER = ["training.target.value=1.0", "training.optimizer.lr=1e-9"]
CROSSES = "papers/opt350m_xavier_nx"  # a device that trains as fast as some links carry
METHODS = ("mobillm", "pae-mobillm")
GRID = (1e-2, 1e-3)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small share of the built-in task."""
    return write_task(tmp_path_factory.mktemp("task"), train=64, dev=32)


def small(task: Path, place: Path, methods: Sequence[str] = METHODS, **more: Any) -> Question:
    """A question that takes seconds."""
    options = mobisim.Options(out=place, plots=False, train=more.pop("train", True))
    target = "training.target={metric: accuracy, value: 0.2}"
    also = more.pop("also", ())
    return ask(
        catalog.scenario(more.pop("of", "wifi_5mbps")),
        options,
        methods=methods,
        rates=(1e6, 1e9),
        overrides=[f"training.task={task}", "training.epochs=2", target, *also],
        **more,
    )


def calls(executor: AtOnce, work: Any) -> int:
    """How often some work was handed out."""
    return sum(call[0] is work for call in executor.calls)


@pytest.fixture(scope="module")
def compared(task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, Comparison]:
    """A comparison with two seeds."""
    place = tmp_path_factory.mktemp("compared") / "c"
    question = small(task, place, learning_rates=GRID, num_seeds=2)
    executor = AtOnce()
    _, found = compare(question, executor.pool())
    assert calls(executor, train) == len(METHODS) * 2 * 2
    assert (
        calls(executor, judge) == len(METHODS) * 2
    )  # the held-out samples wait for the chosen rates
    return question, found


def test_each_row_is_that_of_a_run(compared: tuple[Question, Comparison], tmp_path: Path) -> None:
    """With the learning rate that was chosen, a run of its own ends at the same metric."""
    question, found = compared
    for standing in found.standings:
        scenario = question.at(standing.method, 0).scenario
        assert scenario is not None
        assert scenario.training is not None
        optimizer = {
            "optimizer": scenario.training.optimizer.model_copy(
                update={"lr": standing.learning_rate}
            )
        }
        training = scenario.training.model_copy(update=optimizer)
        alone = mobisim.run(
            scenario.model_copy(update={"training": training}),
            mobisim.Options(plots=False, out=tmp_path / standing.method),
        )
        point = next((question.place / "methods" / "points").glob(alone.summary.digest))
        assert json.loads((point / "summary.json").read_text()) == alone.summary.model_dump(
            mode="json"
        )
        assert standing.uplink_bytes == alone.summary.uplink_bytes


def test_the_chosen_rate_is_the_best_by_validation(
    compared: tuple[Question, Comparison],
) -> None:
    """As the table of the grid says, in which the held-out samples were not read."""
    question, found = compared
    with (question.place / "learning_rates" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["final_metric"] for row in rows} == {""}
    for standing in found.standings:
        scores = {
            rate: sum(
                float(row["validation_metric"])
                for row in rows
                if row["method"] == standing.method and float(row["training.optimizer.lr"]) == rate
            )
            for rate in GRID
        }
        assert scores[standing.learning_rate or 0] == max(scores.values())


def test_the_ledger_tells_what_is_said_of_the_labels(
    compared: tuple[Question, Comparison],
) -> None:
    """Residuals are no labels, and give each of them away; kept activations went up once."""
    _, found = compared
    plain, additive = found.standings
    assert plain.leaves is not None
    assert additive.leaves is not None
    assert plain.leaves.keys() == {"activations", "labels", "framing"}
    assert additive.leaves.keys() == {"activations", "residuals", "framing"}
    assert plain.leaves["labels"] == 2 * 58 * 4  # two epochs of those that are not validated on
    assert additive.leaves["residuals"] == 58 * 2 * 4
    assert (plain.labels_given_away, additive.labels_given_away) == (None, 1.0)


def test_the_device_is_busy_as_long_as_its_spans(
    compared: tuple[Question, Comparison],
) -> None:
    """The published spans of the runs say the same, in the mean over seeds."""
    question, found = compared
    busy = {one.method: one.device_busy_s for one in found.standings}
    with (question.place / "methods" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for method, seconds in busy.items():
        digests = [row["digest"] for row in rows if row["method"] == method]
        assert seconds == pytest.approx(
            sum(map(functools.partial(device_seconds, question), digests)) / len(digests)
        )
    assert (busy["pae-mobillm"] or 0) < 0.6 * (busy["mobillm"] or 0)  # the second epoch is kept


def device_seconds(question: Question, digest: str) -> float:
    """What the device's work in a run's spans adds up to."""
    spans = question.place / "methods" / "points" / digest / "spans.parquet"
    table = pq.read_table(spans, columns=["kind", "actor", "start", "end"]).to_pylist()
    work = (row for row in table if row["actor"] == "device-0" and row["kind"] != "wait")
    return math.fsum(row["end"] - row["start"] for row in work)


def test_methods_that_learn_the_same_are_trained_once(task: Path, tmp_path: Path) -> None:
    """LoRA at the server learns what it learns on the device; each row is still that of a run."""
    executor = AtOnce()
    question = small(task, tmp_path / "c", ["lora", "server-only", "split-lora"])
    _, found = compare(question, executor.pool())
    assert calls(executor, train) == 2
    device, server, _ = found.standings
    assert device.final == server.final
    assert device.uplink_bytes != server.uplink_bytes
    scenario = question.at("server-only", 0).scenario
    assert scenario is not None
    alone = mobisim.run(scenario, mobisim.Options(plots=False, out=tmp_path / "alone"))
    point = question.place / "methods" / "points" / alone.summary.digest
    for name in ("summary.json", "steps.parquet"):
        assert (point / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_nothing_is_done_twice(compared: tuple[Question, Comparison]) -> None:
    """The same command takes what is there, and says the same."""
    question, found = compared
    before = (question.place / "compare.json").read_bytes()
    executor = AtOnce()
    assert compare(question, executor.pool())[1] == found
    assert [calls(executor, work) for work in (train, judge, play)] == [0, 0, 0]
    assert (question.place / "compare.json").read_bytes() == before


def test_killed_anywhere_it_goes_on(
    compared: tuple[Question, Comparison], task: Path, tmp_path: Path
) -> None:
    """An end after each piece of work in turn: all is done once, in the end."""
    first, found = compared
    question = small(task, tmp_path / "c", learning_rates=GRID, num_seeds=2)
    done: list[Any] = []
    for _ in range(100):
        executor = Stopping(done)
        try:
            _, again = compare(question, executor.pool(window=1))
        except MobisimError:
            continue
        break
    assert again == found
    assert (question.place / "compare.csv").read_bytes() == (
        first.place / "compare.csv"
    ).read_bytes()
    trained = [call[2].digest for call in done if call[0] is train]
    judged = [call[2].digest for call in done if call[0] is judge]
    assert len(trained) == len(set(trained)) == len(METHODS) * 4
    assert len(judged) == len(set(judged)) == len(METHODS) * 2


class Stopping(AtOnce):
    """Ends everything once it has trained, judged or played one thing."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__()
        self.done, self.worked = done, False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The result, or the end."""
        if args[0] in (train, judge, play):
            if self.worked:
                raise MobisimError("killed")
            self.worked = True
            self.done.append(args)
        return super().submit(fn, *args, **kwargs)


def test_timing_alone_needs_no_learning(task: Path, tmp_path: Path) -> None:
    """Times, memory and bytes, and no word of quality."""
    executor = AtOnce()
    _, found = compare(small(task, tmp_path / "c", train=False), executor.pool())
    assert calls(executor, train) == 0
    assert found.timed_by == "makespan"
    first = found.standings[0]
    assert first.final is None
    assert first.makespan_s is not None
    assert first.leaves is not None
    assert first.step_s == first.makespan_s / (first.num_steps or 0)
    slow, fast = found.rates
    assert slow.seconds["mobillm"] > fast.seconds["mobillm"]


def test_the_crossing_is_where_a_sweep_over_rates_has_it(task: Path, tmp_path: Path) -> None:
    """A second way: runs at twenty rates, the last slower one of which lies before the crossing."""
    methods = ["mobillm", "lora"]
    question = small(task, tmp_path / "c", methods, train=False, of=CROSSES, also=["deliver=none"])
    _, found = compare(question, AtOnce().pool())
    (one,) = found.crossings
    assert one.rate is not None
    rates = np.geomspace(one.rate / 4, one.rate * 4, 20)
    lora, *_ = makespans(question, "lora", [1e6])
    slower = makespans(question, "mobillm", rates) > lora
    last = int(slower.sum()) - 1
    assert slower.tolist() == [True] * (last + 1) + [False] * (19 - last)
    assert rates[last] <= one.rate * 1.0001
    assert one.rate <= rates[last + 1] * 1.0001


def test_work_is_done_once(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a method is looked at and timed, it is made ready once; data is read once."""
    made: Counter[str] = Counter()

    def counting(name: str) -> None:
        real = getattr(work, name)

        def counted(*arguments: Any) -> Any:
            made[name] += 1
            return real(*arguments)

        monkeypatch.setattr(work, name, counted)

    counting("prepare")
    counting("draw")
    question = small(task, tmp_path / "c", train=False)
    _, found = compare(question, AtOnce().pool())
    assert [one.method for one in found.standings] == list(METHODS)
    assert made == {"prepare": len(METHODS), "draw": 1}
    assert small(task, tmp_path / "c", train=False).session != question.session  # read anew
    other = small(task, tmp_path / "c", list(METHODS)[:1], train=False)
    with pytest.raises(mobisim.InputError, match="another comparison is there already"):
        compare(other, AtOnce().pool())
    (tmp_path / "c" / "compare.json").rename(tmp_path / "kept")
    assert compare(question, AtOnce().pool())[1] == found  # as after an interrupt: it goes on


def test_what_is_no_comparison_is_left_alone(task: Path, tmp_path: Path) -> None:
    """A run's folder, say: its files and ours would be one heap."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    with pytest.raises(mobisim.InputError, match="something that is no comparison is there"):
        compare(small(task, tmp_path / "run", train=False), AtOnce().pool())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["summary.json"]


def makespans(question: Question, method: str, rates: Iterable[float]) -> NDArray[np.float64]:
    """How long runs of their own take, in seconds."""
    document = catalog.scenario(CROSSES)
    training = f"training={json.dumps(question.document.data['training'])}"
    for text in (training, "deliver=none", f"method={method}"):
        apply(document, text)
    found: list[float] = []
    for rate in rates:
        apply(document, f"devices[0].link.uplink={float(rate)!r} bit/s")
        place = question.place / f"{method}-{len(found)}"
        options = mobisim.Options(train=False, plots=False, out=place)
        seconds = mobisim.run(resolve(copy.deepcopy(document)), options).summary.makespan_s
        assert seconds is not None
        found.append(seconds)
    return np.array(found)


def test_a_target_that_is_never_met_is_said(task: Path, tmp_path: Path) -> None:
    """And times are then those of all samples."""
    question = small(task, tmp_path / "c", also=NEVER)
    _, found = compare(question, AtOnce().pool())
    assert found.timed_by == "makespan"
    assert found.standings[0].num_met == 0
    assert "no method meets accuracy 1: times are those of whole runs" in found.notes


def test_a_failure_is_a_row(task: Path, tmp_path: Path) -> None:
    """One method that cannot be run says why, and the others stand."""
    methods, deep = ["mobillm", "split-lora"], ["tuning.cut=99"]
    question = small(task, tmp_path / "c", methods, learning_rates=GRID, also=deep)
    _, found = compare(question, AtOnce().pool())
    first, failed = found.standings
    assert first.error is None
    assert failed.error is not None
    assert list(found.rates[0].seconds) == ["mobillm"]


def test_the_command_prints_the_answer(
    task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table, who wins at which rate, and the files with it."""
    place = tmp_path / "c"
    words: list[str | Path] = [
        "compare",
        "wifi_5mbps",
        "--set",
        f"training.task={task}",
        "--no-train",
        "--out",
        place,
    ]
    ran = command(capsys, *words, "--methods", "mobillm,lora", "--rates", "1,20 Mbit/s")
    assert ran.code == 0, ran.err
    for expected in ("mobillm", "lora", "activations", "1 Mbit/s", "compare.png"):
        assert expected in ran.out
    assert {path.name for path in place.iterdir()} >= {
        "compare.json", "compare.csv", "compare.png", "compare.svg",
    }  # fmt: skip
    printed = command(
        capsys, *words, "--methods", "mobillm,lora", "--rates", "1,20 Mbit/s", "--json"
    )
    assert json.loads(printed.out)["rates"][0]["rate"] == 1e6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wifi_5mbps", "--methods", "lorra"], "did you mean 'lora'"),
        (["wifi_5mbps", "--lr", "fast"], "no learning rates"),
        (["wifi_5mbps", "--lr", "-1"], "no learning rates"),
        (["wifi_5mbps", "--rates", "1,2"], "no rates"),
        (["wifi_5mbps", "--methods", "lora,mobillm,lora"], "named twice"),
        (
            ["wifi_5mbps", "--methods", "lora,full", "--rates", "1,2 Mbit/s"],
            "there is no link to vary",
        ),
        (["lte_trace", "--rates", "1,2 Mbit/s"], "is not constant"),
    ],
)
def test_bad_input_is_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, with exit code 2, and nothing is left behind."""
    ran = command(capsys, "compare", *words, "--no-train", "--out", tmp_path / "c")
    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "c").exists()
