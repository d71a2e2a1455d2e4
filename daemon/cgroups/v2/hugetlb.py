"""The v2 hugetlb controller."""

from __future__ import annotations

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def wants(resources: dict[str, Any]) -> bool:
    return bool(resources.get("hugepageLimits"))


def apply(directory: str, resources: dict[str, Any]) -> None:
    """The limit holds for pages in use and, where the kernel tells them apart, for reserved ones."""
    for entry in resources.get("hugepageLimits") or ():
        base = f"{directory}/hugetlb.{entry['pageSize']}"
        files.write(f"{base}.max", entry["limit"])
        if files.exists(f"{base}.rsvd.max"):
            files.write(f"{base}.rsvd.max", entry["limit"])
