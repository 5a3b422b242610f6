"""Every cell of every notebook runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

_FORMAT: Any = nbformat  # carries no types
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # the kernel's own warnings are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    """From the first cell to the last, in a fresh kernel and an empty folder."""
    notebook = _FORMAT.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()


def test_there_is_a_story_to_tell() -> None:
    """Each notebook opens with its question and ends with its answer."""
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = _FORMAT.read(path, as_version=4).cells
        assert "**Question.**" in cells[0].source
        assert "**Answer.**" in cells[-1].source
