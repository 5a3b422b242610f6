"""Joules: of each span, and of each device over a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.energy import Power
from mobisim.report.metrics import Totals
from mobisim.span import PAUSE, TRANSFER, WAIT, WORK_KINDS, SpanColumns
from mobisim.world import World

Floats = NDArray[np.float64]
_UNKNOWN = Power(np.nan, np.nan, np.nan, np.nan)


class Meter:
    """Knows what every device of a world draws."""

    def __init__(self, world: World) -> None:
        known = [group.power or _UNKNOWN for group in world.groups]
        of_group = np.array([(p.idle_w, p.load_w, p.radio_w, p.radio_j_per_bit) for p in known])
        self.idle_w, self.load_w, self.radio_w, self.radio_j_per_bit = of_group[world.group_of].T
        batteries = [np.nan if p.battery_j is None else p.battery_j for p in known]
        self.battery_j = np.array(batteries)[world.group_of]
        self.num_devices = world.actors.num_devices

    def joules(self, columns: SpanColumns) -> Floats:
        """Joules of each span: a device's own at its power, transfers at the radio's; else NaN.

        Shapes: [num_spans].
        """
        lasted, device = columns.end - columns.start, columns.device
        own = columns.actor < self.num_devices  # devices are the first actors
        idles = own & np.isin(columns.kind, (WAIT, PAUSE))
        works, sends = own & np.isin(columns.kind, WORK_KINDS), columns.kind == TRANSFER
        bits = 8 * np.maximum(columns.num_bytes, 0)
        radio = self.radio_w[device] * lasted + self.radio_j_per_bit[device] * bits
        cases = [self.load_w[device] * lasted, self.idle_w[device] * lasted, radio]
        return np.select([works, idles, sends], cases, np.nan)

    def usage(self, totals: Totals) -> Usage | None:
        """What each device used over a run; None where one states no power."""
        if np.isnan(self.idle_w).any():
            return None
        busy_s, sending_s = np.split(totals.busy_s[: 2 * self.num_devices], 2)
        _, carried = np.split(totals.carried_bytes[: 2 * self.num_devices], 2)
        return Usage(
            idle=self.idle_w * totals.makespan_s,
            compute=(self.load_w - self.idle_w) * busy_s,
            radio=self.radio_w * sending_s + self.radio_j_per_bit * (8 * carried),
            battery_j=self.battery_j,
        )


@dataclass(frozen=True)
class Usage:
    """Joules of each device: idle all along, computing on top, the radio while it sends.

    Shapes: [num_devices]. `battery_j` is the capacity, NaN where not stated.
    """

    idle: Floats
    compute: Floats
    radio: Floats
    battery_j: Floats

    @property
    def battery_share(self) -> Floats:
        """Of a full battery, without a charger."""
        return np.asarray((self.idle + self.compute + self.radio) / self.battery_j)
