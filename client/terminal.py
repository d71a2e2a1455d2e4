"""This side's terminal and signals while a container's streams are attached.

Raw mode, so that Ctrl-C and the like reach the container as bytes; its size, at first and at SIGWINCH; the
detach keys; and for containers without a terminal, signals handed on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from client.errors import ClientError
from client.hijack import RawStream

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
_KEPT = frozenset(("SIGCHLD", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU",
                   "SIGCONT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"))  # fmt: skip


def is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdout; zeros when there is none."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 0, 0
    return rows, columns


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or plain characters, to the bytes that a terminal sends."""
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            keys += key.encode()
        elif len(key) == 6 and key.startswith("ctrl-") and (key[5].isalpha() or key[5] in _CONTROL):
            keys.append(_CONTROL[key[5]] if key[5] in _CONTROL else ord(key[5].lower()) - ord("a") + 1)
        else:
            raise ClientError(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(keys)


class DetachFilter:
    """Watches typed bytes for the detach sequence and holds back a beginning of it."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._held = keys, b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes to send, whether to detach)."""
        out = bytearray()
        for value in data:
            candidate = self._held + bytes((value,))
            if self._keys and self._keys.startswith(candidate):
                if candidate == self._keys:
                    return bytes(out), True
                self._held = candidate
                continue
            out += self._held
            byte = bytes((value,))
            if self._keys.startswith(byte):
                self._held = byte
            else:
                self._held = b""
                out += byte
        return bytes(out), False


@contextlib.contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode; as it was, afterwards. Output processing is off too, as for docker."""
    if not is_terminal(descriptor):
        yield
        return
    saved = termios.tcgetattr(descriptor)
    changed: list[Any] = termios.tcgetattr(descriptor)
    changed[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON | termios.IGNBRK
                    | termios.PARMRK | termios.INLCR | termios.IGNCR)  # fmt: skip
    changed[1] &= ~termios.OPOST
    changed[2] = changed[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def following_size(resize: Callable[[int, int], None]) -> Iterator[None]:
    """Tell the daemon the terminal's size now and whenever it changes."""

    def tell(number: int = 0, frame: FrameType | None = None) -> None:
        rows, columns = size()
        if rows and columns:
            with contextlib.suppress(ClientError):
                resize(rows, columns)

    previous = signal.signal(signal.SIGWINCH, tell)
    tell()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, previous)


@contextlib.contextmanager
def forwarding_signals(send: Callable[[str], None]) -> Iterator[None]:
    """Signals that this process gets go to the container."""
    previous: dict[int, Any] = {}

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ClientError):
            send(signal.Signals(number).name.removeprefix("SIG"))

    for sent in signal.Signals:
        if sent.name not in _KEPT:
            with contextlib.suppress(OSError, ValueError):
                previous[sent] = signal.signal(sent, forward)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class InputPump(threading.Thread):
    """Copies stdin to the container; half-closes at its end, hangs up at the detach keys."""

    def __init__(self, raw: RawStream, keys: bytes) -> None:
        super().__init__(daemon=True, name="stdin")
        self._raw, self._filter = raw, DetachFilter(keys)
        self.detached = False

    def run(self) -> None:
        try:
            while data := os.read(0, 1 << 16):
                data, self.detached = self._filter.feed(data)
                if data:
                    self._raw.send(data)
                if self.detached:
                    self._raw.close()
                    return
        except OSError:
            pass
        self._raw.finish_input()


def require_terminal(*, tty: bool, stdin: bool) -> None:
    """docker refuses `-it` when its own stdin is no terminal."""
    if tty and stdin and not is_terminal(0):
        raise ClientError("the input device is not a TTY", 1)


def converse(raw: RawStream, *, tty: bool, stdin: bool, keys: bytes) -> bool:
    """Copy both ways until the output ends; true when the user detached."""
    from client.streams import copy_output

    pump = InputPump(raw, keys if tty else b"") if stdin else None
    with contextlib.ExitStack() as stack:
        if tty and stdin:
            stack.enter_context(raw_mode(0))
        if pump:
            pump.start()
        sys.stdout.flush()
        try:
            copy_output(raw.chunks(), framed=not tty)
        except (ClientError, OSError):
            if pump is None or not pump.detached:
                raise
    if pump and pump.detached:
        return True
    raw.close()
    return False
