"""Scenarios and worlds for tests: of stated times, and random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any, Literal, get_args

import numpy as np
import pytest
import yaml

from mobisim.channel import Channel, Windows
from mobisim.cost.energy import Battery, Power
from mobisim.cost.system import System
from mobisim.scenario.load import loads
from mobisim.scenario.profiles import Absences, Outages, Spread
from mobisim.scenario.schema import Discipline, Scenario
from mobisim.scenario.traces import OpportunityTrace, RateTrace, Trace
from mobisim.sim.engine import BLOCK_ROWS, simulate
from mobisim.span import NONE, Block, Row, Span, SpanColumns
from mobisim.streams import Distribution
from mobisim.workload import plan
from mobisim.world import (
    Batch,
    Batching,
    Calls,
    CellRates,
    Contention,
    Exchange,
    Group,
    Heat,
    Part,
    Replay,
    Rounds,
    World,
    build,
)

# Sums of dyadic times are exact, so that these tie often; of tenths some nearly tie.
DYADIC = (0.25, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0)
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7)
DISCIPLINES: tuple[Discipline, ...] = get_args(Discipline)
RATE = 8000.0  # bit/s: a thousand bytes a second


def stated(
    num_batches: int,
    *devices: dict[str, Any],
    step_s: Any,
    payload_bytes: int = 1000,
    workers: int = 1,
    discipline: str = "first-come",
    restarts: dict[str, Any] | None = None,
    room: int | None = None,
    batching: dict[str, Any] | None = None,
    **more: Any,
) -> Scenario:
    """A timing-only scenario of stated times; `more` are further top-level keys."""
    document = {
        "name": "stated",
        "wire": {"payload_bytes": payload_bytes},
        "training": None,
        "num_batches": num_batches,
        "deliver": "none",
        "devices": [deepcopy(group) for group in devices],  # shared parts would become aliases
        "server": {
            "profile": {"kind": "fixed", "step_s": step_s},
            "workers": workers,
            "discipline": discipline,
            "restarts": restarts,
            "room": room,
            "batching": batching,
        },
        **more,
    }
    return loads(yaml.safe_dump(document))


def device(
    forward_s: Any,
    *,
    encode_s: Any = 0.0,
    transfer_s: float = 1.0,
    payload_bytes: int = 1000,
    latency: Any = 0,
    run_ahead: int = 1000,
    count: int = 1,
    **link: Any,
) -> dict[str, Any]:
    """A group of devices whose link takes `transfer_s` for `payload_bytes` without overhead."""
    return {
        "profile": {"kind": "fixed", "forward_s": forward_s, "encode_s": encode_s},
        "link": {
            "kind": "constant",
            "uplink": f"{payload_bytes * 8 / transfer_s!r} bit/s",
            "latency": latency,
            "overhead_bytes": 0,
            **link,
        },
        "run_ahead": run_ahead,
        "count": count,
    }


def world_of(scenario: Scenario) -> World:
    """The world of a timing-only scenario."""
    return build(System(scenario), plan(scenario).workload)


def spans_of(world: World, block_rows: int = BLOCK_ROWS) -> list[Span]:
    """Every span of the main engine."""
    return [Span(*row) for block in simulate(world, block_rows) for row in block.rows]


def assert_alike(main: Sequence[Span], second: Sequence[Span], what: str) -> None:
    """The same spans but for the last digits of instants, and so for the order of rows."""
    ordered = [
        sorted(spans, key=lambda s: (s.kind, s.actor, s.device, s.batch, s.tap, s.start))
        for spans in (main, second)
    ]
    bare, expected = ([s._replace(start=0, end=0) for s in spans] for spans in ordered)
    assert bare == expected, what
    instants, as_expected = (np.array([(s.start, s.end) for s in spans]) for spans in ordered)
    assert instants == pytest.approx(as_expected, rel=1e-9, abs=1e-9), what


def columns_of(world: World) -> SpanColumns:
    """Every span of the main engine, as columns."""
    return SpanColumns.concatenate(block.columns for block in simulate(world))


def blocks_of(spans: Sequence[Span], size: int) -> list[Block]:
    """Spans cut into blocks of `size` rows."""
    rows: list[Row] = list(spans)
    return [Block(rows[at : at + size]) for at in range(0, len(rows), size)]


MEAN_STAY_S = 20.0  # of what leaves abruptly: to get a mini-batch done at times


class _Times:
    """Durations of one random scenario, all of one sort."""

    def __init__(self, choose: Random) -> None:
        self.choose = choose
        self.simple = choose.choice([DYADIC, DYADIC, TENTHS, None])

    def one(self) -> float:
        """A duration above zero."""
        if self.simple is not None:
            return self.choose.choice(self.simple)
        return self.choose.uniform(0.001, 3.0)

    def or_zero(self) -> float:
        """A duration, or zero half of the time."""
        return self.choose.choice([0.0, self.one()])


def _stated_distribution(choose: Random) -> Literal["constant", "exponential"]:
    return "exponential" if choose.random() < 0.2 else "constant"


def _distribution(choose: Random) -> Distribution:
    if choose.random() < 0.2:
        return Spread(
            p10=choose.choice([1.0, 0.9, 0.3]), p90=choose.choice([1.0, 1.2, 4]), repeats=9
        )
    return _stated_distribution(choose)


def random_scenario(choose: Random) -> Scenario:
    """A scenario of stated times and payload: everything that a YAML file can ask of timing."""
    times = _Times(choose)

    def duration(mean: float) -> dict[str, Any]:
        return {"mean": f"{mean!r} s", "distribution": _stated_distribution(choose)}

    shared = choose.random() < 0.3

    def place() -> dict[str, Any]:
        if not shared or choose.random() < 0.2:
            return {"link": random_link(choose, times, duration)}
        link = plain_link(choose, duration(times.or_zero()))
        return {"link": link, "cell": "home", "weight": choose.choice([1, 1, 2, 3])}

    def group() -> dict[str, Any]:
        return {
            "profile": {
                "kind": "fixed",
                "forward_s": duration(times.one()),
                "encode_s": duration(times.or_zero()),
            },
            **place(),
            "run_ahead": choose.choice([1, 1, 2, 3, 5, 100]),
            "count": choose.choice([1, 1, 2, 3]),
            "absences": random_absences(choose, times),
        }

    delivers = choose.random() < 0.3
    of_side_network: dict[str, Any] = {"model": "opt-125m"} if delivers else {}
    num_taps = choose.choice([1, 2, 3, 4])
    return stated(
        choose.randint(1, 12),
        *(group() for _ in range(choose.choice([1, 1, 2]))),
        step_s=duration(times.one()),
        workers=choose.choice([1, 1, 2, 3]),
        payload_bytes=choose.choice([1000, 500, 1234]),
        seed=choose.randint(0, 1000),
        cells={"home": random_cell(choose)} if shared else {},
        granularity=choose.choice(["batch", "layer"]),
        side_network={"bottleneck": 8, "taps": sorted(choose.sample(range(1, 7), num_taps))},
        deliver="trained" if delivers else "none",
        horizon=choose.choice([None, None, f"{times.one() * choose.randint(1, 12)!r} s"]),
        **of_side_network,
        discipline=choose.choice(DISCIPLINES),
    )


def plain_link(choose: Random, latency: dict[str, Any]) -> dict[str, Any]:
    """A link of constant rate as a file may hold it."""
    return {
        "kind": "constant",
        "uplink": f"{choose.choice([RATE, 2 * RATE, 7777.0])!r} bit/s",
        "latency": latency,
        "overhead_bytes": choose.choice([0, 0, 40]),
        "mtu_bytes": choose.choice([100, 250, 1500]),
    }


def random_link(
    choose: Random, times: _Times, duration: Callable[[float], dict[str, Any]]
) -> dict[str, Any]:
    """A link as a file may hold it: constant or a trace, half of the time with outages or TCP."""
    link = plain_link(choose, duration(times.or_zero()))
    if choose.random() < 1 / 3:
        traces = [random_rates(choose, times), random_opportunities(choose)]
        link |= {"kind": "trace", "downlink": link["uplink"]}
        link["uplink"] = choose.choice(traces).model_dump(mode="json")
        link["offset"] = choose.choice(["0 s", "0.5 s", "random"])
    if choose.random() < 0.2:
        link["outages"] = choose.choice(
            [
                by_turns(choose, times),
                {"windows": [["0.5 s", "1.5 s"], ["2 s", "2.25 s"]]},
            ]
        )
    if choose.random() < 0.2:
        link["latency"] = duration(times.one())
        link["tcp"] = {"initial_packets": choose.choice([1, 2])}
        if link["kind"] == "constant":
            link["tcp"] |= choose.choice([{}, {"max_window": "3 kB"}, {"loss": 0.01}])
    return link


def random_absences(choose: Random, times: _Times) -> dict[str, Any] | None:
    """When devices are away: half of the time never, else stated or by turns, some join late."""
    stated: dict[str, Any] = {"windows": [["0.5 s", "1.5 s"], ["1.5 s", "2 s"], ["4 s", "9 s"]]}
    late = {"joins": {"within": "3 s", "shares": choose.choice([[], [1, 0, 2]])}}
    choices = [stated, by_turns(choose, times), late, stated | late, by_turns(choose, times) | late]
    return choose.choice([*[None] * len(choices), *choices])


def random_restarts(choose: Random, times: _Times) -> dict[str, Any] | None:
    """When the server is down: never, else stated, or by turns."""
    stated: dict[str, Any] = {"windows": [["1.5 s", "2 s"], ["2 s", "2.5 s"], ["6 s", "11 s"]]}
    rarely = by_turns(choose, times)
    rarely["up"] = {"mean": "15 s", "distribution": "exponential"}
    return choose.choice([None, stated, rarely, rarely])


def by_turns(choose: Random, times: _Times) -> dict[str, Any]:
    """Outages whose lengths keep step with no trace: at least one of them is random.

    Not so short that the second engine, which walks through all of them, takes minutes.
    """
    up = {"mean": f"{max(times.one(), 0.1)!r} s", "distribution": "exponential"}
    return {
        "up": up,
        "down": {"mean": f"{times.one()!r} s", "distribution": _stated_distribution(choose)},
    }


def random_cell(choose: Random) -> dict[str, str]:
    """The rates of a cell: scarce, just enough for one, or ample."""
    up, down = (choose.choice([RATE, 12_345.6, 3 * RATE]) for _ in "12")
    return {"uplink": f"{up!r} bit/s", "downlink": f"{down!r} bit/s"}


def random_rates(choose: Random, times: _Times) -> RateTrace:
    """A short trace of rates, some of them zero."""
    rates = [choose.choice([0.0, RATE / 2, RATE, 2 * RATE]) for _ in range(choose.randint(1, 4))]
    ends = list(accumulate(times.one() for _ in rates))
    return RateTrace(time_s=(0.0, *ends), bit_per_s=(*rates, RATE))


def random_opportunities(choose: Random) -> OpportunityTrace:
    """A short trace of delivery opportunities, some at the same millisecond."""
    stamps = [choose.choice([0, 250, 500, 500, 700, 1000]) for _ in range(choose.randint(0, 5))]
    return OpportunityTrace(format="mahimahi", ms=(*sorted(stamps), 1500))


def random_channel(choose: Random, times: _Times, rate: float) -> Channel | None:
    """A direction of a link that varies, or None half of the time."""
    if choose.random() < 0.5:
        return None
    stated = {"windows": [["0.25 s", "1 s"], ["1 s", "2 s"]]}
    rates: list[float | Trace] = [rate, random_rates(choose, times), random_opportunities(choose)]
    outages = choose.choice([None, None, by_turns(choose, times), stated])
    return Channel(
        rate=choose.choice(rates),
        offset_s=choose.choice([0.0, 0.0, 0.25, None]),
        outages=Outages.model_validate(outages) if outages else None,
        windows=choose.choice(
            [None, None, Windows(choose.choice([1000, 2500]), times.one(), times.one())]
        ),
    )


def random_world(choose: Random, *, shared: bool = True) -> World:
    """A world that no scenario of stated times gives: ragged mini-batches, decode times.

    `shared`: links may share cells.
    """
    times = _Times(choose)
    num_taps = choose.choice([0, 0, 1, 2, 4])  # 0: batch granularity
    groups = tuple(
        _random_group(choose, times, num_taps) for _ in range(choose.choice([1, 1, 2, 3]))
    )
    cells = tuple(
        CellRates(*(choose.choice([RATE, 12_345.6, 2 * RATE]) for _ in "12"))
        for _ in range(choose.choice([0, 0, 1, 2]) * shared)
    )
    return World(
        seed=choose.randint(0, 1000),
        groups=tuple(_placed(choose, group, cells) for group in groups),
        cells=cells,
        num_workers=choose.choice([1, 1, 2, 4]),
        deliver=choose.random() < 0.5,
        horizon_s=choose.choice([None, None, times.one() * choose.randint(1, 20)]),
        step_distribution=_distribution(choose),
        discipline=choose.choice(DISCIPLINES),
    )


def _placed(choose: Random, group: Group, cells: tuple[CellRates, ...]) -> Group:
    """A group in one of the cells, if there are any, with a link that may bound its share."""
    if not cells or choose.random() < 0.2:
        return group
    index = choose.randrange(len(cells))
    up, down = cells[index].uplink_bits_per_s, cells[index].downlink_bits_per_s
    return replace(
        group,
        uplink=None,
        downlink=None,
        cell=index,
        weight=choose.choice([1, 1, 2, 3]),
        uplink_bits_per_s=min(choose.choice([RATE / 2, 5_000.5, 2 * RATE]), up),
        downlink_bits_per_s=min(choose.choice([RATE / 4, 2 * RATE]), down),
        count=group.count * choose.choice([1, 2]),
    )


def _random_group(choose: Random, times: _Times, num_taps: int) -> Group:
    num_batches = choose.randint(1, 10)
    shapes = choose.choice([1, 2, 4])
    ragged = shapes > 1 or choose.random() < 0.2
    order = [choose.randrange(shapes) for _ in range(num_batches)]
    download_bytes = choose.choice([1000, 500, 1777])
    rate = choose.choice([RATE, 2 * RATE, 7777.0])
    absences = random_absences(choose, times)
    return Group(
        count=choose.choice([1, 1, 2]),
        run_ahead=choose.choice([1, 1, 2, 3, 4, 50]),
        num_batches=num_batches,
        batches=tuple(_random_batch(choose, times, num_taps, rate) for _ in range(shapes)),
        order=np.array(order, dtype=np.int32) if ragged else None,
        mtu_bytes=1500,
        overhead_bytes=0,
        uplink_bits_per_s=rate,
        downlink_bits_per_s=RATE,
        latency_s=times.or_zero(),
        download_bytes=download_bytes,
        download_s=download_bytes * 8 / RATE,
        forward_distribution=_distribution(choose),
        encode_distribution=_distribution(choose),
        latency_distribution=_distribution(choose),
        uplink=random_channel(choose, times, rate),
        downlink=random_channel(choose, times, RATE),
        absences=None if absences is None else Absences.model_validate(absences),
    )


def _random_batch(choose: Random, times: _Times, num_taps: int, rate: float) -> Batch:
    taps = sorted(choose.sample(range(1, 9), num_taps)) if num_taps else [NONE]
    sizes = [choose.choice([250, 500, 1000, 1234]) for _ in taps]
    return Batch(
        parts=tuple(
            Part(
                tap=tap,
                forward_s=times.one(),
                encode_s=times.or_zero(),
                num_bytes=size,
                transfer_s=size * 8 / rate,
                decode_s=times.or_zero(),
                side_forward_s=times.or_zero() if num_taps else 0.0,
            )
            for tap, size in zip(taps, sizes, strict=True)
        ),
        step_s=times.one(),
    )


def on_device(choose: Random, world: World) -> World:
    """A world of one device that trains by itself, with the times of another's first group."""
    times = _Times(choose)
    group = world.groups[0]

    def alone(batch: Batch) -> Batch:
        part = replace(batch.parts[0], tap=NONE, encode_s=0.0, num_bytes=0, transfer_s=0.0)
        return replace(batch, parts=(part,), backward_s=times.one(), step_s=times.one())

    batches = tuple(map(alone, group.batches))
    group = replace(group, count=1, batches=batches, cell=None)
    return replace(world, groups=(group,), num_workers=1, deliver=False, on_device=True, cells=())


