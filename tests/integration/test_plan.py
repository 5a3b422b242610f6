"""Plans end to end: the answers of looking everywhere, in a tenth of the runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from commands import TOY, mobisim
from tiny import save_backbone, write_task

import mobisim as package
from mobisim.planning.bench import Bench, Reading
from mobisim.planning.question import Question, ask
from mobisim.planning.run import plan
from mobisim.planning.targets import Clause
from mobisim.prepare import Options
from mobisim.report.plan_text import sentence
from mobisim.scenario.document import parse
from mobisim.scenario.load import loads
from mobisim.sweeps.store import Store
from mobisim.sweeps.work import Setting

TIMED = """\
# One phone with stated times, as a world of its own
name: timed
num_batches: {batches}
deliver: none
wire: {{payload_bytes: {payload}}}
devices:
  - profile: {{kind: fixed, forward_s: {forward}, encode_s: 0.0, idle_power: 1 W, load_power: 5 W}}
    link: {{kind: constant, uplink: 2 Mbit/s, latency: {latency} ms, overhead_bytes: 0}}
    run_ahead: 4
server: {{profile: {{kind: fixed, step_s: {step}}}}}
"""
LEARNED = """\
# A tiny backbone that learns for real
name: learned
model: {folder}/config.json
wire: {{codec: int8, block_size: 32}}
deliver: none
training: {{task: {folder}, backbone: {folder}, batch_size: 4, sequence_length: 12, epochs: 3,
           evaluate_every: 1, optimizer: {{name: adamw, lr: 3e-2}}}}
devices:
  - profile: {{kind: fixed, forward_s: {forward}, encode_s: 0, memory: 8 GiB, runtime_memory: 0 B}}
    link: {{kind: constant, uplink: 0.1 Mbit/s, latency: {latency} ms, overhead_bytes: 0}}
    run_ahead: 4
server: {{profile: {{kind: fixed, step_s: {step}}}}}
"""
QUEUES = ("training.epochs=16", "devices[0].link.latency=300 ms", "devices[0].link.uplink=3 Mbit/s",
          "devices[0].profile.forward_s=0.005", "server.profile.step_s=0.005")  # fmt: skip
SOON = ("--target", "makespan <= 9 s", "--find")
UPLINK, RUN_AHEAD = "min devices[0].link.uplink", "min devices[0].run_ahead from 1 to 400"


@dataclass(frozen=True)
class Case:
    """A scenario drawn by its number, what is asked of it, and where its limits lie.

    `limits` are those of the clauses, as what the run says at so many of a hundred rungs; below
    zero, a tenth less than the least that any run says.
    """

    text: str
    target: str
    find: str
    limits: tuple[int, ...] = (40,)
    overrides: tuple[str, ...] = ()
    met: bool = True
    monotone: bool = True


WITHIN, MEMORY = "accuracy >= {a} within {}", "device_memory <= {}"
CASES = {
    "uplink": Case(TIMED, "makespan <= {}", f"{UPLINK} from 1 to 3 Mbit/s"),
    "device": Case(TIMED, "makespan <= {}", "max devices[0].profile.forward_s from 0.4 to 0.6 s"),
    "energy": Case(
        TIMED, "energy <= {} and makespan <= {}",
        "max devices[0].link.latency from 1 to 3 s", (70, 30),
    ),
    "too-slow": Case(TIMED, "makespan <= {}", f"{UPLINK} from 1 to 3 Mbit/s", (-1,), met=False),
    "queues": Case(
        LEARNED, f"makespan <= {{}} and {MEMORY}", RUN_AHEAD, (3, 12), QUEUES, monotone=False
    ),
    "learned-uplink": Case(LEARNED, WITHIN, f"{UPLINK} from 30 to 50 kbit/s"),
    "learned-device": Case(LEARNED, WITHIN, "max devices[0].profile.forward_s from 0.4 to 0.6 s"),
    "learned-latency": Case(LEARNED, WITHIN, "max devices[0].link.latency from 1 to 3 s"),
    "learned-queues": Case(
        LEARNED, f"{WITHIN} and {MEMORY}", RUN_AHEAD, (3, 12), QUEUES, monotone=False
    ),
    "learned-never": Case(
        LEARNED, "accuracy >= 1 within {}", f"{UPLINK} from 30 to 50 kbit/s", met=False
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone and its task."""
    return write_task(save_backbone(tmp_path_factory.mktemp("tiny")), num_train=24, num_dev=24)


