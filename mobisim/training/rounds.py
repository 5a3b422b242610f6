"""Trainers of methods with rounds: what devices learn apart becomes one version."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch

from mobisim.scenario.methods import Kernel, MethodInfo
from mobisim.training import zeroth_order
from mobisim.training.averaging import Contribution, averaged, moved
from mobisim.training.backbone import Backbone
from mobisim.training.course import Course
from mobisim.training.data import TaskData
from mobisim.training.learner import Snapshot, TrainingConfig, optimizer_of
from mobisim.training.threads import one_thread_per_kernel
from mobisim.training.tuned_trainer import ForwardTrainer, SplitTrainer, TunedTrainer


class RoundTrainer(TunedTrainer):
    """A backbone that devices tune apart, round by round."""

    @abstractmethod
    def average(self, devices: Sequence[Sequence[int]], read: Sequence[int] = ()) -> float:
        """A version more, of devices that worked through these mini-batches; the mean loss.

        That is the loss of each mini-batch as its device came to it, in the mean over samples.
        The versions that devices `read` first are the newest unless stated.
        """

    def num_samples(self, numbers: Sequence[int]) -> int:
        """Samples of some mini-batches."""
        return sum(len(self.batches[number]) for number in numbers)


class AveragingTrainer(RoundTrainer):
    """Each device tunes a copy; a version is their average (FedAvg).

    Each begins with the parameters of the version, an optimiser without a past, and its own
    mini-batches. The average weighs each by the samples that it worked through.
    """

    def average(self, devices: Sequence[Sequence[int]], read: Sequence[int] = ()) -> float:
        """A version more, of devices that worked through these mini-batches; the mean loss.

        That is the loss of each mini-batch as its device came to it, in the mean over samples.
        The versions that devices `read` first are the newest unless stated.
        """
        read = read or [self.version] * len(devices)
        with one_thread_per_kernel():
            found = list(map(self._learned_from, devices, read))
            version = self.version_of(found, read)
            self._remember()
            self._set(version)
            self.version += 1
        total = sum(each.num_samples for each in found)
        return sum(each.loss * each.num_samples for each in found) / total

    def _learned_from(self, numbers: Sequence[int], version: int) -> Contribution:
        with self._at(version):
            return self.contribution(numbers)

    def version_of(
        self,
        found: Sequence[Contribution],
        read: Sequence[int],  # noqa: ARG002
    ) -> Snapshot:
        """What devices that began with these versions come to."""
        return averaged([each.parameters for each in found], self.weights(found))

    def weights(self, found: Sequence[Contribution]) -> Sequence[float]:
        """How much each counts."""
        return [each.num_samples for each in found]

    def begins(self, numbers: Sequence[int]) -> None:
        """A device that will work through these mini-batches has the version."""

    def contribution(self, numbers: Sequence[int]) -> Contribution:
        """What a device learns of its mini-batches, one after the other, from this version."""
        start = [parameter.detach().clone() for parameter in self.parameters]
        self.begins(numbers)
        optimizer = optimizer_of(self.parameters, self.config.optimizer)
        loss, num_samples = 0.0, 0
        for number in numbers:
            optimizer.zero_grad()
            size = len(self.batches[number])
            loss += self._differentiate(number) * size
            optimizer.step()
            num_samples += size
        learned = [parameter.detach().clone() for parameter in self.parameters]
        self._set(start)
        return Contribution(learned, num_samples, loss / num_samples)

    def _set(self, values: Snapshot) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)


class RanksTrainer(AveragingTrainer):
    """Each device tunes the first ranks of LoRA alone; the others are zero (HetLoRA).

    What is zero in both matrices of a pair gets no gradient. The average weighs each device by the
    Frobenius norm of what its pairs come to, equally where all are zero.
    """

    def begins(self, numbers: Sequence[int]) -> None:
        """The ranks beyond the device's own are left out."""
        rank = self.rank_of(numbers)
        if rank is None:
            return
        with torch.no_grad():
            for low, high in self._pairs(self.trained()):
                low[rank:] = 0.0
                high[:, rank:] = 0.0

    def rank_of(self, numbers: Sequence[int]) -> int | None:
        """The rank of the device whose mini-batches these are."""
        device = int(self.course.mini_batches[numbers[0]].devices[0])
        return self.config.ranks[device] if self.config.ranks else None

    def weights(self, found: Sequence[Contribution]) -> Sequence[float]:
        """The norm of what each learned."""
        norms = [self._norm(each.parameters) for each in found]
        return norms if sum(norms) > 0 else [1.0] * len(found)

    def _norm(self, parameters: Snapshot) -> float:
        pairs = self._pairs(dict(zip(self.trained(), parameters, strict=True)))
        return math.sqrt(sum(float((high @ low).square().sum()) for low, high in pairs))

    @staticmethod
    def _pairs(named: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """LoRA's matrices, [rank, in] and [out, rank], of each adapted projection."""
        lows = [name for name in named if ".lora_A." in name]
        return [(named[name], named[name.replace(".lora_A.", ".lora_B.")]) for name in lows]


class BufferedTrainer(AveragingTrainer):
    """A version is the one before, moved by what devices learned of any versions (FedBuff).

    That is the mean of what each changed, times 1 / sqrt(1 + staleness), times the server's rate.
    """

    def version_of(self, found: Sequence[Contribution], read: Sequence[int]) -> Snapshot:
        """What devices that began with these versions come to."""
        rate = self.config.server_lr / len(found)
        shares = [rate / math.sqrt(1 + self.version - version) for version in read]
        learned = [each.parameters for each in found]
        return moved(self._values(self.version), list(map(self._values, read)), learned, shares)

    def _values(self, version: int) -> Snapshot:
        with self._at(version):
            return [parameter.detach() for parameter in self.parameters]


class CutAveragingTrainer(AveragingTrainer, SplitTrainer):
    """Each device and the server tune a copy that is cut in two; a version is their average."""


class SlopesTrainer(RoundTrainer, ForwardTrainer):
    """Each device sends slopes along directions of its own; a version is a step along all."""

    def average(self, devices: Sequence[Sequence[int]], read: Sequence[int] = ()) -> float:  # noqa: ARG002
        """A version more, of devices that worked through these mini-batches; the mean loss.

        Each counts by its samples, and all have the newest version.
        """
        with one_thread_per_kernel():
            self.optimizer.zero_grad()
            total = sum(map(self.num_samples, devices))
            loss = 0.0
            for numbers in devices:
                share = self.num_samples(numbers) / total
                value, slopes_K = self.mean_slopes(numbers)
                self._add_gradient(numbers, slopes_K, share)
                loss += share * value
            self._update()
            return loss

    def mean_slopes(self, numbers: Sequence[int]) -> tuple[float, torch.Tensor]:
        """A device's mean loss, and that loss's slope along each of its directions: fp32 [K]."""
        directions, total = self._directions(numbers[0]), self.num_samples(numbers)
        value, slopes_K = 0.0, torch.zeros(self.config.tuning.perturbations)
        for number in numbers:
            share = len(self.batches[number]) / total
            one, found = self.slopes_along(number, directions)
            value, slopes_K = value + share * one, slopes_K + share * found
        return value, slopes_K

    def _add_gradient(self, numbers: Sequence[int], slopes_K: torch.Tensor, share: float) -> None:
        found = zeroth_order.gradient(self._directions(numbers[0]), slopes_K)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            before = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = before + share * gradient


_TRAINERS: dict[Kernel, type[RoundTrainer]] = {
    "gradients": AveragingTrainer,
    "cut_gradients": CutAveragingTrainer,
    "slopes": SlopesTrainer,
}


def round_trainer(
    backbone: Backbone,
    data: TaskData,
    config: TrainingConfig,
    method: MethodInfo,
    course: Course | None = None,
) -> RoundTrainer:
    """The trainer that the description of a method with rounds asks for."""
    if method.rounds == "buffered":
        return BufferedTrainer(backbone, data, config, method, course)
    if method.ranks:
        return RanksTrainer(backbone, data, config, method, course)
    return _TRAINERS[method.kernel](backbone, data, config, method, course)
