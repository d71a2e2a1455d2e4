"""Address management: choosing subnets for networks and addresses for endpoints. Pure; its owner persists.

Subnets come from *pools* (`--default-address-pool base,size`), by default Docker's
(moby/daemon/libnetwork/ipamutils): the first that overlaps neither a network of ours nor a route of the
host. Addresses within a subnet are given lowest first, without the network's own, the broadcast and the
gateway's, as dockerd gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from storage.errors import Conflict, Forbidden, InvalidArgument

DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)


def subnets(pools: Iterable[tuple[str, int]]) -> Iterator[IPv4Network]:
    """All subnets of the pools, in order; IPv6 pools are not used yet."""
    for base, size in pools:
        if ":" not in base:
            network = IPv4Network(base)
            yield from network.subnets(new_prefix=max(size, network.prefixlen))


def choose_subnet(pools: Iterable[tuple[str, int]], taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first subnet of the pools that overlaps nothing taken."""
    avoid = tuple(taken)
    for candidate in subnets(pools or DEFAULT_POOLS):
        if not any(candidate.overlaps(other) for other in avoid):
            return candidate
    raise Forbidden("all predefined address pools have been fully subnetted")


def claim_subnet(wanted: IPv4Network, ours: Iterable[IPv4Network]) -> None:
    """Raise when a subnet that a user asks for overlaps one of our networks'."""
    if any(wanted.overlaps(other) for other in ours):
        raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")


def parse_subnet(text: str) -> IPv4Network:
    """A network in CIDR form with no host bits, in Docker's words otherwise."""
    try:
        interface = IPv4Interface(text) if "/" in text else None
    except (AddressValueError, NetmaskValueError, ValueError):
        interface = None
    if interface is None:
        raise InvalidArgument(f"invalid subnet {text}: invalid CIDR block notation")
    if interface.ip != interface.network.network_address:
        raise InvalidArgument(f"invalid subnet {text}: it should be {interface.network}")
    return interface.network


class AddressSpace:
    """The addresses of one network. All calls are short and made by the event loop alone."""

    def __init__(
        self,
        subnet: IPv4Network,
        *,
        gateway: IPv4Address | None,
        ip_range: IPv4Network | None = None,
        reserved: Iterable[IPv4Address] = (),
    ) -> None:
        self.subnet = subnet
        self.gateway = gateway
        self._range = ip_range or subnet
        self._used = {int(address) for address in reserved}
        if subnet.prefixlen < 31:
            self._used |= {int(subnet.network_address), int(subnet.broadcast_address)}
        if gateway is not None:
            self._used.add(int(gateway))
        self._first = int(self._range.network_address)
        self._last = int(self._range.broadcast_address)
        self._hint = self._first

    def allocate(self) -> IPv4Address:
        """The lowest free address of the range."""
        for value in range(self._hint, self._last + 1):
            if value not in self._used:
                self._used.add(value)
                self._hint = value + 1
                return IPv4Address(value)
        raise Conflict(f"no available IPv4 addresses on this network's address pools: {self._range}")

    def claim(self, address: IPv4Address) -> IPv4Address:
        """One address that a user or a record asks for."""
        if address not in self.subnet:
            raise InvalidArgument(
                f"invalid address {address}: It does not belong to any of this network's subnets"
            )
        if int(address) in self._used:
            raise Forbidden("Address already in use")
        self._used.add(int(address))
        return address

    def release(self, address: IPv4Address) -> None:
        if address in self.subnet and address != self.gateway:
            self._used.discard(int(address))
            if self._first <= int(address) < self._hint:
                self._hint = int(address)

    def interface(self, address: IPv4Address) -> IPv4Interface:
        """The address with its network's prefix."""
        return IPv4Interface((int(address), self.subnet.prefixlen))


def mac_for(address: IPv4Address) -> str:
    """A locally administered MAC that follows from the address, as dockerd's did before release 28.

    Whoever has the address next has the same MAC, so no neighbour cache is ever stale and no
    announcement is needed; that lets namespaces stand ready, addresses included.
    """
    return "02:42:" + address.packed.hex(":")
