"""Limits that a kernel lacks are discarded with Docker's warnings; real-time scheduling is refused."""

from __future__ import annotations

import pytest

from daemon.containers import ability
from daemon.containers.ability import Ability, kept
from storage.errors import InvalidArgument

V2 = Ability((ability.SWAPPINESS,), oom_kill_disable=False, realtime=False, bfq=False)
V1 = Ability((ability.WEIGHT, ability.WEIGHT_DEVICE), oom_kill_disable=True, realtime=True, bfq=False)


def test_v2_has_neither_swappiness_nor_a_way_to_disable_the_oom_killer() -> None:
    left, warnings = kept({"MemorySwappiness": 10, "OomKillDisable": True, "Memory": 7}, V2)
    assert left == {"Memory": 7, "OomKillDisable": False}
    assert warnings == [ability.SWAPPINESS.warning, ability.OOM_KILL]


def test_weights_without_a_scheduler_for_them() -> None:
    left, warnings = kept({"BlkioWeight": 300, "BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 1}]}, V1)
    assert left == {}
    assert warnings == [ability.WEIGHT.warning, ability.WEIGHT_DEVICE.warning]


def test_what_was_not_asked_for_is_not_warned_of() -> None:
    assert kept({"MemorySwappiness": -1, "OomKillDisable": False}, V2)[1] == []
    assert kept({"BlkioWeight": 0, "BlkioWeightDevice": []}, V1)[1] == []


def test_real_time_scheduling_is_refused_without_it() -> None:
    with pytest.raises(InvalidArgument, match="real-time scheduler"):
        kept({"CpuRealtimeRuntime": 5}, V2)
    assert kept({"CpuRealtimeRuntime": 5}, V1) == ({"CpuRealtimeRuntime": 5}, [])
