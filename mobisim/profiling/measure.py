"""The measurement: rounds of all cases in random order, until each is sure or the time is up."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mobisim.errors import InputError
from mobisim.profiling.cases import Case, Laps
from mobisim.profiling.statistics import quantile, relative_width

Taken = dict[str, list[Laps]]  # by case
SMALL_S, SMALL_TIMES = 5e-3, 3  # what is shorter runs several times a visit, first one unseen
LONGEST_SHARE = 1 / 30  # of the budget, for one run of a case
LONG_SHARE, SELDOM = 1 / 400, 4  # of the budget, above which a case comes every second to nth round
SLEEP_S = 1.0  # by which the clocks may drift apart from one sample to the next
WILD_FACTOR, WILD_S = 50.0, 5.0


def clocks() -> tuple[float, float]:
    """A clock that stands still while the machine sleeps, and one that goes on."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic(), time.time() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True)
class Limits:
    """When enough is measured: every median this sure, or the budget spent."""

    budget_s: float
    width: float = 0.03
    seed: int = 0


@dataclass
class Session:
    """One measurement under way; `sink` gets each sample as it comes."""

    limits: Limits
    sink: Callable[[Case, Laps], None]
    notice: Callable[[str], None]
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    clocks: Callable[[], tuple[float, float]] = clocks
    taken: Taken = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _round: int = 0
    _looked_at: tuple[float, float] = (0.0, 0.0)

    def run(self, cases: Sequence[Case]) -> Taken:
        """Samples of all cases that this machine can time within the budget.

        Raises:
            InputError: the machine slept in the middle.
        """
        self._begun = time.monotonic()
        shuffle = random.Random(self.limits.seed).shuffle  # noqa: S311 - an order, no secret
        running = self._warm_up(cases)
        self._looked_at = self.clocks()
        while running and (self._left_s() > 0 or self._lacks(running)):
            shuffle(running)
            for one in running:
                if self._is_due(one):
                    self._visit(one)
            running = [one for one in running if not self._is_sure(one)]
            self._round += 1
        return self.taken

    def _is_due(self, one: _Running) -> bool:
        """Long cases come every few rounds: they even out within what short ones must repeat."""
        stride = min(SELDOM, 1 + int(one.longest_s / (self.limits.budget_s * LONG_SHARE)))
        in_time = one.longest_s < self._left_s() and self._round % stride == 0
        return in_time or self._lacks([one])

    def _lacks(self, running: Sequence[_Running]) -> bool:
        """Whether a case has fewer samples than it must have: they are taken, budget or not."""
        return any(
            len(self.taken.get(one.case.name, ())) < max(1, one.case.least) for one in running
        )

    def _left_s(self) -> float:
        spent = time.monotonic() - self._begun
        self.progress("measuring", min(int(spent), self._total), self._total)
        return self.limits.budget_s - spent

    @property
    def _total(self) -> int:
        return max(1, int(self.limits.budget_s))

    def _warm_up(self, cases: Sequence[Case]) -> list[_Running]:
        """Each case once, unseen, the cheap ones first; what would take too long is left out."""
        running: list[_Running] = []
        longest = self.limits.budget_s * LONGEST_SHARE
        rate_s = math.inf  # seconds per FLOP of the most efficient case so far
        for case in sorted(cases, key=lambda case: case.flop):
            if rate_s < math.inf and case.flop * rate_s > longest:
                self.notice(f"left out, too long for this budget: {case.name}")
                continue
            self._left_s()  # for whoever watches
            one = _Running(case, case.start())
            begun = time.perf_counter()
            one.run()
            one.longest_s = time.perf_counter() - begun
            running.append(one)
            rate_s = min(rate_s, one.longest_s / case.flop if case.flop else math.inf)
        return running

    def _visit(self, one: _Running) -> None:
        small = one.longest_s < SMALL_S
        for turn in range(SMALL_TIMES if small else 1):
            begun = time.perf_counter()
            laps = one.run()
            one.longest_s = time.perf_counter() - begun
            self._check_awake(one.case, laps)
            if turn or not small:
                self.taken.setdefault(one.case.name, []).append(laps)
                self.sink(one.case, laps)

    def _check_awake(self, case: Case, laps: Laps) -> None:
        """Stop, without this sample, where the machine slept since the one before.

        Raises:
            InputError: it did; the samples so far are kept.
        """
        awake, always = self._looked_at
        now = self._looked_at = self.clocks()
        apart = (now[1] - always) - (now[0] - awake)
        if apart > SLEEP_S:
            raise _slept(f"the clocks moved apart by {apart:.1f} s")
        known, total = self._totals(case), sum(laps.values())
        if known and total > max(WILD_S, WILD_FACTOR * quantile(known, 0.5)):
            raise _slept(f"{case.name} took {total:.1f} s")

    def _is_sure(self, one: _Running) -> bool:
        known = self._totals(one.case)
        return len(known) >= one.case.least and relative_width(known) <= self.limits.width

    def _totals(self, case: Case) -> list[float]:
        return [sum(laps.values()) for laps in self.taken.get(case.name, [])]


def _slept(evidence: str) -> InputError:
    return InputError(
        "the machine slept, or stood still, while it was measured",
        where="mobisim profile",
        got=evidence,
        hint="keep it awake and idle; the same command goes on with the samples taken so far",
    )


@dataclass
class _Running:
    """A case that was built, and how long it took last."""

    case: Case
    run: Callable[[], Laps]
    longest_s: float = 0.0
