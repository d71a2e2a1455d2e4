"""A cgroup on the unified hierarchy: one directory, one file of this package per controller."""

from __future__ import annotations

import errno
import os
import time

from daemon.cgroups import files, rdma
from daemon.cgroups.entry import Entry
from daemon.cgroups.errors import CgroupError
from daemon.cgroups.layout import Layout
from daemon.cgroups.oom import v2_oom_event
from daemon.cgroups.v2 import cpu, cpuset, freezer, hugetlb, io, memory, pids
from daemon.cgroups.v2.delegation import THREADED, delegate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import Stats

_APPLY = (
    ("memory", memory.wants, memory.apply),
    ("cpu", cpu.wants, cpu.apply),
    ("cpuset", cpuset.wants, cpuset.apply),
    ("pids", pids.wants, pids.apply),
    ("io", io.wants, io.apply),
    ("hugetlb", hugetlb.wants, hugetlb.apply),
    ("rdma", rdma.wants, rdma.apply),
)


class UnifiedCgroup:
    """`Cgroup` on a unified layout."""

    __slots__ = ("_directory", "_root", "path")

    def __init__(self, layout: Layout, path: str) -> None:
        if layout.unified is None:
            raise CgroupError(f"no cgroup2 file system is mounted below {layout.root}", file=layout.root)
        self.path = path
        self._root = layout.unified
        self._directory = f"{layout.unified}/{path}"

    def create(self, resources: dict[str, Any]) -> None:
        required = self._required(resources)
        made = delegate(self._root, self.path, required)
        try:
            self._make(made)
            self._settle_type(required)
            self._apply(resources)
        except BaseException:
            files.remove_directories(made)
            raise

    def _required(self, resources: dict[str, Any]) -> frozenset[str]:
        """Controllers without which a limit asked for would silently not hold."""
        names = {name for name, wants, _ in _APPLY if wants(resources)}
        for file in resources.get("unified") or {}:
            name, _, rest = file.partition(".")
            if "/" in file or not rest:
                raise CgroupError(f"linux.resources.unified: {file!r} is not a controller's file", value=file)
            if name != "cgroup":
                names.add(name)
        return frozenset(names)

    def _make(self, made: list[str]) -> None:
        """Make the directory, anew if a crash left it, so that no old limit or counter lives on."""
        directory = self._directory
        try:
            if files.make_if_missing(directory):
                made.append(directory)
                return
            holders = files.walk_pids(directory)
            if holders:
                raise CgroupError(
                    f"mkdir {directory}: File exists and holds processes {holders[:8]}",
                    file=directory,
                    errno=errno.EEXIST,
                )
            if not files.children(directory):
                files.remove_tree(directory)
                os.mkdir(directory)
                made.append(directory)
        except OSError as error:
            raise CgroupError.of("mkdir", directory, error) from error

    def _settle_type(self, required: frozenset[str]) -> None:
        """Below a threaded cgroup a new one is "domain invalid" until it becomes threaded itself, which
        leaves it the threaded controllers only (cgroup-v2.rst, "Threads")."""
        file = f"{self._directory}/cgroup.type"
        kind = files.read_optional(file) or "domain"
        if kind not in ("domain invalid", "threaded"):
            return
        domain = required - THREADED
        if domain:
            raise CgroupError(
                f"{self._directory}: below a threaded cgroup {' '.join(sorted(domain))} cannot limit",
                file=file,
                errno=errno.EOPNOTSUPP,
            )
        if kind == "domain invalid":
            files.write(file, "threaded")

    def _apply(self, resources: dict[str, Any]) -> None:
        for _, _, apply in _APPLY:
            apply(self._directory, resources)
        if resources.get("devices") is not None:
            from daemon.cgroups.devices import bpf
            from daemon.cgroups.devices.rules import policy_of

            bpf.install(self._directory, policy_of(resources["devices"]))
        for file, value in (resources.get("unified") or {}).items():
            for line in str(value).splitlines() or [""]:
                files.write(f"{self._directory}/{file}", line)

    def update(self, resources: dict[str, Any]) -> None:
        self._required(resources)
        self._apply(resources)

    def attach(self, pid: int) -> None:
        try:
            files.write(f"{self._directory}/cgroup.procs", pid)
        except CgroupError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # A threaded cgroup takes threads only; a process of one thread is that thread.
            files.write(f"{self._directory}/cgroup.threads", pid)

    def directory_fd(self) -> int | None:
        try:
            return os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CgroupError.of("open", self._directory, error) from error

    def entry(self) -> Entry:
        return Entry(self.directory_fd(), (), self.path)

    def freeze(self) -> None:
        self.freeze_within(freezer.FREEZE_SECONDS)

    def freeze_within(self, seconds: float) -> None:
        """`freeze` with a bound on the wait."""
        freezer.freeze(self._directory, seconds)

    def thaw(self) -> None:
        freezer.thaw(self._directory)

    def thaw_below(self) -> None:
        """Nothing to do: v2's freezer lets go of the dying."""

    def frozen(self) -> bool:
        return freezer.frozen(self._directory)

    def kill(self, signal: int = 9) -> None:
        if not self.exists():
            return
        if signal == 9 and files.exists(f"{self._directory}/cgroup.kill"):
            try:
                files.write(f"{self._directory}/cgroup.kill", 1)
                return
            except CgroupError as error:
                if error.errno != errno.EOPNOTSUPP:  # a threaded cgroup
                    raise
        from daemon.cgroups.killing import signal_all

        signal_all(self, signal)

    def pids(self) -> list[int]:
        return files.walk_pids(self._directory)

    def delete(self) -> None:
        files.remove_tree(self._directory)

    def exists(self) -> bool:
        return files.exists(self._directory)

    def stats(self) -> Stats:
        from daemon.cgroups.pressure import read_pressure
        from daemon.cgroups.stats import PidsStats, Stats

        directory = self._directory
        if not files.exists(directory):
            raise CgroupError(f"no such cgroup: {self.path}", file=directory, errno=errno.ENOENT)
        return Stats(
            version=2,
            taken_ns=time.time_ns(),
            cpu=cpu.stats(directory),
            memory=memory.stats(directory),
            blkio=io.stats(directory),
            pids=pids.stats(directory) or PidsStats(current=len(self.pids())),
            pressure=read_pressure(directory),
        )

    def oom_kills(self) -> int:
        return memory.oom_kills(self._directory)

    def oom_event_fd(self) -> int | None:
        return v2_oom_event(self._directory)
