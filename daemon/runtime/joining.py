"""Putting a new process into its cgroups, by itself and at once.

Moving another process (`cgroup.procs`) makes the kernel wait for an RCU grace period, 5 to 20 ms, whenever nobody
has done so for a while. Two ways do not wait: CLONE_INTO_CGROUP on v2 (clone(2)), and on v1 a thread
that writes 0 to `tasks`, which moves only itself, so that no fork can race with it. A child of clone3 is one thread:
moving the thread moves the process. (kernel/cgroup/cgroup.c, cgroup_procs_write_start)
"""

from __future__ import annotations

import os

from daemon.runtime.cgroupmounts import hierarchies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.cgroups import Cgroup


class CgroupEntry:
    """How a child gets into one cgroup: files to write 0 to, and a directory to be cloned into (or -1).

    With neither the parent has to `attach` it: `complete` is False.
    """

    __slots__ = ("directory_fd", "tasks")

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.tasks: list[str] = []
        self.directory_fd = -1
        if cgroup is None:
            return
        for hierarchy in hierarchies():
            directory = f"{hierarchy.mountpoint}/{cgroup.path}"
            if not hierarchy.key:
                self._open(directory)
            elif os.path.exists(f"{directory}/tasks"):
                self.tasks.append(f"{directory}/tasks")

    def _open(self, directory: str) -> None:
        try:
            self.directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.directory_fd = -1

    @property
    def complete(self) -> bool:
        """Does the child get everywhere by itself? False for a cgroup that exists nowhere yet."""
        return bool(self.tasks) or self.directory_fd >= 0

    def close(self) -> None:
        if self.directory_fd >= 0:
            os.close(self.directory_fd)
            self.directory_fd = -1

    def enter(self) -> None:
        """In the child, before anything else."""
        for path in self.tasks:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
