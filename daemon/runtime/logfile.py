"""Log files with rotation: where the keeper puts what containers print.

Model
    `path` is written, `path.1` ... `path.N-1` (`.gz` where compressed) are older, 1 the youngest.
    Rotation is due when the file has reached `max-size` *before* an entry is written (moby
    daemon/logger/loggerutils/logfile.go), so a file may exceed it by one entry.

Crash safety
    Shifting names starts at the first hole, so that a rotation which was cut short is finished by the
    next, and nothing is dropped twice. Compression happens in a process of its own, into `path.1.gz.tmp`,
    renamed when complete; only then `path.1` goes. Found at opening, a left-over `path.1` is compressed.
    Who writes may give a `Progress`, which is told before a rotation how far the entries are written (journal.py).

While a file is being compressed the next rotation waits, as Docker's does; `LogFile.blocked` then tells
the keeper not to read more of this container's output until `on_ready`.
"""

from __future__ import annotations

import os
import sys

from daemon.runtime import failpoint, logremote
from daemon.runtime.loglines import JsonEncoder, Lines, LocalEncoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from daemon.runtime.loglines import Encoder
    from daemon.runtime.logremote import Forwarding
    from daemon.runtime.loop import Loop

    Watch = Callable[[int, Callable[[], None]], None]

    class Progress(Protocol):
        def at(self, inode: int, size: int, done: int) -> None:
            """The first `done` bytes are in the log, the next go behind the first `size` bytes of file `inode`,
            or into a file that follows it. `inode` is 0 when the writing has not begun."""

        def finished(self) -> None:
            """Entries that waited are written."""


COMPRESS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compress.py")
_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
ATTRIBUTE = "attrs:"


class LogError(Exception):
    """A log option is wrong or the file cannot be opened."""


def parse_size(text: str) -> int:
    """Go-units' FromHumanSize: decimal units, "10m" is 10,000,000."""
    word = text.strip().lower()
    number = word.rstrip("bkmgtpi ")
    unit = word[len(number) :].strip().removesuffix("b").removesuffix("i")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise LogError(f"invalid size: '{text}'") from None
    if size < 0:
        raise LogError(f"invalid size: '{text}'")
    if size == 0:
        raise LogError("max-size must be a positive number")
    return size


def _number(options: dict[str, str], name: str, default: int) -> int:
    try:
        value = int(options.get(name, default))
    except ValueError:
        raise LogError(f"invalid {name}: {options[name]!r}") from None
    if value < 1:
        raise LogError(f"{name} cannot be less than 1")
    return value


