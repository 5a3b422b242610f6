"""What a sweep has done so far: points and trajectories in its folder, each published by a rename.

sweep.json                   what is swept
points/DIGEST/               a result like that of a run, without pictures and side network
trajectories/DIGEST.json     losses and evaluations of what was trained
trajectories/DIGEST/         its parameters, while the held-out split waits to be read
activations/                 shared by the workers while they train
table.parquet, table.csv     written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mobisim.errors import InputError
from mobisim.learning import History
from mobisim.report import results
from mobisim.report.sweep_table import MANIFEST, POINTS

TRAJECTORIES = "trajectories"  # the folder of what was trained


class Store:
    """The folder of one sweep."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        trajectories: Path | None = None,
        manifest: str = MANIFEST,
    ) -> None:
        self.folder, self.digest, self.manifest = folder, digest, manifest
        self.trajectories = trajectories or folder / TRAJECTORIES

    @contextmanager
    def opened(self, manifest: Mapping[str, Any]) -> Iterator[None]:
        """The folder, for this process alone, with its manifest in it.

        Raises:
            InputError: something else is there, or another process works on it.
        """
        self.check_free()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                "another process is at work on this sweep", where=str(self.folder)
            ) from error
        try:
            with results.replacing(self.folder / self.manifest) as aside:
                results.write_json(aside, manifest)
            # Left by a power cut, a page of it may be missing; it is cheap to compute again.
            self._clear_activations()
            yield
        finally:
            self._clear_activations()
            lock.release()

    def check_free(self) -> None:
        """Make sure that nothing but this very work is in the folder.

        Raises:
            InputError: something else is there.
        """
        if not self.folder.exists():
            return
        visible = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        if visible and results.read_digest(self.folder, self.manifest) != self.digest:
            raise InputError(
                "something else is there already",
                where=str(self.folder),
                hint="choose another --out",
            )

    def _clear_activations(self) -> None:
        shutil.rmtree(self.folder / "activations", ignore_errors=True)

    def point(self, digest: str) -> Path:
        """Where a point is, or will be."""
        return self.folder / POINTS / digest

    def has(self, digest: str) -> bool:
        """Whether a point is done."""
        return results.read_digest(self.point(digest)) == digest

    def publish(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Put the files of a point in place, all of them at once."""
        with results.publishing(self.point(digest)) as aside:
            for name, content in files.items():
                (aside / name).write_bytes(content)

    def summary(self, digest: str) -> dict[str, Any]:
        """The summary of a point that is done."""
        return results.read_result(self.point(digest), results.SUMMARY)

    def history(self, trajectory: str) -> History | None:
        """What a trajectory learned; None where it is not trained yet."""
        try:
            found = json.loads(self._history(trajectory).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        for name in ("ends", "held_out", "groups"):
            found[name] = {int(step): value for step, value in found[name].items()}
        return History(**found)

    def keep(self, trajectory: str, history: History) -> None:
        """Keep what a trajectory learned; its parameters, if any, have been judged now."""
        path = self._history(trajectory)
        path.parent.mkdir(parents=True, exist_ok=True)
        with results.replacing(path) as aside:
            aside.write_text(json.dumps(vars(history)), encoding="utf-8")
        if history.held_out:
            shutil.rmtree(self._parameters(trajectory), ignore_errors=True)

    def parameters(self, trajectory: str) -> dict[int, bytes]:
        """What a trajectory's parameters were at its ends, to be judged later."""
        found = self._parameters(trajectory).glob("*.safetensors")
        return {int(path.stem): path.read_bytes() for path in found}

    def keep_parameters(self, trajectory: str, parameters: Mapping[int, bytes]) -> None:
        """Keep parameters, before the history that says that they are there."""
        folder = self._parameters(trajectory)
        folder.mkdir(parents=True, exist_ok=True)
        for step, content in parameters.items():
            with results.replacing(folder / f"{step}.safetensors") as aside:
                aside.write_bytes(content)

    def _history(self, trajectory: str) -> Path:
        return self.trajectories / f"{trajectory}.json"

    def _parameters(self, trajectory: str) -> Path:
        return self.trajectories / trajectory
