"""How a build tells what it does: vertices that start, log, fail, finish; whoever shows it reads one feed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from daemon.build.dockerfile.source import Span
from daemon.build.graph import Vertex

MAX_LOG = 2 << 20
"""Bytes of a step's output that are kept for those who look later; BuildKit cuts at the same place."""
CANCELED = "context canceled"
"""The error of a step that was stopped, by the clients' convention: they show it as CANCELED."""


@dataclass
class Status:
    """A part of a vertex's work that has a line of its own: a layer that is exported, a context that comes.

    `current` and `total` are bytes (`total` 0: not known, or nothing to count); times in nanoseconds, 0: not yet.
    """

    id: str
    name: str
    current: int = 0
    total: int = 0
    started: int = 0
    completed: int = 0
    notify: Callable[[], None] = lambda: None

    def advance(self, current: int, total: int | None = None) -> None:
        self.current, self.total = current, self.total if total is None else total
        self.notify()

    def finish(self) -> None:
        self.completed = time.time_ns()
        self.notify()


@dataclass(frozen=True)
class Remark:
    """A warning: what clients print when the build is over."""

    short: str
    detail: tuple[str, ...] = ()
    url: str = ""
    level: int = 1
    filename: str = ""
    text: bytes = b""
    """The whole file, for the excerpt."""
    spans: tuple[Span, ...] = ()


@dataclass
class Progress:
    """One vertex of one build. `chunks` grows while it runs; `changed` wakes readers."""

    vertex: Vertex
    state: str = "waiting"
    """waiting, running, done, cached, failed"""
    started: int = 0
    finished: int = 0
    error: str = ""
    exit_code: int | None = None
    chunks: list[tuple[int, bytes]] = field(default_factory=list)
    """(stream, data): 1 is stdout, 2 stderr."""
    moments: list[int] = field(default_factory=list)
    """When each of the chunks came, in nanoseconds."""
    statuses: dict[str, Status] = field(default_factory=dict)
    warnings: list[Remark] = field(default_factory=list)
    logged: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    notify: Callable[[Progress], None] = lambda progress: None

    @property
    def digest(self) -> str:
        return self.vertex.digest

    @property
    def name(self) -> str:
        return self.vertex.about.name

    @property
    def inputs(self) -> tuple[str, ...]:
        """Digests of the vertices that this one waits for."""
        return tuple(dict.fromkeys(each.vertex.digest for each in self.vertex.inputs if each))

    def log(self, data: bytes, stream: int = 1) -> None:
        if self.logged > MAX_LOG:
            return
        self.logged += len(data)
        if self.logged > MAX_LOG:
            data = b"\n[output clipped, log limit 2MiB reached]\n"
        self.chunks.append((stream, data))
        self.moments.append(time.time_ns())
        self.wake()

    def start(self) -> None:
        self.state, self.started = "running", time.time_ns()
        self.wake()

    def finish(self, state: str, error: str = "") -> None:
        self.state, self.error, self.finished = state, error, time.time_ns()
        self.wake()

    @contextlib.contextmanager
    def status(self, name: str, id: str = "", total: int = 0, *, at_once: bool = True) -> Iterator[Status]:
        """A line below the vertex for as long as the block runs. `id`: tells apart those of one name.

        `at_once`: before there is anything to tell of it.
        """
        made = Status(id or name, name, 0, total, time.time_ns())

        def notify() -> None:
            self.statuses[made.id] = made
            self.wake()

        made.notify = notify
        if at_once:
            notify()
        try:
            yield made
        finally:
            made.finish()

    def warn(self, remark: Remark) -> None:
        self.warnings.append(remark)
        self.wake()

    @property
    def over(self) -> bool:
        return self.state in ("done", "cached", "failed")

    def wake(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()
        self.notify(self)

    def tail(self, size: int = 4096) -> bytes:
        return b"".join(data for _, data in self.chunks)[-size:]


class Feed:
    """What changes in one build, for any number of readers, each at its own pace."""

    def __init__(self) -> None:
        self._all: dict[str, Progress] = {}
        self._readers: dict[int, tuple[dict[str, Progress], asyncio.Event]] = {}
        self._closed = False

    def note(self, progress: Progress) -> None:
        self._all[progress.digest] = progress
        for unseen, event in self._readers.values():
            unseen[progress.digest] = progress
            event.set()

    @property
    def first(self) -> Progress | None:
        """What was told of first."""
        return next(iter(self._all.values()), None)

    def close(self) -> None:
        """The build is over: readers end when they have seen all."""
        self._closed = True
        for _, event in self._readers.values():
            event.set()

    async def read(self, pause: float = 0.0) -> AsyncGenerator[list[Progress], None]:
        """What there is, then what changes, until the feed is closed. A busy build is told of every `pause` s."""
        unseen, event = dict(self._all), asyncio.Event()
        self._readers[id(event)] = (unseen, event)
        try:
            while True:
                if unseen:
                    told = list(unseen.values())
                    unseen.clear()
                    yield told
                if self._closed and not unseen:
                    return
                event.clear()
                if not unseen and not self._closed:
                    await event.wait()
                if pause and not self._closed:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._until_closed(event), pause)
        finally:
            del self._readers[id(event)]

    async def _until_closed(self, event: asyncio.Event) -> None:
        while not self._closed:
            event.clear()
            await event.wait()
