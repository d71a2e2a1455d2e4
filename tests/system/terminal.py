"""A client on a real terminal: what a person sees, types and resizes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Iterator, Sequence

from tests.system.host import ENVIRONMENT, REPOSITORY


class Terminal:
    """One command whose stdin, stdout and stderr are a pseudo terminal of ours."""

    def __init__(self, command: Sequence[str], *, rows: int = 24, columns: int = 80) -> None:
        self.seen = b""
        self._read = 0
        self.pid, self.master = pty.fork()
        if self.pid == 0:  # pragma: no cover - the child
            try:
                _set_size(0, rows, columns)
                os.chdir(REPOSITORY)
                os.execvpe(command[0], list(command), ENVIRONMENT)
            finally:
                os._exit(120)

    def until(self, text: str, *, seconds: float = 15) -> str:
        """Read on until `text` comes; what was read since the last call, up to its end."""
        wanted, end = text.encode(), time.monotonic() + seconds
        while (at := self.seen.find(wanted, self._read)) < 0:
            rest = end - time.monotonic()
            assert rest > 0 and self._more(rest), f"no {text!r} in {self.seen[self._read :]!r}"
        start, self._read = self._read, at + len(wanted)
        return self.seen[start : self._read].decode(errors="replace")

    def _more(self, seconds: float) -> bool:
        """Whether there is more to read: not at the end, not too late."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other side any more
            return False
        self.seen += data.replace(b"\r", b"")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """TIOCSWINSZ on our side; the kernel sends SIGWINCH to the foreground group."""
        _set_size(self.master, rows, columns)

    def code(self, *, seconds: float = 30) -> int:
        """Read to the end, then the exit code."""
        end = time.monotonic() + seconds
        while self._more(max(end - time.monotonic(), 0)):
            pass
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, f"still there: {self.seen!r}"
            time.sleep(0.02)

    def rest(self) -> str:
        """What came after the last `until`."""
        return self.seen[self._read :].decode(errors="replace")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.master)


def _set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextlib.contextmanager
def terminal(command: Sequence[str], *, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    made = Terminal(command, rows=rows, columns=columns)
    try:
        yield made
    finally:
        made.close()
