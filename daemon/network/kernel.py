"""What the daemon does to the kernel's networking. Synchronous; run by the one network thread (worker.py).

Whose an object is can be seen without any record: namespaces are files in the daemon's own directory,
veths are ports of its bridges, bridges carry its identity in their alias, the table and the foreign rules
its identity in name and comment. So whatever a crash leaves half-made, `sweep` finds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from daemon.network import conntrack, firewall, foreign, links, namespaces
from daemon.network.bridge import BridgePlan
from daemon.network.firewall import Publication
from daemon.network.namespaces import Namespace
from daemon.network.nftables import FirewallError, Nftables, NoSuchObject
from daemon.network.rtnetlink import NetlinkSocket
from storage.errors import Forbidden, Internal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interface:
    """One veth pair: `host` end as the bridge's port, the other as `name` in a namespace."""

    host: str
    name: str
    address: IPv4Interface
    mac: str
    more: tuple[IPv4Interface, ...] = ()
    """Link-local addresses beside it (`--link-local-ip`)."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a sandbox when an endpoint joins or leaves; all of it or nothing."""

    namespace: Namespace
    plug: tuple[BridgePlan, Interface] | None = None
    unplug: Interface | None = None
    route: IPv4Address | None = None
    """The new default gateway; None leaves it as it is unless `unroute`."""
    unroute: bool = False
    withdraw: tuple[Publication, ...] = ()
    publish: tuple[Publication, ...] = ()
    port: str = ""
    """Host end of the endpoint that ports are published to."""