def two_way(choose: Random, world: World) -> World:
    """The same world with devices that wait for a reply after each mini-batch."""
    times = _Times(choose)

    def answered(group: Group, batch: Batch) -> Batch:
        size = choose.choice([250, 500, 1000])
        return replace(
            batch,
            backward_s=times.one(),
            reply_bytes=size,
            reply_s=size * 8 / group.downlink_bits_per_s,
        )

    groups = tuple(
        replace(group, batches=tuple(answered(group, batch) for batch in group.batches))
        for group in world.groups
    )
    return replace(world, groups=groups)


def with_cache(choose: Random, world: World) -> World:
    """The same world with a server that has kept some mini-batches, in part or whole."""
    times = _Times(choose)

    def kept(batch: Batch) -> Batch:
        parts = choose.choice([(), batch.parts])
        return replace(batch, parts=parts, cached_s=times.or_zero())

    return replace(
        world,
        groups=tuple(
            replace(group, batches=tuple(map(kept, group.batches))) for group in world.groups
        ),
    )


def of_data(choose: Random, world: World) -> World:
    """The same world with devices that send what they need not compute, or encode only."""
    groups = []
    for group in world.groups:
        batches = tuple(
            replace(b, parts=tuple(replace(p, forward_s=0.0) for p in b.parts))
            for b in group.batches
        )
        groups.append(replace(group, batches=batches) if choose.random() < 0.8 else group)
    return replace(world, groups=tuple(groups))


