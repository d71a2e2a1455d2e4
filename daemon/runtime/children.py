"""The supervisor's children: who waits for which, and blocking work done by a child.

SIGCHLD wakes the loop through a pipe (signal.set_wakeup_fd). All that is dead is reaped at once, also
orphans that fell to us as subreaper, which nobody waits for. A foreign runtime's container is such an
orphan at first: its end may come before we know its pid, so ends of strangers are remembered for as long
as somebody is `curious`.
"""

from __future__ import annotations

import os
import signal

from daemon.runtime.loop import IN
from daemon.runtime.protocol import close_all
from daemon.runtime.tasks import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.runtime.loop import Loop


class WorkFailed(Exception):
    """What was done in a child raised; the text is that of its exception."""


class Children:
    def __init__(self, loop: Loop) -> None:
        self._expected: dict[int, Callable[[int], None]] = {}
        self._strangers: dict[int, int] = {}
        self.curious = 0
        self._pipe, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.on_terminate: Callable[[], None] = lambda: None
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        loop.add(self._pipe, IN, self._woken)

    def expect(self, pid: int, callback: Callable[[int], None]) -> None:
        """`callback(wait status)` when the child `pid` has ended; at once if it has."""
        status = self._strangers.pop(pid, None)
        if status is not None:
            callback(status)
        else:
            self._expected[pid] = callback

    def forget(self, pid: int) -> None:
        """Nobody waits for `pid` any more."""
        self._expected.pop(pid, None)

    def exited(self, pid: int) -> Future:
        """A future of the wait status."""
        future = Future()
        self.expect(pid, future.set)
        return future

    def _woken(self, events: int) -> None:
        if signal.SIGTERM in os.read(self._pipe, 4096):
            self.on_terminate()
        self.reap()

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            callback = self._expected.pop(pid, None)
            if callback is not None:
                callback(status)
            elif self.curious:
                self._strangers[pid] = status
        if not self.curious:
            self._strangers.clear()

    def spawn(self, argv: list[str], stdio: tuple[int, int, int] | None) -> int:
        """Runs a command (absolute path) on the given descriptors, or on /dev/null; its pid.

        Not posix_spawn, whose children ignore signals 32 and 33 (glibc): a runtime's container would, too."""
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                null = os.open(os.devnull, os.O_RDWR)
                for number, fd in enumerate(stdio or (null, null, null)):
                    os.dup2(fd, number)
                for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                os.execv(argv[0], argv)
            except OSError as error:
                os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            finally:
                os._exit(127)
        return pid

    async def offload(self, work: Callable[[], object]) -> None:
        """Does blocking work (freezing a cgroup) in a forked child. Raises WorkFailed with its error's text."""
        read, write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os._exit(_work(work, write))
        os.close(write)
        try:
            status = await self.exited(pid)
            if status:
                raise WorkFailed(os.read(read, 4096).decode("utf-8", "replace") or f"wait status {status}")
        finally:
            close_all([read])


def _work(work: Callable[[], object], write: int) -> int:
    signal.set_wakeup_fd(-1)
    try:
        work()
    except Exception as error:
        os.write(write, str(error).encode("utf-8", "replace")[:4096])
        return 1
    return 0