def scenario(case: Case, number: int, folder: Path) -> str:
    """The scenario of a case, its times drawn by a seed."""
    source = np.random.default_rng(number)
    return case.text.format(
        folder=folder,
        batches=int(source.integers(8, 14)),
        payload=int(source.integers(150_000, 300_000)),
        forward=round(source.uniform(0.3, 0.5), 3),
        latency=int(source.integers(5, 40)),
        step=round(source.uniform(0.1, 0.2), 3),
    )


def question(text: str, target: str, case: Case, place: Path, num_seeds: int = 1) -> Question:
    """What is asked of a scenario."""
    return ask(
        parse(text, "case.yaml"),
        Options(out=place),
        target=[target],
        find=[case.find],
        num_seeds=num_seeds,
        overrides=case.overrides,
    )


def everywhere(asked: Question, place: Path) -> tuple[list[Reading], Bench]:
    """A run at every rung of the ladder."""
    bench = Bench(asked, Store(place, "everywhere"), Setting(asked.session, asked.options.bare))
    (knob,) = asked.knobs
    rungs = range(len(knob.ladder))
    return [bench.reading({knob.path: knob.value(rung)}, 0) for rung in rungs], bench


def limits(case: Case, every: list[Reading]) -> list[float]:
    """The limits of a case's clauses, from what its runs say."""
    found = []
    for clause, share in enumerate(case.limits):
        values = [reading.values[clause] for reading in every]
        known = [value for value in values if value is not None]
        at = values[len(values) * share // 100]
        found.append(0.9 * min(known) if share < 0 else at if at is not None else 60.0)
    return found


def with_units(case: Case, numbers: list[float], accuracy: float) -> str:
    """A target with its limits, to the last digit."""
    units = {"makespan": "s", "accuracy": "s", "energy": "J", "device_memory": "B"}
    names = [part.split()[0] for part in case.target.split(" and ")]
    texts = [f"{number!r} {units[name]}" for number, name in zip(numbers, names, strict=True)]
    return case.target.format(*texts, a=accuracy)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_agrees_with_looking_everywhere(name: str, folder: Path, tmp_path: Path) -> None:
    """The very rung, or that nothing meets it and what comes nearest, in a tenth of the runs."""
    case, number = CASES[name], list(CASES).index(name)
    text = scenario(case, number, folder)
    loose = question(text, with_units(case, [1e9] * len(case.limits), 0.5), case, tmp_path / "all")
    every, bench = everywhere(loose, tmp_path / "all")
    best = max((r.best for r in every if r.best is not None), default=0.5)
    if bench.learned:  # the time to the best evaluation, not to any
        loose = question(text, with_units(case, [1e9] * len(case.limits), best), case, tmp_path)
        every, _ = everywhere(loose, tmp_path / "all")
    target = with_units(case, limits(case, every), best)
    asked = question(text, target, case, tmp_path / "plan")
    ratios = [max(map(clause_ratio, asked.clauses, reading.values)) for reading in every]
    expected = next((rung for rung, ratio in enumerate(ratios) if ratio <= 1), None)
    assert (expected is not None) == case.met
    _, found = plan(asked)
    (knob,), (chosen,) = asked.knobs, found.knobs
    assert found.met == case.met
    assert found.search.monotone == case.monotone
    assert found.search.runs <= len(every) / 10
    assert found.search.trainings <= 1
    rung = list(knob.ladder).index(chosen.value)
    if expected is not None:
        assert rung == expected
        assert 0 < expected < len(every) - 1
    else:
        assert ratios[rung] == min(ratios)
        assert ("best evaluation" in str(found.why)) == case.target.startswith("accuracy")


def clause_ratio(clause: Clause, value: float | None) -> float:
    """How far a value is from a clause."""
    return math.inf if value is None else clause.ratio(value)


def test_seeds_that_disagree_are_all_heard(tmp_path: Path) -> None:
    """With random times the answer is one that every seed meets, and the next rung is not."""
    text = TOY.replace("forward_s: 0.4", "forward_s: {mean: 0.4 s, distribution: exponential}")
    case = Case(text, "makespan <= 20 s", f"{UPLINK} from 1 to 9 Mbit/s")
    asked = question(text, case.target, case, tmp_path / "plan", num_seeds=5)
    _, found = plan(asked)
    assert found.verified is not None
    assert (found.verified.met, found.verified.seeds, found.verified.alike) == (5, 5, False)
    assert found.verified.at_least == pytest.approx(0.05 ** (1 / 5))
    assert found.outcomes[0].over_seeds is not None
    bench = Bench(asked, Store(tmp_path, "other"), Setting(asked.session, asked.options.bare))
    (knob,), value = asked.knobs, found.knobs[0].value
    below = knob.value(list(knob.ladder).index(value) - 1)
    readings = [bench.reading({knob.path: below}, seed) for seed in asked.seeds]
    assert not all(reading.shortfall.met for reading in readings)


def test_what_is_assumed_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An assumed step that binds is named, with the answer at both ends of its range."""
    monkeypatch.chdir(tmp_path)
    step = "{value: 0.2, source: assumed, range: [0.1, 0.3]}"
    memory = "memory: {value: 9 GB, source: assumed, range: [8 GB, 10 GB]}"
    text = TOY.replace("step_s: 0.2", f"step_s: {step}, {memory}").replace("0.4", "0.01")
    Path("toy.yaml").write_text(text, "utf-8")
    words = ("plan", "toy.yaml", "--target", "makespan <= 3 s", "--find", UPLINK, "--out", "answer")
    ran = mobisim(capsys, *words)
    assert ran.code == 0
    first, second = (block for block in ran.out.split("\n\n")[:2])
    assert "assumed value" in first
    assert "server.profile.step_s" in first
    assert "devices[0].link.uplink: at least" in second
    answer = json.loads(Path("answer/plan.json").read_text("utf-8"))
    (leaning,) = answer["leanings"]  # the memory moves nothing
    at = {}
    for end, value in (("low", "0.1"), ("high", "0.3")):
        text_at = text.replace(step, value)
        case = Case(text_at, "makespan <= 3 s", UPLINK)
        at[end] = plan(question(text_at, case.target, case, tmp_path / end))[1].knobs[0].shown
    assert (leaning["low"], leaning["high"]) == (at["low"], at["high"])
    assert ran.out == mobisim(capsys, *words).out  # a rerun replaces its own answer


def test_reasons_are_what_runs_say(tmp_path: Path) -> None:
    """One more Mbit/s is worth what a run with it says, and headroom ends where the next begins."""
    case = Case(TOY, "makespan <= 9 s", f"{UPLINK} from 1 to 99 Mbit/s")
    found = plan(question(TOY, case.target, case, tmp_path / "plan"))[1]
    rate = found.knobs[0].value
    more = package.simulate(loads(TOY, overrides=[f"devices[0].link.uplink={rate + 1e6} bit/s"]))
    base = package.simulate(loads(TOY, overrides=[f"devices[0].link.uplink={rate} bit/s"]))
    worth = {one.change: one.factor for one in found.worth}
    assert more.summary.makespan_s is not None
    assert base.summary.makespan_s is not None
    assert worth["1 Mbit/s more"] == more.summary.makespan_s / base.summary.makespan_s
    assert worth["one more worker"] == 1
    assert found.pace is not None
    assert (found.pace.part, found.pace.then) == ("uplink", "device")
    transfer_s, forward_s = 8e6 / rate, 0.4
    assert found.pace.headroom == pytest.approx(transfer_s / forward_s - 1)


def test_the_edge_of_what_was_looked_at_is_named(tmp_path: Path) -> None:
    """An answer at a bound is one of the bound, and says so; without reasons it says that, too."""
    case = Case(TOY, "makespan <= 1 d", f"{UPLINK} from 1 to 3 Mbit/s")
    asked = replace(question(TOY, case.target, case, tmp_path / "plan"), reasons=False)
    found = plan(asked)[1]
    assert found.knobs[0].at_edge
    assert "even 1 Mbit/s" in sentence(found)
    assert (found.worth, found.leanings, found.search.reasons) == ((), (), 0)
    assert "Not looked into" in found.notes[0]


def test_the_cheapest_mix_is_found(tmp_path: Path) -> None:
    """Workers and bandwidth at a price: as cheap as the best of all combinations."""
    overrides = ["devices[0].count=6", "server.profile.step_s=0.5", "num_batches=3"]
    asked = ask(
        parse(TOY, "toy.yaml"),
        Options(out=tmp_path / "plan"),
        target=["makespan <= 5 s"],
        find=["min server.workers from 1 to 5", f"{UPLINK} from 5 to 9 Mbit/s"],
        cost="10 * server.workers + 2 * devices[0].link.uplink / 1 Mbit/s",
        num_seeds=1,
        overrides=overrides,
    )
    _, found = plan(asked)
    bench = Bench(asked, Store(tmp_path, "other"), Setting(asked.session, asked.options.bare))
    workers, uplink = asked.knobs
    prices = [
        10 * workers.ladder[w] + 2 * uplink.ladder[u] / 1e6
        for w in range(5)
        for u in range(0, len(uplink.ladder), 4)
        if bench.reading(
            {workers.path: workers.value(w), uplink.path: uplink.value(u)}, 0
        ).shortfall.met
    ]
    assert found.met
    assert found.cost is not None
    assert found.cost <= min(prices)
    assert found.search.runs <= bench.runs / 5


def test_a_profile_is_chosen_among_several(tmp_path: Path) -> None:
    """The first of the list that meets the target."""
    asked = ask(
        parse(TOY, "toy.yaml"),
        Options(out=tmp_path / "plan"),
        target=["makespan <= 6 s"],
        find=["devices[0].link among lte, wifi-20mbps, wifi-6"],
        num_seeds=1,
        overrides=["deliver=none"],
    )
    found = plan(asked)[1]
    times = [
        package.simulate(loads(TOY, overrides=[f"devices[0].link={name}"])).summary.makespan_s
        for name in ("lte", "wifi-20mbps", "wifi-6")
    ]
    first = next(n for n, t in enumerate(times) if t is not None and t <= 6)
    assert found.knobs[0].value == ("lte", "wifi-20mbps", "wifi-6")[first]


def test_a_search_that_finds_no_bounds_says_how_to_state_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is never busy has no most: the runs get longer, and the search ends."""
    monkeypatch.setattr("mobisim.planning.bench.MAX_STEPS", 200)
    case = Case(TOY, "p95 finish <= 1 d", "max devices[0].count")
    with pytest.raises(package.InputError, match="say between which values to look"):
        plan(question(TOY, case.target, case, tmp_path / "plan"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "makspan <= 9 s", "--find", UPLINK], "did you mean 'makespan'"),
        ([*SOON, "min devices[0].link.uplnk"], "'uplink'"),
        ([*SOON, "min num_batches"], "no bounds"),
        (["--target", "makespan <= 9 s"], "nothing to find"),
        (["--find", UPLINK], "nothing to meet"),
        (["--target", "accuracy >= 0.9", "--find", UPLINK], "learns nothing"),
        (["--target", "energy <= 9 J", "--find", UPLINK], "no power"),
        ([*SOON, UPLINK, "--find", "min server.workers"], "--cost"),
        ([*SOON, "devices[0].link among a, b"], "no link profile"),
    ],
)  # fmt: skip
def test_bad_questions_end_with_one_message(
    arguments: list[str], said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Exit code 2, the nearest name or the way out, and nothing left behind."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")
    ran = mobisim(capsys, "plan", "toy.yaml", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not list(tmp_path.rglob("plan.json"))
