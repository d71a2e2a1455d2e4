"""An attached client: one connection that sees a process' output and may feed its input.

Output goes out as it comes; what the client does not take is buffered up to HIGH bytes, then the process
is *blocked*: its output is not read until the client has caught up. Only this one process waits.
Frames are Docker's: stream number, three zero bytes, big-endian length, data.

Input follows moby's rules (daemon/stream/attach.go): only ttys know detach keys; when the client's input
ends, the process' stdin is closed if it is to be (StdinOnce, exec; never a tty), else the client is let go.
A client may go away at any time; that hurts nobody.

A client is *held* while the daemon replays to it, on its own copy of the connection, what was logged before:
what comes for it meanwhile waits here, and its input waits in the socket, until it is let loose (`resume_held`).
"""

from __future__ import annotations

import os
import socket
from collections import deque

from daemon.runtime.loop import ERR, HUP, IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from daemon.runtime.output import Output
    from daemon.runtime.stdio import Process

HIGH = 1 << 20
LOW = 512 << 10
READ = 64 << 10
SPLICE = 1 << 20
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class DetachKeys:
    """Looks for a key sequence in a stream of bytes; a beginning of it is held back until it is decided."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence is complete)."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for position, byte in enumerate(data):
            while self._matched and byte != keys[self._matched]:
                out += self._release()
            if byte != keys[self._matched]:
                out += data[position : position + 1]
                continue
            self._matched += 1
            if self._matched == len(keys):
                self._matched = 0
                return bytes(out), True
        return bytes(out), False

    def _release(self) -> bytes:
        """Gives up the shortest beginning such that the rest still is a beginning of the sequence."""
        held = self._keys[: self._matched]
        for cut in range(1, len(held) + 1):
            if self._keys.startswith(held[cut:]):
                self._matched = len(held) - cut
                return held[:cut]
        raise AssertionError("the empty string is a beginning of everything")


def _shut_down(sock: socket.socket) -> None:
    """Ends the connection although the daemon may still hold its copy."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class Client:
    """`request`: {stdin, stdout, stderr, tty, framed, detach_keys, early, replay}, as RuntimeClient.attach sends
    it; with `replay`, the path of a log, the client begins held."""

    __slots__ = (
        "_buffer",
        "_early",
        "_keys",
        "_loop",
        "_on_detach",
        "_paused",
        "_tty",
        "buffered",
        "closing",
        "framed",
        "held",
        "owed",
        "owed_by",
        "process",
        "reads",
        "sock",
        "streams",
    )

    def __init__(self, process: Process, fd: int, request: dict[str, Any], on_detach: Callable[[], None]):
        self.process = process
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self._loop = process.loop
        self._on_detach = on_detach
        self._tty: bool = request["tty"]
        self._keys = DetachKeys(bytes.fromhex(request["detach_keys"]) if self._tty else b"")
        self._early = bytes.fromhex(request["early"])
        self.framed: bool = request["framed"]
        self.streams = {number for number in (1, 2) if request["stdout" if number == 1 else "stderr"]}
        self.reads: bool = request["stdin"]
        self._paused = True
        self._buffer: deque[bytes | memoryview] = deque()
        self.buffered = 0
        self.owed = 0
        self.owed_by: Output | None = None
        self.closing = False
        self.held = request.get("replay") is not None
        self._loop.add(fd, 0, self._event)

    # -- output ----------------------------------------------------------------------------------------

    def header(self, stream: int, size: int) -> bytes:
        return bytes((stream, 0, 0, 0)) + size.to_bytes(4, "big")

    def send(self, stream: int, data: bytes) -> None:
        """One frame (or the bare data), now or as soon as the client takes it."""
        parts: list[bytes] = [self.header(stream, len(data)), data] if self.framed else [data]
        if not self._buffer and not self.owed and not self.held:
            try:
                sent = self.sock.sendmsg(parts, (), SEND_FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.drop()
                return
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if not parts:
                return
            parts[0] = parts[0][sent:]
        self.queue(parts)

    def queue(self, parts: list[bytes]) -> None:
        self._buffer.extend(parts)
        self.buffered += sum(map(len, parts))
        if self.buffered > HIGH:
            self.process.block(self)
        self.watch()

    def splice(self, output: Output, size: int) -> None:
        """Promises the client `size` bytes that lie in the output's pipe, and moves what it takes."""
        if self.framed:
            header = self.header(output.number, size)
            try:
                sent = self.sock.send(header, SEND_FLAGS | socket.MSG_MORE)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.drop()
                return
            if sent < len(header):
                self.queue([header[sent:]])
        self.owed, self.owed_by = size, output
        self._continue_splice()

    def _continue_splice(self) -> None:
        """Moves owed bytes; while some are left all output of the process waits."""
        output = self.owed_by
        assert output is not None
        try:
            while self.owed and not self._buffer:
                moved = os.splice(output.fd, self.sock.fileno(), self.owed, flags=SPLICE_FLAGS)
                if not moved:
                    break
                self.owed -= moved
        except BlockingIOError:
            pass
        except OSError:
            self.drop()
            return
        if self.owed:
            self.process.block(self)
        else:
            self.owed_by = None
        self.watch()

    def _flush(self) -> None:
        buffer = self._buffer
        try:
            while buffer:
                sent = self.sock.send(buffer[0], SEND_FLAGS)
                self.buffered -= sent
                if sent < len(buffer[0]):
                    buffer[0] = memoryview(buffer[0])[sent:]
                    return
                buffer.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.drop()
            return
        if self.owed:
            self._continue_splice()

    # -- input -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The process has its stdio: what came early goes first, then the client is listened to."""
        if self.held:
            return
        if self.process.stdin is None:
            self.reads = False
        early, self._early = self._early, b""
        self._paused = False
        if early and self.reads:
            self._take(early)
        self.watch()

    def resume_held(self) -> None:
        """The replay is done: what waited goes out, and the client is one like any other."""
        self.held = False
        if self.process.description is not None:
            self.begin()
        if self.closing and not self._buffer:
            self.drop()
        elif self.reads and self.sock.fileno() >= 0 and not self._loop.watching(self.sock.fileno()):
            self._input()  # hung up meanwhile: read on to the end
        else:
            self.watch()

    def resume(self) -> None:
        self._paused = False
        if not self._loop.watching(self.sock.fileno()):
            self._input()  # hung up while paused: read on to the end
        else:
            self.watch()

    def _input(self) -> None:
        stdin = self.process.stdin
        try:
            if stdin is None or stdin.closed:
                data = self.sock.recv(READ, socket.MSG_DONTWAIT)
                if data:
                    return
            elif stdin.spliceable and not self._tty:
                if self._splice_input(stdin.fd):
                    return
            else:
                data = self.sock.recv(READ, socket.MSG_DONTWAIT)
                if data:
                    self._take(data)
                    return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._input_ended()

    def _splice_input(self, fd: int) -> bool:
        """Moves input without copying it; False at the end of the client's input."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            return bool(os.splice(self.sock.fileno(), fd, SPLICE, flags=SPLICE_FLAGS))
        except BlockingIOError:
            stdin.wait(self)
        except BrokenPipeError:
            stdin.close()
        return True

    def _take(self, data: bytes) -> None:
        stdin = self.process.stdin
        data, detached = self._keys.feed(data)
        if stdin is not None and data:
            stdin.write(data, self)
        if detached:
            self._on_detach()
            self.close()

    def pause(self) -> None:
        self._paused = True
        self.watch()

    def _input_ended(self) -> None:
        self.reads = False
        if not self._loop.watching(self.sock.fileno()):
            self.drop()
        elif self.process.closes_stdin and not self._tty:
            self.process.end_input()
            self.watch()
        else:
            self.close()

    # -- events ----------------------------------------------------------------------------------------

    def watch(self) -> None:
        fd = self.sock.fileno()
        if fd >= 0 and self._loop.watching(fd):
            wants = OUT if (self._buffer or self.owed) and not self.held else 0
            self._loop.modify(fd, wants | (IN if self.reads and not self._paused else 0))

    def _event(self, events: int) -> None:
        if events & (HUP | ERR):
            self._hang_up()
            return
        if events & OUT:
            self._flush()
            if self.buffered < LOW and not self.owed:
                self.process.unblock(self)
            if self.closing and not self._buffer and not self.owed:
                self.drop()
                return
            self.watch()
        if events & IN and self.sock.fileno() >= 0:
            self._input()

    def _hang_up(self) -> None:
        """Both directions are closed; input that lies in the socket still belongs to the process."""
        if not self.reads or self.process.stdin is None or self.process.stdin.closed:
            if self.reads and self.process.closes_stdin and not self._tty:
                self.process.end_input()
            self.drop()
            return
        if not self._paused:
            self._input()
            return
        self._loop.remove(self.sock.fileno())
        self.streams = set()
        self._forget_output()

    def _forget_output(self) -> None:
        self._buffer.clear()
        self.buffered = self.owed = 0
        self.owed_by = None
        self.process.unblock(self)

    def close(self) -> None:
        """Lets the client go once it has got what is buffered."""
        self.closing = True
        self.streams = set()
        self.reads = False
        if not self._buffer and not self.owed and not self.held:
            self.drop()
        else:
            self.watch()

    def hand_back(self) -> None:
        """Closes our copy of the connection, not the connection."""
        self.reads = False
        self.streams = set()
        self._loop.remove(self.sock.fileno())
        self.sock.close()
        self._forget_output()
        self.process.forget_client(self)

    def drop(self) -> None:
        """Lets the client go now."""
        fd = self.sock.fileno()
        if fd < 0:
            return
        self._loop.remove(fd)
        if self.reads and self.process.closes_stdin and not self._tty:
            self.reads = False
            self.process.end_input()
        if self.reads and self.process.description is None:
            self.process.input_lost = True
        _shut_down(self.sock)
        self.sock.close()
        self._forget_output()
        self.process.forget_client(self)