def federated(choose: Random, world: World) -> World:
    """The same world with devices of different numbers of mini-batches, and perhaps a replay."""
    times = _Times(choose)
    groups = tuple(_apart(choose, group) for group in world.groups)
    if choose.random() < 0.3:
        return replace(world, groups=groups)
    sorts = choose.choice([1, 3])
    batches = tuple(Batch((), times.one(), cached_s=times.or_zero()) for _ in range(sorts))
    order = [choose.randrange(sorts) for _ in range(choose.randint(1, 6))]
    return replace(world, groups=groups, replay=Replay(batches, np.array(order, dtype=np.int32)))


def _apart(choose: Random, group: Group, fewest: int = 0) -> Group:
    rest = (choose.randint(fewest, 6) for _ in range(group.count - 1))
    starts = np.cumsum([0, choose.randint(1, 6), *rest])
    order = [choose.randrange(len(group.batches)) for _ in range(starts[-1])]
    return replace(
        group,
        num_batches=int(np.diff(starts).max()),
        order=np.array(order, dtype=np.int32),
        starts=starts,
    )


def failing(choose: Random, world: World) -> World:
    """The same world with a server that restarts, and devices that leave abruptly."""
    times = _Times(choose)
    groups, restarts = world.groups, random_restarts(choose, times)
    if not world.replies and world.room is None:
        groups = tuple(_abrupt(choose, times, group) for group in groups)
    if restarts is not None:
        world = replace(world, restarts=Outages.model_validate(restarts))
    return replace(world, groups=groups)


