"""A container's networking as it stands: its sandbox, its endpoints, and what is derived from them.

`Sandbox` is the mutable state the service keeps per attached container; its record is what a restarted
daemon needs to take it over. The descriptor and netlink socket of its namespace are not recorded: the
namespace is found again by its file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, ip_address
from typing import Any, cast

from daemon.containers.wire import EndpointSettings
from daemon.network.firewall import Publication
from daemon.network.kernel import Interface
from daemon.network.model import Attachment
from daemon.network.namespaces import Namespace
from daemon.network.ports import Bound, Want, port_map


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in one network. `interface` is None in `host` and `none`."""

    id: str
    network_id: str
    network: str
    settings: EndpointSettings
    """As asked for: aliases, links, options, address wishes."""
    names: tuple[str, ...] = ()
    """What the name service calls it; empty on the default bridge."""
    interface: Interface | None = None
    gateway: str = ""
    internal: bool = False

    @property
    def routes(self) -> bool:
        """Whether it could give the sandbox its default route."""
        return self.interface is not None and not self.internal

    def filled(self) -> EndpointSettings:
        """`NetworkSettings.Networks[name]`."""
        asked, at = self.settings, self.interface
        return EndpointSettings(
            IPAMConfig=asked.get("IPAMConfig"),
            Links=asked.get("Links"),
            Aliases=asked.get("Aliases"),
            MacAddress=at.mac if at else "",
            DriverOpts=asked.get("DriverOpts"),
            GwPriority=asked.get("GwPriority", 0),
            NetworkID=self.network_id,
            EndpointID=self.id,
            Gateway=self.gateway,
            IPAddress=str(at.address.ip) if at else "",
            IPPrefixLen=at.address.network.prefixlen if at else 0,
            IPv6Gateway="",
            GlobalIPv6Address="",
            GlobalIPv6PrefixLen=0,
            DNSNames=list(self.names) or None,
        )


@dataclass(slots=True)
class Sandbox:
    """One container's networking. `namespace` is None for the host's."""

    id: str
    key: str
    name: str
    hostname: str
    domainname: str
    namespace: Namespace | None
    exposed: tuple[str, ...] = ()
    wants: tuple[Want, ...] = ()
    endpoints: list[Endpoint] = field(default_factory=list)
    bound: tuple[Bound, ...] = ()
    dns: tuple[str, ...] = ()
    """Servers of --dns for the engine's resolver; empty: the host's."""

    def endpoint(self, network_id: str) -> Endpoint | None:
        return next((one for one in self.endpoints if one.network_id == network_id), None)

    @property
    def named(self) -> bool:
        """Whether the engine's name service is for it: it is in some user-defined network."""
        return any(one.names for one in self.endpoints)

    def gateway(self) -> Endpoint | None:
        """Who gives the default route, as libnetwork orders endpoints: priority, then network's name."""
        candidates = [one for one in self.endpoints if one.routes]
        return min(
            candidates, key=lambda one: (-one.settings.get("GwPriority", 0), one.network), default=None
        )

    def next_interface(self, prefix: str) -> str:
        """`eth0`, `eth1`...: the first that no endpoint has."""
        used = {one.interface.name for one in self.endpoints if one.interface}
        number = 0
        while f"{prefix}{number}" in used:
            number += 1
        return f"{prefix}{number}"

    def publications(self) -> tuple[Publication, ...]:
        """The firewall's part of the published ports: IPv4 ones, to the gateway endpoint's address."""
        return publications(self.gateway(), self.bound)

    def attachment(self) -> Attachment:
        gateway = self.gateway()
        return Attachment(
            sandbox_id=self.id,
            sandbox_key=self.key,
            netns_fd=self.namespace.fd if self.namespace else None,
            networks={one.network: one.filled() for one in self.endpoints},
            ports=port_map(self.bound, self.exposed) if gateway else {},
            gateway_network=gateway.network if gateway else None,
        )

    def rename(self, container_id: str, name: str) -> None:
        self.endpoints = [
            replace(one, names=self._names(container_id, name, one) if one.names else ())
            for one in self.endpoints
        ]
        self.name = name

    def _names(self, container_id: str, name: str, endpoint: Endpoint) -> tuple[str, ...]:
        aliases = endpoint.settings.get("Aliases") or ()
        return dns_names(name, aliases, container_id[:12], self.hostname)

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "key": self.key,
            "name": self.name,
            "hostname": self.hostname,
            "domainname": self.domainname,
            "host": self.namespace is None,
            "dns": list(self.dns),
            "exposed": list(self.exposed),
            "wants": [
                [w.protocol, w.port, str(w.host_ip) if w.host_ip else "", w.first, w.last] for w in self.wants
            ],
            "bound": [[b.protocol, b.port, str(b.host_ip), b.host_port] for b in self.bound],
            "endpoints": [_endpoint_record(one) for one in self.endpoints],
        }


def publications(gateway: Endpoint | None, bound: Iterable[Bound]) -> tuple[Publication, ...]:
    if gateway is None or gateway.interface is None:
        return ()
    address = gateway.interface.address.ip
    return tuple(
        Publication(one.protocol, one.host_ip, one.host_port, address, one.port)
        for one in bound
        if isinstance(one.host_ip, IPv4Address)
    )


def dns_names(name: str, aliases: Iterable[str], short_id: str, hostname: str = "") -> tuple[str, ...]:
    """Name, aliases, short ID, hostname, each once: `DNSNames` of an endpoint in a user-defined network."""
    return tuple(dict.fromkeys(each for each in (name, *aliases, short_id, hostname) if each))


def load(record: dict[str, Any]) -> Sandbox:
    """A sandbox from its record, its namespace not yet opened."""
    return Sandbox(
        id=record["id"],
        key=record["key"],
        name=record["name"],
        hostname=record["hostname"],
        domainname=record["domainname"],
        namespace=None,
        exposed=tuple(record["exposed"]),
        wants=tuple(
            Want(protocol, port, ip_address(host) if host else None, first, last)
            for protocol, port, host, first, last in record["wants"]
        ),
        bound=tuple(
            Bound(protocol, port, ip_address(host), host_port)
            for protocol, port, host, host_port in record["bound"]
        ),
        endpoints=[_load_endpoint(one) for one in record["endpoints"]],
        dns=tuple(record.get("dns", ())),
    )


def _endpoint_record(endpoint: Endpoint) -> dict[str, Any]:
    at = endpoint.interface
    return {
        "id": endpoint.id,
        "network_id": endpoint.network_id,
        "network": endpoint.network,
        "settings": dict(endpoint.settings),
        "names": list(endpoint.names),
        "interface": [at.host, at.name, str(at.address), at.mac] if at else None,
        "gateway": endpoint.gateway,
        "internal": endpoint.internal,
    }


def _load_endpoint(record: dict[str, Any]) -> Endpoint:
    at = record["interface"]
    return Endpoint(
        id=record["id"],
        network_id=record["network_id"],
        network=record["network"],
        settings=cast(EndpointSettings, record["settings"]),
        names=tuple(record["names"]),
        interface=Interface(at[0], at[1], IPv4Interface(at[2]), at[3]) if at else None,
        gateway=record["gateway"],
        internal=record["internal"],
    )
