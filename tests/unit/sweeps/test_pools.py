"""Work in pools: what becomes of failures and of workers that die."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from pools import AtOnce

from mobisim.errors import InputError
from mobisim.sweeps.pools import Job, cluster, drive, processes
from mobisim.sweeps.work import Failure


def double(number: int) -> int:
    """Work that can fail in two ways."""
    if number == 3:
        raise InputError("no three", where="here")
    if number == 4:
        raise ZeroDivisionError("four")
    return 2 * number


def die(number: int) -> int:
    """Work that kills its process where the number is odd."""
    if number % 2:
        os._exit(1)
    time.sleep(0.01)
    return number


class Results:
    """Keeps what comes back."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __call__(self, job: Job, result: Any) -> Iterable[Job]:
        assert job.name not in self.found
        self.found[job.name] = result
        return ()


def jobs(work: Any, numbers: Iterable[int]) -> list[Job]:
    """A job for each number."""
    return [Job(str(number), work, (number,)) for number in numbers]


def test_errors_are_results() -> None:
    """Those of the user with their place, others with their type."""
    results = Results()
    drive(AtOnce().pool(), jobs(double, range(5)), results)
    assert results.found == {
        "0": 0,
        "1": 2,
        "2": 4,
        "3": Failure("here\n  no three"),
        "4": Failure("ZeroDivisionError: four"),
    }


def test_results_can_ask_for_more() -> None:
    """What `done` returns is done as well."""
    seen: list[int] = []

    def done(job: Job, result: int) -> list[Job]:
        seen.append(result)
        return jobs(double, [result]) if result < 100 and result != 4 else []

    drive(AtOnce().pool(), jobs(double, [7]), done)
    assert seen == [14, 28, 56, 112]


def test_a_job_that_kills_its_process_is_the_only_failure() -> None:
    """Those under way beside it are done all the same, each once."""
    results = Results()
    drive(processes(2), jobs(die, [0, 2, 4, 5, 6, 8]), results)
    dead = {name for name, found in results.found.items() if isinstance(found, Failure)}
    assert dead == {"5"}
    assert {found for found in results.found.values() if isinstance(found, int)} == {0, 2, 4, 6, 8}


@pytest.mark.parametrize("at_once", [True, False])
def test_pools_that_never_start_are_given_up(at_once: bool) -> None:
    """Whether work is refused or never comes back: with a word on why that may be."""
    executor = AtOnce()
    executor.dies_at = lambda call: True

    def refuse(*_: Any) -> Any:
        raise BrokenProcessPool

    if at_once:
        executor.submit = refuse  # type: ignore[method-assign]
    with pytest.raises(InputError, match="do not start; what was finished is kept"):
        drive(executor.pool(), jobs(double, [1]), Results())


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, with an example."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("mobisim.sweeps.pools.CONNECT_TIMEOUT_S", 0.2)
    with (
        pytest.raises(InputError, match="no Dask scheduler answers") as raised,
        cluster("tcp://127.0.0.1:1").open(),
    ):
        pass
    assert raised.value.where == "--scheduler tcp://127.0.0.1:1"


HALFWAY = """
from mobisim.sweeps.pools import Job, drive, processes

def interrupt(job, result):
    raise KeyboardInterrupt

if __name__ == "__main__":
    drive(processes(2), [Job(str(n), bytes, (80_000_000,)) for n in range(6)], interrupt)
"""


def test_an_interrupt_does_not_wait_for_half_a_result(tmp_path: Path) -> None:
    """Workers that are ended while they write a result leave nobody who reads on for ever."""
    script = tmp_path / "halfway.py"
    script.write_text(HALFWAY, "utf-8")
    ran = subprocess.run([sys.executable, script], capture_output=True, timeout=60, check=False)
    assert ran.stderr.strip().endswith(b"KeyboardInterrupt")
