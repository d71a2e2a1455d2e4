"""The bridge driver's view of a network: its options, checked, as one plan.

Options are Docker's (`com.docker.network.bridge.*`, `com.docker.network.driver.mtu`); those that the
driver does not know are kept and shown, not acted on, as dockerd does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network

from daemon import parsebool
from daemon.network.firewall import BridgeRules
from daemon.network.ipam import mac_for
from storage.errors import InvalidArgument

PREFIX = "com.docker.network.bridge."
NAME = PREFIX + "name"
ICC = PREFIX + "enable_icc"
MASQUERADE = PREFIX + "enable_ip_masquerade"
HOST_BINDING = PREFIX + "host_binding_ipv4"
DEFAULT_BRIDGE = PREFIX + "default_bridge"
CONTAINER_PREFIX = "com.docker.network.container_iface_prefix"
MTU = "com.docker.network.driver.mtu"
DEFAULT_MTU = 1500
_IFNAME = re.compile(r"[^\s/:]{1,15}")


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """Everything the kernel needs to know of one bridge network."""

    network_id: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    mtu: int = DEFAULT_MTU
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    host_binding: IPv4Address | None = None
    """Where ports are published that name no host address; None: everywhere."""
    prefix: str = "eth"

    @property
    def interface(self) -> IPv4Interface:
        """The bridge's own address."""
        return IPv4Interface((int(self.gateway), self.subnet.prefixlen))

    @property
    def mac(self) -> str:
        return mac_for(self.gateway)

    @property
    def rules(self) -> BridgeRules:
        return BridgeRules(self.bridge, self.subnet, self.icc, self.masquerade, self.internal)


def plan(
    network_id: str,
    options: Mapping[str, str],
    subnet: IPv4Network,
    gateway: IPv4Address,
    *,
    internal: bool,
) -> BridgePlan:
    """The plan of a network, or InvalidArgument naming the option that is wrong, in dockerd's words."""
    name = options.get(NAME) or f"br-{network_id[:12]}"
    if not _IFNAME.fullmatch(name) or name in (".", ".."):
        raise InvalidArgument(f"invalid bridge name {name!r}: an interface name has 1 to 15 characters")
    binding = options.get(HOST_BINDING) or "0.0.0.0"
    try:
        address = IPv4Address(binding)
    except AddressValueError:
        raise InvalidArgument(
            f"failed to parse {HOST_BINDING} value: {binding} (invalid IP address)"
        ) from None
    return BridgePlan(
        network_id=network_id,
        bridge=name,
        subnet=subnet,
        gateway=gateway,
        mtu=_mtu(options.get(MTU) or ""),
        icc=_flag(options, ICC),
        masquerade=_flag(options, MASQUERADE),
        internal=internal,
        host_binding=None if address == IPv4Address(0) else address,
        prefix=options.get(CONTAINER_PREFIX) or "eth",
    )


def default_options(bridge: str, mtu: int = DEFAULT_MTU) -> dict[str, str]:
    """What `docker network inspect bridge` shows."""
    return {
        DEFAULT_BRIDGE: "true",
        ICC: "true",
        MASQUERADE: "true",
        HOST_BINDING: "0.0.0.0",
        NAME: bridge,
        MTU: str(mtu),
    }


def _mtu(text: str) -> int:
    if not text:
        return DEFAULT_MTU
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(
            f'failed to parse {MTU} value: {text} (strconv.Atoi: parsing "{text}": invalid syntax)'
        )
    value = int(text)
    if value and not 68 <= value <= 65535:
        raise InvalidArgument(f"invalid MTU {value}: it is between 68 and 65535")
    return value or DEFAULT_MTU


def _flag(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true")
    if text in parsebool.TRUE:
        return True
    if text in parsebool.FALSE:
        return False
    raise InvalidArgument(f"failed to parse {name} value: {text} ({parsebool.invalid(text)})")
