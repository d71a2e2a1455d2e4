"""The v2 memory controller (Documentation/admin-guide/cgroup-v2.rst, "Memory")."""

from __future__ import annotations

from daemon.cgroups import files
from daemon.cgroups.convert import number_or_max, swap_max
from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import MemoryStats

_KEYS = ("limit", "swap", "reservation")


def wants(resources: dict[str, Any]) -> bool:
    memory = resources.get("memory") or {}
    return any(memory.get(key) for key in _KEYS)


def apply(directory: str, resources: dict[str, Any]) -> None:
    """Swappiness, kernel memory and the OOM killer's switch have no v2 file; runc leaves them out too."""
    memory = resources.get("memory") or {}
    if not memory:
        return
    limit = number_or_max(memory.get("limit"))
    swap = swap_max(memory)
    if memory.get("checkBeforeUpdate") and limit not in (None, "max"):
        _refuse_below_usage(directory, memory["limit"])
    if swap is not None:
        _write_swap(directory, swap)
    if limit is not None:
        files.write(f"{directory}/memory.max", limit)
    reservation = number_or_max(memory.get("reservation"))
    if reservation is not None:
        files.write(f"{directory}/memory.low", reservation)


def _write_swap(directory: str, value: str) -> None:
    """Without swap accounting in the kernel there is no file: no swap, or no limit, needs none."""
    file = f"{directory}/memory.swap.max"
    if value in ("0", "max") and not files.exists(file):
        return
    files.write(file, value)


def _refuse_below_usage(directory: str, limit: int) -> None:
    usage = files.read_int(f"{directory}/memory.current")
    if limit < usage:
        raise CgroupError(
            f"write {limit} to {directory}/memory.max: below the current usage {usage}",
            file=f"{directory}/memory.max",
            value=str(limit),
        )


def _limit(directory: str, name: str) -> int | None:
    text = files.read_optional(f"{directory}/{name}")
    return None if text in (None, "", "max") else int(text or 0)


def stats(directory: str) -> MemoryStats:
    from daemon.cgroups.stats import MemoryStats

    by_type = files.read_keyed(f"{directory}/memory.stat")
    events = files.read_keyed(f"{directory}/memory.events")
    return MemoryStats(
        usage=files.read_int(f"{directory}/memory.current"),
        peak=files.read_int(f"{directory}/memory.peak"),
        limit=_limit(directory, "memory.max"),
        cache=by_type.get("file", 0),
        failcnt=events.get("max", 0),
        swap_usage=files.read_int(f"{directory}/memory.swap.current"),
        swap_limit=_limit(directory, "memory.swap.max"),
        kernel_usage=by_type.get("kernel", 0),
        oom_kills=events.get("oom_kill", 0),
        by_type=by_type,
    )


def oom_kills(directory: str) -> int:
    """Kills here and below; 0 when the cgroup is gone."""
    return files.read_keyed(f"{directory}/memory.events").get("oom_kill", 0)
