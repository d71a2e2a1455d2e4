"""What the daemon itself serves for containers: the userland proxy and the name service, one set each."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from daemon.network import proxy, resolv
from daemon.network.dns import Names, Resolver, Sockets, outside_socket
from daemon.network.namespaces import Namespace
from daemon.network.ports import PortAllocator
from daemon.network.sandboxes import Sandbox
from daemon.network.worker import Worker


class Serving:
    """Proxies and resolvers by container. `sandboxes` is the service's own live mapping."""

    def __init__(
        self, sandboxes: Mapping[str, Sandbox], ports: PortAllocator, worker: Worker, *, proxying: bool
    ) -> None:
        self.names = Names()
        self._sandboxes = sandboxes
        self._ports = ports
        self._worker = worker
        self._proxying = proxying
        self._proxies: dict[str, list[proxy.Proxy]] = {}
        self._resolvers: dict[str, Resolver] = {}

    def publish(self, container_id: str) -> None:
        """(Re)start proxies on the sockets that hold the container's ports, towards its present address."""
        self.unpublish(container_id)
        sandbox = self._sandboxes[container_id]
        gateway = sandbox.gateway()
        if not self._proxying or gateway is None or gateway.interface is None:
            return
        proxies = []
        for bound in sandbox.bound:
            holder = self._ports.holder(bound)
            served = proxy.serve(bound, holder, gateway.interface.address.ip) if holder else None
            if served is not None:
                proxies.append(served)
        if proxies:
            self._proxies[container_id] = proxies

    def unpublish(self, container_id: str) -> None:
        for served in self._proxies.pop(container_id, ()):
            served.close()

    def lacks_resolver(self, container_id: str) -> bool:
        """Whether the container is in a user-defined network and nobody answers its queries yet."""
        sandbox = self._sandboxes[container_id]
        return sandbox.namespace is not None and sandbox.named and container_id not in self._resolvers

    def resolve(self, container_id: str, sockets: Sockets) -> None:
        """Answer the container's queries on `sockets`, which are the resolver's from now on."""
        self._resolvers[container_id] = Resolver(
            lambda: self._sandboxes.get(container_id),
            self.names,
            sockets,
            self._outside,
            lambda: resolv.read_host()[0].servers,
        )

    def stop(self, container_id: str) -> None:
        self.unpublish(container_id)
        if resolver := self._resolvers.pop(container_id, None):
            resolver.close()

    async def _outside(self, namespace: Namespace | None, kind: socket.SocketKind) -> socket.socket:
        if namespace is None:
            return outside_socket(None, kind)
        return await self._worker.run(outside_socket, namespace, kind)
