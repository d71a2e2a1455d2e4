"""The v1 devices controller: `devices.allow` and `devices.deny`
(Documentation/admin-guide/cgroup-v1/devices.rst).

A new cgroup starts with its parent's list. On an update the wanted list is compared with the kernel's
and only the difference is written: going through "deny all" would refuse a device in mid-use.
"""

from __future__ import annotations

import os

from daemon.cgroups import files
from daemon.cgroups.devices.rules import (
    WILDCARD,
    Device,
    DevicePolicy,
    access_text,
    policy_of,
)
from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def wants(resources: dict[str, Any]) -> bool:
    return resources.get("devices") is not None


def create(directory: str, resources: dict[str, Any]) -> None:
    """Write the policy into a cgroup that has no children and still its parent's list."""
    if not wants(resources):
        return
    policy = policy_of(resources["devices"])
    exceptions = [f"{device} {access_text(access)}" for device, access in policy.exceptions.items()]
    if policy.allow_all:
        files.write(f"{directory}/devices.allow", "a")
        _write_all(f"{directory}/devices.deny", exceptions)
    else:
        files.write(f"{directory}/devices.deny", "a")
        _write_all(f"{directory}/devices.allow", exceptions)


def update(directory: str, resources: dict[str, Any]) -> None:
    """Go from the list in the kernel to the wanted one by the difference."""
    if not wants(resources):
        return
    wanted = policy_of(resources["devices"])
    current = parse_list(files.read(f"{directory}/devices.list"))
    if wanted.allow_all != current.allow_all or wanted.allow_all:
        # The kernel does not show a deny list, so it is always written afresh.
        create(directory, resources)
        return
    gained, lost = difference(current, wanted)
    _write_all(f"{directory}/devices.allow", gained)
    _write_all(f"{directory}/devices.deny", lost)


def difference(current: DevicePolicy, wanted: DevicePolicy) -> tuple[list[str], list[str]]:
    """Lines to allow and lines to deny that lead from one allow list to another."""
    gained: list[str] = []
    lost: list[str] = []
    for device in {**current.exceptions, **wanted.exceptions}:
        have = current.exceptions.get(device, frozenset())
        want = wanted.exceptions.get(device, frozenset())
        if want - have:
            gained.append(f"{device} {access_text(want - have)}")
        if have - want:
            lost.append(f"{device} {access_text(have - want)}")
    return gained, lost


def parse_list(text: str) -> DevicePolicy:
    """`devices.list`: `a *:* rwm` while everything is allowed, else a line for each allowed device."""
    exceptions: dict[Device, frozenset[str]] = {}
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return DevicePolicy(True, {})
        major, minor = (WILDCARD if number == "*" else int(number) for number in numbers.split(":"))
        exceptions[Device(kind, major, minor)] = frozenset(access)
    return DevicePolicy(False, exceptions)


def _write_all(file: str, lines: list[str]) -> None:
    """One open for all lines: each write is one rule."""
    if not lines:
        return
    line = ""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for line in lines:
                os.write(fd, line.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError.of("write", file, error, line) from error
