"""A cgroup on v1 or hybrid: one directory in each mounted hierarchy, one file of this package per controller.

In hybrid the v2 tree gets a directory too. It limits nothing, but it gives `cgroup.kill`, pressure
figures, and a place for cgroup namespaces to begin.
"""

from __future__ import annotations

import errno
import os
import time

from daemon.cgroups import files, rdma
from daemon.cgroups.entry import Entry
from daemon.cgroups.errors import CgroupError
from daemon.cgroups.layout import Layout
from daemon.cgroups.oom import v1_oom_event
from daemon.cgroups.v1 import (
    blkio,
    cpu,
    cpuacct,
    cpuset,
    devices,
    freezer,
    hugetlb,
    memory,
    network,
    pids,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups.stats import CpuStats, Stats

_APPLY = (
    # controller, is it asked for, how to write it. cpuset and devices differ between create and update.
    ("memory", memory.wants, memory.apply),
    ("cpu", cpu.wants, cpu.apply),
    ("pids", pids.wants, pids.apply),
    ("blkio", blkio.wants, blkio.apply),
    ("hugetlb", hugetlb.wants, hugetlb.apply),
    ("net_cls", network.wants_class, network.apply_class),
    ("net_prio", network.wants_priority, network.apply_priority),
    ("rdma", rdma.wants, rdma.apply),
)

_PID_SOURCES = ("pids", "freezer", "memory", "cpu", "name=systemd")
"""Where to list processes: any hierarchy would do, the first of these that is mounted is asked."""


class LegacyCgroup:
    """`Cgroup` on v1 and hybrid layouts."""

    __slots__ = ("_layout", "_paths", "_unified", "_unique", "path")

    def __init__(self, layout: Layout, path: str) -> None:
        self.path = path
        self._layout = layout
        self._paths = {name: f"{mount}/{path}" for name, mount in layout.v1.items()}
        self._unified = f"{layout.unified}/{path}" if layout.unified else None
        self._unique = tuple(dict.fromkeys(self._paths.values()))

    def create(self, resources: dict[str, Any]) -> None:
        self._refuse_unmounted(resources)
        made: list[str] = []
        try:
            for directory in self._unique:
                self._make(directory, made)
            if self._unified:
                self._make_unified(made)
            if "cpuset" in self._paths:
                cpuset.create(self._paths["cpuset"], resources, self._layout.v1["cpuset"])
            if "devices" in self._paths:
                devices.create(self._paths["devices"], resources)
            self._apply(resources)
        except BaseException:
            files.remove_directories(made)
            raise

    def _make(self, directory: str, made: list[str]) -> None:
        """Make one directory, anew if a crash left it, so that no old limit or counter lives on."""
        try:
            try:
                made += files.make_directory(directory)
                return
            except FileExistsError:
                pass
            holders = files.walk_pids(directory)
            if holders:
                raise CgroupError(
                    f"mkdir {directory}: File exists and holds processes {holders[:8]}",
                    file=directory,
                    errno=errno.EEXIST,
                )
            if not files.children(directory):
                files.remove_tree(directory)
                made += files.make_directory(directory)
        except OSError as error:
            raise CgroupError.of("mkdir", directory, error) from error

    def _make_unified(self, made: list[str]) -> None:
        """The v2 directory limits nothing, so a v2 tree that cannot be written to is done without."""
        assert self._unified is not None
        try:
            self._make(self._unified, made)
        except CgroupError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise

    def _all_directories(self) -> tuple[str, ...]:
        """Every directory of the cgroup; the v2 one of a hybrid if it could be made."""
        if self._unified and files.exists(self._unified):
            return (*self._unique, self._unified)
        return self._unique

    def _refuse_unmounted(self, resources: dict[str, Any]) -> None:
        """A limit that no mounted controller would enforce is an error, never silently nothing."""
        checks = (*_APPLY, ("cpuset", cpuset.wants, None), ("devices", devices.wants, None))
        for controller, wants, _ in checks:
            if controller not in self._paths and wants(resources):
                raise CgroupError(f"the {controller} controller is not mounted, its limits cannot be set")
        if resources.get("unified"):
            raise CgroupError(f"linux.resources.unified {resources['unified']} needs cgroup v2")

    def _apply(self, resources: dict[str, Any]) -> None:
        for controller, _, apply in _APPLY:
            directory = self._paths.get(controller)
            if directory is not None:
                apply(directory, resources)

    def update(self, resources: dict[str, Any]) -> None:
        self._refuse_unmounted(resources)
        if "cpuset" in self._paths:
            cpuset.update(self._paths["cpuset"], resources)
        if "devices" in self._paths:
            devices.update(self._paths["devices"], resources)
        self._apply(resources)

    def attach(self, pid: int) -> None:
        for directory in self._all_directories():
            files.write(f"{directory}/cgroup.procs", pid)

    def directory_fd(self) -> int | None:
        return None

    def entry(self) -> Entry:
        opened: list[int] = []
        file = ""
        try:
            for directory in self._unique:
                file = f"{directory}/tasks"
                opened.append(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
            if self._unified is None or not files.exists(self._unified):
                return Entry(None, tuple(opened), self.path)
            file = self._unified
            fd = os.open(file, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return Entry(fd, tuple(opened), self.path)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise CgroupError.of("open", file, error) from error

    def freeze(self) -> None:
        self.freeze_within(freezer.FREEZE_SECONDS)

    def freeze_within(self, seconds: float) -> None:
        """`freeze` with a bound on the wait."""
        if "freezer" not in self._paths:
            raise CgroupError(f"cannot freeze {self.path}: the freezer controller is not mounted")
        freezer.freeze(self._paths["freezer"], seconds)

    def thaw(self) -> None:
        if "freezer" in self._paths:
            freezer.thaw(self._paths["freezer"])

    def frozen(self) -> bool:
        return "freezer" in self._paths and freezer.frozen(self._paths["freezer"])

    def kill(self, signal: int = 9) -> None:
        if not self.exists() or (signal == 9 and self._kill_unified()):
            return
        from daemon.cgroups.killing import signal_all

        signal_all(self, signal)
        if signal == 9:
            self.thaw_below()

    def thaw_below(self) -> None:
        if "freezer" in self._paths:
            freezer.thaw_below(self._paths["freezer"])

    def _kill_unified(self) -> bool:
        """`cgroup.kill` of a hybrid's v2 directory; True if that reached everybody. Somebody may be in the
        v1 directories only: whoever was moved there by hand."""
        if self._unified is None or not files.exists(f"{self._unified}/cgroup.kill"):
            return False
        files.write(f"{self._unified}/cgroup.kill", 1)
        self.thaw()  # the v1 freezer holds the dying
        self.thaw_below()
        left = self.pids()
        return set(left) <= set(files.walk_pids(self._unified))

    def pids(self) -> list[int]:
        for controller in _PID_SOURCES:
            if controller in self._paths:
                return files.walk_pids(self._paths[controller])
        return files.walk_pids(self._unique[0])

    def delete(self) -> None:
        deadline = time.monotonic() + files.DELETE_SECONDS
        for directory in self._all_directories():
            files.remove_tree(directory, max(0.0, deadline - time.monotonic()))

    def exists(self) -> bool:
        return any(files.exists(directory) for directory in self._all_directories())

    def stats(self) -> Stats:
        from daemon.cgroups.pressure import read_pressure
        from daemon.cgroups.stats import BlkioStats, MemoryStats, PidsStats, Stats

        if not self.exists():
            raise CgroupError(f"no such cgroup: {self.path}", file=self._unique[0], errno=errno.ENOENT)
        paths = self._paths
        return Stats(
            version=1,
            taken_ns=time.time_ns(),
            cpu=self._cpu_stats(),
            memory=memory.stats(paths["memory"]) if "memory" in paths else MemoryStats(),
            blkio=blkio.stats(paths["blkio"]) if "blkio" in paths else BlkioStats(),
            pids=pids.stats(paths["pids"]) if "pids" in paths else PidsStats(current=len(self.pids())),
            pressure=read_pressure(self._unified) if self._unified else {},
        )

    def _cpu_stats(self) -> CpuStats:
        from daemon.cgroups.stats import CpuStats

        total = user = system = 0
        per_cpu: tuple[int, ...] = ()
        if "cpuacct" in self._paths:
            total, user, system, per_cpu = cpuacct.usage(self._paths["cpuacct"])
        throttling = cpu.throttling(self._paths["cpu"]) if "cpu" in self._paths else (0, 0, 0)
        return CpuStats(total, user, system, per_cpu, *throttling)

    def oom_kills(self) -> int:
        return memory.oom_kills(self._paths["memory"]) if "memory" in self._paths else 0

    def oom_event_fd(self) -> int | None:
        return v1_oom_event(self._paths["memory"]) if "memory" in self._paths else None
