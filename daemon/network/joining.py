"""How a container joins a network: sandbox, address, ports, record, kernel, each with its way back.

Every step that takes something pushes its undoing on the caller's exit stack, which runs when a later
step fails or the caller is cancelled. Undoing in the kernel is queued behind the work it undoes
(worker.py), so a job that a cancelled caller left running is undone all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, Protocol

from daemon.containers.wire import EndpointSettings
from daemon.network import attach, sysctls
from daemon.network.dns import Sockets
from daemon.network.ipam import AddressSpace, mac_for
from daemon.network.kernel import Interface, Kernel
from daemon.network.model import AttachRequest
from daemon.network.networks import Network, new_id
from daemon.network.pool import Kind, Pool
from daemon.network.ports import Bound, PortAllocator, PortConflict, Want, parse
from daemon.network.sandboxes import Endpoint, Sandbox, dns_names
from daemon.network.worker import Worker
from storage.errors import Internal
from storage.records import Delete, Mutation, Put

SANDBOXES = "sandboxes"
"""Kind of the records of containers' networking, by container ID."""


class RecordStore(Protocol):
    """What the network needs of storage.records.Records."""

    def load(self, kind: str) -> dict[str, dict[str, Any]]: ...

    async def write(self, mutations: Sequence[Mutation]) -> None: ...


@dataclass(frozen=True, slots=True)
class Start:
    """What a join begins with: the container's sandbox and what a spare brought along."""

    sandbox: Sandbox
    interface: Interface | None = None
    sockets: Sockets | None = None


