"""Networks as the API sees them: checking what `create` asks for, filters, removal, who is attached."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from daemon import parsebool
from daemon.clock import parse_rfc3339
from daemon.network import ipam
from daemon.network.addresses import is_ipv4
from daemon.network.networks import BUILTIN, Network, Registry, new_id, timestamp
from daemon.network.sandboxes import Sandbox
from daemon.until import until
from storage.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotImplementedYet

LIST_FILTERS = {"dangling", "driver", "id", "label", "name", "scope", "type"}
PRUNE_FILTERS = {"label", "label!", "until"}


def new(
    registry: Registry,
    body: Mapping[str, Any],
    pools: Iterable[tuple[str, int]],
    routes: Iterable[IPv4Network],
) -> Network:
    """The network that `POST /networks/create` describes, with a subnet; not yet in the registry."""
    name, driver = body.get("Name") or "", body.get("Driver") or "bridge"
    _check_name(registry, name)
    _check_support(driver, body)
    ipam_body = body.get("IPAM") or {}
    if (ipam_body.get("Driver") or "default") not in ("default", "null"):
        raise NotFound(f'plugin "{ipam_body["Driver"]}" not found')
    chosen = _ipam_config(ipam_body.get("Config") or [])
    if chosen.get("Subnet"):
        subnet = IPv4Network(chosen["Subnet"])
        ipam.claim_subnet(subnet, registry.subnets())
    else:
        subnet = ipam.choose_subnet(pools, [*registry.subnets(), *routes])
    gateway = chosen.get("Gateway") or _first_free(subnet, chosen)
    network = Network(
        id=new_id(),
        name=name,
        driver=driver,
        created=timestamp(),
        scope=body.get("Scope") or "local",
        internal=bool(body.get("Internal")),
        attachable=bool(body.get("Attachable")),
        options=dict(body.get("Options") or {}),
        labels=dict(body.get("Labels") or {}),
        ipam_driver=ipam_body.get("Driver") or "default",
        ipam_options=ipam_body.get("Options"),
        subnet=str(subnet),
        gateway=gateway,
        ip_range=chosen.get("IPRange") or "",
        auxiliary=dict(chosen.get("AuxiliaryAddresses") or {}),
        user_subnet=bool(chosen.get("Subnet")),
    )
    for other in registry:
        if other.driver == "bridge" and other.plan.bridge == network.plan.bridge:
            name = network.plan.bridge
            raise Forbidden(
                f"cannot create network {network.id} ({name}): conflicts with network {other.id} ({name}): "
                "networks have same bridge name"
            )
    return network


def _check_name(registry: Registry, name: str) -> None:
    if not name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if name in BUILTIN or name == "default" or name.startswith("container:"):
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    if registry.by_name(name):
        raise Conflict(f"network with name {name} already exists")


def _check_support(driver: str, body: Mapping[str, Any]) -> None:
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver in ("macvlan", "ipvlan", "overlay"):
        raise NotImplementedYet(f'the network driver "{driver}" is not supported yet')
    if driver != "bridge":
        raise NotFound(f'plugin "{driver}" not found')
    if body.get("Ingress"):
        raise Forbidden("Ingress network can only be global scope network")
    if body.get("ConfigOnly") or (body.get("ConfigFrom") or {}).get("Network"):
        raise NotImplementedYet("configuration-only networks are not supported yet")
    if body.get("EnableIPv4") is False:
        if not body.get("EnableIPv6"):
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        raise NotImplementedYet("networks without IPv4 are not supported yet")
    if body.get("EnableIPv6"):
        raise NotImplementedYet("IPv6 networks are not supported yet")


def _ipam_config(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The one IPv4 entry, checked; all that is wrong with any of them in one error."""
    problems = [problem for entry in entries for problem in _entry_problems(entry)]
    if problems:
        raise InvalidArgument("\n".join(["invalid network config:", *problems]))
    if len(entries) > 1:
        raise InvalidArgument("invalid network config:\na bridge network has only one IPv4 subnet")
    return entries[0] if entries else {}


def _entry_problems(entry: Mapping[str, Any]) -> list[str]:
    text = entry.get("Subnet") or ""
    if not text:
        others = entry.get("Gateway") or entry.get("IPRange") or entry.get("AuxiliaryAddresses")
        return ["every ip-range or gateway must have a corresponding subnet"] if others else []
    if ":" in text:
        return [f"invalid subnet {text}: IPv6 is not enabled on this network"]
    try:
        subnet = ipam.parse_subnet(text)
    except InvalidArgument as error:
        return [str(error)]
    problems = []
    if ip_range := entry.get("IPRange"):
        problems += _range_problems(subnet, ip_range)
    wishes = [("gateway", entry.get("Gateway"))]
    wishes += [("auxiliary address", value) for value in (entry.get("AuxiliaryAddresses") or {}).values()]
    for what, value in wishes:
        if value and not is_ipv4(value):
            problems.append(f"invalid {what} {value}: invalid address")
        elif value and IPv4Address(value) not in subnet:
            problems.append(f"invalid {what} {value}: parent subnet {subnet} doesn't contain this address")
    return problems


