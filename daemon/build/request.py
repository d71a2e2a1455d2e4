"""A build as the classic door asks for it: POST /build's parameters, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.images.model import AuthConfig
from storage.errors import InvalidArgument

_MEMORY_FLOOR = 6 << 20


@dataclass(frozen=True)
class BuildRequest:
    dockerfile: str = ""
    tags: tuple[str, ...] = ()
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    target: str = ""
    platform: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    host: Mapping[str, Any] = field(default_factory=dict)
    """HostConfig members: Memory, CpuQuota, Ulimits, ShmSize, CgroupParent ..."""
    extra_hosts: tuple[str, ...] = ()
    build_id: str = ""
    check: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    cache_from: tuple[str, ...] = ()
    """Images whose steps may be taken again."""
    contexts: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, AuthConfig] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def limits(numbers: Mapping[str, int | None], texts: Mapping[str, str], ulimits: Any) -> dict[str, Any]:
    """The limits among the parameters as HostConfig has them. InvalidArgument for absurd ones."""
    names = {
        "memory": "Memory", "memswap": "MemorySwap", "cpushares": "CpuShares", "cpuperiod": "CpuPeriod",
        "cpuquota": "CpuQuota", "shmsize": "ShmSize",
    }  # fmt: skip
    host: dict[str, Any] = {names[key]: value for key, value in numbers.items() if value}
    if 0 < host.get("Memory", 0) < _MEMORY_FLOOR:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    for name in ("Memory", "CpuShares", "CpuPeriod", "CpuQuota", "ShmSize"):
        if host.get(name, 0) < 0 and not (name == "CpuQuota" and host[name] == -1):
            raise InvalidArgument(f"invalid value for {name.lower()}: {host[name]}")
    for key, name in (
        ("cpusetcpus", "CpusetCpus"),
        ("cpusetmems", "CpusetMems"),
        ("cgroupparent", "CgroupParent"),
    ):
        if texts.get(key):
            host[name] = texts[key]
    for name in ("CpusetCpus", "CpusetMems"):
        if name in host and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", host[name]):
            raise InvalidArgument(f"invalid value {host[name]} for {name}")
    if ulimits:
        if not isinstance(ulimits, list) or not all(isinstance(each, dict) for each in ulimits):
            raise InvalidArgument("invalid ulimits: a list of limits is needed")
        host["Ulimits"] = ulimits
    return host
