"""Builds: what the engine and the API call. The solver and all it needs is loaded by the first build.

Memory of a daemon that builds nothing is this module, the cache's index and its leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from daemon.build.cache import Cache, Entry, Selection, selection
from storage.errors import Conflict

if TYPE_CHECKING:
    from daemon.build.bench import Bench
    from daemon.build.gateway import Gateway
    from daemon.build.request import BuildRequest
    from daemon.build.session.sessions import Sessions
    from daemon.containers.context import Context
    from daemon.images.store import ImageStore
    from daemon.runtime.client import ExitEvent, RuntimeState
    from storage.records import Records

UNKNOWN_EXIT = 255
_WORKING, _REMOVED = "build-", "removed-build-"
COLLECT_AFTER = 60.0
"""Seconds after a build before the cache is looked at for what is too old or too much."""
KEEP_BYTES = 20 << 30
KEEP_SECONDS = 30 * 24 * 3600


class Builds:
    """One instance a daemon: made before the image service starts, whose first collection must see the leases."""

    def __init__(self, ctx: Context, records: Records, store: ImageStore) -> None:
        self._ctx, self._store = ctx, store
        self.cache = Cache(records, store.lease)
        self.cache.load()
        self._bench: Bench | None = None
        self._gateway: Gateway | None = None
        self._pruning = False
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._collecting: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Removes what builds were working on when the last daemon ended."""
        await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        for snapshot in list(self._store.snapshots.walk()):
            if snapshot.key.startswith(_WORKING):
                self._store.snapshots.remove(snapshot.key)
        config = self._ctx.config
        for pattern in (f"{_WORKING}*", f"{_REMOVED}*"):
            for left in (config.data_root / "tmp").glob(pattern):
                shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(config.exec_root / "build", ignore_errors=True)

    async def stop(self) -> None:
        """Ends the worker; builds end with their requests."""
        if self._collecting is not None:
            self._collecting.cancel()
        if self._bench is not None:
            if self._gateway is not None:
                await self._gateway.history.settle()
            await self._bench.workshop.close()
            await asyncio.gather(*self._bench.deleting, return_exceptions=True)
            await self.cache.save()

    def on_exit(self, event: ExitEvent) -> bool:
        """Whether the process was a build's."""
        waiting = self._bench.exits.get(event.id) if self._bench else None
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result((event.status, event.oom_killed))
        return True

    async def adopt(self, states: dict[str, RuntimeState]) -> dict[str, RuntimeState]:
        """After the supervisor was replaced: steps that run go on, those that ended meanwhile end now.

        Returns the states that are none of ours.
        """
        bench = self._bench
        if bench is None:
            return states
        if bench.started - states.keys():  # they may have been started since we were told
            fresh = await self._ctx.runtime.states()
            states = states | {id: fresh[id] for id in bench.started & fresh.keys()}
        for id in tuple(bench.started):
            waiting, state = bench.exits.get(id), states.get(id)
            if waiting is None or waiting.done():
                continue
            if state is None:
                waiting.set_result((UNKNOWN_EXIT, False))
            elif state.exit_status is not None:
                waiting.set_result((state.exit_status, state.oom_killed))
        return {id: state for id, state in states.items() if id not in bench.exits}

    def bench(self) -> Bench:
        """What all builds share; made when first needed."""
        if self._bench is None:
            from daemon.build.bench import Bench
            from daemon.build.session.sessions import Sessions
            from daemon.build.workshop import Workshop

            config = self._ctx.config
            root = config.data_root
            workshop = Workshop(self._store.content.root)
            sessions = Sessions(workshop, root / "build" / "contexts", config.exec_root / "build")
            self._bench = Bench(
                self._ctx, self._store, self.cache, workshop, root / "tmp", root / "build" / "cache", sessions
            )
        return self._bench

    @property
    def sessions(self) -> Sessions:
        """POST /session."""
        return self.bench().sessions

    def gateway(self) -> Gateway:
        """POST /grpc: builds of BuildKit's clients."""
        if self._gateway is None:
            from daemon.build.gateway import Gateway

            self._gateway = Gateway(self.bench(), self._ctx, self._saved)
        return self._gateway

    async def _saved(self) -> None:
        """After each build."""
        await self.cache.save()
        self._collect_later()

    async def build(self, request: BuildRequest, body: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        """POST /build: Docker's JSON messages. Closing the generator stops the build at once."""
        from daemon.build.classic import ClassicBuild
        from daemon.images.streams import Say, reported

        async def work(say: Say) -> None:
            task = asyncio.current_task()
            assert task is not None
            if request.build_id:
                self._running[request.build_id] = task
            try:
                with self.bench().workshop.held():
                    await ClassicBuild(self.bench(), request, say, self._ctx).run(body)
            finally:
                self._running.pop(request.build_id, None)
                await asyncio.shield(self._saved())

        async for line in reported(work):
            yield line

    def cancel(self, build_id: str) -> None:
        """POST /build/cancel; an unknown one is over already."""
        task = self._running.get(build_id)
        if task is not None:
            task.cancel()

    # -- the cache

    def rows(self) -> list[dict[str, Any]]:
        return self.cache.rows(self._busy())

    def size(self) -> int:
        return self.cache.size()

    def usage(self, filters: Sequence[str] = ()) -> list[dict[str, Any]]:
        """BuildKit's usage records (`docker buildx du`); times in nanoseconds. Filters as `name==value`."""
        from daemon.build.usage import usage

        return usage(self.cache, self._busy(), filters)

    def _busy(self) -> Callable[[str], bool]:
        running = set(self._bench.running) if self._bench else set()
        return lambda key: key in running

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, all: bool = False, keep: int = 0
    ) -> dict[str, Any]:
        """{"CachesDeleted": [ids] or None, "SpaceReclaimed": bytes}."""
        from daemon.build.cache import identifier

        wanted = selection(filters, all=all, keep=keep)
        chosen, freed = await self._prune(wanted, lambda entry: True, everything=all and not filters)
        return {"CachesDeleted": [identifier(e.key) for e in chosen] or None, "SpaceReclaimed": freed}

    async def prune_records(
        self, filters: Sequence[str], *, all: bool, keep_seconds: float, keep_bytes: int
    ) -> list[dict[str, Any]]:
        """`docker buildx prune`: the usage records of what is gone."""
        from daemon.build.usage import usage

        rows = {row["Key"]: row for row in usage(self.cache, self._busy(), filters)}
        wanted = Selection(all=all, keep=keep_bytes, unused_for=int(keep_seconds * 1_000_000_000))
        everything = all and not filters and not keep_seconds and not keep_bytes
        chosen, _ = await self._prune(wanted, lambda entry: entry.key in rows, everything=everything)
        return [rows[entry.key] for entry in chosen]

    async def _prune(
        self, wanted: Selection, allowed: Callable[[Entry], bool], *, everything: bool
    ) -> tuple[list[Entry], int]:
        """What went, and the bytes that came free with it."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            held = {image.chain_ids[n] for image in self._store for n in range(len(image.chain_ids))}
            chosen = self.cache.choose(
                wanted, now=time.time_ns(), dangling=lambda entry: entry.chain not in held
            )
            busy = self._busy()
            chosen = [entry for entry in chosen if not busy(entry.key) and allowed(entry)]
            freed = sum({e.chain: e.size for e in chosen if e.chain not in held}.values())
            await self.cache.forget([entry.key for entry in chosen])
            await self._store.collect()
            if everything and self._bench is not None and not self._bench.exits:
                freed += await asyncio.to_thread(_remove_tree, self._bench.cache_mounts)
        finally:
            self._pruning = False
        self._ctx.events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return chosen, freed

    def _collect_later(self) -> None:
        """Garbage collection by age and size, some time after the last build."""
        if self._collecting is not None:
            self._collecting.cancel()
        self._collecting = asyncio.get_running_loop().create_task(self._collect())

    async def _collect(self) -> None:
        await asyncio.sleep(COLLECT_AFTER)
        with contextlib.suppress(Conflict):
            await self.prune({"unused-for": [f"{KEEP_SECONDS}s"]}, all=True)
            if self.cache.size() > KEEP_BYTES:
                await self.prune({"unused-for": ["1h"]}, all=True, keep=KEEP_BYTES)


def _remove_tree(path: Any) -> int:
    size = 0
    for each in path.glob("**/*"):
        with contextlib.suppress(OSError):
            size += each.lstat().st_size if not each.is_dir() else 0
    shutil.rmtree(path, ignore_errors=True)
    return size
