"""Whatever a user gives ends within seconds with one clear message, exit code 2 and no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TOY, Ran, mobisim

import mobisim as package
from mobisim.scenario.methods import METHODS

BACKBONE = Path(package.__file__).parent / "training" / "builtin" / "backbone"

Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a scenario in an empty directory, and holds a failure against what all must keep."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")
    before = sorted(tmp_path.rglob("*"))

    def runner(*arguments: str) -> Ran:
        ran = mobisim(capsys, "run", *arguments)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.startswith("mobisim: ")
        assert "Traceback" not in ran.err
        assert len(ran.err.splitlines()) <= 6
        left = {path for path in tmp_path.rglob("*") if path.name.startswith((".", "results"))}
        assert left <= set(before)
        return ran

    return runner


LAUGHS = "a: &a [l, l]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abc", "bcd", strict=True)
)

FILES = {
    "an empty file": (b"", "bad.yaml\n  no mapping\n  expected: keys and values"),
    "no YAML": (b"a: 1\nb: [1, 2\nc: }\n", "bad.yaml:3\n  this is not YAML"),
    "a tag": (b"a: !!python/name:os.system\n", "bad.yaml:1\n  the tag !!python/name:os.system is"),
    "an alias": (b"a: &x 1\nb: *x\n", "bad.yaml:1\n  aliases and anchors are refused"),
    "a billion laughs": (LAUGHS.encode(), "bad.yaml:1\n  aliases and anchors are refused"),
    "a key twice": (b"seed: 1\nname: x\nseed: 2\n", "bad.yaml:3\n  the key 'seed' stands twice"),
    "deep nesting": (b"a: " + b"[" * 10**5, "bad.yaml:1\n  nested too deep"),
    "a binary file": (bytes(range(256)), "bad.yaml\n  cannot be read: not a text file"),
    "a huge file": (b"#" * (2 << 20), "bad.yaml\n  too large"),
    "a list": (b"- name: x\n", "bad.yaml\n  no mapping"),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_scenario(run: Run, content: bytes, says: str) -> None:
    """The message begins with the file, and the line where there is one."""
    Path("bad.yaml").write_bytes(content)
    assert run("bad.yaml").err.startswith(f"mobisim: {says}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.yaml", "missing.yaml\n  no such file"),
        ("wifi-5mbps.yaml", "did you mean the shipped scenario 'wifi_5mbps'?"),
        ("wifi5mbps", "did you mean 'wifi_5mbps'?"),
        (".", "this is a directory"),
        ("toy.yaml/x", "no such file"),
        ("/dev/zero", "too large"),
    ],
    ids=["missing", "a shipped one", "a name", "a directory", "below", "endless"],
)
def test_a_file_that_is_not_there(run: Run, name: str, says: str) -> None:
    """Or is none."""
    assert says in run(name).err


VALUES = {
    "an unknown key": ("sede=1", "sede\n  no key 'sede' here; did you mean 'seed'?"),
    "an unknown method": (
        "method=mobilm",
        f"method\n  expected: one of {', '.join(METHODS)}; did you mean 'mobillm'?",
    ),
    "an unknown codec": ("wire.codec=nf5", "did you mean 'nf4'?\n  got: 'nf5'"),
    "an unknown device": ("devices[0].profile=pixel8", "did you mean 'pixel-8'?"),
    "an unknown link": ("devices[0].link=wifi5", "did you mean 'wifi-5'?"),
    "an unknown server": ("server.profile=a100", "did you mean 'a100-80gb'?"),
    "an unknown model": ("model=opt350m", "did you mean 'opt-350m'?"),
    "no unit": ("devices[0].link.uplink=5", "the unit is missing; expected: a rate such as"),
    "a wrong unit": ("devices[0].link.uplink=5 MB/s", "'MB/s' is no unit of rate"),
    "a negative rate": ("devices[0].link.uplink=-5 Mbit/s", "expected: a rate above zero"),
    "a zero rate": ("devices[0].link.uplink=0 bit/s", "expected: a rate above zero"),
    "NaN": ("devices[0].link.uplink=.nan", "expected: a finite rate"),
    "infinity": ("devices[0].profile.forward_s=.inf", "expected: a finite duration"),
    "infinity in words": ("horizon=1e999 h", "expected: a finite duration"),
    "a zero forward": ("devices[0].profile.forward_s=0", "expected: a duration above zero"),
    "a zero step": ("server.profile.step_s=0 s", "expected: a duration above zero"),
    "no forward": ("devices[0].profile={kind: fixed, encode_s: 0}", "forward_s\n  this key is mis"),
    "no step": ("server.profile={kind: fixed}", "step_s\n  this key is missing"),
    "no encode": ("devices[0].profile={kind: fixed, forward_s: 1}", "encode_s\n  this key is mis"),
    "no latency": (
        "devices[0].link={kind: constant, uplink: 1 bit/s, overhead_bytes: 0}",
        "latency\n  this key is missing",
    ),
    "no devices": ("devices=[]", "expected: at least 1 in the list"),
    "a count of zero": ("devices[0].count=0", "expected: a number of at least 1\n  got: 0"),
    "a count of 1e99": ("devices[0].count=1e99", "expected: a whole number\n  got: 1e+99"),
    "a long count": ("devices[0].count=" + "9" * 99, "expected: a number of at most 1000000"),
    "an unknown discipline": ("server.discipline=fairly", "did you mean 'fair'?"),
    "an unknown absence": (
        "devices[0].absences={up: 1 h, down: 1 min, kind: sudden}",
        "expected: one of graceful, abrupt",
    ),
    "room for nothing": ("server.room=0", "server.room\n  expected: a number of at least 1"),
    "batches of zero": ("num_batches=0", "expected: a number of at least 1"),
    "an empty payload": ("wire.payload_bytes=0", "expected: at least one byte"),
    "more seconds than there are": ("devices[0].profile.forward_s=1e308", "at most 1e+15"),
    "more bytes than can be counted": ("wire.payload_bytes=4611686018427387904", "bytes"),
    "an override of nothing": ("seed", "expected: PATH=VALUE"),
}


@pytest.mark.parametrize(("override", "says"), VALUES.values(), ids=VALUES)
def test_a_value_that_cannot_be(run: Run, override: str, says: str) -> None:
    """The message names the field and what was expected."""
    assert says in run("toy.yaml", "--set", override).err


def test_a_value_in_a_file_is_found_by_its_line(run: Run) -> None:
    """File, line, field, expected, got."""
    Path("bad.yaml").write_text(TOY.replace("5 Mbit/s", "5 Mbit"), "utf-8")
    assert run("bad.yaml").err == (
        "mobisim: bad.yaml:8: devices[0].link.uplink\n"
        "  'Mbit' is no unit of rate; did you mean 'Mbit/s'?; expected for example '5 Mbit/s'\n"
        "  got: '5 Mbit'\n"
    )


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("toy.yaml/deep/out", "results cannot be written here: this is a file"),
        ("toy.yaml", "something that is no result is there already"),
        ("/proc/nothing/out", "results cannot be written here"),
        (".", "this folder cannot be replaced"),
        ("/", "cannot be replaced"),
        ("x" * 300, "results cannot be written here: File name too long"),
        ("full", "something that is no result is there already"),
    ],
    ids=["below a file", "a file", "no permission", "here", "root", "long", "a full folder"],
)
def test_a_place_that_cannot_hold_a_result(
    run: Run, out: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before anything is computed, and what is there stays."""

    def worked(*_: object) -> None:
        raise AssertionError("work began before the place was checked")

    monkeypatch.setattr("mobisim.runner.results.publishing", worked)
    Path("full").mkdir()
    Path("full", "diary.txt").write_text("dear diary", "utf-8")
    assert says in run("toy.yaml", "--out", out).err
    assert Path("full", "diary.txt").read_text("utf-8") == "dear diary"


