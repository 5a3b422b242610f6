"""What commands that run scenarios ask with: document, options, progress, placed errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mobisim import options
from mobisim.prepare import Options
from mobisim.progress import showing_progress
from mobisim.scenario.catalog import scenario as read_scenario
from mobisim.scenario.document import Document
from mobisim.scenario.load import placing_errors


@contextmanager
def asking(scenario: str, chosen: Options) -> Iterator[tuple[Document, Options]]:
    """The document of a file or shipped scenario, and the options with command and progress.

    While the block lasts, progress is shown, and errors that name a field tell its file and line.

    Raises:
        InputError: there is no such scenario.
    """
    document = read_scenario(scenario)
    with showing_progress() as progress, placing_errors(document):
        yield document, replace(chosen, command=options.command_line(), progress=progress)
