"""Namespaces that stand ready, so that a container's start does not wait for one to be made.

A *plain* spare is a namespace with its loopback up. A *plugged* one is on the default bridge as well,
with address and route: taking it costs no system call. A *named* one has the name service's sockets and
rules instead, whose making takes the kernel some 15 ms; they are kept once there is a user-defined
network. All have their sandbox ID already, which is the name of the file they are bound at. Spares are in
no record; after a crash they are swept like anything that nobody owns.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any

from daemon.network.bridge import BridgePlan
from daemon.network.dns import Sockets, open_sockets
from daemon.network.ipam import AddressSpace, mac_for
from daemon.network.kernel import Interface, Kernel
from daemon.network.namespaces import Namespace
from daemon.network.worker import Worker
from storage.errors import Conflict

log = logging.getLogger(__name__)


BREATH = 0.01
"""Seconds between a take and the refill, which are better spent on the container that is starting."""


class Kind(Enum):
    PLAIN = "plain"
    PLUGGED = "plugged"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class Spare:
    sandbox_id: str
    namespace: Namespace
    interface: Interface | None = None
    sockets: Sockets | None = None

    def close(self) -> None:
        """Close the name service's sockets; the namespace is the kernel's to drop."""
        if self.sockets is not None:
            self.sockets.close()


class Pool:
    """Spares of each kind. `take` never waits for a refill: with none ready it makes one."""

    def __init__(self, worker: Worker, kernel: Kernel, *, plain: int = 2, plugged: int = 4) -> None:
        self._worker = worker
        self._slow = Worker("network-names")
        """For what takes long and concerns nobody but one new namespace."""
        self._kernel = kernel
        self._target = {Kind.PLUGGED: plugged, Kind.PLAIN: plain, Kind.NAMED: 0}
        self._ready: dict[Kind, deque[Spare]] = {kind: deque() for kind in Kind}
        self._network: tuple[BridgePlan, AddressSpace] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, plan: BridgePlan, space: AddressSpace) -> None:
        """Begin to fill; `plan` and `space` are the default bridge's."""
        self._network = plan, space
        self._task = asyncio.create_task(self._refill(), name="network pool")
        self._wake.set()

    def keep_named(self, count: int = 2) -> None:
        """Keep named spares from now on: there is a network that wants them."""
        self._target[Kind.NAMED] = count
        self._wake.set()

    async def stop(self) -> None:
        """Stop filling and drop what is ready."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for spare in [spare for ready in self._ready.values() for spare in ready]:
            spare.close()
            await self._worker.run(self._kernel.drop_namespace, spare.namespace)
            self._forget(spare)
        self._ready = {kind: deque() for kind in Kind}
        self._slow.close()

    async def take(self, kind: Kind) -> Spare:
        """A spare, now the caller's."""
        ready = self._ready[kind]
        self._wake.set()
        return ready.popleft() if ready else await self._make(kind)

    @property
    def full(self) -> bool:
        """Whether every spare is ready (tests and measurements wait for it)."""
        return all(len(self._ready[kind]) >= target for kind, target in self._target.items())

    async def _refill(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(BREATH)
            self._wake.clear()
            for kind in self._target:
                while len(self._ready[kind]) < self._target[kind]:
                    try:
                        self._ready[kind].append(await self._make(kind, idle=True))
                    except Conflict:
                        break  # the subnet is full; the next take tries again
                    except Exception:
                        log.exception("cannot make a spare network namespace")
                        await asyncio.sleep(1)
                        break

    async def _make(self, kind: Kind, *, idle: bool = False) -> Spare:
        sandbox_id = os.urandom(32).hex()
        run = self._worker.run_idle if idle else self._worker.run
        if kind is Kind.PLUGGED and self._network is not None:
            return await self._make_on(*self._network, sandbox_id, idle=idle)
        namespace = await self._finish(run(self._kernel.make_namespace, sandbox_id))
        if kind is not Kind.NAMED:
            return Spare(sandbox_id, namespace)
        try:
            return Spare(sandbox_id, namespace, sockets=await self.open_sockets(namespace))
        except BaseException:
            self._worker.later(self._kernel.drop_namespace, namespace)
            raise

    async def open_sockets(self, namespace: Namespace) -> Sockets:
        """The name service inside a namespace; on a thread of its own, since it takes long."""
        return await self._slow.run(open_sockets, namespace)

    async def _make_on(self, plan: BridgePlan, space: AddressSpace, sandbox_id: str, *, idle: bool) -> Spare:
        run = self._worker.run_idle if idle else self._worker.run
        address = space.allocate()
        interface = Interface(
            f"veth{sandbox_id[:7]}", f"{plan.prefix}0", space.interface(address), mac_for(address)
        )
        try:
            making = run(self._make_plugged, sandbox_id, plan, interface)
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
