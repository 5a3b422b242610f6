"""Cells: processor sharing against textbooks, and against a fluid walked through in fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from random import Random

import pytest
from simpy.core import EmptySchedule

from mobisim.sim.cell import Cell, Flow, Member
from mobisim.sim.kernel import Alarm, Clock


@dataclass(frozen=True)
class Job:
    """A message: when it comes, its bits, its weight, and the rate of its own link."""

    at: float
    bits: int
    weight: int = 1
    cap: float = 1e30


def ends(rate: float, jobs: Sequence[Job]) -> list[float]:
    """When each message is through, by the cell of the engine."""
    clock, found = Clock(), [0.0] * len(jobs)
    cell = Cell(clock, rate)

    def begin(index: int, job: Job) -> None:
        member = Member(cell, index, index, job.weight, job.cap)

        def through(_: object) -> None:
            found[index] = clock.now

        cell.join(Flow(member, job.bits, through))

    for index, job in enumerate(jobs):
        Alarm(clock, job.at, index, partial(lambda i, j, _: begin(i, j), index, job))
    while True:
        try:
            clock.step()
        except EmptySchedule:
            return found


def filled(rate: Fraction, jobs: Sequence[Job], active: Sequence[int]) -> dict[int, Fraction]:
    """The rates of water-filling: whoever gets less than the level is at its cap."""
    rates: dict[int, Fraction] = {}
    rest, free = rate, list(active)
    while free:
        level = rest / sum(jobs[i].weight for i in free)
        capped = [i for i in free if Fraction(jobs[i].cap) <= jobs[i].weight * level]
        if not capped:
            return rates | {i: jobs[i].weight * level for i in free}
        rates |= {i: Fraction(jobs[i].cap) for i in capped}
        rest -= sum(Fraction(jobs[i].cap) for i in capped)
        free = [i for i in free if i not in capped]
    return rates


def fluid(rate: float, jobs: Sequence[Job]) -> list[float]:
    """When each message is through: every flow's rest, worked out anew at each change."""
    left = {index: Fraction(job.bits) for index, job in enumerate(jobs)}
    coming = sorted(range(len(jobs)), key=lambda i: jobs[i].at)
    now, found = Fraction(0), [0.0] * len(jobs)
    active: list[int] = []
    while coming or active:
        rates = filled(Fraction(rate), jobs, active)
        done = min((now + left[i] / rates[i] for i in active), default=None)
        arrival = Fraction(jobs[coming[0]].at) if coming else None
        until = min(instant for instant in (done, arrival) if instant is not None)
        for index in active:
            left[index] -= rates[index] * (until - now)
        now = until
        for index in [i for i in active if left[i] == 0]:
            active.remove(index)
            found[index] = float(now)
        while coming and jobs[coming[0]].at == now:
            active.append(coming.pop(0))
    return found


def test_two_staggered_messages_share_as_in_textbooks() -> None:
    """Alone, then at half the rate, then the later one alone again."""
    jobs = [Job(0.0, 1000), Job(0.5, 1000)]
    assert ends(1000.0, jobs) == pytest.approx([1.5, 2.0], rel=1e-15)


def test_equal_messages_finish_together() -> None:
    """N messages of c seconds each that come together take N times c."""
    assert ends(1000.0, [Job(0.0, 500) for _ in range(8)]) == pytest.approx([4.0] * 8)


def test_staircase_of_sizes() -> None:
    """Sizes 1, 2, 3 together: the k-th is through after the sum of min(size, k)."""
    jobs = [Job(0.0, 1000 * size) for size in (1, 2, 3)]
    assert ends(1000.0, jobs) == pytest.approx([3.0, 5.0, 6.0])


def test_weights_divide_the_rate() -> None:
    """With weights 3 and 1 the first has three quarters."""
    assert ends(1000.0, [Job(0.0, 750, 3), Job(0.0, 1000, 1)]) == pytest.approx([1.0, 1.75])


def test_what_a_cap_leaves_is_shared_by_the_others() -> None:
    """One of three is bound to 100 bit/s; the other two have 450 each."""
    jobs = [Job(0.0, 100, cap=100.0), Job(0.0, 450), Job(0.0, 900)]
    assert ends(1000.0, jobs) == pytest.approx([1.0, 1.0, 1.45])


def test_caps_that_fit_leave_each_link_to_itself() -> None:
    """Where all caps together are less than the cell's rate, nobody waits for anybody."""
    jobs = [Job(0.1 * index, 700, cap=100.0) for index in range(5)]
    assert ends(1000.0, jobs) == [job.at + 7.0 for job in jobs]


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_random_messages_share_as_a_fluid_does(seed: int, capped: bool) -> None:
    """Arrivals, sizes, weights and caps at random: the same ends as an O(n) reference."""
    choose = Random(seed)
    times = choose.choice([(0.0, 0.25, 0.5, 1.0), tuple(choose.random() for _ in range(30))])
    jobs = [
        Job(
            choose.choice(times) * choose.randint(1, 8),
            choose.randint(1, 4000),
            choose.choice([1, 1, 2, 5]),
            choose.choice([50.0, 123.4, 400.0, 1e30]) if capped else 1e30,
        )
        for _ in range(choose.randint(1, 40))
    ]
    assert ends(1000.0, jobs) == pytest.approx(fluid(1000.0, jobs), rel=1e-9)


def test_a_long_run_keeps_no_more_than_its_flows() -> None:
    """Heaps are tidied: they do not remember every message that ever was."""
    clock = Clock()
    cell = Cell(clock, 1000.0)
    members = [Member(cell, index, index, 1, 400.0 + index) for index in range(5)]

    def again(index: int) -> None:
        members[index].carry(clock.now, 100 + index, 0.0, lambda _: again(index))

    for index in range(5):
        again(index)
    for _ in range(20_000):
        clock.step()
    assert max(map(len, (cell.to_bind, cell.to_free, cell.sharing_goals, cell.bound_goals))) < 100
