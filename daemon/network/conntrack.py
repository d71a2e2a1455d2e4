"""Forgetting UDP flows whose port was published, or is no more.

The kernel decides once per flow whether to translate it. A client that goes on sending to a UDP port
while the container behind it is replaced would be sent to the old address for as long as it does not
pause. TCP has no such trouble: its connections end with the container.

Deleting by filter: nf_conntrack_netlink.c (`CTA_FILTER`, Linux 5.8 for dumps, 6.10 for deletion); older
kernels refuse it, and flows then last their half minute.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from daemon.network.firewall import Publication
from daemon.network.rtnetlink import Message, NetlinkSocket, attribute

NETLINK_NETFILTER = 12
CT_DELETE = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE."""
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
F_IP_SRC, F_IP_DST, F_PROTO_NUM, F_SRC_PORT, F_DST_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
NLA_F_NESTED = 0x8000


def answered_by(address: IPv4Address, port: int) -> Message:
    """Forget UDP flows that this container's port answers."""
    tuple_ = _tuple(CTA_TUPLE_REPLY, CTA_IP_V4_SRC, address, CTA_PROTO_SRC_PORT, port)
    return _delete(tuple_, orig=0, reply=F_IP_SRC | F_PROTO_NUM | F_SRC_PORT)


def sent_to(address: IPv4Address, port: int) -> Message:
    """Forget UDP flows that were sent to this address and port of the host."""
    tuple_ = _tuple(CTA_TUPLE_ORIG, CTA_IP_V4_DST, address, CTA_PROTO_DST_PORT, port)
    return _delete(tuple_, orig=F_IP_DST | F_PROTO_NUM | F_DST_PORT, reply=0)


def plan(publications: Iterable[Publication], local: Iterable[IPv4Address]) -> list[Message]:
    """Everything to forget when these ports are published or withdrawn; `local` are the host's addresses."""
    here = tuple(local)
    messages = []
    for one in publications:
        if one.protocol == "udp":
            hosts = here if int(one.host_ip) == 0 else (one.host_ip,)
            messages.append(answered_by(one.address, one.port))
            messages += [sent_to(host, one.host_port) for host in hosts]
    return messages


def forget(messages: list[Message]) -> None:
    """Run in the host's namespace. Kernels that cannot delete by filter are left to their time-outs."""
    if messages:
        sock = NetlinkSocket(NETLINK_NETFILTER)
        with contextlib.closing(sock), contextlib.suppress(OSError):
            sock.request(*messages)


def _tuple(kind: int, ip_kind: int, address: IPv4Address, port_kind: int, port: int) -> bytes:
    ip = attribute(CTA_TUPLE_IP | NLA_F_NESTED, attribute(ip_kind, address.packed))
    protocol = attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP])) + attribute(
        port_kind, struct.pack("!H", port)
    )
    return attribute(kind | NLA_F_NESTED, ip + attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, protocol))


def _delete(tuple_: bytes, *, orig: int, reply: int) -> Message:
    flags = attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", orig)) + attribute(
        CTA_FILTER_REPLY_FLAGS, struct.pack("=I", reply)
    )
    body = struct.pack("!BBH", socket.AF_INET, 0, 0) + tuple_ + attribute(CTA_FILTER | NLA_F_NESTED, flags)
    return Message("forget UDP flows", CT_DELETE, body, tolerate=frozenset({errno.ENOENT}))
