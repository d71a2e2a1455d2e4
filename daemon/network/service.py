"""The network service: what the engine and the API know of networking.

A network's life: `create` records it, then makes the bridge; `remove` the reverse. A container's: each
`connect` adds an endpoint, the first one with a sandbox (mostly a spare of the pool); `disconnect` ends it.

State lives on the event loop (registry, address spaces, sandboxes, ports); a change is recorded before
the worker thread does it to the kernel, and taken back when that fails. `start` compares the records with
the kernel and with the containers that live, which is all there is to crash recovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from daemon.config import DaemonConfig
from daemon.containers.wire import EndpointSettings, HostConfig
from daemon.network import attach, catalogue, etcfiles, startup
from daemon.network.dns import Sockets
from daemon.network.ipam import AddressSpace
from daemon.network.joining import SANDBOXES, Joining, RecordStore
from daemon.network.kernel import Kernel
from daemon.network.model import Attachment, AttachRequest, EtcFiles
from daemon.network.networks import Network, Registry
from daemon.network.pool import Pool
from daemon.network.ports import PortAllocator
from daemon.network.sandboxes import Sandbox
from daemon.network.serving import Serving
from daemon.network.watch import FirewallWatch
from daemon.network.worker import Worker
from storage.errors import Forbidden, Internal, NotFound
from storage.records import Delete, Put

log = logging.getLogger(__name__)

Emit = Callable[[str, str, str, dict[str, str]], None]
"""Publishes an event: type, action, actor's ID, attributes."""
NETWORKS = "networks"
REAP_AFTER = 2.0
"""Seconds the kernel has to destroy a namespace before its veths are deleted one by one, which is slow."""


