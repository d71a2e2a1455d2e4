"""Records of builds that are over: `docker buildx history`. The last ones, for two days (BuildKit's defaults).

build/history/REF.json   what was asked for and what came of it
build/history/REF.log    the status messages, each with its length before it (4 bytes)
build/history/REF.0      the provenance of what was made for the first platform, and so on
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import struct
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.build.doors.chosen import chosen
from daemon.build.export import ARCHIVES, IMAGES
from daemon.images.model import digest_of
from storage.errors import NotFound, PydError

if TYPE_CHECKING:
    from daemon.build.bench import Job
    from daemon.build.doors.bridge import Bridge
    from daemon.build.doors.gateway import Order

log = logging.getLogger("pyd.build")
KEEP = 50
KEEP_SECONDS = 48 * 3600
PROVE_AFTER = 1.0
"""Seconds after a build that its provenance is made, unless somebody asks: it costs the loop some milliseconds."""
_SECOND = 1_000_000_000
_LENGTH = struct.Struct("<I")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
STARTED, COMPLETE, DELETED = "started", "complete", "deleted"


@dataclass(frozen=True)
class Proof:
    """A provenance predicate."""

    platform: str
    kind: str
    digest: str
    size: int


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
    several: bool = False
    """Whether the result is one of several platforms."""
    proofs: list[Proof] = field(default_factory=list)
    proving: asyncio.Task[None] | None = None
    """Makes the proofs, after the answer."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody waits for them."""
    job: Job | None = None
    """While it runs."""

    @property
    def failure(self) -> bytes:
        """The gRPC status with all its details, for those who ask for it by its digest."""
        return base64.b64decode(self.error)

    @property
    def result(self) -> tuple[int, dict[str, Any]] | None:
        """The descriptor of the image that was made, and which of the exporters made it."""
        makers = [n for n, (kind, _) in enumerate(self.exporters) if kind in IMAGES | ARCHIVES]
        text = self.answer.get("containerimage.descriptor")
        return (makers[-1], json.loads(base64.b64decode(text))) if makers and text else None

    def fields(self) -> dict[str, Any]:
        """What is written down."""
        aside = ("job", "proving", "asked")
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in aside}
        return found | {"proofs": [asdict(proof) for proof in self.proofs]}


