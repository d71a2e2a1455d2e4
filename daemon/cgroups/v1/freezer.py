"""The v1 freezer controller (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst)."""

from __future__ import annotations

import time

from daemon.cgroups import files
from daemon.cgroups.errors import CgroupError

FREEZE_SECONDS = 2.0


def freeze(directory: str, seconds: float = FREEZE_SECONDS) -> None:
    """Write FROZEN until the kernel says FROZEN.

    A cgroup can hang in FREEZING while its tasks fork or wait for one another (vfork); writing again
    catches the new ones, and letting go for a moment now and then breaks such waits. When it would not
    freeze in time it is thawed again: half frozen is no state to leave a container in.
    """
    file = f"{directory}/freezer.state"
    deadline = time.monotonic() + seconds
    tries = 0
    while True:
        files.write(file, "FROZEN")
        if files.read(file) == "FROZEN":
            return
        tries += 1
        if time.monotonic() >= deadline:
            break
        if tries % 50 == 0:
            files.write(file, "THAWED")
        time.sleep(0.0002 if tries < 10 else 0.005)
    files.write(file, "THAWED")
    raise CgroupError(
        f"write FROZEN to {file}: still freezing after {seconds:g} s", file=file, value="FROZEN"
    )


def thaw(directory: str) -> None:
    file = f"{directory}/freezer.state"
    if files.exists(file):
        files.write(file, "THAWED")


def thaw_below(directory: str) -> None:
    """Thaw the cgroups inside, which whoever is in them may have frozen."""
    for child in files.children(directory):
        thaw(child)
        thaw_below(child)


def frozen(directory: str) -> bool:
    """This cgroup's own state, not what an ancestor's freezing makes of it."""
    own = files.read_optional(f"{directory}/freezer.self_freezing")
    if own is not None:
        return own == "1"
    return (files.read_optional(f"{directory}/freezer.state") or "THAWED") != "THAWED"