def bounded(choose: Random, world: World) -> World:
    """The same world with a server that has room for few mini-batches."""
    return replace(world, room=choose.choice([1, 1, 2, 3]))


def batched(choose: Random, world: World) -> World:
    """The same world with a server that waits for several mini-batches."""
    sorts = [batch for group in world.groups for batch in group.batches]
    share = choose.choice([0.0, 0.5, 1.0])

    def step_s(numbers: Sequence[int]) -> float:
        seconds = sorted(sorts[number].step_s for number in numbers)
        return share * seconds[-1] + (1 - share) * sum(seconds)

    window_s = choose.choice([0.0, _Times(choose).one(), 10 * _Times(choose).one()])
    return replace(world, batching=Batching(window_s, choose.choice([1, 2, 3, 8]), step_s))


def sampled(choose: Random, world: World) -> World:
    """The same world with devices that differ, and their links where these are plain."""
    groups = []
    for group in world.groups:
        plain = group.uplink is None and group.downlink is None and group.cell is None
        paces, rates = choose.choice([0.0, 0.4]), choose.choice([0.0, 0.7]) * plain
        groups.append(replace(group, pace_deviation=paces, rate_deviation=rates))
    return replace(world, groups=tuple(groups))


def _abrupt(choose: Random, times: _Times, group: Group) -> Group:
    stated = random_absences(choose, times)
    if stated is None:
        return group
    if "up" in stated:  # for long enough to get something done, even when warm
        mean_s = MEAN_STAY_S / (1.0 if group.heat is None else group.heat.sustained)
        stated["up"] = {"mean": f"{mean_s} s", "distribution": "exponential"}
    return replace(group, absences=Absences.model_validate(stated | {"kind": "abrupt"}))


