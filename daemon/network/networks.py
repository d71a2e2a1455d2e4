"""Networks as records: what exists, how it is found by name or ID, and Docker's JSON of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from daemon.network import bridge
from daemon.network.bridge import BridgePlan
from daemon.network.ipam import AddressSpace
from storage.errors import InvalidArgument, NotFound

BUILTIN = ("bridge", "host", "none")


@dataclass(frozen=True)
class Network:
    """One network; its record is its fields. `subnet` and `gateway` are empty for `host` and `null`."""

    id: str
    name: str
    driver: str = "bridge"
    created: str = ""
    scope: str = "local"
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)
    user_subnet: bool = False
    """Whether the user chose the subnet: only then may containers ask for addresses."""

    @property
    def builtin(self) -> bool:
        return self.name in BUILTIN

    @cached_property
    def plan(self) -> BridgePlan:
        return bridge.plan(
            self.id,
            self.options,
            IPv4Network(self.subnet),
            IPv4Address(self.gateway),
            internal=self.internal,
        )

    def space(self) -> AddressSpace:
        """A fresh allocator; endpoints' addresses are claimed by the caller."""
        return AddressSpace(
            IPv4Network(self.subnet),
            gateway=IPv4Address(self.gateway),
            ip_range=IPv4Network(self.ip_range) if self.ip_range else None,
            reserved=[IPv4Address(address) for address in self.auxiliary.values()],
        )

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def json(self, containers: Mapping[str, Any]) -> dict[str, Any]:
        """As `GET /networks/{id}` has it; `GET /networks` has no containers."""
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": self.scope,
            "Driver": self.driver,
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": self.ipam_driver, "Options": self.ipam_options, "Config": self._ipam_config()},
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": dict(containers),
            "Options": self.options,
            "Labels": self.labels,
        }

    def _ipam_config(self) -> list[dict[str, Any]] | None:
        if not self.subnet:
            return None
        config: dict[str, Any] = {"Subnet": self.subnet}
        if self.ip_range:
            config["IPRange"] = self.ip_range
        config["Gateway"] = self.gateway
        if self.auxiliary:
            config["AuxiliaryAddresses"] = self.auxiliary
        return [config]


class Registry:
    """All networks by ID. Lookups follow dockerd: full ID, then name, then unique prefix of an ID."""

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}

    def __iter__(self) -> Iterator[Network]:
        return iter(self._networks.values())

    def add(self, network: Network) -> None:
        self._networks[network.id] = network

    def discard(self, network: Network) -> None:
        self._networks.pop(network.id, None)

    def by_id(self, network_id: str) -> Network:
        try:
            return self._networks[network_id]
        except KeyError:
            raise NotFound(f"network {network_id} not found") from None

    def by_name(self, name: str) -> Network | None:
        return next((network for network in self if network.name == name), None)

    def resolve(self, ref: str) -> Network:
        name = "bridge" if ref in ("", "default") else ref
        found = self._networks.get(name) or self.by_name(name)
        if found:
            return found
        matches = [network for network in self if network.id.startswith(name)]
        if len(matches) > 1:
            raise InvalidArgument(
                f"network {ref} is ambiguous ({len(matches)} matches found based on ID prefix)"
            )
        if not matches:
            raise NotFound(f"network {ref} not found")
        return matches[0]

    def subnets(self) -> list[IPv4Network]:
        return [IPv4Network(network.subnet) for network in self if network.subnet]


def new_id() -> str:
    return os.urandom(32).hex()


def timestamp(nanoseconds: int | None = None) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go prints it."""
    moment = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, fraction = divmod(moment, 10**9)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + digits + "Z"


def missing_builtins(present: Iterable[Network]) -> list[Network]:
    """`host` and `none` of a daemon that starts for the first time (`bridge` needs a subnet chosen)."""
    names = {network.name for network in present}
    return [
        Network(new_id(), name, driver, timestamp())
        for name, driver in (("host", "host"), ("none", "null"))
        if name not in names
    ]
