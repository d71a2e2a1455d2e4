"""Control groups: limits and accounting of one container, behind one interface for v1, hybrid and v2.

Model
    A *layout* says which hierarchies are mounted (`detect`, once per process). A *cgroup* is a path in
    it, the same relative path in every hierarchy (`open_cgroup`, no I/O). Limits come as the
    `linux.resources` object of an OCI `config.json`, readings as a `Stats` record.

Life
    open_cgroup → create(resources) → attach(pid) or clone into directory_fd()
                → update / freeze / thaw / stats / pids / kill, any number of times → delete

Example
    layout = detect()
    cgroup = open_cgroup(layout, "pyd/0f3c")
    cgroup.create({"memory": {"limit": 64 << 20}, "pids": {"limit": 100}})
    cgroup.attach(pid)
    cgroup.stats().memory.usage
    cgroup.kill()
    cgroup.delete()

Every failure is a CgroupError that names the file and the value.

Only the standard library is imported, and of that neither typing, contextlib nor dataclasses on the way to a
container's start: `pyd-oci` pays for each import at each start (typing alone 4 ms). What needs them, the
`Stats` records and the `Cgroup` protocol, is loaded when first asked for.
"""

from __future__ import annotations

from daemon.cgroups.entry import Entry
from daemon.cgroups.errors import CgroupError
from daemon.cgroups.layout import Layout, detect
from daemon.cgroups.oom import drain_oom_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.cgroups.protocol import Cgroup
    from daemon.cgroups.stats import (
        BlkioEntry,
        BlkioStats,
        CpuStats,
        MemoryStats,
        PidsStats,
        Pressure,
        Stall,
        Stats,
    )

__all__ = [
    "BlkioEntry",
    "BlkioStats",
    "Cgroup",
    "CgroupError",
    "CpuStats",
    "Entry",
    "Layout",
    "MemoryStats",
    "PidsStats",
    "Pressure",
    "Stall",
    "Stats",
    "detect",
    "drain_oom_event",
    "open_cgroup",
]


def open_cgroup(layout: Layout, path: str) -> Cgroup:
    """The cgroup at `path` below the layout's roots, e.g. "pyd/<id>". No I/O; it need not exist."""
    if not path.strip("/") or "\0" in path or any(part in (".", "..") for part in path.split("/")):
        raise CgroupError(f"invalid cgroup path {path!r}", value=path)
    clean = "/".join(part for part in path.split("/") if part)
    if layout.kind == "unified":
        from daemon.cgroups.v2.manager import UnifiedCgroup

        return UnifiedCgroup(layout, clean)
    from daemon.cgroups.v1.manager import LegacyCgroup

    return LegacyCgroup(layout, clean)


def __getattr__(name: str) -> object:
    """The names above that are only imported for type checkers (PEP 562)."""
    if name == "Cgroup":
        from daemon.cgroups import protocol as module
    elif name in __all__:
        from daemon.cgroups import stats as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
