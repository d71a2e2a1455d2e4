"""Reading container logs back: `logs`, with tail, since, until, timestamps, details and follow.

Entries are read in batches in a thread. Following waits for inotify on the directory, so neither an
idle container nor its followers cost anything; it ends when the container's process has ended and all
that it wrote has been given out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from daemon import inotify
from daemon.clock import parse_rfc3339, parse_timestamp
from daemon.containers.context import Context
from daemon.containers.logs.entry import Entry, LogSource, Place, Selection
from daemon.containers.logs.files import LogFiles
from daemon.containers.logs.journald import JournalLog, journal_behind
from daemon.containers.logs.jsonfile import JsonFormat
from daemon.containers.logs.localfile import LocalFormat
from daemon.containers.logs.options import driver_of, readable_path
from daemon.containers.model import Container
from storage.errors import InvalidArgument, NotImplementedYet

STREAMS = {"stdout": 1, "stderr": 2}
LARGE = 8 << 20
"""Bytes of log that are read before an attaching client's output is held."""


@dataclass(frozen=True)
class LogQuery:
    follow: bool = False
    stdout: bool = False
    stderr: bool = False
    since: int = 0
    until: int = 0
    timestamps: bool = False
    tail: int = -1
    details: bool = False

    @classmethod
    def of(
        cls,
        *,
        follow: bool,
        stdout: bool,
        stderr: bool,
        since: str,
        until: str,
        timestamps: bool,
        tail: str,
        details: bool,
    ) -> LogQuery:
        """From a request's parameters. Raises InvalidArgument."""
        if not stdout and not stderr:
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        lines = -1
        if tail not in ("", "all"):
            try:
                lines = int(tail)
            except ValueError:
                lines = -1
        return cls(
            follow,
            stdout,
            stderr,
            parse_timestamp(since, what="since"),
            parse_timestamp(until, what="until"),
            timestamps,
            lines,
            details,
        )


def source(ctx: Context, container: Container) -> LogSource:
    """Raises NotImplementedYet in Docker's words for drivers that can't be read back."""
    path = readable_path(container, ctx.config)
    if path:
        return LogFiles(path, JsonFormat() if driver_of(container) == "json-file" else LocalFormat())
    if driver_of(container) == "journald" and (journal := journal_behind(ctx.config.journald_socket)):
        return JournalLog(journal, container.id)
    raise NotImplementedYet("configured logging driver does not support reading")


async def read(ctx: Context, container: Container, query: LogQuery) -> AsyncIterator[tuple[int, bytes]]:
    """Pairs of stream (1 stdout, 2 stderr) and text."""
    log = source(ctx, container)
    render = _renderer(query)
    watch = _watch(log, container) if query.follow else None
    ended = _exit_future(container, watch) if watch else None
    left = -1 if query.follow else query.tail
    try:
        cursor = log.open(_selection(query))
        # a container may write faster than its log is read: the answer ends where the log did when it was asked for
        if not query.follow and (end := log.end()) is not None:
            cursor.stop_at(end)
        try:
            while left:
                last_round = ended is None or ended.done()
                while left and (batch := await asyncio.to_thread(cursor.batch)):
                    chosen = batch if left < 0 else batch[:left]
                    left -= len(chosen) if left > 0 else 0
                    for entry in chosen:
                        yield STREAMS[entry.stream], render(entry)
                if last_round or watch is None or cursor.finished:
                    return
                await watch.changed()
        finally:
            cursor.close()
    finally:
        if watch:
            watch.close()
        if ended and not ended.done():
            ended.cancel()


async def read_until(
    ctx: Context, container: Container, query: LogQuery, hold: Callable[[], Awaitable[Place]]
) -> AsyncIterator[tuple[int, bytes]]:
    """What `read` gives, up to the place that `hold` names. It is called once: at the beginning, or, when there
    is much to read, near the end of it, since the container's output has to wait from then on."""
    log = source(ctx, container)
    render = _renderer(query)
    cursor = log.open(_selection(query))
    try:
        behind = await asyncio.to_thread(log.size) > LARGE
        began = time.time_ns()
        while behind and (batch := await asyncio.to_thread(cursor.batch)):
            for entry in batch:
                yield STREAMS[entry.stream], render(entry)
            behind = parse_rfc3339(batch[-1].time) < began
        cursor.stop_at(await hold())
        while batch := await asyncio.to_thread(cursor.batch):
            for entry in batch:
                yield STREAMS[entry.stream], render(entry)
    finally:
        cursor.close()


def _selection(query: LogQuery) -> Selection:
    wanted = {stream for stream, chosen in (("stdout", query.stdout), ("stderr", query.stderr)) if chosen}
    return Selection(frozenset(wanted), query.since, query.until, query.tail)


def _watch(log: LogSource, container: Container) -> inotify.Watch | None:
    if not container.state.running:
        return None
    watch = inotify.Watch()
    for directory in log.directories():
        watch.add(directory, inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO)
    return watch


def _exit_future(container: Container, watch: inotify.Watch) -> asyncio.Future[dict[str, object]]:
    future: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
    container.exit_waiters.append(future)

    def done(_: object) -> None:
        if future in container.exit_waiters:
            container.exit_waiters.remove(future)
        watch.wake()

    future.add_done_callback(done)
    return future


def _renderer(query: LogQuery) -> Callable[[Entry], bytes]:
    def render(entry: Entry) -> bytes:
        text = entry.line
        if query.details:
            details = ",".join(f"{k}={v}" for k, v in sorted(entry.attrs.items()))
            text = details.encode() + b" " + text
        if query.timestamps:
            text = _fixed(entry.time).encode() + b" " + text
        return text

    return render


def _fixed(stamp: str) -> str:
    """RFC 3339 with all nine digits, as Docker prints log times."""
    base, dot, fraction = stamp.rstrip("Z").partition(".")
    return f"{base}.{fraction.ljust(9, '0')}Z" if dot else f"{base}.000000000Z"
