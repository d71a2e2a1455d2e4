"""A container's view of its cgroups at /sys/fs/cgroup.

    host          with a cgroup namespace            without
    unified       a new cgroup2 mount                bind of the container's own directory
    v1, hybrid    a new mount of each hierarchy      bind of the container's own directory of each hierarchy

In a new cgroup namespace the kernel itself makes the container's cgroup the root of what is mounted. On v1 the
mounts stand in a tmpfs, with a symlink per controller of a joint hierarchy (cpu -> cpu,cpuacct).
"""

from __future__ import annotations

import os

from daemon.runtime import inroot
from daemon.runtime import syscalls as sc
from daemon.runtime.mountoptions import MountOptions, describe
from daemon.runtime.operations import attach, new_filesystem, set_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.operations import Context

_SAFE = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC


class Hierarchy:
    """One mounted cgroup hierarchy of the host. `key` is how /proc/PID/cgroup calls it ("" for v2)."""

    __slots__ = ("key", "mountpoint", "root")

    def __init__(self, key: str, mountpoint: str, root: str) -> None:
        self.key, self.mountpoint, self.root = key, mountpoint, root


_found: list[Hierarchy] | None = None


def hierarchies() -> list[Hierarchy]:
    """The host's hierarchies below /sys/fs/cgroup, first mount of each; read once per process."""
    global _found
    if _found is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            _found = parse_mountinfo(file.read())
    return _found


def parse_mountinfo(text: str) -> list[Hierarchy]:
    """cgroup lines of proc_pid_mountinfo(5); the v1 super options hold the controllers' names."""
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        if not tail.startswith("cgroup"):
            continue
        fields, (kind, _, superblock) = head.split(" "), tail.split(" ", 2)
        if not fields[4].startswith("/sys/fs/cgroup"):
            continue
        names = [name for name in superblock.split(",") if name not in _NOT_CONTROLLERS and "=" not in name]
        names += [name for name in superblock.split(",") if name.startswith("name=")]
        key = "" if kind == "cgroup2" else ",".join(names)
        found.setdefault(key, Hierarchy(key, fields[4], fields[3]))
    return list(found.values())


_NOT_CONTROLLERS = {"rw", "ro", "xattr", "noprefix", "clone_children", "favordynmods", "cpuset_v2_mode"}


def own_paths(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as a map from the controllers' names (in any order) to the path (cgroups(7))."""
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        paths[",".join(sorted(names.split(",")))] = path
    return paths


class CgroupMount:
    """Mount the container's own cgroups. Runs after the process was put into them."""

    __slots__ = ("destination", "hierarchies", "namespace", "options")

    def __init__(
        self, destination: str, wanted: MountOptions, host: list[Hierarchy], *, namespace: bool
    ) -> None:
        self.destination, self.options, self.namespace = destination, wanted, namespace
        legacy = [hierarchy for hierarchy in host if hierarchy.key]
        self.hierarchies = legacy or host

    def execute(self, context: Context) -> None:
        target = inroot.make_directory(context.root, self.destination)
        paths = {} if self.namespace else own_paths(_read(context.proc, "self/cgroup"))
        if not self.hierarchies[0].key:
            tree = self._tree(self.hierarchies[0], paths)
            attach(tree, target)
            os.close(tree)
        else:
            self._mount_legacy(target, paths)
        os.close(target)

    def _mount_legacy(self, target: int, paths: dict[str, str]) -> None:
        parameters: list[tuple[bytes, bytes | None]] = [(b"source", b"tmpfs"), (b"mode", b"755")]
        top = new_filesystem(b"tmpfs", parameters, _SAFE)
        attach(top, target)
        for hierarchy in self.hierarchies:
            name = hierarchy.key.removeprefix("name=")
            os.mkdir(name, 0o755, dir_fd=top)
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            tree = self._tree(hierarchy, paths)
            attach(tree, place)
            os.close(tree)
            os.close(place)
            if "," in name:
                for single in name.split(","):
                    os.symlink(name, single, dir_fd=top)
        if self.options.set & sc.MOUNT_ATTR_RDONLY:
            sc.mount_setattr(top, b"", sc.AT_EMPTY_PATH, set_=sc.MOUNT_ATTR_RDONLY)
        os.close(top)

    def _tree(self, hierarchy: Hierarchy, paths: dict[str, str]) -> int:
        attributes = self.options.set | _SAFE
        if self.namespace:
            if not hierarchy.key:
                return new_filesystem(b"cgroup2", [(b"source", b"cgroup")], attributes)
            key, equals, value = hierarchy.key.partition("=")
            parameters: list[tuple[bytes, bytes | None]] = [(b"source", b"cgroup")]
            if equals:
                parameters += [(b"none", None), (key.encode(), value.encode())]
            else:
                parameters += [(name.encode(), None) for name in key.split(",")]
            return new_filesystem(b"cgroup", parameters, attributes)
        own = paths.get(",".join(sorted(hierarchy.key.split(","))), "/")
        root = hierarchy.root.rstrip("/")
        inside = own[len(root) :] if root and own.startswith(root) else own
        tree = sc.open_tree(sc.AT_FDCWD, os.fsencode(hierarchy.mountpoint + inside), sc.OPEN_TREE_CLONE)
        sc.mount_setattr(tree, b"", sc.AT_EMPTY_PATH, set_=attributes)
        set_attributes(tree, self.options, whole=False)
        return tree

    def describe(self) -> str:
        names = " ".join(hierarchy.key or "unified" for hierarchy in self.hierarchies)
        return f"mount own cgroups ({names}) at {self.destination} ({describe(self.options)})"


def _read(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 1 << 16).decode(errors="surrogateescape")
    finally:
        os.close(fd)
