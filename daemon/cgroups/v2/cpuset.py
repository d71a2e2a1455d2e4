"""The v2 cpuset controller: an empty list means the parent's, so nothing has to be copied."""

from __future__ import annotations

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def wants(resources: dict[str, Any]) -> bool:
    cpu = resources.get("cpu") or {}
    return bool(cpu.get("cpus") or cpu.get("mems"))


def apply(directory: str, resources: dict[str, Any]) -> None:
    cpu = resources.get("cpu") or {}
    if cpu.get("cpus"):
        files.write(f"{directory}/cpuset.cpus", cpu["cpus"])
    if cpu.get("mems"):
        files.write(f"{directory}/cpuset.mems", cpu["mems"])
