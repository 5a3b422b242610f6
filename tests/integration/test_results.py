"""What a run publishes, where, and what it never does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml
from commands import TOY, Ran, mobisim

from mobisim.report.tables import SPANS, STEPS
from mobisim.scenario import catalog
from mobisim.scenario.load import load, loads
from mobisim.scenario.schema import Scenario

Command = Callable[..., Ran]
ALWAYS = {"manifest.json", "summary.json", "spans.parquet", "steps.parquet"}
PICTURES = {"convergence.png", "timeline.png", "trace.json"}


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs commands in an empty directory that holds toy.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(TOY, "utf-8")

    def runner(*arguments: str) -> Ran:
        return mobisim(capsys, *arguments)

    return runner


def published() -> Path:
    """The one result below results/."""
    (place,) = Path("results").glob("*/*")
    return place


def read(path: Path) -> Any:
    """A JSON file without the extensions that JSON does not have."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def names(place: Path) -> set[str]:
    """The files of a folder, hidden ones too."""
    return {path.name for path in place.iterdir()}


def test_a_result_lies_under_its_name_and_digest(command: Command) -> None:
    """And its files say the same."""
    assert command("run", "toy.yaml", "--no-plots").code == 0
    place = published()
    assert names(place) == ALWAYS
    assert place.parent.name == "toy"
    for name in ("manifest.json", "summary.json"):
        found = read(place / name)
        assert (found["name"], found["digest"]) == ("toy", place.name)


def test_pictures_and_trace_come_along(command: Command) -> None:
    """Unless they are left out."""
    assert command("run", "toy.yaml", "--out", "r").code == 0
    assert ALWAYS < names(Path("r")) <= ALWAYS | PICTURES
    assert {"timeline.png", "trace.json"} < names(Path("r"))


def test_everybody_may_read_a_result(command: Command) -> None:
    """Temporary folders are their owner's alone; results are not."""
    command("run", "toy.yaml", "--no-plots", "--out", "deep/er/r")
    assert Path("deep/er/r").stat().st_mode & 0o777 == 0o755
    assert {p.stat().st_mode & 0o777 for p in Path("deep/er/r").iterdir()} == {0o644}


def test_the_tables_have_the_published_schemas(command: Command) -> None:
    """Column by column."""
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    assert pq.read_schema("r/spans.parquet").equals(SPANS)
    assert pq.read_schema("r/steps.parquet").equals(STEPS)


def test_summary_and_scenarios_are_valid_by_the_exported_schemas(command: Command) -> None:
    """The schemas are those that editors and readers get."""
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    summary = json.loads(command("schema", "summary").out)
    jsonschema.Draft202012Validator.check_schema(summary)
    jsonschema.validate(read(Path("r/summary.json")), summary)
    scenario = json.loads(command("schema", "scenario").out)
    jsonschema.Draft202012Validator.check_schema(scenario)
    jsonschema.validate(yaml.safe_load(TOY), scenario)


@pytest.mark.parametrize("name", catalog.scenario_names())
def test_each_shipped_scenario_is_valid_by_the_exported_schema(name: str) -> None:
    """With profiles by name, as it is written."""
    jsonschema.validate(catalog.scenario(name).data, Scenario.model_json_schema())