@dataclass(frozen=True, slots=True)
class Joining:
    """The parts of the service that joining needs."""

    netns: Path
    records: RecordStore
    worker: Worker
    kernel: Kernel
    pool: Pool
    ports: PortAllocator
    spaces: Mapping[str, AddressSpace]

    async def start(
        self, before: Sandbox | None, network: Network, request: AttachRequest, undo: AsyncExitStack
    ) -> Start:
        """The sandbox that the container has, or a new one out of the pool."""
        if before is not None:
            return Start(before)
        sandbox = Sandbox(
            id=new_id(),
            key=str(self.netns / "default"),
            name=request.container_name,
            hostname=request.hostname,
            domainname=request.domainname,
            namespace=None,
        )
        if network.driver == "host":
            return Start(sandbox)
        wants, exposed = tuple[Want, ...](), tuple[str, ...]()
        if network.driver == "bridge":
            wants = tuple(parse(request.bindings, request.exposed, publish_all=request.publish_all))
            exposed = (*request.bindings, *request.exposed)
        spare = await self.pool.take(_kind(network, request))
        undo.callback(spare.close)
        undo.callback(self.worker.later, self.kernel.drop_namespace, spare.namespace)
        if spare.interface:
            undo.callback(self.spaces[network.id].release, spare.interface.address.ip)
        sandbox = replace(
            sandbox,
            id=spare.sandbox_id,
            key=str(spare.namespace.path),
            namespace=spare.namespace,
            wants=wants,
            exposed=exposed,
        )
        return Start(sandbox, spare.interface, spare.sockets)

    async def join(
        self,
        container_id: str,
        before: Sandbox | None,
        start: Start,
        network: Network,
        request: AttachRequest,
        undo: AsyncExitStack,
    ) -> Sandbox:
        """The sandbox with its new endpoint, recorded and real."""
        sandbox, interface = start.sandbox, start.interface
        endpoint = self._endpoint(container_id, sandbox, interface, network, request, undo)
        after = attach.joined(sandbox, endpoint)
        if after.gateway() and not after.bound:
            after = replace(after, bound=self._reserve(after, endpoint, network, undo))
        undo.push_async_callback(self._unrecord, container_id, before)
        await self.records.write([Put(SANDBOXES, container_id, after.record())])
        if endpoint.interface is None:
            return after
        change = attach.join_change(sandbox, after, network, plugged=interface is not None)
        if change is not None:
            undo.callback(self.worker.later, self.kernel.revert, change)
            try:
                await self.worker.run(self.kernel.attach, change)
            except OSError as error:
                raise Internal(f"failed to join network {network.name}: {error.strerror}") from error
        await self._apply_sysctls(after)
        return after

    async def _apply_sysctls(self, sandbox: Sandbox) -> None:
        endpoint, namespace = sandbox.endpoints[-1], sandbox.namespace
        wanted = sysctls.asked(endpoint.settings)
        if not wanted or namespace is None or endpoint.interface is None:
            return
        try:
            await self.worker.run(sysctls.apply, namespace.fd, endpoint.interface.name, wanted)
        except Internal as error:
            raise Internal(f"failed to add interface {endpoint.interface.host} to sandbox: {error}") from None

    def _endpoint(
        self,
        container_id: str,
        sandbox: Sandbox,
        interface: Interface | None,
        network: Network,
        request: AttachRequest,
        undo: AsyncExitStack,
    ) -> Endpoint:
        endpoint_id = new_id()
        if network.driver == "bridge" and interface is None:
            interface = self._place(sandbox, network, request.endpoint, endpoint_id, undo)
        user_defined = network.driver == "bridge" and network.name != "bridge"
        aliases = request.endpoint.get("Aliases") or ()
        names = dns_names(request.container_name, aliases, container_id[:12], sandbox.hostname)
        return Endpoint(
            id=endpoint_id,
            network_id=network.id,
            network=network.name,
            settings=request.endpoint,
            names=names if user_defined else (),
            interface=interface,
            gateway="" if network.internal else network.gateway,
            internal=network.internal,
        )

    def _place(
        self,
        sandbox: Sandbox,
        network: Network,
        settings: EndpointSettings,
        endpoint_id: str,
        undo: AsyncExitStack,
    ) -> Interface:
        """An address in the network, and names for the veth pair that will carry it."""
        space = self.spaces[network.id]
        wish = (settings.get("IPAMConfig") or {}).get("IPv4Address")
        address = space.claim(IPv4Address(wish)) if wish else space.allocate()
        undo.callback(space.release, address)
        host, inner = attach.interface_name(sandbox, network, endpoint_id)
        mac = settings.get("MacAddress") or mac_for(address)
        return Interface(host, inner, space.interface(address), mac, link_local(settings))

    def _reserve(
        self, sandbox: Sandbox, endpoint: Endpoint, network: Network, undo: AsyncExitStack
    ) -> tuple[Bound, ...]:
        """Host ports for all that the container publishes; all or none."""
        gateway = sandbox.gateway()
        if gateway is None or gateway.interface is None:
            return ()
        bound: list[Bound] = []
        undo.callback(self.ports.release, bound)
        for want in sandbox.wants:
            asked = replace(want, host_ip=want.host_ip or network.plan.host_binding)
            try:
                bound += self.ports.reserve(asked, gateway.interface.address.ip)
            except PortConflict as error:
                raise Internal(
                    "driver failed programming external connectivity on endpoint "
                    f"{sandbox.name} ({endpoint.id}): {error}"
                ) from error
        return tuple(bound)

    async def _unrecord(self, container_id: str, before: Sandbox | None) -> None:
        """Put the record back to what it was before a failed join."""
        undone = Put(SANDBOXES, container_id, before.record()) if before else Delete(SANDBOXES, container_id)
        await self.records.write([undone])


def _kind(network: Network, request: AttachRequest) -> Kind:
    """Which spare will do: one on the default bridge has its own address and MAC already."""
    own = request.endpoint.get("MacAddress") or link_local(request.endpoint)
    if network.name == "bridge" and not own:
        return Kind.PLUGGED
    return Kind.NAMED if network.driver == "bridge" and network.name != "bridge" else Kind.PLAIN


def link_local(settings: EndpointSettings) -> tuple[IPv4Interface, ...]:
    """The addresses of `--link-local-ip` that are IPv4, in the whole of 169.254.0.0/16 (RFC 3927)."""
    given = (settings.get("IPAMConfig") or {}).get("LinkLocalIPs") or ()
    return tuple(IPv4Interface(f"{address}/16") for address in given if ":" not in address)
