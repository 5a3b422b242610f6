"""Result directories: written aside, then published whole by a rename, never over another run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobisim.errors import InputError
from mobisim.interrupts import check
from mobisim.scenario import catalog

MANIFEST, SUMMARY = catalog.MANIFEST, "summary.json"
SPANS_FILE, STEPS_FILE = "spans.parquet", "steps.parquet"


def check_writable(place: Path) -> None:
    """Make sure, before any work, that a result can be published at `place`.

    Raises:
        InputError: the folder cannot be made or written.
    """
    real = place.resolve()
    if real == Path.cwd() or os.path.ismount(real):
        raise InputError(
            "a result is moved into place whole, and this folder cannot be replaced",
            where=str(place),
            hint="choose a folder below it",
        )
    there = next(folder for folder in (*real.parents, real) if os.path.lexists(folder))
    try:
        # What is missing is made for a probe only: a run that fails leaves no folder behind.
        with tempfile.TemporaryDirectory(dir=there, prefix=".probe-") as probe:
            (Path(probe) / real.relative_to(there)).mkdir(parents=True)
    except OSError as error:
        reason = "this is a file" if there.is_file() else str(error.strerror)
        raise InputError(
            f"results cannot be written here: {reason}",
            where=str(place.parent),
            expected="a folder that may be written; choose one with --out",
        ) from error


def check_free(place: Path, digest: str) -> None:
    """Make sure that nothing but this very run is at `place`.

    Raises:
        InputError: another run, or anything else, is there.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    found = read_digest(place)
    if found != digest:
        sort = "another run" if found else "something that is no result"
        raise InputError(f"{sort} is there already", where=str(place), hint="choose another --out")


def read_digest(place: Path, manifest: str = MANIFEST) -> str | None:
    """The digest of the result at `place`; None where there is none."""
    try:
        return str(json.loads((place / manifest).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def publishing(place: Path) -> Iterator[Path]:
    """A folder to write a result into, moved to `place` at the end if nothing failed.

    What is at `place` already must be this very run (see check_free); it is replaced.
    """
    place = place.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(place)
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix=partial_prefix(place)))
    try:
        yield aside
        _make_readable(aside)
        check()
        _swap(aside, place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def partial_prefix(place: Path) -> str:
    """How the names of this process's unfinished files beside `place` begin."""
    return f".{place.name}.partial-{os.getpid()}-"


def _make_readable(aside: Path) -> None:
    """Temporary folders and some writers keep what they make to their owner alone."""
    aside.chmod(0o755)
    for path in aside.iterdir():
        path.chmod(0o644)


def _clear_remains(place: Path) -> None:
    """Remove what killed runs left behind when they wrote this very file or folder."""
    start = f".{place.name}.partial-"
    for left in place.parent.iterdir():
        pid = left.name.removeprefix(start).split("-")[0]
        if left.name.startswith(start) and pid.isdigit() and not _alive(int(pid)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _swap(aside: Path, place: Path) -> None:
    if not place.exists():
        aside.rename(place)
        return
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=partial_prefix(place)))
    place.rename(old / "old")
    aside.rename(place)
    shutil.rmtree(old)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, moved there at the end if nothing failed."""
    _clear_remains(path)
    aside = path.with_name(f"{partial_prefix(path)}aside")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, so that no NaN slips in."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_result(place: Path, name: str) -> dict[str, Any]:
    """The manifest or the summary of a result.

    Raises:
        InputError: there is no result, or its file is broken.
    """
    try:
        found: dict[str, Any] = json.loads((place / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"no result here: {name} cannot be read ({error.strerror})",
            where=str(place),
            expected="the directory of a finished run, such as results/NAME/DIGEST",
        ) from error
    except ValueError as error:
        raise InputError("this is no JSON", where=str(place / name)) from error
    return found