@pytest.mark.parametrize(
    "change",
    [{"sede": 1}, {"seed": "one"}, {"method": "mobilm"}, {"server": {"profile": 3}}, {"name": "/"}],
    ids=["unknown key", "wrong sort", "unknown method", "no profile", "name"],
)
def test_the_exported_schema_refuses_what_mobisim_refuses(change: dict[str, Any]) -> None:
    """So that an editor underlines it."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(catalog.scenario("wifi_5mbps").data | change,
                            Scenario.model_json_schema())  # fmt: skip


def test_the_same_scenario_gives_the_same_bytes(command: Command) -> None:
    """Spans and steps, drawn times included."""
    random = ["--set", "server.profile.step_s={mean: 0.2 s, distribution: exponential}"]
    for place in ("a", "b"):
        command("run", "toy.yaml", "--no-plots", "--out", place, *random)
    for name in ("spans.parquet", "steps.parquet", "summary.json"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_another_seed_is_another_run(command: Command) -> None:
    """With another digest and other draws."""
    random = ["--set", "server.profile.step_s={mean: 0.2 s, distribution: exponential}"]
    for seed in ("1", "2"):
        command("run", "toy.yaml", "--no-plots", *random, "--set", f"seed={seed}")
    one, two = Path("results/toy").iterdir()
    assert (one / "spans.parquet").read_bytes() != (two / "spans.parquet").read_bytes()


@pytest.mark.parametrize("name", ["wifi_5mbps", "shared_server", "textbook_pipeline"])
def test_the_resolved_scenario_is_the_scenario(name: str, command: Command) -> None:
    """What manifest.json holds loads back equal, and runs under the same digest."""
    command("run", name, "--no-train", "--no-plots", "--out", "a")
    resolved = read(Path("a/manifest.json"))["scenario"]
    assert loads(yaml.safe_dump(resolved)) == load(name)
    command("run", "a", "--no-train", "--no-plots", "--out", "b")
    assert read(Path("b/summary.json")) == read(Path("a/summary.json"))


def test_a_result_with_a_long_trace_runs_again(command: Command) -> None:
    """Its manifest holds every chance to send: more than a scenario that a person writes may."""
    chances = "".join(f"{time}\n" for time in range(80_000) for _ in range(time % 3))
    Path("long.up").write_text(chances, "utf-8")
    link = "devices[0].link.uplink.value=long.up"
    command("run", "lte_trace", "--set", link, "--no-plots", "--out", "a")
    assert Path("a/manifest.json").stat().st_size > 1 << 20
    Path("long.up").unlink()
    command("run", "a/manifest.json", "--no-plots", "--out", "b")
    assert read(Path("b/summary.json")) == read(Path("a/summary.json"))


def test_the_manifest_tells_what_was_run(command: Command) -> None:
    """Command, versions, profiles by digest, origins of values, actors."""
    command("run", "toy.yaml", "--no-plots", "--json", "--out", "r", "--set", "seed=3")
    manifest = read(Path("r/manifest.json"))
    assert manifest["command"] == "mobisim run toy.yaml --no-plots --out r --set seed=3"
    assert manifest["seed"] == 3
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert set(manifest["profiles"]) == {
        "devices[0].profile", "devices[0].link", "server.profile"
    }  # fmt: skip
    assert manifest["actors"] == [
        "device-0", "uplink-0", "downlink-0", "server", "server/worker-0"
    ]  # fmt: skip
    assert all(origin["sort"] in ("stated", "assumed") for origin in manifest["provenance"])


def test_json_prints_summary_json_and_nothing_else(command: Command) -> None:
    """Not even where a progress bar would be shown."""
    ran = command("run", "toy.yaml", "--no-plots", "--json")
    assert ran.out == (published() / "summary.json").read_text("utf-8")
    assert ran.err == ""


def test_the_rich_summary_names_the_result(command: Command) -> None:
    """On standard output; standard error stays empty."""
    ran = command("run", "toy.yaml", "--no-plots")
    assert str(published()) in ran.out.replace("\n", "")
    assert "The uplink sets the pace" in ran.out
    assert ran.err == ""


def test_a_rerun_replaces_its_own_result(command: Command) -> None:
    """And leaves nothing of the old one."""
    command("run", "toy.yaml", "--out", "r")
    Path("r/notes.txt").write_text("old", "utf-8")
    assert command("run", "toy.yaml", "--no-plots", "--out", "r").code == 0
    assert names(Path("r")) == ALWAYS
    assert names(Path()) == {"toy.yaml", "r"}


def test_an_empty_folder_is_filled(command: Command) -> None:
    """It may have been made for the result."""
    Path("r").mkdir()
    assert command("run", "toy.yaml", "--no-plots", "--out", "r").code == 0
    assert names(Path("r")) == ALWAYS


def test_another_run_is_never_overwritten(command: Command) -> None:
    """It is refused by its digest, and untouched."""
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    before = {path.name: path.read_bytes() for path in Path("r").iterdir()}
    ran = command("run", "toy.yaml", "--no-plots", "--out", "r", "--set", "seed=1")
    assert ran.code == 2
    assert "another run is there already" in ran.err
    assert {path.name: path.read_bytes() for path in Path("r").iterdir()} == before


def test_options_that_change_the_answer_change_the_digest(command: Command) -> None:
    """Those that do not, do not."""
    for extra in ((), ("--no-plots",), ("--ignore-memory",), ("--no-train",)):
        command("run", "toy.yaml", *extra)
    assert len(list(Path("results/toy").iterdir())) == 3


def test_a_killed_run_leaves_no_half_written_result(command: Command, tmp_path: Path) -> None:
    """And the next run of it sweeps up what the killed one left."""
    # The run kills itself the moment its first table is on disk.
    script = (
        "import os, signal, mobisim.runner as runner\n"
        "from mobisim.cli import main\n"
        "runner.summarise = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(['run', 'toy.yaml', '--no-plots', '--out', 'r'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path) - {"toy.yaml"}
    assert left.startswith(".r.partial-")
    assert "spans.parquet" in names(tmp_path / left)
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    assert names(tmp_path) == {"toy.yaml", "r"}


def test_what_other_runs_are_writing_is_left_alone(command: Command, tmp_path: Path) -> None:
    """Only what a dead process left behind is swept."""
    alive = tmp_path / f".r.partial-{os.getppid()}-abc"
    other = tmp_path / ".s.partial-999999999-abc"
    for folder in (alive, other):
        folder.mkdir()
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    assert {alive.name, other.name} <= names(tmp_path)


def test_a_full_disk_ends_with_a_message(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """And publishes nothing."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "spans.parquet")

    monkeypatch.setattr("mobisim.runner.SpanWriter", full)
    ran = command("run", "toy.yaml", "--out", "r")
    assert ran.code == 2
    assert ran.err == ("mobisim: spans.parquet\n  No space left on device; nothing was published\n")
    assert names(Path()) == {"toy.yaml"}


