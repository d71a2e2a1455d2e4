"""Records of builds that are over: `docker buildx history`. The last ones, for two days (BuildKit's defaults).

build/history/REF.json   what was asked for and what came of it
build/history/REF.log    the status messages, each with its length before it (4 bytes)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import struct
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import NotFound

if TYPE_CHECKING:
    from daemon.build.bench import Job
    from daemon.build.bridge import Bridge
    from daemon.build.gateway import Order

KEEP = 50
KEEP_SECONDS = 48 * 3600
_SECOND = 1_000_000_000
_LENGTH = struct.Struct("<I")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
STARTED, COMPLETE, DELETED = "started", "complete", "deleted"


@dataclass
class Past:
    """One build. Times in nanoseconds; `completed` 0 while it runs."""

    ref: str
    frontend: str = ""
    attrs: dict[str, str] = field(default_factory=dict)
    exporters: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    created: int = 0
    completed: int = 0
    error: str = ""
    """The gRPC status, encoded and in base64; empty: none."""
    answer: dict[str, str] = field(default_factory=dict)
    pinned: bool = False
    steps: int = 0
    cached: int = 0
    finished: int = 0
    warnings: int = 0
    log: str = ""
    """Digest of the log."""
    size: int = 0
    generation: int = 1
    job: Job | None = None
    """While it runs."""

    def fields(self) -> dict[str, Any]:
        job, self.job = self.job, None
        try:
            return {name: value for name, value in asdict(self).items() if name != "job"}
        finally:
            self.job = job


class History:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, Past] = {}
        self._logs: dict[str, bytes] = {}
        """Those that are not on disk yet."""
        self._listeners: set[asyncio.Queue[tuple[str, Past]]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        self._load()

    def _load(self) -> None:
        for path in self._directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                past = Past(**json.loads(path.read_text()))
                past.exporters = [(kind, attrs) for kind, attrs in past.exporters]
                self._records[past.ref] = past

    def get(self, ref: str) -> Past | None:
        return self._records.get(ref)

    # -- recording

    def begin(self, order: Order, job: Job) -> Past:
        past = Past(order.ref, order.frontend, dict(order.attrs), created=job.started, job=job)
        past.exporters = [(each.type, dict(each.attrs)) for each in order.exporters]
        self._records[past.ref] = past
        self._tell(STARTED, past)
        return past

    def end(self, past: Past, bridge: Bridge, answer: dict[str, str], error: BaseException | None) -> None:
        """Notes how it went; writing it down happens aside."""
        from daemon.build import failure
        from daemon.build.telling import Teller

        frontend, attrs = bridge.front
        past.frontend, past.attrs = frontend, dict(attrs)
        past.completed, past.answer, past.job = time.time_ns(), answer, None
        if error is not None:
            past.error = base64.b64encode(failure.status(error).SerializeToString()).decode()
        seen = list(bridge.job.progress.values())
        shown = [each for each in seen if each.started or each.over]
        past.steps = len(seen)
        past.cached = sum(each.state == "cached" for each in shown)
        past.finished = sum(each.state in ("done", "cached") for each in shown)
        past.warnings = sum(len(each.warnings) for each in seen)
        messages = [message.SerializeToString() for message in Teller().tell(shown)]
        log = b"".join(_LENGTH.pack(len(each)) + each for each in messages)
        past.log, past.size = f"sha256:{hashlib.sha256(log).hexdigest()}", len(log)
        self._logs[past.ref] = log
        self._tell(COMPLETE, past)
        self._later(self._write(past, log))
        self._forget_old()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, past: Past, log: bytes | None) -> None:
        if not _NAME.fullmatch(past.ref):
            return  # kept while this daemon runs

        def work() -> None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if log is not None:
                (self._directory / f"{past.ref}.log").write_bytes(log)
            aside = self._directory / f"{past.ref}.new"
            aside.write_text(json.dumps(past.fields()))
            aside.replace(self._directory / f"{past.ref}.json")

        with contextlib.suppress(OSError):
            await asyncio.to_thread(work)
            if log is not None:
                self._logs.pop(past.ref, None)

    def _forget_old(self) -> None:
        over = sorted((each for each in self._records.values() if each.completed), key=lambda p: p.completed)
        limit = time.time_ns() - KEEP_SECONDS * _SECOND
        for number, past in enumerate(over):
            if not past.pinned and (len(over) - number > KEEP or past.completed < limit):
                self._remove(past)

    async def settle(self) -> None:
        """Waits for what is being written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    # -- changing

    def pin(self, ref: str, pinned: bool) -> None:
        past = self._known(ref)
        past.pinned, past.generation = pinned, past.generation + 1
        self._tell(COMPLETE if past.completed else STARTED, past)
        if past.completed:
            self._later(self._write(past, None))

    def delete(self, ref: str) -> None:
        """NotFound for one that there is not; one that runs is forgotten when it is over."""
        past = self._known(ref)
        if past.completed:
            self._remove(past)

    def _remove(self, past: Past) -> None:
        del self._records[past.ref]
        self._logs.pop(past.ref, None)
        if _NAME.fullmatch(past.ref):
            paths = [self._directory / f"{past.ref}.{suffix}" for suffix in ("json", "log")]
            self._later(asyncio.to_thread(_unlink, paths))
        self._tell(DELETED, past)

    def _known(self, ref: str) -> Past:
        if (past := self._records.get(ref)) is None:
            raise NotFound(f"could not find build {ref}")
        return past

    # -- reading

    async def log(self, past: Past) -> list[bytes]:
        """The status messages, encoded."""
        return list(_split(await self._log(past)))

    async def _log(self, past: Past) -> bytes:
        if past.ref in self._logs:
            return self._logs[past.ref]
        if not _NAME.fullmatch(past.ref):
            return b""
        with contextlib.suppress(OSError):
            return await asyncio.to_thread((self._directory / f"{past.ref}.log").read_bytes)
        return b""

    async def blob(self, digest: str) -> bytes | None:
        """A log by its digest, as records name it."""
        for past in self._records.values():
            if past.log == digest:
                return await self._log(past)
        return None

    async def listen(
        self, *, ref: str = "", active_only: bool = False, early_exit: bool = False
    ) -> AsyncGenerator[tuple[str, Past], None]:
        """(what happened, record): first what there is, then (unless `early_exit`) what happens."""
        queue: asyncio.Queue[tuple[str, Past]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            for past in sorted(self._records.values(), key=lambda each: each.created):
                if (not ref or past.ref == ref) and not (active_only and past.completed):
                    yield COMPLETE if past.completed else STARTED, past
            while not early_exit:
                event, past = await queue.get()
                if not ref or past.ref == ref:
                    yield event, past
        finally:
            self._listeners.discard(queue)

    def _tell(self, event: str, past: Past) -> None:
        for queue in self._listeners:
            queue.put_nowait((event, past))


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _split(log: bytes) -> Iterator[bytes]:
    at = 0
    while at + _LENGTH.size <= len(log):
        (length,) = _LENGTH.unpack_from(log, at)
        at += _LENGTH.size
        yield log[at : at + length]
        at += length
