"""All builds of BuildKit clients: who asked for what, under which reference, and what came of it.

A client opens a session, asks for a build (`solve`), and is then either the front end itself and asks for parts
of the work (daemon.build.doors.bridge) until it returns a result, or names a front end. Whoever knows the reference
can follow the build, from before it is there until its record is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.build.bench import Bench
from daemon.build.doors.bridge import Bridge
from daemon.build.doors.history import History, Past
from daemon.build.outcome import ExporterRequest
from storage.errors import Conflict, NotFound

if TYPE_CHECKING:
    from daemon.build.proto import ops_pb2 as pb
    from daemon.build.proto import policy_pb2 as policies
    from daemon.containers.context import Context

WAITING = 5.0
"""Seconds that a question about a build waits for the build to be there (BuildKit solver/jobs.go: 6)."""
ENDED = 10.0
"""Seconds for which one that is not for the history is told of (solver/jobs.go, Discard)."""
CacheSpec = tuple[str, Mapping[str, str]]


@dataclass(frozen=True)
class Order:
    """What a client wants built. Neither `frontend` nor `definition`: the client is its own front end."""

    ref: str
    session: str = ""
    frontend: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    definition: pb.Definition | None = None
    inputs: Mapping[str, pb.Definition] = field(default_factory=dict)
    exporters: tuple[ExporterRequest, ...] = ()
    cache_imports: tuple[CacheSpec, ...] = ()
    cache_exports: tuple[CacheSpec, ...] = ()
    entitlements: frozenset[str] = frozenset()
    policy: policies.Policy | None = None
    """Which sources may be read, and what instead."""
    internal: bool = False
    """Not for the history."""


class Gateway:
    """One instance a daemon, made by the first BuildKit client."""

    def __init__(self, bench: Bench, ctx: Context, finished: Callable[[], None]) -> None:
        self._bench, self._ctx, self._finished = bench, ctx, finished
        self._running: dict[str, Bridge] = {}
        self._ended: dict[str, Bridge] = {}
        """Builds without a record that were over a moment ago."""
        self._changed = asyncio.Event()
        self.history = History(ctx.config.data_root / "build" / "history")

    async def solve(self, order: Order, body: AsyncIterator[bytes] | None = None) -> dict[str, str]:
        """Builds; the exporters' answers. `body`: the context, for an order without a session.

        Cancelling the caller stops the build at once.
        """
        if order.ref in self._running:
            raise Conflict(f"job ID {order.ref} exists")
        with self._bench.workshop.held():
            bridge = self._running[order.ref] = Bridge(self._bench, self._ctx, order, body)
            self._wake()
            past = None if order.internal else self.history.begin(order, bridge.job)
            error: BaseException | None = None
            answer: dict[str, str] = {}
            try:
                async with bridge:
                    answer = await bridge.run()
                return answer
            except BaseException as caught:
                error = caught
                raise
            finally:
                del self._running[order.ref]
                if past is not None:
                    self.history.end(past, bridge, answer, error)
                else:
                    self._remember(bridge)
                bridge.job.feed.close()
                self._finished()

    def _remember(self, bridge: Bridge) -> None:
        """Who asks for the status of a build without a record may come after its end."""
        ref = bridge.order.ref
        self._ended[ref] = bridge
        asyncio.get_running_loop().call_later(ENDED, self._ended.pop, ref, None)

    def _wake(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def find(self, ref: str, timeout: float = WAITING) -> Bridge:
        """The running build of a reference, waited for. NotFound when it does not come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (found := self._running.get(ref)) is None:
                    await self._changed.wait()
                return found
        raise NotFound(f"no such job {ref}")

    async def follow(self, ref: str) -> Bridge | Past:
        """What tells of a reference: the running build, or the record of one that is over."""
        if ref not in self._running and (over := self.history.get(ref) or self._ended.get(ref)) is not None:
            return over
        return await self.find(ref)
