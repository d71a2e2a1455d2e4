"""Namespaces that stand ready, so that a container's start does not wait for one to be made.

A *plain* spare is a namespace with its loopback up. A *plugged* one is on the default bridge as well,
with address and route: taking it costs no system call. Both have their sandbox ID already, which is the
name of the file they are bound at. Spares are in no record; after a crash they are swept like anything
that nobody owns.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from daemon.network.bridge import BridgePlan
from daemon.network.ipam import AddressSpace, mac_for
from daemon.network.kernel import Interface, Kernel
from daemon.network.namespaces import Namespace
from daemon.network.worker import Worker
from storage.errors import Conflict

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spare:
    sandbox_id: str
    namespace: Namespace
    interface: Interface | None = None


class Pool:
    """Spares of both kinds. `take` never waits for a refill: with none ready it makes one."""

    def __init__(self, worker: Worker, kernel: Kernel, *, plain: int = 2, plugged: int = 4) -> None:
        self._worker = worker
        self._kernel = kernel
        self._target = {False: plain, True: plugged}
        self._ready: dict[bool, deque[Spare]] = {False: deque(), True: deque()}
        self._network: tuple[BridgePlan, AddressSpace] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, plan: BridgePlan, space: AddressSpace) -> None:
        """Begin to fill; `plan` and `space` are the default bridge's."""
        self._network = plan, space
        self._task = asyncio.create_task(self._refill(), name="network pool")
        self._wake.set()

    async def stop(self) -> None:
        """Stop filling and drop what is ready."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for spare in [*self._ready[False], *self._ready[True]]:
            await self._worker.run(self._kernel.drop_namespace, spare.namespace)
            self._forget(spare)
        self._ready = {False: deque(), True: deque()}

    async def take(self, *, plugged: bool) -> Spare:
        """A spare, now the caller's."""
        ready = self._ready[plugged]
        self._wake.set()
        return ready.popleft() if ready else await self._make(plugged=plugged)

    @property
    def full(self) -> bool:
        """Whether every spare is ready (tests and measurements wait for it)."""
        return all(len(self._ready[kind]) >= self._target[kind] for kind in (False, True))

    async def _refill(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for kind in (True, False):
                while len(self._ready[kind]) < self._target[kind]:
                    try:
                        self._ready[kind].append(await self._make(plugged=kind))
                    except Conflict:
                        break  # the subnet is full; a container that leaves wakes nobody, the next take does
                    except Exception:
                        log.exception("cannot make a spare network namespace")
                        await asyncio.sleep(1)
                        break

    async def _make(self, *, plugged: bool) -> Spare:
        sandbox_id = os.urandom(32).hex()
        if not plugged or self._network is None:
            namespace = await self._finish(self._worker.run(self._kernel.make_namespace, sandbox_id))
            return Spare(sandbox_id, namespace)
        plan, space = self._network
        address = space.allocate()
        interface = Interface(
            f"veth{sandbox_id[:7]}", f"{plan.prefix}0", space.interface(address), mac_for(address)
        )
        try:
            making = self._worker.run(self._make_plugged, sandbox_id, plan, interface)
            return Spare(sandbox_id, await self._finish(making), interface)
        except BaseException:
            space.release(address)
            raise

    async def _finish(self, making: Coroutine[Any, Any, Namespace]) -> Namespace:
        """Wait for the thread; if the waiter is cancelled, what the thread goes on to make is undone."""
        job = asyncio.ensure_future(making)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            job.add_done_callback(self._abandon)
            raise

    def _make_plugged(self, sandbox_id: str, plan: BridgePlan, interface: Interface) -> Namespace:
        namespace = self._kernel.make_namespace(sandbox_id)
        try:
            self._kernel.plug(namespace, plan, interface, gateway=not plan.internal)
        except BaseException:
            self._kernel.drop_namespace(namespace)
            raise
        return namespace

    def _abandon(self, done: asyncio.Future[Namespace]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._worker.later(self._kernel.drop_namespace, done.result())

    def _forget(self, spare: Spare) -> None:
        if self._network is not None and spare.interface is not None:
            self._network[1].release(spare.interface.address.ip)
