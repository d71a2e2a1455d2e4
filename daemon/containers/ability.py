"""What this machine's cgroups can limit: the rest is discarded from a request, each with Docker's warning.

dockerd does the same (moby daemon/daemon_unix.go verifyPlatformContainerResources): a container asked for a
limit that the kernel does not have runs without it and says so; only real-time scheduling is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from daemon.cgroups.layout import Layout, detect
from storage.errors import InvalidArgument

Limits = TypeVar("Limits", bound=Mapping[str, Any])
UNSUPPORTED = "Your kernel does not support {} or the cgroup is not mounted. {}."
REALTIME = ("CpuRealtimePeriod", "CpuRealtimeRuntime")


@dataclass(frozen=True, slots=True)
class Limit:
    """Fields of Resources that need something of the kernel, and what is said where it is missing."""

    fields: tuple[str, ...]
    missing: str
    then: str

    @property
    def warning(self) -> str:
        return UNSUPPORTED.format(self.missing, self.then)


MEMORY = Limit(("Memory", "MemorySwap"), "memory limit capabilities", "Limitation discarded")
SOFT_MEMORY = Limit(("MemoryReservation",), "memory soft limit capabilities", "Limitation discarded")
SWAPPINESS = Limit(("MemorySwappiness",), "memory swappiness capabilities", "Memory swappiness discarded")
PIDS = Limit(("PidsLimit",), "pids limit capabilities", "PIDs limit discarded")
SHARES = Limit(("CpuShares",), "CPU shares", "Shares discarded")
QUOTA = Limit(("CpuPeriod", "CpuQuota", "NanoCpus"), "CPU cfs period/quota", "Quota discarded")
CPUSET = Limit(("CpusetCpus", "CpusetMems"), "cpuset", "Cpuset discarded")
WEIGHT = Limit(("BlkioWeight",), "Block I/O weight", "Weight discarded")
WEIGHT_DEVICE = Limit(("BlkioWeightDevice",), "Block I/O weight_device", "Weight-device discarded")
OOM_KILL = "Your kernel does not support OomKillDisable. OomKillDisable discarded."


@dataclass(frozen=True, slots=True)
class Ability:
    """The limits that are missing here; `bfq`: weights of devices count only under that scheduler."""

    missing: tuple[Limit, ...]
    oom_kill_disable: bool
    realtime: bool
    bfq: bool


@cache
def ability() -> Ability:
    """This machine's, found once."""
    return of(detect())


def of(layout: Layout) -> Ability:
    if layout.kind == "unified":
        return _of_unified(Path(layout.unified or layout.root))
    mounts = {name: Path(point) for name, point in layout.v1.items()}
    block = mounts.get("blkio", Path("/nonexistent"))
    bfq = (block / "blkio.bfq.io_service_bytes").exists()  # the root itself has no weights to look for
    found = {
        (MEMORY, SOFT_MEMORY, SWAPPINESS): "memory" in mounts,
        (PIDS,): "pids" in mounts,
        (SHARES, QUOTA): "cpu" in mounts,
        (CPUSET,): "cpuset" in mounts,
        (WEIGHT, WEIGHT_DEVICE): bfq or (block / "blkio.weight").exists(),
    }
    realtime = "cpu" in mounts and (mounts["cpu"] / "cpu.rt_runtime_us").exists()
    return Ability(_absent(found), "memory" in mounts, realtime, bfq)


def _of_unified(root: Path) -> Ability:
    has = (root / "cgroup.controllers").read_text().split()
    found = {
        (MEMORY, SOFT_MEMORY): "memory" in has,
        (SWAPPINESS,): False,
        (PIDS,): "pids" in has,
        (SHARES, QUOTA): "cpu" in has,
        (CPUSET,): "cpuset" in has,
        (WEIGHT, WEIGHT_DEVICE): "io" in has,
    }
    return Ability(_absent(found), oom_kill_disable=False, realtime=False, bfq=False)


def _absent(found: Mapping[tuple[Limit, ...], bool]) -> tuple[Limit, ...]:
    return tuple(limit for limits, there in found.items() if not there for limit in limits)


def kept(asked: Limits, machine: Ability | None = None) -> tuple[Limits, list[str]]:
    """(the request without what cannot be, the warnings). Raises InvalidArgument for real-time scheduling."""
    machine = machine or ability()
    if not machine.realtime and any(asked.get(field) for field in REALTIME):
        raise InvalidArgument("Your kernel does not support CPU real-time scheduler")
    left: dict[str, Any] = dict(asked)
    warnings = [limit.warning for limit in machine.missing if _drop(left, limit.fields)]
    if not machine.oom_kill_disable and left.get("OomKillDisable"):
        left["OomKillDisable"] = False
        warnings.append(OOM_KILL)
    if machine.bfq and left.get("BlkioWeightDevice"):
        weighable = [device for device in left["BlkioWeightDevice"] if scheduler(device["Path"]) == "bfq"]
        if len(weighable) < len(left["BlkioWeightDevice"]):
            left["BlkioWeightDevice"] = weighable
            warnings.append(WEIGHT_DEVICE.warning)
    return left, warnings  # type: ignore[return-value]


def _drop(left: dict[str, Any], fields: tuple[str, ...]) -> bool:
    """Whether any of them was asked for; -1 is Docker's "as it is"."""
    given = [field for field in fields if left.pop(field, None) not in (None, 0, -1, "", [])]
    return bool(given)


def scheduler(path: str) -> str:
    """The I/O scheduler of a block device's disk, `none` where there is none to ask."""
    name = Path(path).resolve().name
    for place in (f"/sys/class/block/{name}/queue", f"/sys/class/block/{name}/../queue"):
        try:
            text = (Path(place) / "scheduler").read_text()
        except OSError:
            continue
        return text.partition("[")[2].partition("]")[0] or text.strip()
    return "none"
