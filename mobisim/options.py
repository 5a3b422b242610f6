"""Options that several commands have."""

from __future__ import annotations

import click

ignore_memory = click.option(
    "--ignore-memory", is_flag=True, help="Go on where the memory does not suffice."
)
allow_extrapolation = click.option(
    "--allow-extrapolation", is_flag=True,
    help="Go on with shapes that no profile covers; the report says so.",
)  # fmt: skip
no_train = click.option(
    "--no-train", is_flag=True,
    help="Timing only: as many mini-batches per device as training would take.",
)  # fmt: skip
jobs = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="COUNT", help="Processes [default: one a core].",
)  # fmt: skip
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE",
    help='Override a field, e.g. devices[0].link.uplink="20 Mbit/s"; may be repeated.',
)  # fmt: skip


def command_line() -> str:
    """The command as given; resuming leaves no mark on a result."""
    import shlex  # noqa: PLC0415

    words: list[str] = click.get_current_context().find_root().obj or []
    return shlex.join(["mobisim", *(w for w in words if w not in ("--resume", "--json"))])
