"""The nouns of container networking, shared by planning, kernel work and the service's callers.

A *network* is what `docker network ls` shows: a name, an ID, a driver and (for `bridge`) a subnet on a
Linux bridge. A *sandbox* is one network namespace, owned by one container and bound at
`exec_root/netns/<sandbox id>`. An *endpoint* is a container's place in a network: one veth pair, one
address, perhaps published ports. These records are immutable; what changes is which of them exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.containers.wire import EndpointSettings, PortBinding

PortMap = dict[str, list[PortBinding] | None]
"""Docker's `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`; None: exposed but not published."""


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What the engine asks for when a container is to join one network (before its start or while it runs).

    `network` is a name, ID or unique prefix; `default` means `bridge`. For `host` and `none` only the
    names matter. `container_name` has no leading slash.
    """

    network: str
    container_name: str
    hostname: str = ""
    domainname: str = ""
    endpoint: EndpointSettings = field(default_factory=lambda: EndpointSettings())
    bindings: Mapping[str, Sequence[PortBinding] | None] = field(default_factory=dict)
    exposed: Sequence[str] = ()
    publish_all: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """The state of a container's sandbox after a connect: everything `NetworkSettings` shows.

    `netns_fd` stays the service's and is open until `disconnect(container_id)`; pass it on (SCM_RIGHTS
    duplicates it), don't close it. It is None for the host's namespace.
    """

    sandbox_id: str
    sandbox_key: str
    netns_fd: int | None
    networks: dict[str, EndpointSettings]
    """By network name, in the order of joining; `IPAddress`, `Gateway`, `EndpointID`... filled."""
    ports: PortMap
    gateway_network: str | None
    """The network that gives the default route (whose address the old top-level fields repeat)."""

    def settings(self) -> dict[str, Any]:
        """`NetworkSettings` as `GET /containers/{id}/json` has it."""
        main = self.networks.get("bridge") or EndpointSettings()
        return {
            "Bridge": "",
            "SandboxID": self.sandbox_id,
            "SandboxKey": self.sandbox_key,
            "Ports": self.ports,
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "EndpointID": main.get("EndpointID", ""),
            "Gateway": main.get("Gateway", ""),
            "GlobalIPv6Address": main.get("GlobalIPv6Address", ""),
            "GlobalIPv6PrefixLen": main.get("GlobalIPv6PrefixLen", 0),
            "IPAddress": main.get("IPAddress", ""),
            "IPPrefixLen": main.get("IPPrefixLen", 0),
            "IPv6Gateway": main.get("IPv6Gateway", ""),
            "MacAddress": main.get("MacAddress", ""),
            "Networks": self.networks,
        }


@dataclass(frozen=True, slots=True)
class EtcFiles:
    """Contents of the three files that the engine writes for a container and binds into it."""

    hostname: str
    hosts: str
    resolv_conf: str
