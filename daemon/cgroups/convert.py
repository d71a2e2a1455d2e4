"""From the OCI's v1-minded numbers to what the v2 files take, as runc 1.3 (1.3.2 and later) converts them.

Pure functions. Where a setting has no v2 counterpart (swappiness, the OOM killer's switch, real-time
scheduling, kernel memory) runc ignores it and so do we; the engine warns when a user asks for it.
"""

from __future__ import annotations

import math

from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def cpu_weight(shares: int) -> int:
    """cpu.shares (2 to 262144, default 1024) to cpu.weight (1 to 10000, default 100); 0 stays unset.

    The quadratic in the logarithm that meets both ends and the default, in runc since 1.3.2
    (opencontainers/runc issue 4772); the straight line before it gave the default 39 and not 100.
    """
    if shares == 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 1 << 18:
        return 10000
    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """blkio.weight (10 to 1000) to io.weight (1 to 10000); 0 stays unset."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def swap_max(memory: dict[str, Any]) -> str | None:
    """v1's limit on memory plus swap to v2's limit on swap alone; None leaves the file as it is."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap == -1:
        return "max"
    if swap == 0:
        return "max" if limit == -1 else None
    if swap < 0:
        raise CgroupError(f"invalid memory+swap limit {swap}", value=str(swap))
    if limit in (0, -1):
        raise CgroupError(f"memory+swap limit {swap} needs a memory limit", value=str(swap))
    if limit < 0:
        raise CgroupError(f"invalid memory limit {limit}", value=str(limit))
    if swap < limit:
        raise CgroupError(
            f"memory+swap limit {swap} should be at least the memory limit {limit}", value=str(swap)
        )
    return str(swap - limit)


def number_or_max(value: int | None) -> str | None:
    """A byte count; -1 is "max", 0 and None leave the file as it is."""
    if not value:
        return None
    return "max" if value == -1 else str(value)


def pids_max(resources: dict[str, Any]) -> str | None:
    """`pids.limit`: above 0 a number, below 0 "max", 0 or absent leaves the file as it is."""
    limit = (resources.get("pids") or {}).get("limit")
    if not limit:
        return None
    return str(limit) if limit > 0 else "max"


def cpu_max(quota: int, period: int) -> str | None:
    """`cpu.max`: quota below 0 is "max"; a period alone keeps whatever quota the caller found."""
    if not quota and not period:
        return None
    text = "max" if quota < 0 else str(quota)
    return f"{text} {period}" if period else text
