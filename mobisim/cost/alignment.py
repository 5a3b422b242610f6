"""Alignment: how backbones of different depth and width feed one side network.

Each backbone is cut into as many blocks as the shallowest has layers, and one layer of each block
is tapped. Where its width is not the side network's, a trainable matrix for each tap, without
bias, brings the activations to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median_high

from mobisim.cost.architecture import Architecture
from mobisim.scenario.federation import Projection, Sample


def block_ends(num_layers: int, num_blocks: int) -> list[int]:
    """The layer that each block ends with, 0 before the first.

    The i-th ends with layer ⌊i · layers ÷ blocks⌋: blocks differ by one layer at most.
    """
    return [number * num_layers // num_blocks for number in range(num_blocks + 1)]


def sampled_layers(num_layers: int, num_blocks: int, sample: Sample) -> tuple[int, ...]:
    """The layer, counted from 1, that stands for each of the blocks of a backbone.

    Which layers matter most is known of data alone: here it is the last of each block.
    """
    ends = block_ends(num_layers, num_blocks)
    match sample:
        case "last" | "importance":
            return tuple(ends[1:])
        case "first":
            return tuple(end + 1 for end in ends[:-1])
        case "average":
            gaps = max(num_blocks - 1, 1)
            steps = ((num_layers - 1) * number for number in range(num_blocks))
            return tuple(1 + (2 * step + gaps) // (2 * gaps) for step in steps)


def shared_width(devices: Iterable[tuple[int, int]]) -> int:
    """The median width of all devices, given as width and number; of two in the middle the larger.

    The paper takes the median for a mix of many devices and the larger width for two models.
    """
    return median_high([width for width, count in devices for _ in range(count)])


def projected_widths(
    groups: Iterable[tuple[int, Architecture, int]], width: int, projection: Projection
) -> list[int]:
    """The width of each projection's input: one for each backbone that needs any, or each device.

    Groups are given as the number of their backbone, its sizes, and how many devices have it.
    """
    needing = [(number, one.width, count) for number, one, count in groups if one.width != width]
    if projection == "per-device":
        return [wide for _, wide, count in needing for _ in range(count)]
    return list({number: wide for number, wide, _ in needing}.values())
