"""The v1 cpuset controller: which processors and memory nodes
(Documentation/admin-guide/cgroup-v1/cpusets.rst).

A new v1 cpuset is empty, and no process may enter an empty one: the parent's lists are copied down the
path first. They are copied into the parents too (`pyd`), whose own lists may be empty after a reboot.
"""

from __future__ import annotations

import os

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FILES = {"cpus": "cpuset.cpus", "mems": "cpuset.mems"}


def wants(resources: dict[str, Any]) -> bool:
    cpu = resources.get("cpu") or {}
    return bool(cpu.get("cpus") or cpu.get("mems"))


def create(directory: str, resources: dict[str, Any], root: str) -> None:
    """Fill both lists of a new cpuset: from `resources`, else from its parent's. `root` is the mount."""
    cpu = resources.get("cpu") or {}
    parent = os.path.dirname(directory)
    for key, file in _FILES.items():
        inherited = _list_of(parent, file, root)
        files.write(f"{directory}/{file}", cpu.get(key) or inherited)


def _list_of(directory: str, file: str, root: str) -> str:
    """The list of a cpuset, filled from its parent's when it is empty."""
    value = files.read(f"{directory}/{file}")
    if value or directory == root:
        return value
    value = _list_of(os.path.dirname(directory), file, root)
    files.write(f"{directory}/{file}", value)
    return value


def update(directory: str, resources: dict[str, Any]) -> None:
    cpu = resources.get("cpu") or {}
    for key, file in _FILES.items():
        if cpu.get(key):
            files.write(f"{directory}/{file}", cpu[key])
