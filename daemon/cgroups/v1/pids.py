"""The v1 pids controller (Documentation/admin-guide/cgroup-v1/pids.rst)."""

from __future__ import annotations

from daemon.cgroups import files
from daemon.cgroups.convert import pids_max

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import PidsStats


def wants(resources: dict[str, Any]) -> bool:
    return pids_max(resources) is not None


def apply(directory: str, resources: dict[str, Any]) -> None:
    limit = pids_max(resources)
    if limit is not None:
        files.write(f"{directory}/pids.max", limit)


def stats(directory: str) -> PidsStats:
    from daemon.cgroups.stats import PidsStats

    limit = files.read_optional(f"{directory}/pids.max") or "max"
    return PidsStats(
        current=files.read_int(f"{directory}/pids.current"),
        limit=None if limit == "max" else int(limit),
    )
