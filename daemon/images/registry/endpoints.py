"""Where a repository may be found, in the order in which dockerd tries.

Docker Hub: its mirrors, then registry-1.docker.io. Any other host: HTTPS; and for an insecure registry
HTTPS without verification, then plain HTTP. A registry is insecure when the configuration names it
(`host:port`) or when one of its addresses lies in an insecure network, to which 127.0.0.0/8 and ::1
always belong. Source: github.com/moby/moby registry/config.go (isSecureIndex), service_v2.go.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.images.reference import DEFAULT_DOMAIN

HUB = "https://registry-1.docker.io"
LOOPBACK = ("127.0.0.0/8", "::1/128")
HUB_SERVER = "https://index.docker.io/v1/"
"""The name that Docker Hub has in credentials."""


@dataclass(frozen=True)
class Endpoint:
    url: str
    """Scheme, host and port; no path for registries, perhaps one for mirrors."""
    mirror: bool = False
    verify: bool = True
    """Whether its TLS certificate is verified."""

    @property
    def host(self) -> str:
        return self.url.split("://", 1)[1].split("/", 1)[0]

    @property
    def plain(self) -> bool:
        return self.url.startswith("http://")


def endpoints(
    domain: str, insecure: Sequence[str], mirrors: Sequence[str], for_push: bool = False
) -> list[Endpoint]:
    """Blocking: may ask the name service."""
    if domain == DEFAULT_DOMAIN:
        hub = [Endpoint(HUB)]
        if for_push:
            return hub
        return [Endpoint(mirror.rstrip("/"), mirror=True, verify=True) for mirror in mirrors] + hub
    if is_insecure(domain, insecure):
        return [Endpoint(f"https://{domain}", verify=False), Endpoint(f"http://{domain}", verify=False)]
    return [Endpoint(f"https://{domain}")]


def is_insecure(domain: str, insecure: Sequence[str]) -> bool:
    if domain in insecure:
        return True
    networks = [network for entry in (*LOOPBACK, *insecure) if (network := _network(entry))]
    return any(address in network for address in _addresses(domain) for network in networks)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False) if "/" in entry else None
    except ValueError:
        return None


def _addresses(domain: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    host = domain[1 : domain.index("]")] if domain.startswith("[") else domain.partition(":")[0]
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
