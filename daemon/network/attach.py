"""Rules of attaching, pure: who may join what, and what a join or leave changes.

Texts are dockerd's (moby daemon/container_operations.go and libnetwork), observed against 28.5.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from daemon.containers.wire import EndpointSettings
from daemon.network import sysctls
from daemon.network.addresses import is_address, is_ipv4
from daemon.network.kernel import Change, Interface
from daemon.network.networks import Network
from daemon.network.sandboxes import Endpoint, Sandbox
from storage.errors import Forbidden, Internal, InvalidArgument


def check_endpoint(network: Network, settings: EndpointSettings) -> None:
    """Refuse what this network could never give, whatever container asks."""
    ipam = settings.get("IPAMConfig") or {}
    problems = []
    address = ipam.get("IPv4Address") or ""
    if address:
        if network.name in ("bridge", "host", "none"):
            problems.append("user specified IP address is supported on user defined networks only")
        if not network.user_subnet:
            problems.append(
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            )
        elif not is_ipv4(address):
            problems.append(f"invalid IPv4 address: {address}")
        elif IPv4Address(address) not in network.plan.subnet:
            problems.append(f"no configured subnet contains IP address {address}")
    if ipam.get("IPv6Address"):
        problems.append(
            "user specified IP address is supported only when connecting to networks with user "
            "configured subnets"
        )
    problems += [
        f"invalid link-local IP address: {local}"
        for local in ipam.get("LinkLocalIPs") or ()
        if not is_address(local)
    ]
    problems += sysctls.problems(settings)
    if len(problems) > 1:
        problems = [f"* {problem}" for problem in problems]
    if problems:
        listed = "\n".join(problems)
        raise InvalidArgument(
            f"invalid config for network {network.name}: invalid endpoint settings:\n{listed}"
        )


def check_join(network: Network, sandbox: Sandbox | None, container: str) -> None:
    """Refuse a join that the container's present networks rule out."""
    if sandbox is None:
        return
    if network.driver == "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if sandbox.namespace is None:
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any "
            "other network"
        )
    if network.driver == "null" or any(one.network == "none" for one in sandbox.endpoints):
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) "
            "mode"
        )
    if sandbox.endpoint(network.id):
        raise Forbidden(f"endpoint with name {container} already exists in network {network.name}")


def check_leave(network: Network, sandbox: Sandbox, container_id: str) -> Endpoint:
    if network.driver == "host" and sandbox.namespace is None:
        raise InvalidArgument(
            "cannot disconnect container from host network - container was created in host network mode"
        )
    endpoint = sandbox.endpoint(network.id)
    if endpoint is None:
        raise Internal(f"container {container_id} is not connected to network {network.name}")
    return endpoint


def joined(sandbox: Sandbox, endpoint: Endpoint) -> Sandbox:
    """The sandbox with one endpoint more (a copy)."""
    return replace(sandbox, endpoints=[*sandbox.endpoints, endpoint])


def left(sandbox: Sandbox, endpoint: Endpoint) -> Sandbox:
    """The sandbox with one endpoint less (a copy); without any gateway its ports are published no more."""
    rest = [one for one in sandbox.endpoints if one.id != endpoint.id]
    after = replace(sandbox, endpoints=rest)
    return after if after.gateway() else replace(after, bound=())


def join_change(before: Sandbox, after: Sandbox, network: Network, *, plugged: bool) -> Change | None:
    """What the kernel must do for a join; None when a ready namespace has it all already."""
    endpoint, namespace = after.endpoints[-1], after.namespace
    assert namespace is not None and endpoint.interface is not None
    gateway = after.gateway()
    moved = gateway is endpoint
    publish = after.publications() if moved or before.bound != after.bound else ()
    if plugged and not publish:
        return None
    return Change(
        namespace=namespace,
        plug=None if plugged else (network.plan, endpoint.interface),
        route=network.plan.gateway if moved and not plugged else None,
        withdraw=before.publications() if moved else (),
        publish=publish,
        port=_host_end(gateway),
    )


def leave_change(before: Sandbox, after: Sandbox, endpoint: Endpoint) -> Change | None:
    """What the kernel must do when one endpoint leaves a sandbox that stays."""
    namespace, gateway = before.namespace, after.gateway()
    if namespace is None or endpoint.interface is None:
        return None
    moved = before.gateway() is endpoint
    return Change(
        namespace=namespace,
        unplug=endpoint.interface,
        route=IPv4Address(gateway.gateway) if moved and gateway else None,
        unroute=moved and gateway is None,
        withdraw=before.publications() if moved else (),
        publish=after.publications() if moved else (),
        port=_host_end(gateway),
    )


def interface_name(sandbox: Sandbox, network: Network, endpoint_id: str) -> tuple[str, str]:
    """(host end, name inside) of a new endpoint's veth pair."""
    return f"veth{endpoint_id[:7]}", sandbox.next_interface(network.plan.prefix)


def _host_end(endpoint: Endpoint | None) -> str:
    at: Interface | None = endpoint.interface if endpoint else None
    return at.host if at else ""