class Kernel:
    """The host's links, the daemon's namespaces and its firewall table."""

    def __init__(self, identity: str, table: str, netns: Path) -> None:
        self._identity = identity
        self._table = table
        self._netns = netns
        self._host = NetlinkSocket()
        self._nft = Nftables()
        self._bridges: dict[str, int] = {}
        """Index of each bridge we keep, by name."""

    def close(self) -> None:
        self._host.close()
        self._nft.close()

    # bridges

    def routed(self) -> list[tuple[str, IPv4Network]]:
        """(link's name, destination) of every route of the host."""
        names = {link.index: link.name for link in links.links(self._host)}
        return [(names.get(index, ""), network) for network, index in links.routed(self._host)]

    def ensure_bridge(self, plan: BridgePlan) -> None:
        """Make the bridge, or adopt it with its ports, and set its address.

        A bridge that is not this daemon's (made by the administrator, named in a network's options) gets
        the address and nothing else: it keeps its other addresses and outlives the network.
        """
        link = links.find(self._host, plan.bridge)
        if link is None:
            self._host.request(links.new_bridge(plan.bridge, plan.mac, plan.mtu))
            link = links.find(self._host, plan.bridge)
            if link is None:
                raise Internal(f"bridge {plan.bridge} vanished while it was made")
        if link.kind != "bridge":
            raise Forbidden(f"interface {plan.bridge} exists and is no bridge")
        # A daemon killed before it could label its bridge left it with the MAC that follows from the gateway.
        mine = self._owns(link) or (not link.alias and link.mac == plan.mac)
        if mine:
            self._host.request(links.set_alias(link.index, f"{self._identity} {plan.network_id}"))
        present = set(links.addresses(self._host, link.index))
        others = present - {plan.interface} if mine else set()
        self._host.request(
            links.set_up(link.index),
            *(links.delete_address(link.index, other) for other in others),
            *([] if plan.interface in present else [links.add_address(link.index, plan.interface)]),
        )
        # Sources of 127.0.0.1 are routed to the bridge for published ports; firewall.py guards the way back.
        namespaces.write_sysctl(f"ipv4/conf/{plan.bridge}/route_localnet", "1")
        self._bridges[plan.bridge] = link.index

    def _owns(self, link: links.Link) -> bool:
        return link.alias.split(" ")[0] == self._identity

    def add_network(self, plan: BridgePlan) -> None:
        """A new network: bridge, firewall elements, acceptance by a foreign firewall."""
        self.ensure_bridge(plan)
        self._nft.run(firewall.join(self._table, plan.rules))
        self.accept_abroad()

    def remove_network(self, plan: BridgePlan) -> None:
        with contextlib.suppress(NoSuchObject):
            self._nft.run(firewall.leave(self._table, plan.rules))
        self._remove_bridge(plan.bridge)
        self.accept_abroad()

    def _remove_bridge(self, name: str) -> None:
        self._bridges.pop(name, None)
        link = links.find(self._host, name)
        if link is not None and self._owns(link):
            self._host.request(links.delete_link(link.index))

    # firewall

    def replace_table(self, plans: Iterable[BridgePlan], publications: Iterable[Publication]) -> None:
        """The whole table in one transaction: right whatever was there, and no packet sees it half-done."""
        joins = "".join(firewall.join(self._table, plan.rules) for plan in plans)
        self._nft.run(firewall.table(self._table) + joins + firewall.publish(self._table, publications))

    def has_table(self) -> bool:
        return any(item["table"]["name"] == self._table for item in self._nft.query("list tables inet"))

    def repair(self, plans: Iterable[BridgePlan], publications: Iterable[Publication]) -> None:
        """Someone changed the firewall: have our table again if it is gone, and be accepted abroad."""
        if not self.has_table():
            log.warning("firewall table %s is gone; making it again", self._table)
            self.replace_table(plans, publications)
        self.accept_abroad()

    def remove_table(self) -> None:
        self._nft.run(firewall.remove_table(self._table))

    def accept_abroad(self) -> None:
        """Keep a foreign FORWARD chain from dropping our bridges' packets (foreign.py)."""
        try:
            commands = foreign.plan(self._nft.query(foreign.LIST), self._identity, self._bridges)
            if commands:
                self._nft.run(commands)
        except NoSuchObject:
            return
        except FirewallError as error:
            log.warning("cannot have %s accept this daemon's bridges: %s", foreign.CHAIN, error)

    def publish(self, publications: Collection[Publication], *, port: str) -> None:
        """Forward host ports to the container behind the bridge's `port`, which may call itself by them."""
        self._host.request(links.set_hairpin(port))
        self._nft.run(firewall.publish(self._table, publications))
        self._forget_flows(publications)

    def withdraw(self, publications: Collection[Publication]) -> None:
        if not publications:
            return
        with contextlib.suppress(NoSuchObject):
            self._nft.run(firewall.withdraw(self._table, publications))
        self._forget_flows(publications)

    def _forget_flows(self, publications: Collection[Publication]) -> None:
        if any(one.protocol == "udp" for one in publications):
            local = [address.ip for address in links.addresses(self._host)]
            conntrack.forget(conntrack.plan(publications, local))

    # namespaces

    def make_namespace(self, sandbox_id: str) -> Namespace:
        self._netns.mkdir(parents=True, exist_ok=True)
        return namespaces.create(self.path(sandbox_id))

    def path(self, sandbox_id: str) -> Path:
        return self._netns / sandbox_id[:12]

    def plug(self, namespace: Namespace, plan: BridgePlan, interface: Interface, *, gateway: bool) -> None:
        """A veth pair from the bridge into the namespace, addressed and up; undone on error."""
        bridge = self._bridges[plan.bridge]
        self._host.request(
            links.new_veth(
                interface.host,
                bridge,
                plan.mtu,
                peer=interface.name,
                peer_mac=interface.mac,
                netns=namespace.fd,
            )
        )
        try:
            with namespaces.entered(namespace.fd):
                namespaces.write_sysctl(f"ipv6/conf/{interface.name}/disable_ipv6", "1")
            inner = links.find(namespace.netlink, interface.name)
            if inner is None:
                raise Internal(f"interface {interface.name} vanished while it was made")
            self._host.request(
                links.port_up(interface.host),
                *([] if plan.icc else [links.isolate(interface.host)]),
                links.forget_neighbour(bridge, interface.address.ip),
            )
            namespace.netlink.request(
                links.add_address(inner.index, interface.address),
                *(links.add_address(inner.index, address) for address in interface.more),
                links.set_up(inner.index),
            )
            if gateway:
                namespace.netlink.request(links.default_route(plan.gateway))
        except BaseException:
            self._delete_link(interface.host)
            raise

    def unplug(self, interface: Interface) -> None:
        self._delete_link(interface.host)

    def attach(self, change: Change) -> None:
        """An endpoint joins or leaves a living sandbox: interface, default route, published ports."""
        self.withdraw(change.withdraw)
        if change.plug:
            self.plug(change.namespace, *change.plug, gateway=False)
        try:
            if change.route is not None:
                change.namespace.netlink.request(links.default_route(change.route))
            elif change.unroute:
                change.namespace.netlink.request(links.delete_default_route())
            if change.publish:
                self.publish(change.publish, port=change.port)
        except BaseException:
            if change.plug:
                self.unplug(change.plug[1])
            raise
        if change.unplug:
            self.unplug(change.unplug)

    def revert(self, change: Change) -> None:
        """Take back a join, whether it failed, half-failed or was no longer wanted when it succeeded."""
        self.withdraw(change.publish)
        if change.plug:
            self.unplug(change.plug[1])
        if change.withdraw:
            self._nft.run(firewall.publish(self._table, change.withdraw))

    def release(
        self, namespace: Namespace, interfaces: Collection[Interface], withdraw: Collection[Publication]
    ) -> None:
        """A sandbox ends. Its addresses go at once: the kernel destroys namespaces at its leisure, and until
        then one that nobody owns must not answer for an address that someone else has got by now."""
        self.withdraw(withdraw)
        for interface in interfaces:
            inner = links.find(namespace.netlink, interface.name)
            if inner is not None:
                namespace.netlink.request(links.delete_address(inner.index, interface.address))
        self.drop_namespace(namespace)

    def drop_namespace(self, namespace: Namespace) -> None:
        namespace.close()
        namespaces.drop(namespace.path)

    def reap(self, names: Collection[str]) -> None:
        """Delete host ends that outlived their namespace's last owner (someone else holds it open)."""
        for name in names:
            self._delete_link(name)

    def _delete_link(self, name: str) -> None:
        link = links.find(self._host, name)
        if link is not None:
            self._host.request(links.delete_link(link.index))

    # reconciliation

    def adopt(self, sandbox_id: str, ports: Iterable[tuple[str, str]]) -> Namespace | None:
        """Reopen a running container's namespace; `ports` are (host end, bridge) to be put back in place."""
        try:
            namespace = namespaces.adopt(self.path(sandbox_id))
        except OSError as error:
            log.warning("network namespace of sandbox %s is lost: %s", sandbox_id[:12], error)
            return None
        for name, bridge in ports:
            link = links.find(self._host, name)
            if link is not None and link.master != self._bridges[bridge]:
                self._host.request(links.set_master(link.index, self._bridges[bridge]), links.port_up(name))
        return namespace

    def sweep(self, sandboxes: Collection[str], ports: Collection[str]) -> None:
        """Remove the namespaces, veths and bridges of this daemon that no record owns."""
        kept = {sandbox[:12] for sandbox in sandboxes}
        if self._netns.is_dir():
            for file in self._netns.iterdir():
                if file.name not in kept:
                    namespaces.drop(file)
        mine = set(self._bridges.values())
        for link in links.links(self._host):
            stray_port = link.kind == "veth" and link.master in mine and link.name not in ports
            stray_bridge = self._owns(link) and link.name not in self._bridges
            if stray_port or stray_bridge:
                self._host.request(links.delete_link(link.index))
        self.accept_abroad()

    def dissolve(self) -> None:
        """Remove bridges, table and foreign rules: no container needs them; start() makes them again."""
        for name in list(self._bridges):
            self._remove_bridge(name)
        self.accept_abroad()
        self.remove_table()
