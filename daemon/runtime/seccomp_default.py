"""Docker's default seccomp profile, and Docker's profile language, as OCI `linux.seccomp` objects.

    default_seccomp(capabilities, machine)      what a container gets when the user says nothing
    resolve(profile, capabilities, machine)     a user's `--security-opt seccomp=FILE`

The default is kept as facts (default_seccomp.json): calls that are always allowed, those a capability or a
machine adds, and the few that depend on an argument. Docker's language adds to OCI's `archMap` and, per rule,
`includes`/`excludes` with `arches`, `caps` and `minKernel`: https://docs.docker.com/engine/security/seccomp/.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from daemon.runtime.errors import SpecError

_ALLOW = "SCMP_ACT_ALLOW"
_ENOSYS = 38
# Docker's names (Go's) for machines.
_GO_ARCHITECTURES = {"aarch64": "arm64", "armv7l": "arm", "i686": "x86", "x86_64": "amd64"}
_GO_TO_SCMP = {
    "amd64": "SCMP_ARCH_X86_64",
    "arm": "SCMP_ARCH_ARM",
    "arm64": "SCMP_ARCH_AARCH64",
    "x86": "SCMP_ARCH_X86",
}


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(Path(__file__).with_name("default_seccomp.json").read_text())
    return facts


def default_seccomp(capabilities: set[str], machine: str | None = None) -> dict[str, Any]:
    """Docker's default profile for a container that holds `capabilities` ("CAP_CHOWN", ...)."""
    facts = _facts()
    local = facts["machines"].get(machine or os.uname().machine)
    allowed = [name for line in facts["always"] for name in line.split()]
    if local:
        allowed += local["calls"].split()
    for capability, calls in facts["capabilities"].items():
        if capability in capabilities:
            allowed += [call for call in calls.split() if call not in allowed]
    rules: list[dict[str, Any]] = [{"names": allowed, "action": _ALLOW}]
    rules.append(_argument_rule("socket", "SCMP_CMP_NE", facts["forbidden_socket_family"]))
    rules += [_argument_rule("personality", "SCMP_CMP_EQ", value) for value in facts["personalities"]]
    if "CAP_SYS_ADMIN" not in capabilities:
        # Threads and processes yes, namespaces no. clone3 hides its flags from seccomp, so that the C library is
        # told to fall back to clone.
        rules.append(_argument_rule("clone", "SCMP_CMP_MASKED_EQ", facts["namespace_flags"]))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": local["architectures"].split() if local else [],
        "syscalls": rules,
    }


def _argument_rule(name: str, comparison: str, value: int) -> dict[str, Any]:
    return {"names": [name], "action": _ALLOW, "args": [{"index": 0, "value": value, "op": comparison}]}


def resolve(
    profile: dict[str, Any], capabilities: set[str], machine: str | None = None, kernel: str | None = None
) -> dict[str, Any]:
    """A profile in Docker's language as an OCI object: conditions decided, `archMap` looked up.

    A rule holds when everything in `includes` does and nothing in `excludes`. SpecError on a profile that
    names both `architectures` and `archMap`, or a rule with both `name` and `names`, as dockerd refuses them.
    """
    architecture = _GO_ARCHITECTURES.get(machine or os.uname().machine, machine or os.uname().machine)
    release = _version(kernel or os.uname().release)
    if profile.get("architectures") and profile.get("archMap"):
        raise SpecError("seccomp", "use either 'architectures' or 'archMap', not both")
    result = {
        key: profile[key]
        for key in ("defaultAction", "defaultErrnoRet", "flags")
        if profile.get(key) is not None
    }
    result["architectures"] = _architectures(profile, architecture)
    result["syscalls"] = rules = []
    for index, rule in enumerate(profile.get("syscalls") or []):
        if rule.get("name") and rule.get("names"):
            raise SpecError(f"seccomp.syscalls[{index}]", "use either 'name' or 'names', not both")
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not _all_hold(includes, architecture, capabilities, release):
            continue
        if _any_holds(excludes, architecture, capabilities, release):
            continue
        kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
        rules.append({"names": rule.get("names") or [rule.get("name")], **kept})
    return result


def _architectures(profile: dict[str, Any], architecture: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    native = _GO_TO_SCMP.get(architecture)
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or [])]
    return []


def _all_hold(
    conditions: dict[str, Any], architecture: str, capabilities: set[str], release: tuple[int, int]
) -> bool:
    arches, kernel = conditions.get("arches"), conditions.get("minKernel")
    if arches and architecture not in arches:
        return False
    if any(capability not in capabilities for capability in conditions.get("caps") or []):
        return False
    return not kernel or release >= _version(kernel)


def _any_holds(
    conditions: dict[str, Any], architecture: str, capabilities: set[str], release: tuple[int, int]
) -> bool:
    kernel = conditions.get("minKernel")
    if architecture in (conditions.get("arches") or []):
        return True
    if any(capability in capabilities for capability in conditions.get("caps") or []):
        return True
    return kernel is not None and release >= _version(kernel)


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    minor = "".join(character for character in rest.split(".")[0] if character.isdigit())
    try:
        return int(major), int(minor or 0)
    except ValueError:
        raise SpecError("seccomp", f"invalid kernel version {text!r}") from None
