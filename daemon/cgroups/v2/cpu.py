"""The v2 cpu controller (Documentation/admin-guide/cgroup-v2.rst, "CPU")."""

from __future__ import annotations

from daemon.cgroups import files
from daemon.cgroups.convert import cpu_max, cpu_weight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import CpuStats

_KEYS = ("shares", "quota", "period", "burst", "idle")


def wants(resources: dict[str, Any]) -> bool:
    cpu = resources.get("cpu") or {}
    return any(cpu.get(key) for key in _KEYS)


def apply(directory: str, resources: dict[str, Any]) -> None:
    """Real-time settings have no v2 file and are left out, as runc leaves them out."""
    cpu = resources.get("cpu") or {}
    if cpu.get("idle") is not None and files.exists(f"{directory}/cpu.idle"):
        files.write(f"{directory}/cpu.idle", cpu["idle"])
    weight = cpu_weight(cpu.get("shares") or 0)
    if weight and not cpu.get("idle"):
        files.write(f"{directory}/cpu.weight", weight)
    if cpu.get("quota") or cpu.get("period"):
        _write_bandwidth(directory, cpu.get("quota") or 0, cpu.get("period") or 0)
    if cpu.get("burst") is not None:
        files.write(f"{directory}/cpu.max.burst", cpu["burst"])


def _write_bandwidth(directory: str, quota: int, period: int) -> None:
    """`cpu.max` is both in one line. A period alone goes with the quota that is there."""
    file = f"{directory}/cpu.max"
    if not quota:
        current = files.read(file).split()[0]
        quota = -1 if current == "max" else int(current)
    value = cpu_max(quota, period)
    if value is not None:
        files.write(file, value)


def stats(directory: str) -> CpuStats:
    """`cpu.stat` is there without the controller too, then only with the first three lines."""
    from daemon.cgroups.stats import CpuStats

    stat = files.read_keyed(f"{directory}/cpu.stat")
    return CpuStats(
        total_ns=stat.get("usage_usec", 0) * 1000,
        user_ns=stat.get("user_usec", 0) * 1000,
        system_ns=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
    )
