"""How a build tells what it does: vertices that start, log, fail, finish; whoever shows it reads one feed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from daemon.build.graph import Vertex

MAX_LOG = 2 << 20
"""Bytes of a step's output that are kept for those who look later; BuildKit cuts at the same place."""


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
    logged: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def log(self, data: bytes, stream: int = 1) -> None:
        if self.logged > MAX_LOG:
            return
        self.logged += len(data)
        if self.logged > MAX_LOG:
            data = b"\n[output clipped, log limit 2MiB reached]\n"
        self.chunks.append((stream, data))
        self._wake()

    def start(self) -> None:
        self.state, self.started = "running", time.time_ns()
        self._wake()

    def finish(self, state: str, error: str = "") -> None:
        self.state, self.error, self.finished = state, error, time.time_ns()
        self._wake()

    @property
    def over(self) -> bool:
        return self.state in ("done", "cached", "failed")

    def _wake(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    def tail(self, size: int = 4096) -> bytes:
        return b"".join(data for _, data in self.chunks)[-size:]
