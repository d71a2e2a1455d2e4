"""The network service: what the engine and the API know of networking (signatures first; work in progress)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from daemon.config import DaemonConfig
from daemon.containers.wire import EndpointSettings, HostConfig
from daemon.network.model import AttachRequest, Attachment, EtcFiles

Emit = Callable[[str, str, str, dict[str, str]], None]
"""Publishes an event: type, action, actor's ID, attributes."""


class NetworkService:
    """Networks, sandboxes and endpoints of one daemon.

    Lifecycle: `await start(live=ids of containers whose processes live)`, then any number of
    connect/disconnect, at last `await stop()`, which leaves running containers' networking in place.
    """

    def __init__(self, config: DaemonConfig, records: Any, emit: Emit) -> None:
        raise NotImplementedError

    async def start(self, live: Collection[str] = ()) -> None:
        """Make or adopt bridges and firewall; drop all that belongs to containers not in `live`."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Drop the pool of spare namespaces, close sockets; containers keep their networking."""
        raise NotImplementedError

    # containers

    def check(self, network: str, endpoint: EndpointSettings) -> str:
        """The ID of the network that an endpoint names, or Docker's error when it could never be joined."""
        raise NotImplementedError

    async def connect(self, container_id: str, request: AttachRequest) -> Attachment:
        """Join one network; the first call makes the sandbox. On error nothing of this call remains."""
        raise NotImplementedError

    async def disconnect(self, container_id: str, network: str | None = None) -> None:
        """Leave one network, or all and drop the sandbox. Idempotent without `network`."""
        raise NotImplementedError

    def attachment(self, container_id: str) -> Attachment | None:
        """What connect() returned, now; also after a restart of the daemon for containers in `live`."""
        raise NotImplementedError

    def rename(self, container_id: str, name: str) -> None:
        """The container has a new name: name service and `network inspect` follow."""
        raise NotImplementedError

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
        raise NotImplementedError

    # networks (Docker's JSON)

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, Any]]:
        raise NotImplementedError

    def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> dict[str, Any]:
        raise NotImplementedError

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /networks/create: {"Id", "Warning"}."""
        raise NotImplementedError

    async def remove(self, ref: str) -> None:
        raise NotImplementedError

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """{"NetworksDeleted": [names] or None}."""
        raise NotImplementedError
