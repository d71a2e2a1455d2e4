"""The daemon's nftables table: fixed chains, and sets and maps that networks and containers add elements to.

    what a packet meets                                     the elements it is looked up in
    prerouting raw   from a container to 127.0.0.0/8: drop  bridges
    prerouting nat   to a published port of this host       published, published_at
    output nat       the same, from a process of this host
    forward          inside a network                       icc           (bridge . bridge)
                     into a network: replies, published     bridges
                     out of an internal network: drop       internal
    postrouting nat  from 127.0.0.1 to a published port     bridges
                     from a container to a published port   subnets       (hairpin)
                     from a container to the outside        outward

A network adds to the sets, a published port to a map, so the number of rules a packet passes does not
grow with the number of containers, and an element is one short transaction.

127.0.0.1: the DNAT happens in `output`, and the bridge has `route_localnet`, without which the kernel
would not route a source of 127.0.0.1. That would also let a container reach the host's loopback through
its gateway (as in CVE-2020-8558), which the raw chain forbids.

All text here is nft(8)'s language; this module only plans, worker.py commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

ANY = IPv4Address(0)

_TABLE = """\
add table inet {table}
delete table inet {table}
table inet {table} {{
  set bridges {{ type ifname; }}
  set icc {{ type ifname . ifname; }}
  set internal {{ type ifname; }}
  set subnets {{ type ipv4_addr; flags interval; }}
  set outward {{ type ipv4_addr; flags interval; }}
  map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}

  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    meta nfproto ipv4 fib daddr type local jump publish
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @icc accept
    oifname @bridges jump inward
    iifname @internal drop
  }}
  chain inward {{
    ct state established,related accept
    ct status dnat accept
    drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr @subnets masquerade
    oifname != @bridges ip saddr @outward masquerade
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """What one bridge network wants of the firewall."""

    bridge: str
    subnet: IPv4Network
    icc: bool = True
    masquerade: bool = True
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """Packets to `host_ip:host_port` of this host go to `address:port`."""

    protocol: str
    host_ip: IPv4Address
    host_port: int
    address: IPv4Address
    port: int


def table(name: str) -> str:
    """Replaces the table by an empty one; in one transaction with `join` and `publish` it is seamless."""
    return _TABLE.format(table=name)


def remove_table(name: str) -> str:
    return f"add table inet {name}\ndelete table inet {name}\n"


def join(table: str, rules: BridgeRules) -> str:
    """The elements of a network."""
    return "".join(f"add element inet {table} {element}\n" for element in _bridge_elements(rules))


def leave(table: str, rules: BridgeRules) -> str:
    """Takes a network's elements away; adding first makes it right when they are not there."""
    return join(table, rules) + "".join(
        f"delete element inet {table} {element}\n" for element in _bridge_elements(rules)
    )


def publish(table: str, publications: Iterable[Publication]) -> str:
    return "".join(
        f"add element inet {table} {_map(p)} {{ {_key(p)} : {p.address} . {p.port} }}\n" for p in publications
    )


def withdraw(table: str, publications: Iterable[Publication]) -> str:
    """Takes published ports away; adding first makes it right when they are not there."""
    these = tuple(publications)
    return publish(table, these) + "".join(
        f"delete element inet {table} {_map(p)} {{ {_key(p)} }}\n" for p in these
    )


def _bridge_elements(rules: BridgeRules) -> list[str]:
    name = f'"{rules.bridge}"'
    elements = [f"bridges {{ {name} }}", f"subnets {{ {rules.subnet} }}"]
    if rules.icc:
        elements.append(f"icc {{ {name} . {name} }}")
    if rules.internal:
        elements.append(f"internal {{ {name} }}")
    elif rules.masquerade:
        elements.append(f"outward {{ {rules.subnet} }}")
    return elements


def _map(publication: Publication) -> str:
    return "published" if publication.host_ip == ANY else "published_at"


def _key(publication: Publication) -> str:
    place = "" if publication.host_ip == ANY else f"{publication.host_ip} . "
    return f"{place}{publication.protocol} . {publication.host_port}"
