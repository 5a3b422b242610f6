"""Every example of the README and of docs/ runs, and the documentation builds without a warning."""

from __future__ import annotations

import doctest
import itertools
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from commands import mobisim, start
from markdown_it import MarkdownIt
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from mobisim.cli import cli
from mobisim.scenario import catalog
from mobisim.scenario.document import Document as Written
from mobisim.scenario.load import resolve

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What is not run here, and why not. Anything else in a block of commands is run.
NOT_RUN = {
    "make run": ".ci/run begins with it, in a fresh environment, but for the training",
    "make test": "is what runs this",
    "make docs": "is what test_the_documentation_builds runs",
    "pip install .": "needs a package index; .ci/run begins with the same, editable",
    "mobisim profile": "test_profile.py runs the very command, --quick and within a second",
    "mobisim testbed": "test_testbed_processes.py starts the very command, on seconds of work",
    "mobisim validate": "takes minutes; test_validate.py and notebook 07 do for seconds",
}
PAIR = "--no-train --set training.num_samples=16 --set deliver=none --address-file address"
# What takes minutes as it stands is run in its short form: with these words in addition.
SHORTER = {
    "mobisim run wifi_5mbps --set": "--no-train --no-plots",  # as the one before it draws
    "mobisim run wifi_5mbps": "--no-train",
    "mobisim run mine.yaml": "--no-plots",
    "mobisim sweep wifi_5mbps": "--no-train --jobs 1",
    "mobisim sweep lte": "--jobs 1",
    "mobisim compare wifi_5mbps --methods": "--no-train --lr 1e-3 --seeds 1 --jobs 1",
    "mobisim compare": "--jobs 1",
    "mobisim fit": "--no-plots",
    "mobisim explore": "--port 0",
    "mobisim serve wifi_20mbps": f"{PAIR} --no-plots --listen 127.0.0.1:0",
    "mobisim device": f"{PAIR} --connect 127.0.0.1:0",
}


def to_its_end(process: subprocess.Popen[str]) -> str:
    """What a command printed; it ends well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def visited(process: subprocess.Popen[str]) -> str:
    """A page that is served: somebody looks at it, then it is ended by Ctrl-C."""
    assert process.stdout is not None
    told = process.stdout.readline()
    with urllib.request.urlopen(told.split(": ")[0]) as page:  # noqa: S310 - our own server
        assert b"<h1>lte</h1>" in page.read()
    process.send_signal(signal.SIGINT)
    return told + to_its_end(process)


def going_on(_: subprocess.Popen[str]) -> str:
    """What others speak to meanwhile; it ends by itself, before the page does."""
    return ""


# What is started in a process of its own.
APART: dict[str, Callable[[subprocess.Popen[str]], str]] = {
    "mobisim serve wifi_20mbps": going_on,
    "mobisim device": to_its_end,
    "mobisim explore": visited,
}

CHECKER = doctest.OutputChecker()
SHOWN = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def found(word: str) -> list[str]:
    """The files that a word stands for, as a shell finds them, or the word."""
    return (
        sorted(str(path) for path in Path().glob(word)) if "/*" in word or "-*" in word else [word]
    )


def listed(command: str, known: Iterable[str]) -> str | None:
    """The entry of a list that a command begins with."""
    return next((entry for entry in known if f"{command} ".startswith(f"{entry} ")), None)


class Reader:
    """Reads a page from top to bottom, and does in this folder what it says."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.started: list[subprocess.Popen[str]] = []
        self.evaluators: dict[str, Callable[[Example], None]] = {
            "bash": self.run,
            "console": self.show,
            "yaml": self.keep,
            "text": self.look,
        }
        python = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
        self.sybil = Sybil([python, self.blocks])

    def blocks(self, document: Document) -> list[Region]:
        """The blocks but those of Python; one in no known language fails."""
        info = re.compile(r"(?P<language>[^\n]*)$\n", re.MULTILINE)
        regions = []
        for region in RawFencedCodeBlockLexer(info)(document):
            language = region.lexemes["language"].strip()
            if language != "python":
                region.parsed = region.lexemes["source"]
                directive = language.startswith("{")
                region.evaluator = (
                    self.look if directive else self.evaluators.get(language, unknown)
                )
                regions.append(region)
        return regions

    def look(self, example: Example) -> None:
        """Text and directives are to be looked at; the latter are the build's to check."""

    def keep(self, example: Example) -> None:
        """A file if its first line names one, which later commands read; or part of a scenario."""
        text = str(example.parsed)
        name = re.match(r"# (\S+\.(?:yaml|csv))\n", text)
        if name:
            Path(name[1]).write_text(text, "utf-8")
            return
        whole = catalog.scenario("wifi_5mbps")
        resolve(Written({**whole.data, **yaml.safe_load(text)}, {}))

    def run(self, example: Example) -> None:
        """Each line of a block is a command."""
        for line in str(example.parsed).replace("\\\n", " ").splitlines():
            command = " ".join(line.partition("  #")[0].split())
            if listed(command, NOT_RUN):
                check_options(command)
            elif command:
                self.one(command)

    def show(self, example: Example) -> None:
        """Commands after a prompt, each with what it prints; `...` is anything."""
        for part in str(example.parsed).split("$ ")[1:]:
            command, _, expected = part.partition("\n")
            got = self.one(command)
            assert CHECKER.check_output(expected, got, SHOWN), got

    def one(self, command: str) -> str:
        """What a command prints; it ends well."""
        shorter = SHORTER.get(listed(command, SHORTER) or "", "")
        program, *arguments = itertools.chain(*map(found, shlex.split(command)))
        assert program == "mobisim", f"{command}: neither run nor in NOT_RUN, with a reason"
        arguments += shlex.split(shorter)
        apart = listed(command, APART)
        if apart:
            self.started.append(start(*arguments, cwd=Path()))
            return APART[apart](self.started[-1])
        ran = mobisim(self.capsys, *arguments)
        assert ran.code == 0, f"{command}\n{ran.err}"
        return ran.out

    def read(self, path: Path) -> None:
        """All of a page; whatever it started has come to its end."""
        try:
            for example in self.sybil.parse(path):
                example.evaluate()
            for process in self.started:
                if process.returncode is None:
                    to_its_end(process)
        finally:
            for process in self.started:
                process.kill()


