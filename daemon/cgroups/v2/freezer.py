"""Freezing on v2: `cgroup.freeze`, and `cgroup.events` to be told when it is done (Linux 5.2)."""

from __future__ import annotations

import os
import time

from daemon.cgroups import files
from daemon.cgroups.errors import CgroupError

FREEZE_SECONDS = 2.0


def freeze(directory: str, seconds: float = FREEZE_SECONDS) -> None:
    """Freeze and wait for `frozen 1`; when it does not come in time, thaw again and raise."""
    file = f"{directory}/cgroup.freeze"
    files.write(file, 1)
    if not _wait_frozen(f"{directory}/cgroup.events", seconds):
        files.write(file, 0)
        raise CgroupError(f"write 1 to {file}: still freezing after {seconds:g} s", file=file, value="1")


def _wait_frozen(file: str, seconds: float) -> bool:
    """kernfs tells of a change by POLLPRI; reading from the start arms the next one."""
    import select  # a shared library on most builds, and only freezing needs it

    deadline = time.monotonic() + seconds
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI | select.POLLERR)
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    finally:
        os.close(fd)
    return True


def thaw(directory: str) -> None:
    file = f"{directory}/cgroup.freeze"
    if files.exists(file):
        files.write(file, 0)


def frozen(directory: str) -> bool:
    return files.read_optional(f"{directory}/cgroup.freeze") == "1"
