"""The v1 memory controller (Documentation/admin-guide/cgroup-v1/memory.rst)."""

from __future__ import annotations

import errno

from daemon.cgroups import files
from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import MemoryStats

_LIMIT = "memory.limit_in_bytes"
_SWAP = "memory.memsw.limit_in_bytes"
_UNLIMITED = 1 << 62
"""The kernel's "no limit" is LONG_MAX rounded down to a page (PAGE_COUNTER_MAX)."""


def wants(resources: dict[str, Any]) -> bool:
    memory = resources.get("memory") or {}
    return any(
        value is not None and value is not False and value != 0
        for key, value in memory.items()
        if key not in ("useHierarchy", "checkBeforeUpdate")
    )


def apply(directory: str, resources: dict[str, Any]) -> None:
    """Write the limits. `kernel` is left out: Linux 5.16 dropped that limit, and runc ignores it too."""
    memory = resources.get("memory") or {}
    if not memory:
        return
    _write_limits(directory, memory.get("limit") or 0, memory.get("swap") or 0)
    if memory.get("reservation"):
        files.write(f"{directory}/memory.soft_limit_in_bytes", memory["reservation"])
    if memory.get("kernelTCP"):
        files.write(f"{directory}/memory.kmem.tcp.limit_in_bytes", memory["kernelTCP"])
    if memory.get("disableOOMKiller"):
        files.write(f"{directory}/memory.oom_control", "1")
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise CgroupError(
                f"invalid memory swappiness value: {swappiness} (valid range is 0-100)", value=str(swappiness)
            )
        files.write(f"{directory}/memory.swappiness", swappiness)


def _write_limits(directory: str, limit: int, swap: int) -> None:
    """Memory may never exceed memory plus swap, so a rise begins with the swap limit, a fall with memory."""
    if limit == -1 and not swap and files.exists(f"{directory}/{_SWAP}"):
        swap = -1  # memory without a limit leaves no meaning to an old memory-plus-swap limit
    if limit and swap:
        current = files.read_int(f"{directory}/{_LIMIT}")
        if swap == -1 or current < swap:
            _write_limit(directory, _SWAP, swap)
            _write_limit(directory, _LIMIT, limit)
        else:
            _write_limit(directory, _LIMIT, limit)
            _write_limit(directory, _SWAP, swap)
    elif limit:
        _write_limit(directory, _LIMIT, limit)
    elif swap:
        _write_limit(directory, _SWAP, swap)


def _write_limit(directory: str, name: str, value: int) -> None:
    try:
        files.write(f"{directory}/{name}", value)
    except CgroupError as error:
        if error.errno != errno.EBUSY:
            raise
        usage = files.read_int(f"{directory}/memory.usage_in_bytes")
        peak = files.read_int(f"{directory}/memory.max_usage_in_bytes")
        raise CgroupError(
            f"{error}: unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})",
            file=error.file,
            value=str(value),
            errno=error.errno,
        ) from error


def _limit(directory: str, name: str) -> int | None:
    value = files.read_int(f"{directory}/{name}")
    return None if value == 0 or value >= _UNLIMITED else value


def stats(directory: str) -> MemoryStats:
    """`total_*` of memory.stat count what is below as well, as `usage_in_bytes` does."""
    from daemon.cgroups.stats import MemoryStats

    by_type = files.read_keyed(f"{directory}/memory.stat")
    usage = files.read_int(f"{directory}/memory.usage_in_bytes")
    return MemoryStats(
        usage=usage,
        peak=files.read_int(f"{directory}/memory.max_usage_in_bytes"),
        limit=_limit(directory, _LIMIT),
        cache=by_type.get("total_cache", by_type.get("cache", 0)),
        failcnt=files.read_int(f"{directory}/memory.failcnt"),
        swap_usage=by_type.get("total_swap", by_type.get("swap", 0)),
        swap_limit=_limit(directory, _SWAP),
        kernel_usage=files.read_int(f"{directory}/memory.kmem.usage_in_bytes"),
        oom_kills=oom_kills(directory),
        by_type=by_type,
    )


def oom_kills(directory: str) -> int:
    """The `oom_kill` line of memory.oom_control (Linux 4.13); 0 when the cgroup is gone."""
    return files.read_keyed(f"{directory}/memory.oom_control").get("oom_kill", 0)