def in_conditions(choose: Random, world: World) -> World:
    """The same world with devices that warm up and run low, or on one machine with the worker.

    Not for worlds with cells: who of equals is done first in one hangs on the last digits.
    """
    groups = tuple(_in_conditions(choose, group) for group in world.groups)
    if len(groups) == world.num_workers == groups[0].count == 1 and choose.random() < 0.5:
        contention = Contention(choose.uniform(1, 3), choose.uniform(1, 3))
        return replace(world, contention=contention)
    return replace(world, groups=groups)


def _in_conditions(choose: Random, group: Group) -> Group:
    capacity = choose.uniform(5.0, 60.0)
    below = choose.uniform(0.2, 0.8)
    plugs = choose.choice(
        [
            {"windows": [["1 s", "3 s"], ["3 s", "7 s"], ["9 s", "20 s"]]},
            {"up": {"mean": "20 s", "distribution": "exponential"}, "down": "4 s"},
        ]
    )
    heat = Heat(choose.uniform(0.2, 1.0), choose.uniform(0.2, 20.0))
    battery = Battery(
        capacity_j=capacity,
        charge_j=capacity * choose.uniform(0.1, 1.0),
        charger_w=choose.uniform(1.5, 3.0),
        low_j=capacity * below,
        resume_j=capacity * choose.uniform(below + 0.01, 1.0),
        duty=choose.choice([None, 0.3, 0.7]),
        unplugged=choose.choice([None, None, Outages.model_validate(plugs)]),
    )
    return replace(
        group,
        power=Power(1.0, 5.0, choose.uniform(0.0, 2.0), choose.uniform(0.0, 1e-3)),
        heat=choose.choice([None, heat]),
        battery=choose.choice([None, battery]),
    )


