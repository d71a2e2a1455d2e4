"""What the engine does to links, addresses and routes: requests as data, and readers of the kernel's state.

Each function that only builds a `Message` is pure; `NetlinkSocket.request(*messages)` runs them, in the
namespace the socket lives in.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from daemon.network.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    number,
    text,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_DELNEIGH = 29
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD = 20, 26, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
NDA_DST = 1
IFF_UP = 1
AF_INET, AF_INET6 = 2, 10
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str
    """`bridge`, `veth`, ...; empty for hardware and loopback."""
    master: int
    """Index of the bridge it is a port of, or 0."""
    mtu: int
    up: bool
    mac: str
    alias: str
    """Free text; ours is `<daemon's identity> <network's ID>` on bridges."""


def pack_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def new_bridge(name: str, mac: str, mtu: int) -> Message:
    """A bridge, up. Its MAC is set, else it would change with its ports; STP is off by default."""
    body = (
        _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP)
        + text(IFLA_IFNAME, name)
        + number(IFLA_MTU, mtu)
        + attribute(IFLA_ADDRESS, pack_mac(mac))
        + attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    )
    return Message(f"create bridge {name}", RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)


def new_veth(name: str, bridge: int, mtu: int, *, peer: str, peer_mac: str, netns: int) -> Message:
    """A veth pair in one request: `name`, as a port of `bridge`; `peer` born inside `netns`; both down."""
    inner = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, peer)
        + number(IFLA_MTU, mtu)
        + attribute(IFLA_ADDRESS, pack_mac(peer_mac))
        + number(IFLA_NET_NS_FD, netns)
    )
    kind = text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, inner))
    body = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, name)
        + number(IFLA_MTU, mtu)
        + number(IFLA_MASTER, bridge)
        + attribute(IFLA_LINKINFO, kind)
    )
    return Message(f"create veth pair {name}", RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)


def set_up(index: int) -> Message:
    return Message(f"set link {index} up", RTM_NEWLINK, _IFINFO.pack(0, 0, index, IFF_UP, IFF_UP))


def port_up(name: str) -> Message:
    """A bridge's port, up, without an fe80:: address: it is no one's, and its duplicate address
    detection would reach every container. (The kernel takes address families only of existing links.)"""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_MODE_NONE]))
    body = (
        _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP)
        + text(IFLA_IFNAME, name)
        + attribute(IFLA_AF_SPEC, attribute(AF_INET6, mode))
    )
    return Message(f"set bridge port {name} up", RTM_NEWLINK, body)


def set_mac(index: int, mac: str) -> Message:
    body = _IFINFO.pack(0, 0, index, 0, 0) + attribute(IFLA_ADDRESS, pack_mac(mac))
    return Message(f"set hardware address {mac} of link {index}", RTM_NEWLINK, body)


def set_master(index: int, bridge: int) -> Message:
    body = _IFINFO.pack(0, 0, index, 0, 0) + number(IFLA_MASTER, bridge)
    return Message(f"make link {index} a port of bridge {bridge}", RTM_NEWLINK, body)


def set_alias(index: int, alias: str) -> Message:
    body = _IFINFO.pack(0, 0, index, 0, 0) + text(IFLA_IFALIAS, alias)
    return Message(f"label link {index}", RTM_NEWLINK, body)


def set_hairpin(name: str) -> Message:
    """Let a bridge send a frame back out of the port it came in by: a container calling itself by DNAT."""
    return _port_option(name, IFLA_BRPORT_MODE, "let bridge port {} return frames")


def isolate(name: str) -> Message:
    """Let a bridge's port talk to the bridge only, not to other isolated ports. The firewall alone would
    not do: frames within a bridge pass it only where br_netfilter is loaded."""
    return _port_option(name, IFLA_BRPORT_ISOLATED, "isolate bridge port {}")


def _port_option(name: str, option: int, what: str) -> Message:
    info = text(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(IFLA_INFO_SLAVE_DATA, attribute(option, b"\1"))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO, info)
    return Message(what.format(name), RTM_NEWLINK, body)


def delete_link(index: int) -> Message:
    gone = frozenset({errno.ENODEV})
    return Message(f"delete link {index}", RTM_DELLINK, _IFINFO.pack(0, 0, index, 0, 0), tolerate=gone)


def add_address(index: int, address: IPv4Interface) -> Message:
    body = (
        _IFADDR.pack(AF_INET, address.network.prefixlen, 0, 0, index)
        + attribute(IFA_LOCAL, address.ip.packed)
        + attribute(IFA_ADDRESS, address.ip.packed)
        + attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    )
    return Message(f"add address {address}", RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_REPLACE)


def delete_address(index: int, address: IPv4Interface) -> Message:
    body = _IFADDR.pack(AF_INET, address.network.prefixlen, 0, 0, index) + attribute(
        IFA_LOCAL, address.ip.packed
    )
    gone = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})
    return Message(f"delete address {address}", RTM_DELADDR, body, tolerate=gone)


def default_route(gateway: IPv4Address) -> Message:
    body = _RTMSG.pack(
        AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    ) + attribute(RTA_GATEWAY, gateway.packed)
    return Message(f"add default route via {gateway}", RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_REPLACE)


def delete_default_route() -> Message:
    body = _RTMSG.pack(AF_INET, 0, 0, 0, RT_TABLE_MAIN, 0, 255, 0, 0)
    return Message("delete default route", RTM_DELROUTE, body, tolerate=frozenset({errno.ESRCH}))


def forget_neighbour(index: int, address: IPv4Address) -> Message:
    """Drop a cached hardware address that a former holder of the address may have left."""
    body = _NDMSG.pack(AF_INET, index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    gone = frozenset({errno.ENOENT, errno.ENODEV})
    return Message(f"forget neighbour {address}", RTM_DELNEIGH, body, tolerate=gone)


def find(sock: NetlinkSocket, name: str) -> Link | None:
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    answer = sock.ask(Message(f"look up link {name}", RTM_GETLINK, body))
    return None if answer is None else _link(answer)


def links(sock: NetlinkSocket) -> list[Link]:
    return [
        _link(body) for body in sock.dump(Message("list links", RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0)))
    ]


def addresses(sock: NetlinkSocket, index: int = 0) -> list[IPv4Interface]:
    """IPv4 addresses of one link, or of all."""
    request = Message("list addresses", RTM_GETADDR, _IFADDR.pack(AF_INET, 0, 0, 0, index))
    found = []
    for body in sock.dump(request):
        prefix, owner = body[1], struct.unpack_from("=I", body, 4)[0]
        local = attributes(body[_IFADDR.size :]).get(IFA_LOCAL)
        if index in (0, owner) and local:
            found.append(IPv4Interface((local, prefix)))
    return found


def routed(sock: NetlinkSocket) -> list[tuple[IPv4Network, int]]:
    """(destination, link index) of the main table's IPv4 routes but the default one."""
    request = Message("list routes", RTM_GETROUTE, _RTMSG.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))
    found = []
    for body in sock.dump(request):
        prefix, table = body[1], body[4]
        attrs = attributes(body[_RTMSG.size :])
        if table == RT_TABLE_MAIN and prefix and RTA_DST in attrs:
            oif = struct.unpack("=i", attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0
            found.append((IPv4Network((attrs[RTA_DST], prefix)), oif))
    return found


def _link(body: bytes) -> Link:
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    attrs = attributes(body[_IFINFO.size :])
    info = attributes(attrs.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=attrs[IFLA_IFNAME].rstrip(b"\0").decode(),
        kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        master=struct.unpack("=I", attrs[IFLA_MASTER])[0] if IFLA_MASTER in attrs else 0,
        mtu=struct.unpack("=I", attrs[IFLA_MTU])[0] if IFLA_MTU in attrs else 0,
        up=bool(flags & IFF_UP),
        mac=attrs.get(IFLA_ADDRESS, b"").hex(":"),
        alias=attrs.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )
