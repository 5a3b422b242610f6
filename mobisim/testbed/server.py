"""The server: lets devices in, learns from what they send, and publishes what happened."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mobisim.learning import Learning
from mobisim.lessons import Checkpoints, Taught
from mobisim.runner import Result, publish
from mobisim.testbed.clock import clock_name, now
from mobisim.testbed.endpoint import Address, Keys
from mobisim.testbed.gate import Gate
from mobisim.testbed.jobs import Jobs
from mobisim.testbed.plan import Plan
from mobisim.testbed.record import Learned, Record, Replay, in_one, last_end, network_bytes
from mobisim.testbed.worker import Bench, Worker
from mobisim.workload import evaluation_interval, is_judged


@dataclass(frozen=True)
class Service:
    """Where and how to serve."""

    address: Address
    keys: Keys | None = None
    paced: bool = True  # the sender limits the link, not the kernel
    patience_s: float = 600.0
    about: dict[str, Any] | None = None


def serve(plan: Plan, service: Service, opened: Callable[[Address], None]) -> Result:
    """Serve one run from its start, or its last checkpoint, to its published result.

    `opened` is told the address once devices may connect.
    """
    torch.set_num_threads(1)
    run = _Run(plan, service)
    opened(run.gate.address)
    try:
        run.prepare()  # while devices prepare themselves
        run.work()
    finally:
        run.gate.close()
    result = publish(
        plan.prepared, run.learning(), in_one(run.record.block()),
        about={"testbed": service.about or {}},
    )  # fmt: skip
    run.checkpoints.clear()
    return result


class _Run:
    """One run under way."""

    def __init__(self, plan: Plan, service: Service) -> None:
        self.plan, prepared = plan, plan.prepared
        options = prepared.options
        self.checkpoints = Checkpoints(
            prepared.place.resolve(), prepared.digest,
            every_s=options.checkpoint_every_s, resume=options.resume,
        )  # fmt: skip
        self.record, self.learned, self.stepped = Record(), Learned(), [0] * plan.num_devices
        self.zero: float | None = None
        self.jobs = Jobs()
        self.gate = Gate(
            plan, self.jobs, self.record,
            address=service.address, keys=service.keys, paced=service.paced,
            patience_s=service.patience_s,
        )  # fmt: skip
        training = prepared.scenario.training
        assert training is not None
        self.total = plan.num_batches * plan.num_devices
        self.every = evaluation_interval(training, self.total)

    def prepare(self) -> None:
        """Load what is trained, from the last checkpoint where there is one to go on from."""
        self.trainer = self.plan.trainer()
        self.checkpoints.load(self._restore)

    def work(self) -> None:
        """From the first mini-batch to the delivered side network."""
        bench = Bench(self.plan, self.trainer)
        if self.plan.prepared.learns:
            self._be_ready_to_keep()
        bench.warm_up()  # the last to take memory: what it frees is there for the first step
        gc.collect()
        gc.freeze()
        self.gate.open()
        self.gate.wait_for_devices()
        zero = self.zero = now() if self.zero is None else self.zero
        self.gate.begin(zero)
        worker = Worker(bench, self.jobs, self.gate, self.record.add, zero)
        while self.trainer.version < self.total:
            self._step(worker)
        delivers = self.plan.scenario.deliver != "none"
        network = network_bytes(self.trainer) if delivers else b""
        self.gate.deliver(network, worker.free_at)

    def _be_ready_to_keep(self) -> None:
        """Keep the version to begin with, and have room for the others that will be judged."""
        if not self.learned.versions:
            self.learned.keep(self.trainer)
        left = range(self.trainer.version + 1, self.total + 1)
        self.learned.reserve(
            self.trainer, sum(is_judged(step, self.every, self.total) for step in left)
        )

    def _step(self, worker: Worker) -> None:
        learned = worker.work()
        if learned is None:
            return
        device, loss = learned
        self.learned.losses.append(loss)
        self.stepped[device] += 1
        judged = is_judged(self.trainer.version, self.every, self.total)
        if judged and self.plan.prepared.learns:
            self.learned.keep(self.trainer)
        self.checkpoints.maybe_save(self._state)
        self.plan.prepared.options.progress("running", self.trainer.version, self.total)

    def learning(self) -> Learning | None:
        """What was learned, judged now that the run is over."""
        if not self.plan.prepared.learns:
            return None
        prepared = self.plan.prepared
        replay = Replay(self.trainer, self.learned)
        never = Checkpoints(prepared.place, prepared.digest, every_s=math.inf, resume=False)
        lessons = Taught(
            prepared.system, prepared.planned, never, trainer=self.trainer, step=replay.step
        )
        return Learning(prepared.system, lessons)

    def _state(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer.state_dict(),
            "losses": self.learned.losses,
            "versions": self.learned.versions,
            "stepped": self.stepped,
            "rows": self.record.state(self.stepped),
            "zero": self.zero,
            "clock": clock_name(),
        }

    def _restore(self, state: dict[str, Any]) -> bool:
        self.trainer.load_state_dict(state["trainer"])
        self.learned = Learned(state["losses"], state["versions"])
        self.stepped = state["stepped"]
        self.record.restore(state["rows"])
        # On another clock the time that the server was gone cannot be told.
        same = state["clock"] == clock_name()
        self.zero = state["zero"] if same else now() - last_end(self.record.rows())
        for inbox, batch in zip(self.gate.inboxes, self.stepped, strict=True):
            inbox.begin_with(batch)
            inbox.remember(self.record.rows())
        return True