def without_horizon(world: World) -> World:
    """The same world, run to its end."""
    return replace(world, horizon_s=None)


def in_rounds(choose: Random, world: World) -> World:
    """The same world with devices that train apart, round by round."""
    times = _Times(choose)
    groups = tuple(_in_rounds(choose, times, group) for group in federated_groups(choose, world))
    count = sum(group.count for group in groups)
    wanted = choose.randint(1, count)
    selected = [sorted(choose.sample(range(count), wanted)) for _ in range(choose.randint(1, 5))]
    own = [size for group in groups for size in group.batches_of.tolist()]
    rounds = Rounds(
        selected=np.array(selected, dtype=np.int32),
        local=np.array([size * choose.choice([1, 1, 2]) for size in own], dtype=np.int64),
        awaited=choose.randint(1, wanted),
        deadline_s=choose.choice([None, times.one() * choose.randint(1, 12)]),
        average_s=times.one(),
    )
    return replace(
        world, groups=groups, rounds=rounds, on_device=True, replay=None, restarts=None, room=None
    )


def in_buffers(choose: Random, world: World) -> World:
    """The same with devices that are called one by one."""
    world = in_rounds(choose, world)
    assert world.rounds is not None
    line = np.array(choose.sample(range(count := world.actors.num_devices), count), np.int32)
    at_work = choose.randint(1, count)
    rounds = replace(
        world.rounds,
        selected=np.empty((choose.randint(1, 6), 0), np.int32),
        awaited=choose.randint(1, at_work),
        deadline_s=None,
        calls=Calls(line, at_work),
    )
    return replace(world, rounds=rounds)