class LogFile:
    """An append-only file with rotation. `watch(fd, callback)` calls back once when `fd` turns readable."""

    __slots__ = (
        "_backlog",
        "_capacity",
        "_compress",
        "_compressor",
        "_fd",
        "_files",
        "_limit",
        "_path",
        "_watch",
        "failed",
        "inode",
        "on_ready",
        "pinned",
        "size",
    )

    def __init__(
        self,
        path: str,
        *,
        capacity: int,
        files: int,
        compress: bool,
        watch: Watch,
        limit: int | None = None,
    ) -> None:
        """`limit`: with `mode=non-blocking` the bytes kept while a file is being compressed; more is dropped."""
        self._path = path
        self._capacity = capacity
        self._files = files
        self._compress = compress and files > 1
        self._watch = watch
        self._limit = limit
        self._compressor = 0
        self._backlog: list[tuple[bytes, Encoder, Progress | None, int]] = []
        self.failed = 0
        self.pinned = False
        self.on_ready: Callable[[], None] = lambda: None
        self._open(os.O_APPEND)
        if self._compress and os.path.exists(f"{path}.1"):
            self._start_compressor()

    def _open(self, flags: int) -> None:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o640)
        except OSError as error:
            raise LogError(f"failed to open log file {self._path}: {error.strerror}") from error
        status = os.fstat(self._fd)
        self.size, self.inode = status.st_size, status.st_ino

    @property
    def path(self) -> str:
        return self._path

    @property
    def waiting(self) -> bool:
        """What is written now comes behind entries that wait for a compressor."""
        return bool(self._backlog)

    @property
    def blocked(self) -> bool:
        """Entries wait for a compressor to end, and no more should come."""
        return bool(self._backlog) and self._limit is None

    def pin(self, wanted: bool) -> None:
        """While it is pinned nothing is rotated, and all that was given to `write` is in the file: a reader may
        go by `inode` and `size`. The file may exceed its limit by what comes meanwhile."""
        self.pinned = wanted
        if wanted and self._backlog:
            self._append_backlog()
            self.on_ready()

    def give_up(self) -> None:
        """A compressor ends by itself: nothing to give up."""

    def write(self, batch: bytes, encoder: Encoder, progress: Progress | None = None, done: int = 0) -> bool:
        """Appends entries, rotating between them as needed; one write per file touched. `done` bytes of what
        `progress` counts were written before. False when some wait: `progress` is told when they are written."""
        if self._limit is not None:
            progress = None  # what waits in the ring may be lost
        if not self._backlog:
            return self._write(batch, encoder, progress, done)
        if self._limit is None or sum(len(item[0]) for item in self._backlog) + len(batch) <= self._limit:
            self._backlog.append((batch, encoder, progress, done))
            if progress is not None:
                progress.at(0, 0, done)
        return progress is None

    def _write(self, batch: bytes, encoder: Encoder, progress: Progress | None, done: int) -> bool:
        while batch:
            if self.size >= self._capacity > 0 and not self.pinned:
                if progress is not None:
                    progress.at(self.inode, self.size, done)
                if self._compressor:
                    self._backlog.append((batch, encoder, progress, done))
                    return progress is None
                failpoint.hit("keeper.full")
                self._rotate()
            if self.pinned or self._capacity <= 0 or self.size + len(batch) < self._capacity:
                self._append(batch)
                return True
            cut = encoder.boundary(batch, self._capacity - self.size - 1)
            self._append(batch[:cut])
            batch = batch[cut:]
            done += cut
        return True

    def _append(self, batch: bytes) -> None:
        """All or nothing: on a full disk the entries are dropped (as Docker does), never half of one."""
        done = 0
        try:
            while done < len(batch):
                done += os.write(self._fd, batch[done:] if done else batch)
                failpoint.hit("keeper.appended")
        except OSError as error:
            if not self.failed:
                print(f"pyd-keeper: write {self._path}: {error.strerror}", file=sys.stderr, flush=True)
            self.failed += 1
            if done:
                os.ftruncate(self._fd, self.size)
            return
        self.failed = 0
        self.size += done

    def truncate(self, size: int) -> None:
        """Undoes what was written beyond `size` (recovery of a write that was cut short)."""
        if size < self.size:
            os.ftruncate(self._fd, size)
            self.size = size

    def _rotate(self) -> None:
        """The old file stays open until there is a new one, which thus has another inode."""
        old = self._fd
        try:
            if self._files > 1:
                self._shift()
                os.rename(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
        except OSError as error:
            print(f"pyd-keeper: rotate {self._path}: {error.strerror}", file=sys.stderr, flush=True)
        failpoint.hit("keeper.renamed")
        self._open(os.O_TRUNC | os.O_APPEND)
        os.close(old)
        failpoint.hit("keeper.opened")
        if self._compress:
            self._start_compressor()

    def _names(self, number: int) -> list[str]:
        names = [f"{self._path}.{number}", f"{self._path}.{number}.gz"]
        return [name for name in names if os.path.exists(name)]

    def _shift(self) -> None:
        """Makes room for a new `path.1`: moves everything before the first hole up by one."""
        hole = 1
        while hole < self._files and self._names(hole):
            hole += 1
        if hole == self._files:
            hole -= 1
            for name in self._names(hole):
                os.unlink(name)
        for number in range(hole - 1, 0, -1):
            for name in self._names(number):
                os.rename(name, f"{self._path}.{number + 1}{'.gz' if name.endswith('.gz') else ''}")
                failpoint.hit("keeper.shifted")

    def _start_compressor(self) -> None:
        argv = [sys.executable, "-I", "-S", COMPRESS, f"{self._path}.1"]
        try:
            self._compressor = os.posix_spawn(sys.executable, argv, {})
            pidfd = os.pidfd_open(self._compressor)
        except OSError as error:
            print(f"pyd-keeper: compress {self._path}.1: {error.strerror}", file=sys.stderr, flush=True)
            self._compressor = 0
            return
        self._watch(pidfd, self._compressed)

    def _compressed(self) -> None:
        os.waitpid(self._compressor, 0)
        self._compressor = 0
        backlog, self._backlog = self._backlog, []
        for index, (batch, encoder, progress, done) in enumerate(backlog):
            if progress is not None:
                progress.at(self.inode, self.size, done)
            if self._write(batch, encoder, progress, done) and progress is not None:
                progress.finished()
            if self._backlog:  # full again: the others wait behind this one
                self._backlog += backlog[index + 1 :]
                break
        if not self._backlog:
            self.on_ready()

    def close(self) -> None:
        """Writes what waits (over-long rather than lost) and closes."""
        self._append_backlog()
        os.close(self._fd)

    def _append_backlog(self) -> None:
        backlog, self._backlog = self._backlog, []
        for batch, _, progress, done in backlog:
            if progress is not None:
                progress.at(self.inode, self.size, done)
            self._append(batch)
            if progress is not None:
                progress.finished()


class Log:
    """The log of one container: where it goes and the encoders of its streams."""

    __slots__ = ("_encoder", "file")

    def __init__(self, file: LogFile | Forwarding, encoder: Callable[[str], Encoder]) -> None:
        self.file = file
        self._encoder = encoder

    def stream(self, name: str) -> tuple[Lines, Encoder]:
        """What cuts and encodes the stream `name`: "stdout" or "stderr"."""
        encoder = self._encoder(name)
        return Lines(encoder), encoder


def open_log(spec: dict[str, Any] | None, watch: Watch, loop: Loop | None = None) -> Log | None:
    """The log that `spec` ({driver, path, options}) asks for; None for no log. Raises LogError."""
    if spec is None or spec["driver"] == "none":
        return None
    driver, options = spec["driver"], spec["options"]
    limit = ring_size(options)
    if driver in ("json-file", "local"):
        attributes = logremote.with_prefix(options, ATTRIBUTE)
        encode = LocalEncoder if driver == "local" else JsonEncoder
        return Log(_open_file(spec, watch, limit), lambda stream: encode(stream, attributes))
    if driver in ("journald", "syslog") and loop is not None:
        return _open_remote(spec, watch, loop, limit)
    raise LogError(f"logger: no log driver named '{driver}' is registered")


def ring_size(options: dict[str, str]) -> int | None:
    """Bytes that wait at most with `mode=non-blocking`, 1 MB unless told; None when the container waits."""
    if options.get("mode") != "non-blocking":
        return None
    return int(options.get("max-buffer-bytes") or 1_000_000)


def _open_file(spec: dict[str, Any], watch: Watch, limit: int | None) -> LogFile:
    options = {name: value for name, value in spec["options"].items() if value != "" and ":" not in name}
    local = spec["driver"] == "local"
    capacity = parse_size(options["max-size"]) if "max-size" in options else 20 * 1024 * 1024 if local else -1
    files = _number(options, "max-file", 5 if local else 1)
    compress = options.get("compress", "true" if local else "false").lower() in ("1", "t", "true")
    if compress and not local and (files < 2 or capacity < 0):
        raise LogError("compress cannot be true when max-file is less than 2 or max-size is not set")
    return LogFile(spec["path"], capacity=capacity, files=files, compress=compress, watch=watch, limit=limit)


def _open_remote(spec: dict[str, Any], watch: Watch, loop: Loop, limit: int | None) -> Log:
    """A log elsewhere, with a `local` file beside it where `path` is given (options `cache-...`)."""
    options = spec["options"]
    sink = logremote.open_sink(options, loop, limit)
    make = logremote.encoders(spec["driver"], options, sink)
    if not spec["path"]:
        return Log(logremote.Forwarding(sink, None), lambda stream: make(stream, None))
    beside = {"driver": "local", "path": spec["path"], "options": logremote.with_prefix(options, "cache-")}
    attributes = logremote.with_prefix(options, ATTRIBUTE)
    file = logremote.Forwarding(sink, _open_file(beside, watch, limit))
    return Log(file, lambda stream: make(stream, LocalEncoder(stream, attributes)))
