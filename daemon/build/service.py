"""Builds: what the engine and the API call. The solver and all it needs is loaded by the first build.

Memory of a daemon that builds nothing is this module, the cache's index and its leases.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from daemon.build.upkeep.cache import Cache

if TYPE_CHECKING:
    from daemon.build.bench import Bench
    from daemon.build.doors.fronts import ImageDoor
    from daemon.build.doors.gateway import Gateway
    from daemon.build.request import BuildRequest
    from daemon.build.session.sessions import Sessions
    from daemon.build.upkeep.housekeeping import Housekeeping
    from daemon.build.upkeep.inventory import Record
    from daemon.config import CacheRule
    from daemon.containers.context import Context
    from daemon.images.store import ImageStore
    from daemon.runtime.client import ExitEvent, RuntimeState
    from storage.records import Records

UNKNOWN_EXIT, KILLED_EXIT = 255, 137
_WORKING, _REMOVED = "build-", "removed-build-"
SAVE_AFTER = 1.0
"""Seconds after a build before the times of use of what it found are written."""
COLLECT_AFTER = 60.0
"""Seconds after a build before the cache is looked at for what is too old or too much."""


class Builds:
    """One instance a daemon: made before the image service starts, whose first collection must see the leases."""

    def __init__(self, ctx: Context, records: Records, store: ImageStore) -> None:
        self._ctx, self._store = ctx, store
        self.cache = Cache(records, store.lease)
        self.cache.load()
        self._bench: Bench | None = None
        self._gateway: Gateway | None = None
        self._keeper: Housekeeping | None = None
        self.image_door: ImageDoor | None = None
        """How front ends that run as images reach us; the API sets it before the first build."""
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
        for left in (config.data_root / "build" / "cache").glob("removed-*"):
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
        key = event.id if event.exec_id is None else f"{event.id}/{event.exec_id}"
        waiting = self._bench.exits.get(key) if self._bench else None
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result((event.status, event.oom_killed))
        if event.exec_id is None:
            self._end_others(event.id)
        return True

    def _end_others(self, id: str) -> None:
        """The kernel killed what ran beside a process that ended."""
        for key, waiting in self._bench.exits.items() if self._bench else ():
            if key.startswith(f"{id}/") and not waiting.done():
                waiting.set_result((KILLED_EXIT, False))

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
            if waiting.done():
                self._end_others(id)
        return {id: state for id, state in states.items() if id not in bench.exits}

    def bench(self) -> Bench:
        """What all builds share; made when first needed."""
        if self._bench is None:
            from daemon.build.bench import Bench
            from daemon.build.session.sessions import Sessions
            from daemon.build.upkeep.cachemounts import CacheMounts
            from daemon.build.workshop import Workshop

            config = self._ctx.config
            root = config.data_root
            workshop = Workshop(self._store.content.root)
            sessions = Sessions(workshop, root / "build" / "contexts", config.exec_root / "build")
            mounts = CacheMounts(root / "build" / "cache")
            self._bench = Bench(self._ctx, self._store, self.cache, workshop, root / "tmp", mounts, sessions)
            self._bench.image_door = self.image_door
        return self._bench

    @property
    def sessions(self) -> Sessions:
        """POST /session."""
        return self.bench().sessions

    def gateway(self) -> Gateway:
        """POST /grpc: builds of BuildKit's clients."""
        if self._gateway is None:
            from daemon.build.doors.gateway import Gateway

            self._gateway = Gateway(self.bench(), self._ctx, self._collect_later)
        return self._gateway

    async def build(self, request: BuildRequest, body: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        """POST /build: Docker's JSON messages. Closing the generator stops the build at once."""
        from daemon.build.doors.classic import ClassicBuild
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
                self._collect_later()

        async for line in reported(work):
            yield line

    async def build_second(
        self,
        request: BuildRequest,
        session: str,
        outputs: Sequence[dict[str, Any]],
        body: AsyncIterator[bytes],
    ) -> AsyncIterator[dict[str, Any]]:
        """POST /build?version=2: BuildKit's builder. `session` empty: the body is the context."""
        from daemon.build.doors import second
        from daemon.images.streams import Say, reported

        wanted = second.order(request, session, outputs)
        context = None if request.remote else body

        async def work(say: Say) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._running[wanted.ref] = task
            try:
                await second.build(self.gateway(), wanted, context, say)
            finally:
                self._running.pop(wanted.ref, None)

        async for line in reported(work):
            yield line

    def cancel(self, build_id: str) -> None:
        """POST /build/cancel; an unknown one is over already."""
        task = self._running.get(build_id)
        if task is not None:
            task.cancel()

    # -- the cache

    def _housekeeping(self) -> Housekeeping:
        if self._keeper is None:
            from daemon.build.upkeep.housekeeping import Housekeeping

            self._keeper = Housekeeping(self.bench())
        return self._keeper

    async def rows(self) -> list[dict[str, Any]]:
        """Docker's BuildCache records (GET /system/df)."""
        if not self.cache.entries and not (self._ctx.config.data_root / "build").exists():
            return []  # nobody ever built here: nothing is loaded for it
        from daemon.build.upkeep.housekeeping import row

        return [row(record) for record in await self.records()]

    async def records(self, filters: Sequence[str] = ()) -> list[Record]:
        """What is kept, the oldest first. `filters`: as BuildKit's clients write them."""
        return await self._housekeeping().records(filters)

    async def prune(self, rule: CacheRule) -> tuple[list[Record], int]:
        """What went, and the bytes that came free. Conflict while another prune runs."""
        gone, freed = await self._housekeeping().prune(rule)
        self._ctx.events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return gone, freed

    def _collect_later(self) -> None:
        """After each build: times of use are written, which no answer waits for, and in the end old and large go."""
        if self._collecting is not None:
            self._collecting.cancel()
        self._collecting = asyncio.get_running_loop().create_task(self._collect())

    async def _collect(self) -> None:
        await asyncio.sleep(SAVE_AFTER)
        await self.cache.save()
        await asyncio.sleep(COLLECT_AFTER)
        await self._housekeeping().collect()
