"""A plan in the terminal: the answer in a sentence, then its reasons."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mobisim.report.plan_answer import Leaning, Outcome, PlanAnswer, Worth
from mobisim.report.wording import count, percent

WIDTH = 96
LABEL = 12
SMALL = 0.005  # a change below that is called none
PREFIXES = (
    (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"),
    (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"),
)  # fmt: skip
MOST = 5  # assumed values that are listed


def print_plan(found: PlanAnswer, console: Console) -> None:
    """Print the answer, in 80 columns where that is all."""
    parts: list[RenderableType] = [Text()]
    if any(one.told == "sought" for one in found.leanings):
        parts += [Text(leaning_first(found), "yellow"), Text()]
    parts.append(Text(sentence(found), "bold"))
    if found.stand_in:
        parts.append(Text(found.stand_in, "yellow"))
    for label, lines in (
        ("target", _outcomes(found)),
        ("why", _why(found)),
        ("worth", _worth(found)),
        ("assumed", _leanings(found)),
        ("trust", _trust(found)),
    ):
        content = list(lines)
        if content:
            parts += [Text(), _section(label, content)]
    console.print(Group(*parts, Text()), width=min(WIDTH, console.width), highlight=False)


def _section(label: str, lines: list[RenderableType]) -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(width=LABEL, style="dim", no_wrap=True)
    grid.add_column()
    for index, line in enumerate(lines):
        grid.add_row("" if index else label, line)
    return grid


def sentence(found: PlanAnswer) -> str:
    """The answer in a sentence."""
    if not found.met:
        return f"Nothing meets {found.target}: {_nearest(found)}."
    if found.cost is not None:
        values = ", ".join(f"{knob.path} {knob.shown}" for knob in found.knobs)
        return f"Cheapest for {found.target}: {values}; it costs {found.cost:.4g}."
    knob = found.knobs[0]
    if knob.wanted == "among":
        return f"{knob.path}: {knob.shown} is the first that meets {found.target}."
    if knob.at_edge:
        beyond = "less" if knob.wanted == "min" else "more"
        return f"{knob.path}: even {knob.shown} meets {found.target}; {beyond} was not looked at."
    least = "at least" if knob.wanted == "min" else "at most"
    return f"{knob.path}: {least} {knob.shown}, for {found.target}."


def _nearest(found: PlanAnswer) -> str:
    values = ", ".join(f"{knob.path} {knob.shown}" for knob in found.knobs)
    binding = found.outcomes[found.binding]
    reached = found.why if binding.value is None else f"{binding.named} is {binding.shown}"
    return f"nearest comes {values}, where {reached}"


def leaning_first(found: PlanAnswer) -> str:
    """That the answer leans on what is assumed, and how far it may move."""
    many = len(found.leanings)
    values = "an assumed value" if many == 1 else f"{many} assumed values"
    first = next(one for one in found.leanings if one.told == "sought")
    return f"This leans on {values}: {_over(first)} as {first.path} goes from {_range(first)}."


def _over(one: Leaning) -> str:
    return f"the answer goes from {one.low or 'nothing'} to {one.high or 'nothing'}"


def _range(one: Leaning) -> str:
    return " to ".join(map(_readable, one.range))


def _readable(text: str) -> str:
    """A quantity of a profile, in SI units, with a prefix."""
    number, _, unit = text.partition(" ")
    try:
        value = float(number)
    except ValueError:
        return text
    for factor, prefix in PREFIXES if unit else ():
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def _outcomes(found: PlanAnswer) -> Iterator[RenderableType]:
    for outcome in found.outcomes:
        mark = Text("met     " if outcome.met else "missed  ", "green" if outcome.met else "red")
        yield mark + Text(outcome.text + ": " + _outcome(outcome), "default")


def _outcome(one: Outcome) -> str:
    spread = one.over_seeds
    text = f"{one.named} {one.shown}" if one.value is not None else "never reached"
    if spread is not None and spread.high is not None and spread.mean:
        text += f", over seeds ± {percent((spread.high - spread.mean) / spread.mean)}"
    if one.headroom is None:
        return text
    if abs(one.headroom) < SMALL:
        return f"{text}, no headroom"
    words = "headroom" if one.headroom > 0 else "too much"
    return f"{text}, {percent(abs(one.headroom))} {words}"


def _why(found: PlanAnswer) -> Iterator[RenderableType]:
    pace = found.pace
    if pace is not None:
        text = f"The {pace.part} sets the pace: {percent(pace.share)} of the critical path."
        if pace.then is not None and pace.headroom is not None:
            more = percent(pace.headroom)
            text += f" {more} more of it, and the {pace.then} would: what is beyond does nothing."
            if pace.headroom >= 1:
                times = f"{1 + pace.headroom:.3g} times as much of it"
                text = text.replace(f"{more} more of it", times)
        yield Text(text)
    if found.why and found.outcomes[found.binding].value is None:
        yield Text(f"{found.why[0].upper()}{found.why[1:]}.")


def _worth(found: PlanAnswer) -> Iterator[RenderableType]:
    if not found.worth:
        return
    binding = found.outcomes[found.binding]
    yield Text(f"{binding.named} is {binding.shown}; with", "dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    for worth in found.worth:
        table.add_row(worth.change, worth.shown, _change(worth))
    yield table


def _change(worth: Worth) -> str:
    if worth.factor is None:
        return ""
    change = worth.factor - 1
    if abs(change) < SMALL:
        return "no change"
    return f"{percent(abs(change))} {'more' if change > 0 else 'less'}"


def _leanings(found: PlanAnswer) -> Iterator[RenderableType]:
    for one in found.leanings[:MOST]:
        yield Text(one.path)
        yield Text(f"  {_range(one)}: {_answers(one)}")
    left = len(found.leanings) - MOST
    if left > 0:
        yield Text(f"and {left} more, which move it less", "dim")


def _answers(one: Leaning) -> str:
    low, high = one.low or "not met", one.high or "not met"
    both = low if low == high else f"{low} to {high}"
    return f"the answer is {both}" if one.told == "sought" else f"the run gives {both}"


def _trust(found: PlanAnswer) -> Iterator[RenderableType]:
    verified, search = found.verified, found.search
    if verified is not None:
        yield Text(_seeds(found))
    yield from map(Text, found.notes)
    trained = f", {count(search.trainings, 'training')}" if search.trainings else ""
    ranges = "; ".join(f"{knob.path} {knob.range}" for knob in found.knobs)
    yield Text(f"Looked between: {ranges}.")
    yield Text(f"Found by {search.how}.")
    reasons = f"; {count(search.reasons, 'run')} for the reasons" if search.reasons else ""
    yield Text(f"{count(search.runs, 'run')}{trained}{reasons}.")


def _seeds(found: PlanAnswer) -> str:
    verified = found.verified
    assert verified is not None
    if verified.seeds == 1:
        return "One seed, the scenario's own; --seeds verifies with more."
    if verified.alike:
        return f"The same with each of {verified.seeds} seeds."
    share = percent(verified.at_least)
    return (
        f"Met with {verified.met} of {verified.seeds} seeds: with 95 % confidence at least "
        f"{share} of all seeds meet it."
    )