class History:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, Past] = {}
        self._unwritten: dict[str, bytes] = {}
        """Files that are not on disk yet, by their names."""
        self._listeners: set[asyncio.Queue[tuple[str, Past]]] = set()
        self._writing: set[asyncio.Task[None]] = set()
        self._load()

    def _load(self) -> None:
        for path in self._directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                past = Past(**json.loads(path.read_text()))
                past.exporters = [(kind, attrs) for kind, attrs in past.exporters]
                past.proofs = [Proof(**each) for each in past.proofs]  # type: ignore[arg-type]
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
        from daemon.build.doors import failure
        from daemon.build.doors.telling import Teller

        frontend, attrs = bridge.front
        past.frontend, past.attrs = frontend, dict(attrs)
        past.completed, past.answer, past.job = time.time_ns(), answer, None
        if error is not None:
            past.error = base64.b64encode(failure.status(error).SerializeToString()).decode()
        seen = list(bridge.job.progress.values())
        shown = [each for each in seen if each.started or each.over]
        past.steps = len(seen)
        past.cached = sum(each.state == "cached" for each in shown)
        past.finished = sum(bool(each.over) for each in shown)
        past.warnings = sum(len(each.warnings) for each in seen)
        messages = [message.SerializeToString() for message in Teller().tell(shown)]
        data = b"".join(_LENGTH.pack(len(each)) + each for each in messages)
        past.log, past.size = f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)
        self._unwritten[f"{past.ref}.log"] = data
        self._tell(COMPLETE, past)
        past.proving = self._later(self._settle(past, bridge))
        self._forget_old()

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def _settle(self, past: Past, bridge: Bridge) -> None:
        """What the answer need not wait for: all that on disk, and when the loop has time the proofs."""
        await self._write(past)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(past.asked.wait(), PROVE_AFTER)
        past.several = bridge.done is not None and bridge.done[0].multi
        try:
            for place, (platform, kind, data) in enumerate(await bridge.provenance()):
                self._unwritten[f"{past.ref}.{place}"] = data
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                past.proofs.append(Proof(platform, kind, digest, len(data)))
        except PydError as error:
            log.warning("no provenance for the record of build %s: %s", past.ref, error)
        past.proving = None
        await self._write(past)

    async def _write(self, past: Past) -> None:
        if not _NAME.fullmatch(past.ref):
            return  # kept while this daemon runs
        files = {name: data for name, data in self._unwritten.items() if name.startswith(f"{past.ref}.")}

        def work() -> None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, data in files.items():
                (self._directory / name).write_bytes(data)
            aside = self._directory / f"{past.ref}.new"
            aside.write_text(json.dumps(past.fields()))
            aside.replace(self._directory / f"{past.ref}.json")

        with contextlib.suppress(OSError):
            await asyncio.to_thread(work)
            for name in files:
                self._unwritten.pop(name, None)

    def _forget_old(self) -> None:
        over = sorted((each for each in self._records.values() if each.completed), key=lambda p: p.completed)
        limit = time.time_ns() - KEEP_SECONDS * _SECOND
        for number, past in enumerate(over):
            if not past.pinned and (len(over) - number > KEEP or past.completed < limit):
                self._remove(past)

    async def settle(self) -> None:
        """Waits for what is being written."""
        for past in self._records.values():
            past.asked.set()
        await asyncio.gather(*self._writing, return_exceptions=True)

    # -- changing

    def pin(self, ref: str, pinned: bool) -> None:
        past = self._known(ref)
        past.pinned, past.generation = pinned, past.generation + 1
        self._tell(COMPLETE if past.completed else STARTED, past)
        if past.completed:
            self._later(self._write(past))

    def delete(self, ref: str) -> None:
        """NotFound for one that there is not; one that runs is forgotten when it is over."""
        past = self._known(ref)
        if past.completed:
            self._remove(past)

    def _remove(self, past: Past) -> None:
        del self._records[past.ref]
        for name in [name for name in self._unwritten if name.startswith(f"{past.ref}.")]:
            del self._unwritten[name]
        if _NAME.fullmatch(past.ref):
            suffixes = ("json", "log", *range(len(past.proofs)))
            paths = [self._directory / f"{past.ref}.{suffix}" for suffix in suffixes]
            self._later(asyncio.to_thread(_unlink, paths))
        self._tell(DELETED, past)

    def _known(self, ref: str) -> Past:
        if (past := self._records.get(ref)) is None:
            raise NotFound(f"could not find build {ref}")
        return past

    # -- reading

    async def log(self, past: Past) -> list[bytes]:
        """The status messages, encoded."""
        return list(_split(await self._file(past, "log") or b""))

    async def _file(self, past: Past, suffix: str) -> bytes | None:
        name = f"{past.ref}.{suffix}"
        if name in self._unwritten:
            return self._unwritten[name]
        if not _NAME.fullmatch(past.ref):
            return None
        with contextlib.suppress(OSError):
            return await asyncio.to_thread((self._directory / name).read_bytes)
        return None

    async def blob(self, digest: str) -> bytes | None:
        """A log, a failure or a proof by its digest, as records name it."""
        for past in self._records.values():
            if past.log == digest:
                return await self._file(past, "log")
            if past.error and digest_of(past.failure) == digest:
                return past.failure
            for place, proof in enumerate(past.proofs):
                if proof.digest == digest:
                    return await self._file(past, str(place))
        return None

    async def finalize(self, ref: str) -> None:
        """Waits for the proofs of a build that is over. NotFound for one that there is not."""
        await _proven(self._known(ref))

    async def listen(
        self,
        *,
        ref: str = "",
        active_only: bool = False,
        early_exit: bool = False,
        filters: Sequence[str] = (),
        limit: int = 0,
    ) -> AsyncGenerator[tuple[str, Past], None]:
        """(what happened, record): first what there is, then (unless `early_exit`) what happens.

        `filters` and `limit` are for builds that are over (chosen.py).
        """
        queue: asyncio.Queue[tuple[str, Past]] = asyncio.Queue()
        self._listeners.add(queue)
        known = [past for past in self._records.values() if not ref or past.ref == ref]
        over = [] if active_only else [past for past in known if past.completed]
        try:
            for past in sorted((past for past in known if not past.completed), key=lambda past: past.created):
                yield STARTED, past
            for past in chosen(sorted(over, key=lambda past: past.created), filters, limit):
                if ref or early_exit:
                    await _proven(past)
                yield COMPLETE, past
            while not early_exit:
                event, past = await queue.get()
                if not ref or past.ref == ref:
                    yield event, past
        finally:
            self._listeners.discard(queue)

    def _tell(self, event: str, past: Past) -> None:
        for queue in self._listeners:
            queue.put_nowait((event, past))


async def _proven(past: Past) -> None:
    if past.proving is not None:
        past.asked.set()
        await asyncio.shield(past.proving)


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + length]
        at += length