def test_the_horizon_cuts_and_marks(command: Command) -> None:
    """Spans open at the horizon end there; nothing is later."""
    command("run", "toy.yaml", "--no-plots", "--out", "r", "--set", "horizon=4.5 s")
    spans = pq.read_table("r/spans.parquet").to_pylist()
    summary = read(Path("r/summary.json"))
    cut = [span for span in spans if span["cut"]]
    assert {span["end"] for span in cut} == {4.5}
    assert max(span["end"] for span in spans) == 4.5
    assert {span["kind"] for span in cut} >= {"transfer", "queue"}
    assert (summary["ended_by"], summary["makespan_s"]) == ("horizon", 4.5)
    assert summary["num_steps"] < summary["num_batches"]
    assert any("horizon" in warning for warning in summary["warnings"])


def test_a_horizon_beyond_the_end_cuts_nothing(command: Command) -> None:
    """It is a bound, not a duration."""
    command("run", "toy.yaml", "--no-plots", "--out", "a")
    command("run", "toy.yaml", "--no-plots", "--out", "b", "--set", "horizon=1 h")
    assert Path("a/spans.parquet").read_bytes() == Path("b/spans.parquet").read_bytes()
    assert read(Path("b/summary.json"))["ended_by"] == "finished"


def test_a_horizon_before_the_first_step_is_no_error(command: Command) -> None:
    """There is an answer: nothing was finished."""
    assert command("run", "toy.yaml", "--out", "r", "--set", "horizon=1 us").code == 0
    summary = read(Path("r/summary.json"))
    assert (summary["num_steps"], summary["uplink_bytes"]) == (0, 0)


def test_what_lies_outside_the_profiles_is_reported(command: Command) -> None:
    """Where a user insists."""
    wide = ["--no-train", "--no-plots", "--set", "training.batch_size=256", "--out", "r"]
    assert command("run", "wifi_5mbps", *wide).code == 2
    ran = command("run", "wifi_5mbps", *wide, "--allow-extrapolation")
    assert ran.code == 0
    (found,) = read(Path("r/summary.json"))["extrapolated"]
    assert found == (
        "devices[0].profile (jetson-xavier-nx): 16384 tokens per mini-batch, covered: 1 to 8192"
    )
    assert "outside what was measured" in ran.out.replace("\n", " ")


def test_the_citations_of_a_result_count_what_is_assumed(command: Command) -> None:
    """As its summary does."""
    command("run", "wifi_5mbps", "--no-train", "--no-plots", "--out", "r")
    counts = read(Path("r/summary.json"))["provenance_counts"]
    text = command("cite", "r").out
    assert f"{counts['published']} published, {counts['assumed']} assumed" in text
    assert "@misc{hf-opt," in text


def test_a_trace_can_be_cut_out_later(command: Command) -> None:
    """Between two times."""
    command("run", "toy.yaml", "--no-plots", "--out", "r")
    ran = command("trace", "r", "--from", "1 s", "--to", "2 s", "--out", "t.json")
    assert (ran.code, ran.err) == (0, "")
    assert read(Path("t.json"))["traceEvents"]
