"""The rdma controller, whose file is the same in both hierarchies
(Documentation/admin-guide/cgroup-v1/rdma.rst)."""

from __future__ import annotations

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def wants(resources: dict[str, Any]) -> bool:
    return bool(resources.get("rdma"))


def apply(directory: str, resources: dict[str, Any]) -> None:
    for device, limit in (resources.get("rdma") or {}).items():
        values = (("hca_handle", limit.get("hcaHandles")), ("hca_object", limit.get("hcaObjects")))
        text = " ".join(f"{key}={value}" for key, value in values if value is not None)
        if text:
            files.write(f"{directory}/rdma.max", f"{device} {text}")
