"""Signalling every process of a cgroup when the kernel has no `cgroup.kill` for it (before 5.14, v1)."""

from __future__ import annotations

import contextlib
import os
import time

from daemon.cgroups.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Freezable(Protocol):
        """What `signal_all` needs of a cgroup."""

        def freeze_within(self, seconds: float) -> None: ...
        def thaw(self) -> None: ...
        def frozen(self) -> bool: ...
        def pids(self) -> list[int]: ...


_ROUNDS = 200
_FREEZE_SECONDS = 0.5


def signal_all(cgroup: Freezable, signal: int) -> None:
    """Freeze so that nothing forks away, signal each process, thaw so that they take the signal.

    A cgroup that was frozen before stays frozen, except for SIGKILL: the v1 freezer holds dying tasks.
    If it does not freeze in time (a task in uninterruptible sleep), rounds of signals until a round finds
    nobody new do as well against all but a fork bomb with a spare process limit.
    """
    was_frozen = cgroup.frozen()
    held = was_frozen
    if not held:
        with contextlib.suppress(CgroupError):
            cgroup.freeze_within(_FREEZE_SECONDS)
            held = True
    try:
        _signal_rounds(cgroup, signal, once=held)
    finally:
        if not was_frozen or signal == 9:
            cgroup.thaw()


def _signal_rounds(cgroup: Freezable, signal: int, *, once: bool) -> None:
    done: set[int] = set()
    for _ in range(1 if once else _ROUNDS):
        new = [pid for pid in cgroup.pids() if pid not in done]
        if not new:
            return
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal)
        done.update(new)
        if not once:
            time.sleep(0.0005)
