"""Closed forms of the makespan, each derived in its test and held to 1e-9.

Words: f forward plus encode, c transfer, s step, l latency, N mini-batches per device, r run-ahead.
The derivations follow the longest chain of causes: the makespan is the length of the longest path
through forwards, transfers and steps, and every path can be counted.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from worlds import columns_of, device, spans_of, stated, world_of

from mobisim.report.metrics import MetricsFold, Totals
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import DOWNLOAD, FORWARD, LATENCY, STEP, TRANSFER, UPLINK, SpanColumns

TIGHT = 1e-9
AMPLE = 1000
TIMES = (0.1, 0.37, 1.0)
GRID = list(itertools.product(TIMES, (0.0, 0.05), TIMES, TIMES, (1, 2, 17)))
NAMES = "forward_s, encode_s, c, s, num_batches"


def run(scenario: Scenario) -> Totals:
    """The totals of a scenario."""
    world = world_of(scenario)
    fold = MetricsFold(world)
    for block in simulate(world):
        fold.add(block)
    return fold.totals()


def makespan(scenario: Scenario) -> float:
    """The makespan of a scenario."""
    return run(scenario).makespan_s


def approx(expected: float) -> Any:
    """Equal but for rounding."""
    return pytest.approx(expected, rel=TIGHT)


@pytest.mark.parametrize(NAMES, GRID[::7])
def test_a_device_alone_in_a_cell_has_it_all(
    forward_s: float, encode_s: float, c: float, s: float, num_batches: int
) -> None:
    """The closed form of its own link: c is the cell's, or the link's where that is slower."""
    f = forward_s + encode_s
    group = device(forward_s, encode_s=encode_s, transfer_s=c) | {"cell": "home"}
    expected = approx(f + c + s + (num_batches - 1) * max(f, c, s))
    for link_s, cell_s in ((c, c / 2), (c / 2, c)):
        group["link"]["uplink"] = f"{8000 / link_s!r} bit/s"
        cells = {"home": {"uplink": f"{8000 / cell_s!r} bit/s", "downlink": "1 Mbit/s"}}
        assert makespan(stated(num_batches, group, step_s=s, cells=cells)) == expected


def test_devices_of_a_cell_that_send_without_end_share_it() -> None:
    """D devices whose cell sets the pace: their last bits are through after all bits ÷ its rate."""
    group = device(0.001, transfer_s=0.1, count=5) | {"cell": "home"}
    cells = {"home": {"uplink": "8 kbit/s", "downlink": "1 Mbit/s"}}
    scenario = stated(20, group, step_s=0.001, workers=5, cells=cells)
    assert makespan(scenario) == approx(0.001 + 5 * 20 * 1.0 + 0.001)


@pytest.mark.parametrize(NAMES, GRID)
def test_ample_run_ahead(
    forward_s: float, encode_s: float, c: float, s: float, num_batches: int
) -> None:
    """f + c + s + (N - 1)·max(f, c, s).

    A path from the first forward to the last step advances N - 1 times to the next mini-batch, each
    time on one of the three stages, and changes stage twice; the longest advances on the slowest.
    """
    f = forward_s + encode_s
    scenario = stated(num_batches, device(forward_s, encode_s=encode_s, transfer_s=c), step_s=s)
    assert makespan(scenario) == approx(f + c + s + (num_batches - 1) * max(f, c, s))


@pytest.mark.parametrize(NAMES, GRID)
def test_run_ahead_of_one(
    forward_s: float, encode_s: float, c: float, s: float, num_batches: int
) -> None:
    """f + c + s + (N - 1)·max(f + c, s).

    Forward k + 1 starts with step k, at the earliest f + c after forward k did; or the steps follow
    one another without a gap, s apart.
    """
    f = forward_s + encode_s
    group = device(forward_s, encode_s=encode_s, transfer_s=c, run_ahead=1)
    expected = f + c + s + (num_batches - 1) * max(f + c, s)
    assert makespan(stated(num_batches, group, step_s=s)) == approx(expected)


@pytest.mark.parametrize("run_ahead", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("latency", [0.0, 0.25, 3.0])
@pytest.mark.parametrize(("f", "c", "s"), list(itertools.permutations((0.3, 0.5, 1.1))))
def test_any_run_ahead_and_latency(
    run_ahead: int, latency: float, f: float, c: float, s: float
) -> None:
    """f + c + l + s + max((N - 1)·m, q·(f + c + l) + ((N - 1) mod r)·m).

    m = max(f, c, s), q = ⌊(N - 1) ÷ r⌋. A path may also go back from the start of step k to the
    start of forward k + r: it advances by r and has f + c + l to walk again to the next step. The
    length is linear in the number of such returns, so none or as many as fit is longest.
    """
    num_batches = 18
    m, (q, rest) = max(f, c, s), divmod(num_batches - 1, run_ahead)
    group = device(f, transfer_s=c, latency=f"{latency} s", run_ahead=run_ahead)
    loop = f + c + latency
    expected = loop + s + max((num_batches - 1) * m, q * loop + rest * m)
    assert makespan(stated(num_batches, group, step_s=s)) == approx(expected)


@pytest.mark.parametrize(("f", "c", "s"), list(itertools.permutations((0.3, 0.5, 1.1))))
def test_two_ahead_are_ample_without_latency(f: float, c: float, s: float) -> None:
    """r ≥ 2 is as good as any where l = 0: ample is r·max(f, c, s) ≥ f + c + l.

    f + c ≤ 2·max(f, c, s), so that no return to a forward pays.
    """
    two, ample = (
        makespan(stated(50, device(f, transfer_s=c, run_ahead=r), step_s=s)) for r in (2, AMPLE)
    )
    assert two == approx(ample)


@pytest.mark.parametrize("payload_bytes", [1, 1499, 1500, 1501, 150_000])
def test_packet_overhead_is_exact(payload_bytes: int) -> None:
    """A message of b bytes occupies the link for (b + ⌈b ÷ mtu⌉·overhead)·8 ÷ rate."""
    group = device(0.001, payload_bytes=payload_bytes, overhead_bytes=52, mtu_bytes=1500)
    totals = run(stated(20, group, step_s=0.001, payload_bytes=payload_bytes))
    sent = payload_bytes + math.ceil(payload_bytes / 1500) * 52
    assert totals.uplink_bytes == 20 * sent
    assert totals.uplink_payload_bytes == 20 * payload_bytes
    c = sent / payload_bytes  # the rate carries the payload alone in one second
    assert totals.makespan_s == approx(0.001 + 20 * c + 0.001)
    uplink = world_of(stated(1, group, step_s=1.0)).actors.uplink(0)
    assert totals.busy_s[uplink] == approx(20 * c)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("payload_bytes", [7, 1000, 99_999])
def test_uplink_bytes_are_exact(granularity: str, payload_bytes: int) -> None:
    """D·N payloads cross, to the byte, also where the taps do not divide them."""
    totals = run(
        stated(
            9,
            device(0.1, count=3),
            step_s=0.1,
            payload_bytes=payload_bytes,
            granularity=granularity,
            side_network={"taps": [1, 2, 3]},
        )
    )
    assert totals.uplink_bytes == totals.uplink_payload_bytes == 3 * 9 * payload_bytes


@pytest.mark.parametrize("latency", [0.0, 0.125])
def test_delivery_adds_one_download_and_one_latency(latency: float) -> None:
    """The last step's end + the side network's bytes · 8 ÷ downlink rate + l, on every device."""
    group = device(0.5, latency=f"{latency} s", count=2, downlink="1 Mbit/s", overhead_bytes=40)
    scenario = stated(5, group, step_s=0.25, model="opt-125m", deliver="trained")
    world, columns = world_of(scenario), columns_of(world_of(scenario))
    last_step = columns.end[columns.kind == STEP].max()
    downloads = columns[columns.kind == DOWNLOAD]
    size = world.groups[0].download_bytes
    assert downloads.num_bytes.tolist() == [size, size]
    assert columns.end[-1] == approx(last_step + size * 8 / 1e6 + latency)
    kept = makespan(stated(5, group, step_s=0.25))
    assert makespan(scenario) == approx(kept + size * 8 / 1e6 + latency)


@pytest.mark.parametrize("num_devices", [1, 2, 5, 40])
@pytest.mark.parametrize(("f", "c", "s"), [(0.4, 1.0, 0.1), (1.0, 0.3, 0.1), (0.2, 0.2, 0.15)])
def test_devices_share_one_server(num_devices: int, f: float, c: float, s: float) -> None:
    """f + c + D·s + (N - 1)·max(f, c, D·s) for D equal devices with links of their own.

    All devices send at the same instants, so the server sees a batch of D mini-batches every
    max(f, c) and needs D·s for it; a path advances by batches of D on the slowest.
    """
    scenario = stated(12, device(f, transfer_s=c, count=num_devices), step_s=s)
    served = num_devices * s
    assert makespan(scenario) == approx(f + c + served + 11 * max(f, c, served))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("f", "c", "s"), [(0.4, 1.0, 2.7), (1.0, 0.3, 0.1), (0.2, 0.2, 1.5)])
def test_workers_share_one_queue(workers: int, f: float, c: float, s: float) -> None:
    """f + c + s + max((N - 1)·m, q·s + ((N - 1) mod W)·m), m = max(f, c), q = ⌊(N - 1) ÷ W⌋.

    Step k begins when its mini-batch is there or step k - W is done: on a path, one step of length
    s advances by W. Linear in the number of such advances.
    """
    num_batches = 20
    m, (q, rest) = max(f, c), divmod(num_batches - 1, workers)
    expected = f + c + s + max((num_batches - 1) * m, q * s + rest * m)
    scenario = stated(num_batches, device(f, transfer_s=c), step_s=s, workers=workers)
    assert makespan(scenario) == approx(expected)


@pytest.mark.parametrize("num_taps", [1, 2, 8])
@pytest.mark.parametrize("latency", [0.0, 0.3])
@pytest.mark.parametrize(("f", "c", "s"), list(itertools.permutations((0.8, 1.0, 2.4))))
def test_layer_granularity(num_taps: int, latency: float, f: float, c: float, s: float) -> None:
    """(f + c + x) ÷ P + l + y + (P - 1)·max(f, c, x) ÷ P + (N - 1)·max(f, c, s).

    P taps, x = s·share the side forward and y = s - x the rest of a step. A path advances P - 1
    times part by part within one mini-batch, and mini-batch by mini-batch as ever, for P parts take
    f on the device, c on the link and x + y at the worker. With P = 1 it is the form for batch
    granularity.
    """
    num_batches, share = 6, 0.25
    scenario = stated(
        num_batches,
        device(f, transfer_s=c, latency=f"{latency} s"),
        step_s=s,
        payload_bytes=1000,
        granularity="layer",
        side_network={"taps": list(range(1, num_taps + 1))},
    )
    scenario = _with_share(scenario, share)
    x, y = s * share, s * (1 - share)
    one = (f + c + x) / num_taps + latency + y
    expected = one + (num_taps - 1) * max(f, c, x) / num_taps + (num_batches - 1) * max(f, c, s)
    assert makespan(scenario) == approx(expected)


def _with_share(scenario: Scenario, share: float) -> Scenario:
    profile = scenario.server.profile.model_dump(mode="json") | {"forward_share": share}
    document = scenario.model_dump(mode="json")
    document["server"]["profile"] = profile
    return Scenario.model_validate(document)


@pytest.mark.parametrize("horizon", [0.5, 1.0, 2.5, 3.0, 3.25, 7.0, 20.0])
def test_horizon_counts(horizon: float) -> None:
    """By time H, ⌊(H - t) ÷ m⌋ + 1 of the pieces of a stage are done, the first at t, then each m.

    With f = 1, c = 0.5, s = 1.5 and exact times: forwards end at 1, 2, …; transfers at 1.5, 2.5, …;
    steps at 3, 4.5, …. What ends at H is whole.
    """
    scenario = stated(10, device(1.0, transfer_s=0.5), step_s=1.5, horizon=f"{horizon} s")
    columns = columns_of(world_of(scenario))
    for kind, first, cycle in ((FORWARD, 1.0, 1.0), (TRANSFER, 1.5, 1.0), (STEP, 3.0, 1.5)):
        expected = min(10, max(0, math.floor((horizon - first) / cycle) + 1))
        assert int(((columns.kind == kind) & ~columns.cut).sum()) == expected
    cut = columns[columns.cut]
    assert (cut.end == horizon).all()
    assert (cut.start < horizon).all()


def test_latency_never_occupies_the_link() -> None:
    """With l ≫ c many messages fly at once: N arrivals c apart, the last at f + N·c + l."""
    scenario = stated(50, device(0.01, transfer_s=0.1, latency="10 s"), step_s=0.001)
    columns = columns_of(world_of(scenario))
    flights = columns[columns.kind == LATENCY]
    assert flights.end[-1] == approx(0.01 + 50 * 0.1 + 10)
    assert _most_at_once(flights) == 50


def _most_at_once(spans: SpanColumns) -> int:
    changes = sorted([(t, 1) for t in spans.start] + [(t, -1) for t in spans.end])
    return max(itertools.accumulate(change for _, change in changes))


@pytest.mark.parametrize(("f", "c", "s"), list(itertools.permutations((0.3, 0.5, 1.1))))
def test_utilisation_is_demand_over_cycle(f: float, c: float, s: float) -> None:
    """Each stage is busy for N times its time: N·x ÷ makespan, x ÷ max(f, c, s) in the long run."""
    num_batches = 2000
    totals = run(stated(num_batches, device(f, transfer_s=c), step_s=s))
    expected = f + c + s + (num_batches - 1) * max(f, c, s)
    busy = dict(zip(("device", "uplink", "worker"), totals.busy_s[[0, 1, 4]], strict=True))
    for actor, demand in (("device", f), ("uplink", c), ("worker", s)):
        assert busy[actor] / totals.makespan_s == approx(num_batches * demand / expected)
        assert busy[actor] / totals.makespan_s == pytest.approx(demand / max(f, c, s), rel=2e-3)


@pytest.mark.parametrize(
    ("f", "c", "s", "bottleneck"),
    [(1.1, 0.5, 0.3, "device"), (0.3, 1.1, 0.5, "uplink"), (0.5, 0.3, 1.1, "server")],
)
@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_blame_names_the_slowest_stage(
    f: float, c: float, s: float, bottleneck: str, granularity: str
) -> None:
    """With ample run-ahead all but f + c + s of the makespan is the slowest stage's."""
    totals = run(
        stated(
            40,
            device(f, transfer_s=c),
            step_s=s,
            granularity=granularity,
            side_network={"taps": [1, 2, 3, 4]},
        )
    )
    assert totals.blame.bottleneck == bottleneck
    assert getattr(totals.blame, bottleneck) >= 39 * max(f, c, s)
    assert totals.blame.total == approx(totals.makespan_s)


def test_blame_with_run_ahead_one() -> None:
    """With r = 1 and f + c + l > s the chain is N times around device, uplink and latency."""
    totals = run(stated(30, device(1.0, transfer_s=0.5, latency="250 ms", run_ahead=1), step_s=0.2))
    assert totals.blame == pytest.approx((30 * 1.0, 30 * 0.5, 30 * 0.25, 0.2, 0.0), rel=TIGHT)


def test_nothing_waits_where_all_is_even() -> None:
    """With f = c = s nobody queues: every stage takes up what the one before just finished."""
    spans = spans_of(world_of(stated(30, device(1.0, transfer_s=1.0, run_ahead=2), step_s=1.0)))
    assert {span.kind for span in spans} == {FORWARD, TRANSFER, STEP}
    roles = world_of(stated(1, device(1.0), step_s=1.0)).actors.roles
    assert sum(roles[span.actor] == UPLINK for span in spans) == 30
