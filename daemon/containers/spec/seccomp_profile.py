"""Docker's seccomp profile format to the OCI one: conditions on architecture, kernel and capabilities.

Docker's (moby profiles/seccomp) is a superset: `archMap`, and per rule `includes`/`excludes` with
`arches`, `caps` and `minKernel`, which are decided here for this machine and this container.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from storage.errors import InvalidArgument

_ARCH = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}


def _native() -> tuple[str, str]:
    return _ARCH.get(platform.machine(), (platform.machine(), f"SCMP_ARCH_{platform.machine().upper()}"))


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def to_oci(profile: dict[str, Any], caps: frozenset[str]) -> dict[str, Any]:
    """`linux.seccomp` for a container with these capabilities. Raises InvalidArgument."""
    if "defaultAction" not in profile:
        raise InvalidArgument("decoding seccomp profile failed: defaultAction is missing")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("use either 'architectures' or 'archMap' in the seccomp profile, not both")
    result: dict[str, Any] = {
        "defaultAction": profile["defaultAction"],
        "architectures": profile.get("architectures") or _architectures(profile.get("archMap") or []),
        "syscalls": [_rule(r) for r in profile.get("syscalls") or [] if _applies(r, caps)],
    }
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) is not None:
            result[key] = profile[key]
    return result


def _architectures(arch_map: list[dict[str, Any]]) -> list[str]:
    native = _native()[1]
    for entry in arch_map:
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or [])]
    return [native]


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    names = list(rule.get("names") or [])
    if rule.get("name"):
        if names:
            raise InvalidArgument("'name' and 'names' were specified in the seccomp profile, use either")
        names = [rule["name"]]
    chosen = {"names": names, "action": rule.get("action", "SCMP_ACT_ALLOW")}
    for key in ("args", "errnoRet"):
        if rule.get(key) is not None:
            chosen[key] = rule[key]
    return chosen


def _applies(rule: dict[str, Any], caps: frozenset[str]) -> bool:
    include, exclude = rule.get("includes") or {}, rule.get("excludes") or {}
    arch = _native()[0]
    if exclude.get("arches") and arch in exclude["arches"]:
        return False
    if any(cap in caps for cap in exclude.get("caps") or []):
        return False
    if exclude.get("minKernel") and _kernel() >= _version(exclude["minKernel"]):
        return False
    if include.get("arches") and arch not in include["arches"]:
        return False
    if not all(cap in caps for cap in include.get("caps") or []):
        return False
    return not (include.get("minKernel") and _kernel() < _version(include["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    try:
        major, minor = text.split(".")[:2]
        return int(major), int(minor)
    except ValueError:
        raise InvalidArgument(f"invalid kernel version in the seccomp profile: {text!r}") from None
