"""Starting: what the records say, what the kernel has, which containers live, and making the three agree.

One path serves a first start, a restart, a crash and a reboot. `plan` is pure and decides; `reconcile`
does, in the worker thread: bridges first, then the whole firewall table in one transaction, then running
containers' namespaces are opened again, and at last whatever nobody owns is swept away.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.network import bridge, sandboxes
from daemon.network.foreign import legacy_filter
from daemon.network.ipam import AddressSpace, choose_subnet
from daemon.network.kernel import Kernel
from daemon.network.namespaces import write_sysctl
from daemon.network.networks import Network, missing_builtins, new_id, timestamp
from daemon.network.sandboxes import Sandbox
from storage.errors import InvalidArgument, PydError

log = logging.getLogger(__name__)
Route = tuple[str, IPv4Network]


@dataclass(slots=True)
class Found:
    """The decisions: networks to have, those to record anew, sandboxes to keep, records to drop."""

    networks: list[Network]
    changed: list[Network]
    sandboxes: dict[str, Sandbox]
    dead: list[str]
    hosts: set[str] = field(default_factory=set)
    """Containers in the host's namespace, which have no namespace of ours to open."""


def plan(
    config: DaemonConfig,
    networks: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, dict[str, Any]],
    *,
    live: Collection[str],
    routes: Sequence[Route],
) -> Found:
    known = [Network(**record) for record in networks.values()]
    kept = {key: sandboxes.load(record) for key, record in records.items() if key in live}
    default = next((network for network in known if network.name == "bridge"), None)
    used = any(default and sandbox.endpoint(default.id) for sandbox in kept.values())
    others = [network for network in known if network is not default]
    taken = [IPv4Network(network.subnet) for network in others if network.subnet]
    taken += [network for link, network in routes if link != config.bridge]
    wanted = _default_bridge(config, default, taken, keep=used)
    changed = missing_builtins(known)
    return Found(
        networks=[*others, *changed, wanted],
        changed=[*changed, *([] if wanted == default else [wanted])],
        sandboxes=kept,
        dead=[key for key in records if key not in live],
        hosts={key for key, record in records.items() if record["host"]},
    )


def _default_bridge(
    config: DaemonConfig, default: Network | None, taken: Iterable[IPv4Network], *, keep: bool
) -> Network:
    """The network `bridge`: as it was unless --bip, a conflict or a changed flag says otherwise."""
    if default is not None and keep:
        return default
    base = default or Network(new_id(), "bridge", created=timestamp())
    options = bridge.default_options(config.bridge)
    if config.bip:
        try:
            address = IPv4Interface(config.bip)
        except ValueError:
            raise InvalidArgument(
                f"invalid --bip {config.bip!r}: an address in CIDR form is needed"
            ) from None
        return replace(base, subnet=str(address.network), gateway=str(address.ip), options=options)
    busy = list(taken)
    if base.subnet and not any(IPv4Network(base.subnet).overlaps(other) for other in busy):
        return replace(base, options=options)
    subnet = choose_subnet(config.default_address_pools, busy)
    return replace(base, subnet=str(subnet), gateway=str(subnet.network_address + 1), options=options)


def spaces(found: Found) -> dict[str, AddressSpace]:
    """Every network's allocator, with the addresses of the containers that live."""
    made = {network.id: network.space() for network in found.networks if network.subnet}
    for sandbox in found.sandboxes.values():
        for endpoint in sandbox.endpoints:
            if endpoint.interface and endpoint.network_id in made:
                made[endpoint.network_id].claim(endpoint.interface.address.ip)
    return made


def reconcile(kernel: Kernel, found: Found, *, forward: bool) -> None:
    """Make the kernel what `found` says. Runs in the worker thread."""
    if forward:
        write_sysctl("ipv4/ip_forward", "1")
    plans = []
    for network in found.networks:
        if network.driver != "bridge":
            continue
        try:
            kernel.ensure_bridge(network.plan)
            plans.append(network.plan)
        except (OSError, PydError) as error:
            if network.name == "bridge":
                raise
            log.error("network %s cannot be used: %s", network.name, error)
    publications = [one for sandbox in found.sandboxes.values() for one in sandbox.publications()]
    kernel.replace_table(plans, publications)
    _adopt(kernel, found)
    owned = list(found.sandboxes.values())
    kernel.sweep(
        [sandbox.id for sandbox in owned],
        [one.interface.host for sandbox in owned for one in sandbox.endpoints if one.interface],
    )
    if legacy_filter():
        log.warning(
            "iptables-legacy's filter table is loaded; if its FORWARD policy is DROP, allow bridges by hand: "
            "iptables-legacy -I FORWARD -i BRIDGE -j ACCEPT; iptables-legacy -I FORWARD -o BRIDGE -j ACCEPT"
        )


def _adopt(kernel: Kernel, found: Found) -> None:
    bridges = {network.id: network.plan.bridge for network in found.networks if network.driver == "bridge"}
    for container_id, sandbox in list(found.sandboxes.items()):
        if container_id in found.hosts:
            continue
        ports = [(one.interface.host, bridges[one.network_id]) for one in sandbox.endpoints if one.interface]
        sandbox.namespace = kernel.adopt(sandbox.id, ports)


def has_ipv6(proc: Path = Path("/proc")) -> bool:
    """Whether this host has IPv6 at all, so that ports are published on it as well (proxy.py)."""
    try:
        return (proc / "sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False
