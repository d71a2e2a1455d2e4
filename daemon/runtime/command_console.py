"""Terminals and signals of `pyd-oci` in the foreground."""

from __future__ import annotations

import _socket
import os
from select import POLLHUP, POLLIN, poll

from daemon.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from daemon.runtime.launch import Child
else:
    import _signal

_SIGCHLD, _SIGURG, _SIGWINCH = 17, 23, 28
_FORWARDED = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33, _SIGURG))
_CHUNK = 65536
_PIDFD_WAIT = os.P_PIDFD


def send_master(path: str, master: int) -> None:
    """Hand the pty's master to who listens at --console-socket, and give up ours."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, master.to_bytes(4, "little"))]
        sock.sendmsg([b"/dev/ptmx"], rights)
    except OSError as error:
        raise RuntimeFailure(f"--console-socket {path}: {error.strerror}") from None
    finally:
        sock.close()
        os.close(master)


class Signals:
    """Passes signals on to the container, and waits for its end.

    They are held back from before the clone on, so that none is lost on the way; the child starts with a clean mask.
    """

    def __init__(self) -> None:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _FORWARDED)

    def follow(self, child: Child, master: int) -> int:
        """The exit status, as a shell has it, once the container's first process has ended."""
        if master < 0:
            return self._follow_signals(child)
        return self._follow_terminal(child, master)

    def _follow_signals(self, child: Child) -> int:
        while True:
            code = exit_status(child.pidfd, os.WNOHANG)
            if code is not None:
                return code
            number = _signal.sigwaitinfo(_FORWARDED).si_signo
            if number != _SIGCHLD:
                _forward(child, number)

    def _follow_terminal(self, child: Child, master: int) -> int:
        """Copy between our terminal (made raw) and the container's until the container's is closed."""
        import termios

        reader = _wakeup_pipe()
        saved = _make_raw(0) if os.isatty(0) else None
        try:
            _copy_size(master)
            self._copy(child, master, reader)
        finally:
            if saved is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
        code = exit_status(child.pidfd, 0)
        assert code is not None
        return code

    def _copy(self, child: Child, master: int, reader: int) -> None:
        ready = poll()
        for fd in (master, 0, reader):
            ready.register(fd, POLLIN)
        while True:
            for fd, event in ready.poll():
                if fd == reader:
                    for number in os.read(reader, 64):
                        if number == _SIGWINCH:
                            _copy_size(master)
                        elif number != _SIGCHLD:
                            _forward(child, number)
                elif fd == 0:
                    data = os.read(0, _CHUNK)
                    if data:
                        os.write(master, data)
                    else:
                        ready.unregister(0)
                        os.write(master, b"\x04")  # the terminal's end-of-file character
                elif event & (POLLIN | POLLHUP):
                    try:
                        data = os.read(master, _CHUNK)
                    except OSError:
                        return  # EIO: the last process has closed the terminal
                    _write_all(1, data)


def exit_status(pidfd: int, flags: int) -> int | None:
    result = os.waitid(_PIDFD_WAIT, pidfd, os.WEXITED | flags)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def _forward(child: Child, number: int) -> None:
    try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
        _signal.pidfd_send_signal(child.pidfd, number)
    except ProcessLookupError:
        pass


def _wakeup_pipe() -> int:
    """Signals as bytes in a pipe, for poll."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _FORWARDED:
        if number not in (11, 7, 8, 4, 6):  # what the processor raises stays fatal
            _signal.signal(number, lambda *_: None)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    return reader


def _make_raw(fd: int) -> list[Any]:
    """cfmakeraw(3); returns what to restore."""
    import termios

    saved = termios.tcgetattr(fd)
    raw = [*saved[:6], list(saved[6])]
    raw[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    raw[1] &= ~termios.OPOST
    raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    termios.tcsetattr(fd, termios.TCSADRAIN, raw)
    return saved


def _copy_size(master: int) -> None:
    import fcntl
    import termios

    try:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return  # standard input is no terminal
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
