"""Logs read back from the system's journal, where the journald driver has sent them.

Model
    The journal that is read is the one behind the socket that is written to: the system's own, or that of the
    namespace NAME for `/run/systemd/journal.NAME/socket` (systemd-journald.service(8)). Where it cannot be read (no
    journalctl, a socket that is something else's), the driver keeps a copy beside, as for syslog.

    A cursor asks `journalctl -o export` (systemd.io/JOURNAL_EXPORT_FORMATS) for what comes after the last entry that
    it has seen; `--sync` before makes the journal take in what was sent already.

Which fields make an entry is moby's (daemon/logger/journald/read.go): PRIORITY tells the stream, SYSLOG_TIMESTAMP
the time, and what is neither journald's own nor well known is an attribute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from daemon.clock import parse_rfc3339, rfc3339
from daemon.containers.logs.entry import Entry, Place, Selection
from daemon.runtime.logremote import EPOCH_DIGITS
from storage.errors import Internal

BATCH = 1 << 18
PATIENCE = 30.0
_SOCKET = re.compile(r"/run/systemd/journal(?:\.([a-zA-Z0-9_.:-]+))?/socket")
_STREAMS = {b"6": "stdout", b"3": "stderr"}
_WELL_KNOWN = re.compile(
    r"MESSAGE(_ID)?|PRIORITY|CODE_(FILE|LINE|FUNC)|ERRNO|SYSLOG_\w+|CONTAINER_(NAME|ID|ID_FULL|TAG)|IMAGE_NAME"
    r"|CONTAINER_PARTIAL_\w+|CONTAINER_LOG_(EPOCH|ORDINAL)"
)


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal that can be read; `namespace` is "" for the system's own."""

    namespace: str

    def command(self, *words: str) -> list[str]:
        chosen = [f"--namespace={self.namespace}"] if self.namespace else []
        return ["journalctl", "--quiet", *chosen, *words]

    def directories(self) -> list[str]:
        """Where its files are: their growth is what a follower waits for."""
        try:
            name = Path("/etc/machine-id").read_text().strip()
        except OSError:
            return []
        name += f".{self.namespace}" if self.namespace else ""
        return [path for base in ("/run", "/var") if os.path.isdir(path := f"{base}/log/journal/{name}")]


def journal_behind(socket: Path) -> Journal | None:
    """None when what is sent to that socket cannot be read back."""
    match = _SOCKET.fullmatch(str(socket))
    if match is None or shutil.which("journalctl") is None:
        return None
    return Journal(match[1] or "")


class JournalLog:
    """A `LogSource`."""

    def __init__(self, journal: Journal, container_id: str) -> None:
        self._journal = journal
        self._id = container_id

    def open(self, selection: Selection) -> JournalCursor:
        return JournalCursor(self._journal, self._id, selection)

    def end(self) -> Place | None:
        return None

    def size(self) -> int:
        return 0

    def directories(self) -> list[str]:
        return self._journal.directories()