def tsv(*lines: str) -> None:
    """A task directory with these lines in both files."""
    Path("task").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        Path("task", name).write_text("".join(f"{line}\n" for line in lines), "utf-8")


TASKS = {
    "empty files": ([], "train.tsv\n  an empty task file"),
    "no rows": (["sentence\tlabel"], "train.tsv:1\n  a task without examples"),
    "no label": (["sentence\tlabel", "hello\tx"], "train.tsv:2\n  not a label"),
    "one class": (["sentence\tlabel", "hello\t0"], "unusable labels"),
    "ragged": (["sentence\tlabel", "hello"], "train.tsv:2\n  a ragged row"),
}


@pytest.mark.parametrize(("lines", "says"), TASKS.values(), ids=TASKS)
def test_a_task_that_teaches_nothing(run: Run, lines: list[str], says: str) -> None:
    """File and line, before torch is even imported."""
    tsv(*lines)
    assert says in run("wifi_5mbps", "--set", "training.task=task").err


def test_a_task_directory_without_files(run: Run) -> None:
    """It names the file that it misses."""
    Path("task").mkdir()
    assert "task/train.tsv" in run("wifi_5mbps", "--set", "training.task=task").err


def test_a_task_that_nobody_knows(run: Run) -> None:
    """It names the line that asks for it, and where it was looked for."""
    error = run("wifi_5mbps", "--set", "training.task=nope").err
    assert error.startswith("mobisim: scenarios/wifi_5mbps.yaml:8: training\n  no task 'nope'")
    assert "$MOBISIM_DATA" in error


