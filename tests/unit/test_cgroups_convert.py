"""The conversions from v1's numbers to v2's, at the values runc's own tests and issues name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.cgroups import CgroupError
from daemon.cgroups.convert import cpu_max, cpu_weight, io_weight, number_or_max, pids_max, swap_max


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (0, 0),
        (1, 1),
        (2, 1),
        (256, 35),
        (1024, 100),
        (2000, 170),
        (22000, 1204),
        (262144, 10000),
        (1 << 20, 10000),
    ],
)
def test_cpu_weight(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@given(st.integers(2, 1 << 18), st.integers(2, 1 << 18))
def test_cpu_weight_keeps_the_order_and_the_range(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= cpu_weight(low) <= cpu_weight(high) <= 10000


@pytest.mark.parametrize(("weight", "wanted"), [(0, 0), (10, 1), (500, 4950), (1000, 10000)])
def test_io_weight(weight: int, wanted: int) -> None:
    assert io_weight(weight) == wanted


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        ({}, None),
        ({"limit": 100}, None),
        ({"limit": -1}, "max"),
        ({"limit": 100, "swap": -1}, "max"),
        ({"swap": -1}, "max"),
        ({"limit": 100, "swap": 100}, "0"),
        ({"limit": 100, "swap": 250}, "150"),
    ],
)
def test_swap_max(memory: dict[str, Any], wanted: str | None) -> None:
    assert swap_max(memory) == wanted


@pytest.mark.parametrize(
    "memory",
    [{"swap": 100}, {"limit": -1, "swap": 100}, {"limit": 200, "swap": 100}, {"limit": 1, "swap": -2}],
)
def test_swap_max_refuses(memory: dict[str, Any]) -> None:
    with pytest.raises(CgroupError, match="memory"):
        swap_max(memory)


def test_small_ones() -> None:
    assert [number_or_max(value) for value in (None, 0, -1, 7)] == [None, None, "max", "7"]
    limits = [{}, {"pids": {}}, {"pids": {"limit": 0}}, {"pids": {"limit": -1}}, {"pids": {"limit": 9}}]
    assert [pids_max(limit) for limit in limits] == [None, None, None, "max", "9"]
    pairs = [(0, 0), (-1, 0), (50, 0), (50, 100), (-1, 100)]
    assert [cpu_max(*pair) for pair in pairs] == [None, "max", "50", "50 100", "max 100"]
