"""The v1 hugetlb controller (Documentation/admin-guide/cgroup-v1/hugetlb.rst)."""

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
        files.write(f"{base}.limit_in_bytes", entry["limit"])
        if files.exists(f"{base}.rsvd.limit_in_bytes"):
            files.write(f"{base}.rsvd.limit_in_bytes", entry["limit"])