def rounds_of(scenario: Scenario, **rounds: Any) -> World:
    """A scenario's world with devices that train: backward takes 1 s, update 0.5, merges 0.25.

    A version, of the payload's size, goes down and up; `rounds` are Rounds' other fields.
    """
    world = world_of(scenario)
    groups = []
    for group in world.groups:
        (part,) = group.batches[0].parts
        size, down_s = part.num_bytes, part.num_bytes * 8 / group.downlink_bits_per_s
        alone = replace(part, num_bytes=0, transfer_s=0.0)
        batch = Batch((alone,), 0.5, backward_s=1.0)
        exchange = Exchange(size, down_s, size, part.transfer_s, 0.25)
        groups.append(replace(group, batches=(batch,), exchange=exchange))
    selected = np.array(rounds.pop("selected"), np.int32)
    local = np.array(rounds.pop("local"), np.int64)
    found = Rounds(selected, local, **{"deadline_s": None, "average_s": 0.5, **rounds})
    return replace(world, groups=tuple(groups), rounds=found, on_device=True)


def cut_in_rounds(choose: Random, world: World) -> World:
    """The same in rounds whose mini-batches the server answers; they wait for all."""
    times = _Times(choose)
    world = in_rounds(choose, replace(world, contention=None))
    assert world.rounds is not None
    groups = []
    for group in world.groups:
        size = choose.choice([250, 500, 1000])

        def sent(batch: Batch, group: Group = group, size: int = size) -> Batch:
            (part,) = batch.parts
            part = replace(
                part, encode_s=times.or_zero(), num_bytes=size, decode_s=times.or_zero(),
                transfer_s=size * 8 / group.uplink_bits_per_s,
            )  # fmt: skip
            down_s = size * 8 / group.downlink_bits_per_s
            return replace(
                batch, parts=(part,), backward_s=times.one(), reply_bytes=size, reply_s=down_s
            )

        groups.append(replace(group, batches=tuple(map(sent, group.batches))))
    rounds = replace(world.rounds, deadline_s=None, awaited=world.rounds.selected.shape[1])
    return replace(world, groups=tuple(groups), rounds=rounds, on_device=False)


def cut_before_little_room(choose: Random, world: World) -> World:
    """The same with a server that has room for few of the mini-batches."""
    return bounded(choose, cut_in_rounds(choose, world))


def federated_groups(choose: Random, world: World) -> list[Group]:
    """The world's groups, some with devices of different numbers of mini-batches."""
    return [choose.choice([group, _apart(choose, group, fewest=1)]) for group in world.groups]


def _in_rounds(choose: Random, times: _Times, group: Group) -> Group:
    down, up = (choose.choice([500, 1000, 1777]) for _ in "12")
    goes_back = choose.random() < 0.7

    def alone(batch: Batch) -> Batch:
        part = replace(batch.parts[0], tap=NONE, encode_s=0.0, num_bytes=0, transfer_s=0.0)
        goes_back_s = times.one() if goes_back else 0.0
        return replace(batch, parts=(part,), backward_s=goes_back_s, step_s=times.one())

    exchange = Exchange(
        down, down * 8 / group.downlink_bits_per_s, up, up * 8 / group.uplink_bits_per_s,
        times.one(),
    )  # fmt: skip
    return replace(group, batches=tuple(map(alone, group.batches)), exchange=exchange)
