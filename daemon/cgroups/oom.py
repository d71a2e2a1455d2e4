"""Being told of a lack of memory: a descriptor to poll, in both hierarchies.

    v1   an eventfd registered in `cgroup.event_control` for `memory.oom_control`
         (Documentation/admin-guide/cgroup-v1/memory.rst, section 10). It fires when the limit leads to
         the OOM killer, and when the cgroup is removed.
    v2   an inotify watch on `memory.events` (cgroup-v2.rst: "a value change in this file generates a
         file modified event"). It fires for `low`, `high` and `max` too.

Either way readiness is a hint and `oom_kills()` is the truth.
"""

from __future__ import annotations

import os

from daemon.cgroups.errors import CgroupError

IN_MODIFY = 0x2
IN_NONBLOCK = 0o4000
IN_CLOEXEC = 0o2000000


def drain_oom_event(fd: int) -> None:
    """Take what is pending, so that the descriptor is not readable until the next event."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


def v1_oom_event(directory: str) -> int | None:
    """An eventfd for the memory cgroup at `directory`; None where the kernel offers no notification."""
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _register(directory, control)
    finally:
        os.close(control)


def _register(directory: str, control: int) -> int | None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    file = f"{directory}/cgroup.event_control"
    value = f"{event} {control}"
    try:
        target = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(target, value.encode())
        finally:
            os.close(target)
    except FileNotFoundError:
        os.close(event)
        return None
    except OSError as error:
        os.close(event)
        raise CgroupError.of("write", file, error, value) from error
    return event


def v2_oom_event(directory: str) -> int | None:
    """An inotify descriptor watching `memory.events`; None without a memory controller."""
    file = f"{directory}/memory.events"
    if not os.path.exists(file):
        return None
    import ctypes  # not needed on v1, nor to start a container

    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
    if fd < 0:
        raise CgroupError.of("watch", file, OSError(ctypes.get_errno(), ""))
    if libc.inotify_add_watch(fd, os.fsencode(file), IN_MODIFY) < 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise CgroupError.of("watch", file, OSError(number, ""))
    return fd
