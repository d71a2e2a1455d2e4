"""The v1 cpu controller: shares, the CFS quota, real-time and idle
(Documentation/scheduler/sched-bwc.rst, sched-rt-group.rst)."""

from __future__ import annotations

import errno

from daemon.cgroups import files
from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MIN_SHARES = 2
MAX_SHARES = 1 << 18  # kernel/sched/sched.h; the kernel would clamp in silence

_KEYS = ("shares", "quota", "period", "burst", "realtimeRuntime", "realtimePeriod", "idle")


def wants(resources: dict[str, Any]) -> bool:
    cpu = resources.get("cpu") or {}
    return any(cpu.get(key) for key in _KEYS)


def apply(directory: str, resources: dict[str, Any]) -> None:
    cpu = resources.get("cpu") or {}
    if not cpu:
        return
    if cpu.get("realtimePeriod"):
        files.write(f"{directory}/cpu.rt_period_us", cpu["realtimePeriod"])
    if cpu.get("realtimeRuntime"):
        files.write(f"{directory}/cpu.rt_runtime_us", cpu["realtimeRuntime"])
    if cpu.get("shares"):
        _write_shares(directory, cpu["shares"])
    if cpu.get("idle") is not None:
        files.write(f"{directory}/cpu.idle", cpu["idle"])
    _write_bandwidth(directory, cpu.get("quota") or 0, cpu.get("period") or 0)
    if cpu.get("burst") is not None:
        files.write(f"{directory}/cpu.cfs_burst_us", cpu["burst"])


def _write_shares(directory: str, shares: int) -> None:
    file = f"{directory}/cpu.shares"
    if shares < MIN_SHARES:
        raise CgroupError(
            f"write {shares} to {file}: the minimum allowed cpu-shares is {MIN_SHARES}",
            file=file,
            value=str(shares),
        )
    if shares > MAX_SHARES:
        raise CgroupError(
            f"write {shares} to {file}: the maximum allowed cpu-shares is {MAX_SHARES}",
            file=file,
            value=str(shares),
        )
    files.write(file, shares)


def _write_bandwidth(directory: str, quota: int, period: int) -> None:
    """The kernel checks quota/period against the parent's at each write, so the order matters: a new
    period may only be possible together with a new quota; then the quota goes first."""
    period_file = f"{directory}/cpu.cfs_period_us"
    retry_period = False
    if period:
        try:
            files.write(period_file, period)
        except CgroupError as error:
            if error.errno != errno.EINVAL or not quota:
                raise
            retry_period = True
    if quota:
        files.write(f"{directory}/cpu.cfs_quota_us", quota)
    if retry_period:
        files.write(period_file, period)


def throttling(directory: str) -> tuple[int, int, int]:
    """`cpu.stat`: periods, throttled periods, nanoseconds throttled."""
    stat = files.read_keyed(f"{directory}/cpu.stat")
    return stat.get("nr_periods", 0), stat.get("nr_throttled", 0), stat.get("throttled_time", 0)
