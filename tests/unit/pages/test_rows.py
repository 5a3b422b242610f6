"""Tables of many devices stay short: what groups share stands once, roles are told in the mean."""

from __future__ import annotations

import pytest

from mobisim.pages.rows import roles, shared


def test_what_groups_share_stands_once() -> None:
    """All groups are `*`, some are named, one group alone keeps its number; order is kept."""
    rows = [
        ("seed", "0"),
        *((f"devices[{group}].link.mtu_bytes", "1500") for group in range(3)),
        ("devices[0].count", "2"),
        ("devices[1].count", "4"),
        ("devices[2].count", "2"),
        ("server.workers", "2"),
    ]
    assert shared(rows, 3) == [
        ["seed", "0"],
        ["devices[*].link.mtu_bytes", "1500"],
        ["devices[0, 2].count", "2"],
        ["devices[1].count", "4"],
        ["server.workers", "2"],
    ]
    assert shared([("devices[0].count", "2")], 1) == [["devices[0].count", "2"]]


def test_roles_are_told_in_the_mean() -> None:
    """Of each group apart, with how far its devices differ; the server's workers are no group's."""
    busy = {"device-0": 0.2, "device-1": 0.4, "device-2": 0.5, "uplink-2": 1.0}
    busy |= {"server/worker-0": 0.1, "server/worker-1": 0.3}
    assert [(name, words, share) for name, _, words, share in roles(busy, [2, 1])] == [
        ("2 devices of devices[0]", "30 % (20 % to 40 %)", pytest.approx(0.3)),
        ("device of devices[1]", "50 %", 0.5),
        ("uplink of devices[1]", "100 %", 1.0),
        ("2 server workers", "20 % (10 % to 30 %)", pytest.approx(0.2)),
    ]
    assert [name for name, *_ in roles(busy)] == ["3 devices", "uplink", "2 server workers"]
