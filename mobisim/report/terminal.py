"""The terminal summary: the answer first, then what it is made of and what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mobisim.report import verdict, wording
from mobisim.report.wording import Summary, count, percent
from mobisim.scenario.methods import METHODS
from mobisim.units import J_PER_WH, human_size, human_time

MAX_WIDTH = 96
LABEL_WIDTH = 12
NAME_WIDTH = 17
BAR_WIDTH = 24
STYLES = {"headline": "bold", "alarm": "bold red", "detail": ""}
PADDING_WORTH_A_WORD = 0.25


_EIGHTHS = " ▏▎▍▌▋▊▉█"
_ASCII = str.maketrans(
    {"█": "#", "·": "-", wording.TIMES: "x", "…": "~"}
    | dict.fromkeys(_EIGHTHS[1:4], " ")
    | dict.fromkeys(_EIGHTHS[4:8], "#")
)

Lines = Iterator[RenderableType]


def print_summary(summary: Summary, console: Console, *, result_dir: Path | None = None) -> None:
    """Print `summary`, the content of a summary.json, in at most 80 columns where that is all.

    `result_dir` is named at the end as the place of the files.
    """
    sections = {
        "quality": _quality(summary),
        "time": _time(summary),
        "pace": _pace(summary),
        _unit(summary): _each(summary),
        "busy": _busy(summary),
        "memory": _memory(summary),
        "bytes": _bytes(summary),
        "energy": _energy(summary),
        "trust": _trust(summary),
        "results": iter([Text(str(result_dir), overflow="fold")] if result_dir else []),
    }
    blocks = [[_title(summary)], list(_answer(summary))]
    blocks += [[_section(label, lines)] for label, lines in _filled(sections)]
    _print(console, Group(*(line for block in blocks for line in ("", *block)), ""))


def _filled(sections: Mapping[str, Lines]) -> Iterator[tuple[str, list[RenderableType]]]:
    for label, lines in sections.items():
        content = list(lines)
        if content:
            yield label, content


def _print(console: Console, page: Group) -> None:
    width = min(console.width, MAX_WIDTH)
    if not console.options.ascii_only:
        console.print(page, width=width, highlight=False)
        return
    with console.capture() as capture:
        console.print(page, width=width, highlight=False)
    plain = capture.get().translate(_ASCII).encode("ascii", "replace").decode()
    console.print(Text.from_ansi(plain), end="", soft_wrap=True, highlight=False)


def _title(summary: Summary) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(no_wrap=True)
    line.add_column(justify="right", style="dim", overflow="ellipsis", no_wrap=True)
    facts = [summary.get("model"), summary.get("method"), f"seed {summary.get('seed')}"]
    facts.append(str(summary.get("digest", ""))[:12])
    about = Text(" · ".join(str(fact) for fact in facts if fact))
    line.add_row(Text(str(summary["name"]), style="bold"), about)
    return line


def _section(label: str, lines: list[RenderableType]) -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(width=LABEL_WIDTH, style="dim", no_wrap=True)
    grid.add_column()
    for index, line in enumerate(lines):
        grid.add_row("" if index else label, line)
    return grid


def _answer(summary: Summary) -> Lines:
    for tone, text in verdict.answer(summary):
        yield _warning(text) if tone == "warning" else Text(text, style=STYLES[tone])


def _quality(summary: Summary) -> Lines:
    goal = wording.target(summary)
    if goal and summary.get("final_metric") is not None:
        met = summary.get("time_to_target_s") is not None
        yield _row("target", goal, "green" if met else "yellow")
    final, initial = summary.get("final_metric"), summary.get("initial_metric")
    if final is not None:
        start = "" if initial is None else f", {initial:.4g} before training"
        yield _row(
            wording.metric_name(summary), f"{final:.4g} at the end{_held_out(summary)}{start}"
        )
    replaced = wording.stand_in(summary)
    if replaced:
        yield _row("stand-in", replaced, "yellow")


def _held_out(summary: Summary) -> str:
    judged = summary.get("validation_metric")
    return "" if judged is None else f" on held-out samples, {judged:.4g} in validation"


def _time(summary: Summary) -> Lines:
    done = f"{count(summary['num_batches'], 'mini-batch')}, {count(summary['num_steps'], 'step')}"
    makespan = summary.get("makespan_s")
    if makespan is not None:
        yield _row("makespan", f"{human_time(makespan)}, {wording.ending(summary)}")
        yield _row("work", done)
    faults = summary.get("faults") or {}
    if faults.get("num_restarts"):
        down = human_time(faults["down_s"])
        yield _row("restarts", f"{faults['num_restarts']:,}, the server was down for {down}")
    if faults.get("num_lost"):
        pieces = count(faults["num_lost"], "piece")
        sent = f", {human_size(faults['lost_bytes'])} sent in vain" if faults["lost_bytes"] else ""
        lost = human_time(faults["lost_s"])
        yield _row("lost", f"{lost} of work, {pieces} to be redone{sent}")


def _pace(summary: Summary) -> Lines:
    makespan = sum(seconds for _, seconds in wording.blame(summary))
    for part, seconds in wording.blame(summary):
        yield _bar(part, seconds / makespan, human_time(seconds), percent(seconds / makespan))


def _unit(summary: Summary) -> str:
    """What ends with a step."""
    method = METHODS.get(summary["method"])
    return "mini-batch" if method is None or method.rounds is None else "round"


def _each(summary: Summary) -> Lines:
    steps = {k: v for k, v in (summary.get("step_breakdown_s") or {}).items() if v}
    longest = max(steps.values(), default=0.0)
    for name, seconds in steps.items():
        yield _bar(name.replace("_", " "), seconds / longest, human_time(seconds))


def _busy(summary: Summary) -> Lines:
    roles: dict[str, dict[str, float]] = {}
    for actor, share in (summary.get("utilisation") or {}).items():
        roles.setdefault(actor.rstrip("0123456789").rstrip("-"), {})[actor] = share
    for role, shares in sorted(roles.items(), key=lambda pair: -max(pair[1].values())):
        yield _busy_role(role, shares)


def _busy_role(role: str, shares: dict[str, float]) -> RenderableType:
    """One actor by name; several of a role by their mean and spread."""
    if len(shares) == 1:
        ((actor, share),) = shares.items()
        return _bar(actor, share, percent(share))
    low, high, mean = min(shares.values()), max(shares.values()), fmean(shares.values())
    line = _bar(count(len(shares), role.removeprefix("server/")), mean, percent(mean))
    if percent(low) == percent(high):
        return line
    return Group(line, _row("", f"from {percent(low)} to {percent(high)}", "dim"))


def _memory(summary: Summary) -> Lines:
    for part in ("device", "server"):
        room = verdict.room(summary, part)
        if room is None:
            continue
        yield _row(part, room, "red" if room.startswith("does not") else "")
        parts = summary.get(f"{part}_memory_bytes")
        if parts:
            yield _row("", _itemised(parts, human_size), "dim")


def _bytes(summary: Summary) -> Lines:
    payload, wire = summary.get("uplink_payload_bytes"), summary.get("uplink_bytes")
    if wire:
        of_which = "" if payload is None else f", payload {human_size(payload)}"
        yield _row("up", f"{human_size(wire)}{of_which}")
    if summary.get("downlink_bytes"):
        yield _row("down", human_size(summary["downlink_bytes"]))
    if summary.get("cache_hit_rate") is not None:
        yield _row("cache hits", f"{percent(summary['cache_hit_rate'])} of the samples")


def _energy(summary: Summary) -> Lines:
    energy = summary.get("energy_j")
    if energy is not None:
        in_unit = _watt_hours if energy >= J_PER_WH else _joules
        yield _row("devices", in_unit(energy))
        if summary.get("energy_parts_j"):
            yield _row("", _itemised(summary["energy_parts_j"], in_unit), "dim")
    share = summary.get("battery_share")
    if share is not None:
        yield _row("battery", *_charges(share))


def _charges(share: float) -> tuple[str, str]:
    """What a run takes of the battery that it uses most."""
    if share > 1:
        return f"{share:.1f} full charges: it needs a charger", "yellow"
    return f"{percent(share)} of a full charge", ""


def _watt_hours(joules: float) -> str:
    return f"{joules / J_PER_WH:,.3g} Wh"


def _joules(joules: float) -> str:
    return f"{joules:,.4g} J"


def _trust(summary: Summary) -> Lines:
    counts: Mapping[str, int] = summary.get("provenance_counts") or {}
    total = sum(counts.values())
    if total:
        sorts = ", ".join(f"{number} {sort}" for sort, number in counts.items() if number)
        yield Text(f"{count(total, 'value')}: {sorts}")
        yield Text("mobisim cite RESULT names them", style="dim")
    for shape in summary.get("extrapolated") or ():
        yield _warning(f"outside what was measured: {shape}")
    warnings: list[str] = summary.get("warnings") or []
    padding = summary.get("padding_fraction") or 0.0
    if padding >= PADDING_WORTH_A_WORD and not any("padding" in w for w in warnings):
        yield _warning(f"{percent(padding)} of the tokens sent are padding")
    yield from map(_warning, warnings)


def _warning(text: str) -> Text:
    return Text(f"! {text}", style="yellow")


def _itemised(parts: Mapping[str, Any], human: Any) -> str:
    ranked = sorted(((k, v) for k, v in parts.items() if v), key=lambda pair: -pair[1])
    return ", ".join(f"{name.replace('_', ' ')} {human(value)}" for name, value in ranked)


def _row(name: str, value: str, style: str = "") -> RenderableType:
    return _pair(name, Text(value, style=style))


def _pair(name: str, value: Text) -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(width=NAME_WIDTH, no_wrap=True)
    grid.add_column()
    grid.add_row(name, value)
    return grid


def _bar(name: str, share: float, *values: str) -> RenderableType:
    eighths = round(share * BAR_WIDTH * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    columns = "".join(f"{value:>9}" for value in values)
    return _pair(_short(name), Text(f"{columns}  ").append(bar, style="blue"))


def _short(name: str) -> str:
    return name if len(name) < NAME_WIDTH else f"{name[: NAME_WIDTH - 2]}…"