LIES = {
    "text": (b"these are my weights\n" * 100, "not a weights file"),
    "half a file": ((BACKBONE / "model.safetensors").read_bytes()[:50_000], "not a weights file"),
    "nothing": (None, "no weights"),
}


@pytest.mark.parametrize(("content", "says"), LIES.values(), ids=LIES)
def test_a_file_that_poses_as_weights(run: Run, content: bytes | None, says: str) -> None:
    """It is named, and nothing is trained on it."""
    shutil.copytree(BACKBONE, "lie")
    Path("lie/model.safetensors").unlink()
    if content is not None:
        Path("lie/model.safetensors").write_bytes(content)
    error = run(
        "wifi_5mbps", "--set", "training.backbone=lie", "--set", "training.num_samples=8"
    ).err
    assert error.startswith("mobisim: lie")
    assert says in error


TOGETHER = {
    "more positions than the model has": (
        "training.sequence_length=2049",
        "training.sequence_length\n  the model has not so many",
    ),
    "an uncovered shape": (
        "training.batch_size=256",
        "wifi_5mbps.yaml:10: devices[0].profile\n  a shape that no profile covers",
    ),
    "a tap too deep": ("side_network.taps=[99]", "side_network.taps\n  no layer 99"),
    "a metric that the head lacks": (
        "training.target.metric=perplexity", "a classification head has no"
    ),
    "learning without a codec": ("wire={payload_bytes: 9}", "learning needs a codec"),
    "an endless training": ("training.epochs=1000000000", "training.epochs\n  longer than any"),
}  # fmt: skip


@pytest.mark.parametrize(("override", "says"), TOGETHER.values(), ids=TOGETHER)
def test_what_shows_only_together(run: Run, override: str, says: str) -> None:
    """Also a mistake across fields is found by file, line and field."""
    error = run("wifi_5mbps", "--set", override)
    assert says in error.err
    assert ": " in error.err.splitlines()[0].removeprefix("mobisim: ")


def test_positions_are_no_matter_of_extrapolation(run: Run) -> None:
    """A model cannot be asked to read further than it can."""
    arguments = ["--no-train", "--allow-extrapolation", "--set", "training.sequence_length=2049"]
    assert "the model has not so many positions" in run("wifi_5mbps", *arguments).err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "devices", "pixel8"], "did you mean 'pixel-8'?"),
        (["show", "models", "opt350m"], "did you mean 'opt-350m'?"),
        (["show", "scenarios", "wifi5mbps"], "did you mean 'wifi_5mbps'?"),
        (["show", "codecs", "nf5"], "did you mean 'nf4'?"),
        (["show", "methods", "mobilm"], "did you mean 'mobillm'?"),
        (["show", "phones"], "'phones' is not one of"),
        (["cite", "."], "no result here"),
        (["trace", "."], "no result here"),
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument 'SCENARIO'"),
        (["run", "x", "--checkpoint-every", "-1"], "not in the range"),
    ],
)
def test_commands_that_cannot_be(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command ends like that."""
    ran = mobisim(capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_a_trace_of_a_time_without_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times on the command line carry their units too."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")
    mobisim(capsys, "run", "toy.yaml", "--no-plots", "--out", "r")
    ran = mobisim(capsys, "trace", "r", "--from", "3")
    assert ran.code == 2
    assert "--from\n  the unit is missing" in ran.err