class NetworkService:
    """Networks, sandboxes and endpoints of one daemon.

    Lifecycle: `await start(live=ids of containers whose processes live)`, then any number of
    connect/disconnect, at last `await stop()`, which leaves running containers' networking in place.
    Calls for one container are its engine's to serialise; different ones run side by side.
    """

    def __init__(self, config: DaemonConfig, records: RecordStore, emit: Emit) -> None:
        self._config = config
        self._records = records
        self._emit = emit
        self._registry = Registry()
        self._spaces: dict[str, AddressSpace] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._notes: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()
        self._reapers: set[asyncio.TimerHandle] = set()
        self._ports = PortAllocator(ipv6=config.userland_proxy and startup.has_ipv6())
        self._worker = Worker()
        self._serving = Serving(self._sandboxes, self._ports, self._worker, proxying=config.userland_proxy)
        self._kernel: Kernel
        self._pool: Pool
        self._joining: Joining
        self._watch: FirewallWatch | None = None
        """There while the service runs."""

    async def start(self, live: Collection[str] = ()) -> None:
        """Make or adopt bridges and firewall; drop all that belongs to containers not in `live`."""
        try:
            await self._start(live)
        except BaseException:
            self._ports.close()
            self._worker.close()
            raise

    async def _start(self, live: Collection[str]) -> None:
        config = self._config
        self._kernel = await self._worker.run(
            Kernel, config.identity, config.firewall_table, config.exec_root / "netns"
        )
        self._pool = Pool(self._worker, self._kernel)
        self._joining = Joining(
            config.exec_root / "netns",
            self._records,
            self._worker,
            self._kernel,
            self._pool,
            self._ports,
            self._spaces,
        )
        records = self._records.load(NETWORKS), self._records.load(SANDBOXES)
        routes = await self._worker.run(self._kernel.routed)
        found = startup.plan(config, *records, live=live, routes=routes)
        await self._records.write(
            [Put(NETWORKS, network.id, network.record()) for network in found.changed]
            + [Delete(SANDBOXES, container_id) for container_id in found.dead]
        )
        for network in found.networks:
            self._registry.add(network)
        self._sandboxes.update(found.sandboxes)
        await self._worker.run(startup.reconcile, self._kernel, found, forward=config.ip_forward)
        self._spaces.update(startup.spaces(found))
        for container_id, sandbox in self._sandboxes.items():
            for bound in sandbox.bound:
                if not self._ports.restore(bound):
                    log.warning("port %s:%s of %s is in use", bound.host_ip, bound.host_port, sandbox.name)
            for endpoint in sandbox.endpoints:
                self._serving.names.add(endpoint)
            self._serving.publish(container_id)
            await self._resolve_for(container_id)
        bridge = self._registry.resolve("bridge")
        self._watch = FirewallWatch(self._firewall_changed)
        if any(network.subnet and not network.builtin for network in self._registry):
            self._pool.keep_named()
        self._pool.start(bridge.plan, self._spaces[bridge.id])

    async def stop(self) -> None:
        """Drop the spare namespaces, close sockets; containers keep their networking.

        With no container left the bridges and the table go as well; start() makes them again.
        """
        if self._watch is None:
            return
        self._watch.close()
        for timer in self._reapers:
            timer.cancel()
        await self._pool.stop()
        await asyncio.gather(*self._notes, return_exceptions=True)
        for container_id in list(self._sandboxes):
            self._serving.stop(container_id)
        self._ports.close()
        for sandbox in self._sandboxes.values():
            if sandbox.namespace:
                sandbox.namespace.close()
        if not any(sandbox.namespace for sandbox in self._sandboxes.values()):
            await self._worker.run(self._kernel.dissolve)
        await self._worker.run(self._kernel.close)
        self._worker.close()

    # containers

    def check(self, network: str, endpoint: EndpointSettings) -> str:
        """The ID of the network that an endpoint names, or Docker's error when it could never be joined."""
        found = self._registry.resolve(network)
        attach.check_endpoint(found, endpoint)
        return found.id

    async def connect(self, container_id: str, request: AttachRequest) -> Attachment:
        """Join one network; the first call makes the sandbox. On error nothing of this call remains."""
        network = self._registry.resolve(request.network)
        before = self._sandboxes.get(container_id)
        attach.check_endpoint(network, request.endpoint)
        attach.check_join(network, before, request.container_name)
        with self._using(network):
            async with AsyncExitStack() as undo:
                start = await self._joining.start(before, network, request, undo)
                after = await self._joining.join(container_id, before, start, network, request, undo)
                self._sandboxes[container_id] = after
                undo.callback(self._restore, container_id, before)
                await self._resolve_for(container_id, start.sockets)
                undo.pop_all()
        self._serving.names.add(after.endpoints[-1])
        self._serving.publish(container_id)
        self._announce("connect", network, container_id)
        return after.attachment()

    async def disconnect(self, container_id: str, network: str | None = None) -> None:
        """Leave one network, or all and drop the sandbox. Idempotent without `network`."""
        if network is not None:
            await self._leave(container_id, self._registry.resolve(network))
            return
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is None:
            return
        self._serving.stop(container_id)
        self._discard(sandbox)
        await self._records.write([Delete(SANDBOXES, container_id)])
        for endpoint in sandbox.endpoints:
            with contextlib.suppress(NotFound):  # a network whose record was lost while we were down
                self._announce("disconnect", self._registry.by_id(endpoint.network_id), container_id)

    def attachment(self, container_id: str) -> Attachment | None:
        """What connect() returned, now; also after a restart of the daemon for containers in `live`."""
        sandbox = self._sandboxes.get(container_id)
        return sandbox.attachment() if sandbox else None

    async def rename(self, container_id: str, name: str) -> None:
        """The container has a new name: name service and `network inspect` follow."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is not None:
            for endpoint in sandbox.endpoints:
                self._serving.names.discard(endpoint)
            sandbox.rename(container_id, name)
            for endpoint in sandbox.endpoints:
                self._serving.names.add(endpoint)
            await self._records.write([Put(SANDBOXES, container_id, sandbox.record())])

    def etc_files(
        self,
        container_id: str,
        *,
        hostname: str,
        domainname: str,
        host_config: HostConfig,
        links: Sequence[tuple[str, Sequence[str]]] = (),
    ) -> EtcFiles:
        """hostname, hosts and resolv.conf for the container as it is attached now (after connect()).

        `links`: (container ID, names) of HostConfig.Links. For `container:X` use X's files instead.
        """
        linked = [
            (str(at.address.ip), " ".join(names))
            for other, names in links
            if (found := self._sandboxes.get(other))
            and (gateway := found.gateway())
            and (at := gateway.interface)
        ]
        sandbox = self._sandboxes.get(container_id)
        servers = etcfiles.overrides(self._config, host_config).servers
        if sandbox is not None and sandbox.dns != servers:
            sandbox.dns = servers
            self._note(container_id, sandbox)
        return etcfiles.build(
            self._config,
            sandbox,
            hostname=hostname,
            domainname=domainname,
            host_config=host_config,
            linked=linked,
            host_gateway=self._registry.resolve("bridge").gateway,
        )

    # networks (Docker's JSON)

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, Any]]:
        keep = catalogue.select(self._registry, filters or {}, self._in_use())
        return [network.json({}) for network in keep]

    def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> dict[str, Any]:
        """`verbose` adds the services of a swarm's network, which there are none of."""
        network = self._registry.resolve(ref)
        if scope and scope != network.scope:
            raise NotFound(f"network {ref} not found")
        return network.json(catalogue.containers(network, self._sandboxes))

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /networks/create: {"Id", "Warning"}."""
        routes = [network for _link, network in await self._worker.run(self._kernel.routed)]
        network = catalogue.new(self._registry, body, self._config.default_address_pools, routes)
        self._registry.add(network)
        self._spaces[network.id] = network.space()
        try:
            await self._records.write([Put(NETWORKS, network.id, network.record())])
            await self._worker.run(self._kernel.add_network, network.plan)
        except BaseException:
            self._registry.discard(network)
            del self._spaces[network.id]
            self._worker.later(self._kernel.remove_network, network.plan)
            await self._records.write([Delete(NETWORKS, network.id)])
            raise
        self._pool.keep_named()
        self._announce("create", network)
        return {"Id": network.id, "Warning": ""}

    async def remove(self, ref: str) -> None:
        network = self._registry.resolve(ref)
        catalogue.check_remove(network, self._sandboxes)
        if self._busy[network.id]:
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints")
        self._registry.discard(network)
        del self._spaces[network.id]
        await self._records.write([Delete(NETWORKS, network.id)])
        await self._worker.run(self._kernel.remove_network, network.plan)
        self._announce("destroy", network)

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """{"NetworksDeleted": [names] or None}."""
        gone = catalogue.prunable(self._registry, filters or {}, self._in_use())
        for network in gone:
            await self.remove(network.id)
        return {"NetworksDeleted": [network.name for network in gone] or None}

    # leaving

    async def _leave(self, container_id: str, network: Network) -> None:
        before = self._sandboxes.get(container_id)
        if before is None:
            raise Internal(f"container {container_id} is not connected to network {network.name}")
        endpoint = attach.check_leave(network, before, container_id)
        after = attach.left(before, endpoint)
        self._sandboxes[container_id] = after
        self._serving.names.discard(endpoint)
        self._serving.unpublish(container_id)
        self._ports.release(set(before.bound) - set(after.bound))
        await self._records.write([Put(SANDBOXES, container_id, after.record())])
        change = attach.leave_change(before, after, endpoint)
        if change is not None:
            await self._worker.run(self._kernel.attach, change)
        if endpoint.interface:
            self._spaces[network.id].release(endpoint.interface.address.ip)
        self._serving.publish(container_id)
        self._announce("disconnect", network, container_id)

    def _discard(self, sandbox: Sandbox) -> None:
        """Free a whole sandbox: what others may want at once, the rest by the worker in its order."""
        interfaces = [one.interface for one in sandbox.endpoints if one.interface]
        publications = sandbox.publications()
        if sandbox.namespace is not None:
            self._worker.later(self._kernel.release, sandbox.namespace, interfaces, publications)
        self._ports.release(sandbox.bound)
        for endpoint in sandbox.endpoints:
            self._serving.names.discard(endpoint)
            if endpoint.interface and endpoint.network_id in self._spaces:
                self._spaces[endpoint.network_id].release(endpoint.interface.address.ip)
        if interfaces:
            self._reap_later([interface.host for interface in interfaces])

    def _reap_later(self, names: Sequence[str]) -> None:
        def reap() -> None:
            self._reapers.discard(timer)
            self._worker.later(self._kernel.reap, names)

        timer = asyncio.get_running_loop().call_later(REAP_AFTER, reap)
        self._reapers.add(timer)

    # small parts

    async def _resolve_for(self, container_id: str, sockets: Sockets | None = None) -> None:
        """See that the name service answers a container that needs it."""
        if self._serving.lacks_resolver(container_id):
            namespace = self._sandboxes[container_id].namespace
            assert namespace is not None
            self._serving.resolve(container_id, sockets or await self._pool.open_sockets(namespace))

    def _note(self, container_id: str, sandbox: Sandbox) -> None:
        """Record a sandbox without anyone waiting; stop() does."""
        note = asyncio.ensure_future(self._records.write([Put(SANDBOXES, container_id, sandbox.record())]))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    def _firewall_changed(self) -> None:
        plans = [network.plan for network in self._registry if network.driver == "bridge"]
        publications = [one for sandbox in self._sandboxes.values() for one in sandbox.publications()]
        self._worker.later(self._kernel.repair, plans, publications)

    def _restore(self, container_id: str, before: Sandbox | None) -> None:
        """Make the sandbox what it was before a failed join."""
        if before is None:
            self._sandboxes.pop(container_id, None)
        else:
            self._sandboxes[container_id] = before

    @contextlib.contextmanager
    def _using(self, network: Network) -> Iterator[None]:
        """Keeps a network from being removed while someone joins it."""
        self._busy[network.id] += 1
        try:
            yield
        finally:
            self._busy[network.id] -= 1

    def _in_use(self) -> set[str]:
        return {one.network_id for sandbox in self._sandboxes.values() for one in sandbox.endpoints}

    def _announce(self, action: str, network: Network, container_id: str = "") -> None:
        attributes = {"name": network.name, "type": network.driver}
        if container_id:
            attributes = {"container": container_id, **attributes}
        self._emit("network", action, network.id, attributes)
