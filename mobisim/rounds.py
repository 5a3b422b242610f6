"""Who takes part in which round, and how much each device works through: arrays over the fleet."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mobisim.errors import InputError
from mobisim.scenario.federation import Rounds
from mobisim.streams import generator
from mobisim.world import Calls, RoundsWork

Integers = NDArray[np.int64]
MAX_SELECTIONS = 50_000_000
BUFFER = 10  # updates, as the authors of FedBuff take together


def rounds_work(
    rounds: Rounds, per_epoch: Integers, epochs: int, seed: int, *, buffered: bool = False
) -> RoundsWork:
    """The rounds of devices with so many mini-batches in each epoch: `per_epoch` is [devices].

    Devices without data take no part. Where a round does not need all others, those that it selects
    are drawn from the stream `rounds/selection`, without replacement, round after round. From it
    comes also the line in which devices stand at first where rounds are `buffered`.

    Raises:
        InputError: more rounds than can be planned.
    """
    local = _local(rounds, per_epoch)
    able = np.flatnonzero(local)
    awaited = min(rounds.participants or len(able), len(able))
    if buffered:
        at_work, awaited = awaited, min(rounds.buffer or BUFFER, awaited)
        count = rounds.count or _count(per_epoch, local, epochs, awaited)
        _check_count(count, awaited)
        line = generator(seed, "rounds/selection").permutation(able).astype(np.int32)
        nobody = np.empty((count, 0), np.int32)
        return RoundsWork(nobody, local, awaited, Calls(line, at_work))
    wanted = min(math.ceil(awaited * rounds.over_selection), len(able))
    count = rounds.count or _count(per_epoch, local, epochs, awaited)
    _check_count(count, wanted)
    return RoundsWork(_selected(able, wanted, count, seed), local, awaited)


def epochs_needed(work: RoundsWork, per_epoch: Integers) -> Integers:
    """How often each device goes through its data in all rounds together, at least once."""
    times = np.bincount(work.selected.ravel(), minlength=len(per_epoch))
    needed = -(-times * work.local // np.maximum(per_epoch, 1))
    return np.asarray(np.maximum(needed, 1), np.int64)


def _local(rounds: Rounds, per_epoch: Integers) -> Integers:
    if rounds.local_steps is not None:
        return np.where(per_epoch > 0, rounds.local_steps, 0)
    return per_epoch * (rounds.local_epochs or 1)


def _count(per_epoch: Integers, local: Integers, epochs: int, awaited: int) -> int:
    """As many rounds as work through all data, epoch by epoch, in the mean over who is selected."""
    all_once, num_able = int(per_epoch.sum()), int(np.count_nonzero(local))
    return -(-epochs * all_once * num_able // (awaited * int(local.sum())))


def _check_count(count: int, wanted: int) -> None:
    if count * wanted > MAX_SELECTIONS:
        raise InputError(
            "more rounds than mobisim plans",
            where="federation.rounds.count",
            expected=f"at most {MAX_SELECTIONS // wanted} of {wanted} devices",
            got=str(count),
        )


def _selected(able: Integers, wanted: int, count: int, seed: int) -> NDArray[np.int32]:
    if wanted == len(able):
        return np.broadcast_to(able.astype(np.int32), (count, wanted))
    draws = generator(seed, "rounds/selection")
    chosen = [np.sort(draws.choice(able, wanted, replace=False)) for _ in range(count)]
    return np.array(chosen, np.int32)
