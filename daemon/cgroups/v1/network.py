"""The v1 net_cls and net_prio controllers: a class and priorities for packets."""

from __future__ import annotations

from daemon.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def wants_class(resources: dict[str, Any]) -> bool:
    return bool((resources.get("network") or {}).get("classID"))


def apply_class(directory: str, resources: dict[str, Any]) -> None:
    if wants_class(resources):
        files.write(f"{directory}/net_cls.classid", resources["network"]["classID"])


def wants_priority(resources: dict[str, Any]) -> bool:
    return bool((resources.get("network") or {}).get("priorities"))


def apply_priority(directory: str, resources: dict[str, Any]) -> None:
    for entry in (resources.get("network") or {}).get("priorities") or ():
        files.write(f"{directory}/net_prio.ifpriomap", f"{entry['name']} {entry['priority']}")