def _range_problems(subnet: IPv4Network, text: str) -> list[str]:
    try:
        ip_range = ipam.parse_subnet(text)
    except InvalidArgument as error:
        return [str(error).replace("invalid subnet", "invalid ip-range", 1)]
    if ip_range.prefixlen < subnet.prefixlen:
        return [f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"]
    if not ip_range.subnet_of(subnet):
        return [f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"]
    return []


def _first_free(subnet: IPv4Network, entry: Mapping[str, Any]) -> str:
    """The gateway nobody named: the first address, of the range if there is one, that is not reserved."""
    reserved = {IPv4Address(value) for value in (entry.get("AuxiliaryAddresses") or {}).values()}
    ip_range = IPv4Network(entry["IPRange"]) if entry.get("IPRange") else None
    return str(ipam.AddressSpace(subnet, gateway=None, ip_range=ip_range, reserved=reserved).allocate())


def containers(network: Network, sandboxes: Mapping[str, Sandbox]) -> dict[str, Any]:
    """`Containers` of an inspected network: those attached now."""
    found = {}
    for container_id, sandbox in sandboxes.items():
        endpoint = sandbox.endpoint(network.id)
        if endpoint is not None:
            at = endpoint.interface
            found[container_id] = {
                "Name": sandbox.name,
                "EndpointID": endpoint.id,
                "MacAddress": at.mac if at else "",
                "IPv4Address": str(at.address) if at else "",
                "IPv6Address": "",
            }
    return found


def check_remove(network: Network, sandboxes: Mapping[str, Sandbox]) -> None:
    if network.builtin:
        raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
    active = [
        f'name:"{one["Name"]}" id:"{one["EndpointID"][:12]}"'
        for one in containers(network, sandboxes).values()
    ]
    if active:
        raise Forbidden(
            f"error while removing network: network {network.name} has active endpoints ({', '.join(active)})"
        )


def select(
    networks: Iterable[Network], filters: Mapping[str, Sequence[str]], used: Collection[str]
) -> list[Network]:
    """Networks that pass all filters (any value of each), newest first as dockerd lists them."""
    _check_filters(filters, LIST_FILTERS)
    kept = [network for network in networks if _passes(network, filters, used)]
    return sorted(kept, key=lambda network: network.created, reverse=True)


def prunable(
    networks: Iterable[Network], filters: Mapping[str, Sequence[str]], used: Collection[str]
) -> list[Network]:
    _check_filters(filters, PRUNE_FILTERS)
    limit = until(filters)
    return [
        network
        for network in networks
        if not network.builtin
        and network.id not in used
        and (limit is None or parse_rfc3339(network.created) <= limit)
        and all(_labelled(network, wanted) for wanted in filters.get("label") or ())
        and not any(_labelled(network, unwanted) for unwanted in filters.get("label!") or ())
    ]


def _check_filters(filters: Mapping[str, Sequence[str]], known: set[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")
    for value in filters.get("dangling") or ():
        if value not in parsebool.TRUE | parsebool.FALSE:
            raise InvalidArgument(f"invalid filter 'dangling=[{value}]'")
    for value in filters.get("type") or ():
        if value not in ("builtin", "custom"):
            raise InvalidArgument(f"invalid filter: 'type'='{value}'")


def _passes(network: Network, filters: Mapping[str, Sequence[str]], used: Collection[str]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: network.driver == value,
        "name": lambda value: _matches(value, network.name),
        "id": lambda value: _matches(value, network.id),
        "scope": lambda value: network.scope == value,
        "type": lambda value: network.builtin == (value == "builtin"),
        "dangling": lambda value: (
            (not network.builtin and network.id not in used) == (value in parsebool.TRUE)
        ),
    }
    return all(
        any(tests[name](value) for value in values)
        for name, values in filters.items()
        if name in tests and values
    ) and all(_labelled(network, wanted) for wanted in filters.get("label") or ())


def _matches(pattern: str, text: str) -> bool:
    """Docker's filters match a regular expression anywhere; one that is none matches literally."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return pattern in text


def _labelled(network: Network, wanted: str) -> bool:
    key, given, value = wanted.partition("=")
    return key in network.labels and (not given or network.labels[key] == value)
