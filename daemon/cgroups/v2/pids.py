"""The v2 pids controller."""

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


def stats(directory: str) -> PidsStats | None:
    """None without the controller: the caller then counts."""
    from daemon.cgroups.stats import PidsStats

    current = files.read_optional(f"{directory}/pids.current")
    if current is None:
        return None
    limit = files.read_optional(f"{directory}/pids.max") or "max"
    return PidsStats(int(current), None if limit == "max" else int(limit))
