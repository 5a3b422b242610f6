"""Where work is done: processes of this machine, or workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from mobisim.cores import num_cores
from mobisim.errors import InputError, MobisimError
from mobisim.sweeps.work import Failure, end_within_work, guarded

CONNECT_TIMEOUT_S = 10.0
MAX_BROKEN = 3  # pools that break with nothing under way, before giving up
_ANY_NUMBER = 1000  # jobs that wait at a cluster


@dataclass(frozen=True)
class Job:
    """A call to be made somewhere, and the name by which its result is known."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Pool:
    """How to open an executor, and how many jobs to hand it at a time."""

    open: Callable[[], contextlib.AbstractContextManager[Executor]]
    window: int


Done = Callable[[Job, Any], Iterable[Job]]


def drive(pool: Pool, jobs: Iterable[Job], done: Done) -> None:
    """Have jobs done; `done` takes each result, or Failure, and says what is to be done next.

    A worker process that dies takes down its pool; what was under way is then repeated job by job,
    so that the one that kills its process is known, and is a failure.

    Raises:
        MobisimError: the workers have gone.
    """
    waiting = deque(jobs)
    broken = 0
    while waiting:
        with pool.open() as executor:
            suspects = _until_broken(executor, pool.window, waiting, done)
        broken = 0 if suspects else broken + 1
        if broken > MAX_BROKEN:
            raise _no_workers()
        for job in suspects:
            waiting.extend(done(job, _alone(pool, job)))


def _until_broken(executor: Executor, window: int, waiting: deque[Job], done: Done) -> list[Job]:
    """Work until nothing waits, or the pool breaks; then the jobs that were under way."""
    flying: dict[Future[Any], Job] = {}
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    suspects: list[Job] = []
    while flying or (waiting and not suspects):
        with contextlib.suppress(BrokenProcessPool):
            while waiting and not suspects and len(flying) < window:
                _submit(executor, waiting, flying, finished)
        if not flying:  # broken before anything was under way
            break
        future = finished.get()
        job = flying.pop(future)
        try:
            result = _result(future)
        except BrokenProcessPool:
            suspects.append(job)
        else:
            waiting.extend(done(job, result))
    return suspects


def _submit(
    executor: Executor,
    waiting: deque[Job],
    flying: dict[Future[Any], Job],
    finished: SimpleQueue[Future[Any]],
) -> None:
    job = waiting[0]
    future = executor.submit(guarded, job.work, *job.arguments)
    flying[future] = waiting.popleft()
    future.add_done_callback(finished.put)


def _alone(pool: Pool, job: Job) -> Any:
    with pool.open() as executor:
        try:
            return _result(executor.submit(guarded, job.work, *job.arguments))
        except BrokenProcessPool:
            _check_that_workers_start(pool)
            return Failure("its process was killed, perhaps for the memory that it took")


def _check_that_workers_start(pool: Pool) -> None:
    """Tells work that kills its process from processes that end before any work.

    Raises:
        MobisimError: not even a process with nothing to do comes to its end.
    """
    with pool.open() as executor:
        try:
            executor.submit(int).result()
        except BrokenProcessPool as error:
            raise _no_workers() from error


def _no_workers() -> MobisimError:
    return InputError(
        "worker processes do not start; what was finished is kept",
        hint="is this machine out of memory? in a script, call what starts them below"
        " `if __name__ == '__main__':`",
    )


def _result(future: Future[Any]) -> Any:
    """The result of a job; what its executor says of dead workers is a failure, too."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except CancelledError as error:
        raise MobisimError("the scheduler has gone") from error
    except Exception as error:  # noqa: BLE001 - executors have their own words for dead workers
        return Failure(f"{type(error).__name__}: {error}")


def here() -> Pool:
    """A thread of this very process: for work that takes less time than a process to start."""
    return Pool(lambda: ThreadPoolExecutor(max_workers=1), 2)


def processes(count: int | None = None) -> Pool:
    """So many processes of this machine; as many as cores unless stated."""
    number = count or num_cores()
    return Pool(lambda: _processes(number), 2 * number)


@contextlib.contextmanager
def _processes(count: int) -> Iterator[Executor]:
    # Forking a process with threads may hang; a server that is forked instead has none.
    ways = multiprocessing.get_all_start_methods()
    way = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    if way.get_start_method() == "forkserver":
        way.set_forkserver_preload([guarded.__module__])
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(count, mp_context=way, initializer=_begin)
    try:
        with _one_thread_each():
            yield executor
        executor.shutdown()
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers inherit that kernels run on one thread: there is one of them for each core."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_within_work)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def cluster(address: str) -> Pool:
    """The workers of a Dask scheduler.

    Raises:
        InputError: the extra is not installed.
    """
    try:
        import distributed  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise InputError(
            "this needs Dask's distributed", where="--scheduler", hint="pip install '.[cluster]'"
        ) from error
    return Pool(lambda: _cluster(address), _ANY_NUMBER)


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    from distributed import Client  # noqa: PLC0415 - an extra

    try:
        connect: Any = Client  # untyped
        client = connect(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            "no Dask scheduler answers here",
            where=f"--scheduler {address}",
            expected="an address such as tcp://127.0.0.1:8786",
            got=str(error) or type(error).__name__,
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            raise InputError(
                "this scheduler has no workers",
                where=f"--scheduler {address}",
                hint=f"start one on each machine: dask worker {address} --nthreads 1",
            ) from error
        # Work is pure, but what it says depends on a machine's data: nothing is remembered.
        with client.get_executor(pure=False) as executor:
            yield executor
