"""Devices of a container: nodes to make and what its cgroup may touch."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from daemon.containers.wire import HostConfig
from storage.errors import InvalidArgument

DENY_ALL: dict[str, Any] = {"allow": False, "access": "rwm"}
_DEFAULT_CHARACTER = ((1, 5), (1, 3), (1, 9), (1, 8), (1, 7), (5, 0), (5, 1), (5, 2), (136, None))
"""zero, null, urandom, random, full, tty, console, ptmx, pts/*: what every container has (runc's list)."""


def _rule(kind: str, major: int | None, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


def cgroup_rules(host: HostConfig) -> list[dict[str, Any]]:
    """Rules in order: deny all, the default devices, mknod of any, then the user's."""
    if host.get("Privileged"):
        return [{"allow": True, "access": "rwm"}]
    rules = [DENY_ALL, _rule("c", None, None, "m"), _rule("b", None, None, "m")]
    rules += [_rule("c", major, minor, "rwm") for major, minor in _DEFAULT_CHARACTER]
    for node in user_devices(host):
        rules.append(_rule(node["type"], node["major"], node["minor"], node["access"]))
    for text in host.get("DeviceCgroupRules") or []:
        kind, numbers, access = text.split(" ")
        major, minor = (None if n == "*" else int(n) for n in numbers.split(":"))
        if kind == "a":
            rules.append({"allow": True, "access": access})
        else:
            rules.append(_rule(kind, major, minor, access))
    return rules


def user_devices(host: HostConfig) -> list[dict[str, Any]]:
    """`--device` as {path, type, major, minor, fileMode, uid, gid, access}. Raises InvalidArgument."""
    nodes: list[dict[str, Any]] = []
    for mapping in host.get("Devices") or []:
        source = mapping.get("PathOnHost") or ""
        target = mapping.get("PathInContainer") or source
        access = mapping.get("CgroupPermissions") or "rwm"
        if set(access) - set("rwm"):
            raise InvalidArgument(f"invalid device mode: {access}")
        nodes += list(_nodes(source, target, access))
    return nodes


def _nodes(source: str, target: str, access: str) -> Iterator[dict[str, Any]]:
    failure = f'error gathering device information while adding custom device "{source}": '
    try:
        status = os.stat(source)
    except OSError as error:
        raise InvalidArgument(failure + (error.strerror or "").lower()) from None
    if stat.S_ISDIR(status.st_mode):
        found = False
        for name in sorted(os.listdir(source)):
            path = os.path.join(source, name)
            if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR):
                found = True
                yield from _nodes(path, os.path.join(target, name), access)
        if not found:
            raise InvalidArgument(failure + "not a device node")
        return
    yield _node(status, source, target, access, failure)


def _node(status: os.stat_result, source: str, target: str, access: str, failure: str) -> dict[str, Any]:
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise InvalidArgument(failure + "not a device node")
    return {
        "path": target,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "access": access,
    }


def host_devices() -> list[dict[str, Any]]:
    """Every device node below /dev but those that a container gets of its own, for --privileged."""
    own = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.lxc")
    nodes: list[dict[str, Any]] = []
    for directory, folders, files in os.walk("/dev"):
        folders[:] = [f for f in folders if os.path.join(directory, f) not in own]
        for name in files:
            path = os.path.join(directory, name)
            if path in ("/dev/console", "/dev/ptmx", "/dev/tty"):
                continue
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                nodes.append(_node(status, path, path, "rwm", ""))
    return nodes


def linux_devices(host: HostConfig) -> list[dict[str, Any]]:
    """`linux.devices`: nodes beyond the default ones, which the runtime makes itself."""
    chosen = {node["path"]: node for node in host_devices()} if host.get("Privileged") else {}
    chosen |= {node["path"]: node for node in user_devices(host)}
    return [{k: v for k, v in node.items() if k != "access"} for node in chosen.values()]