class JournalCursor:
    """See `entry.Cursor`. A `Place` in a journal: `offset` messages of the epoch `inode`, which is a keeper's time
    with a container (daemon/runtime/logremote.py)."""

    def __init__(self, journal: Journal, container_id: str, selection: Selection) -> None:
        self.finished = False
        self._journal = journal
        self._matches = [f"CONTAINER_ID_FULL={container_id}"]
        if len(selection.streams) == 1:
            self._matches += [f"PRIORITY={p.decode()}" for p, s in _STREAMS.items() if s in selection.streams]
        self._selection = selection
        self._tail = selection.tail
        self._after = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._stop = Place(0, 0)

    def stop_at(self, place: Place) -> None:
        self._stop = place

    def batch(self) -> list[Entry]:
        """Raises Internal when journalctl does."""
        if self.finished:
            self.close()
            return []
        if self._process is None:
            self._sync()
            if self._tail == 0:
                self._tail, self._after = -1, self._last().get("__CURSOR", b"")
                return []
            self._process = self._ask()
        while self._process is not None:
            assert self._process.stdout is not None
            data = os.read(self._process.stdout.fileno(), BATCH)
            records, self._pending = split(self._pending + data)
            if not data:
                self._ended()
            chosen = [entry for record in records if (entry := self._entry(record)) is not None]
            if chosen:
                return chosen
        return []

    def _ask(self) -> subprocess.Popen[bytes]:
        chosen, words = self._selection, ["--output=export", "--all"]
        if self._after:
            words.append(f"--after-cursor={self._after.decode()}")
        else:
            words += [f"--since=@{chosen.since // 10**9}"] if chosen.since else []
            words += [f"--lines={self._tail}"] if self._tail > 0 else []
        words += [f"--until=@{chosen.until // 10**9 + 1}"] if chosen.until else []
        return subprocess.Popen(
            self._journal.command(*words, *self._matches), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _ended(self) -> None:
        process, self._process, self._tail = self._process, None, -1
        assert process is not None
        _, complaint = process.communicate()
        if process.returncode and complaint.strip():
            raise Internal(f"journalctl: {complaint.decode(errors='replace').strip()}")

    def _sync(self) -> None:
        command = self._journal.command("--sync")
        subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)

    def _last(self) -> dict[str, bytes]:
        """The container's newest entry."""
        command = self._journal.command("--output=export", "--all", "--lines=1", self._matches[0])
        found = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
        return next(iter(split(found.stdout)[0]), {})

    def _entry(self, record: dict[str, bytes]) -> Entry | None:
        self._after = record.get("__CURSOR", self._after)
        stream = _STREAMS.get(record.get("PRIORITY", b""))
        if stream is None or "MESSAGE" not in record or stream not in self._selection.streams:
            return None
        if self._stop.inode and self._beyond(record):
            self.finished = True
            return None
        stamp = _time(record)
        if self._selection.since or self._selection.until:
            at = parse_rfc3339(stamp)
            if at < self._selection.since or (self._selection.until and at > self._selection.until):
                return None
        line = record["MESSAGE"] + (b"" if record.get("CONTAINER_PARTIAL_MESSAGE") == b"true" else b"\n")
        attrs = {k: v.decode(errors="replace") for k, v in record.items() if _attribute(k)}
        return Entry(stream, stamp, line, attrs)

    def _beyond(self, record: dict[str, bytes]) -> bool:
        epoch, ordinal = record.get("CONTAINER_LOG_EPOCH", b""), record.get("CONTAINER_LOG_ORDINAL", b"")
        try:
            return int(epoch[:EPOCH_DIGITS], 16) == self._stop.inode and int(ordinal) > self._stop.offset
        except ValueError:  # anybody may send to the journal
            return False

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _attribute(name: str) -> bool:
    return not name.startswith("_") and _WELL_KNOWN.fullmatch(name) is None


def _time(record: dict[str, bytes]) -> str:
    """When it was printed, else when the journal got it."""
    stamp = record.get("SYSLOG_TIMESTAMP", b"").decode(errors="replace")
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp):
        return stamp
    return rfc3339(int(record.get("__REALTIME_TIMESTAMP", b"0")) * 1000)


def split(data: bytes) -> tuple[list[dict[str, bytes]], bytes]:
    """Whole entries of the export format, and what is left of an unfinished one."""
    records: list[dict[str, bytes]] = []
    begin = position = 0
    record: dict[str, bytes] = {}
    while (end := data.find(b"\n", position)) >= 0:
        line = data[position:end]
        name, equals, value = line.partition(b"=")
        if not line:
            if record:
                records.append(record)
            record, begin = {}, end + 1
        elif not equals:
            size = int.from_bytes(data[end + 1 : end + 9], "little")
            if len(data) < end + 10 + size:
                break
            value = data[end + 9 : end + 9 + size]
            end += 9 + size
            record[name.decode()] = value
        else:
            record[name.decode()] = value
        position = end + 1
    return records, data[begin:]