def check_options(command: str) -> None:
    """A command of mobisim's that is not run has a name and options that there are."""
    program, *words = shlex.split(command)
    if program == "mobisim":
        options = cli.commands[words[0]].params
        known = {"--help", *(name for one in options for name in (*one.opts, *one.secondary_opts))}
        assert {word for word in words if word.startswith("--")} <= known, command


def unknown(example: Example) -> None:
    """Whoever adds a block says what it is."""
    raise AssertionError("a block needs a language: bash, python, yaml, or text for what is shown")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_runs(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A page is read in an empty folder; what one example leaves the next ones find."""
    monkeypatch.chdir(tmp_path)
    Reader(capsys).read(path)


def test_nothing_is_left_out_without_need() -> None:
    """Each entry of the lists is of a command that a page has."""
    pages = "\n".join(path.read_text("utf-8") for path in PAGES)
    for entry in (*NOT_RUN, *SHORTER, *APART):
        assert re.search(rf"^{re.escape(entry)}(?!\S)", pages, re.MULTILINE), entry


INLINE = [
    (path, token.content)
    for path in PAGES
    for block in MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))
    for token in block.children or ()
    if token.type == "code_inline" and token.content.startswith("mobisim ")
]


@pytest.mark.parametrize("command", sorted({command for _, command in INLINE}))
def test_a_command_in_passing_is_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a sentence or a table names is a command with its options; what only shows is run."""
    check_options(command)
    name, *words = shlex.split(command)[1:]
    if name in {"show", "schema"} and not any(map(str.isupper, words)):
        assert mobisim(capsys, name, *words).code == 0


def test_every_command_has_an_example() -> None:
    """On some page, in a block or in passing, as a new user would type it."""
    pages = "\n".join(path.read_text("utf-8") for path in PAGES)
    assert set(cli.commands) <= set(
        re.findall(r"(?:^|[`$] ?)mobisim ([a-z]+)", pages, re.MULTILINE)
    )


def test_the_documentation_builds() -> None:
    """Without a warning: every link leads somewhere, every name that is asked for is there."""
    installed = Path(sys.prefix, ".installed-dev")
    command = ["make", "docs", f"VENV={sys.prefix}", f"--assume-old={installed}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = ROOT / "build" / "docs" / "reference" / "scenario.html"
    assert "Mbit/s" in page.read_text("utf-8")


def test_what_pages_link_to_in_the_repository_is_there() -> None:
    """Links to files beside docs/, which the build leaves alone."""
    for path in PAGES:
        text = path.read_text("utf-8")
        for target in re.findall(r"\]\(repo:([^)#]+)", text):
            assert (ROOT / target).exists(), f"{path}: {target}"
        if path.parent == ROOT:
            for target in re.findall(r"\]\((?!http|#)([^)#]+)", text):
                assert (ROOT / target).exists(), target
