"""Living beside another firewall whose FORWARD chain drops what it does not know, such as dockerd's.

In nftables a packet passes every table's chains; `accept` in ours ends only ours, `drop` in any ends the
packet. dockerd sets the policy of `ip filter FORWARD` (iptables-nft) to drop, so our bridges have to be
accepted there too. Each bridge gets two rules in that chain, after its jumps to DOCKER's chains, which
thereby still guard dockerd's own networks against ours; without such jumps they go first, as dockerd's
own would. They are ordinary rules to iptables-nft (`iptables -S FORWARD` shows them) and say whose they
are in their comment.

Out of reach are: chains of iptables-legacy, whose table the kernel keeps elsewhere (`legacy_filter()`
tells, and the daemon warns), and native nftables tables of firewalld and the like, which are their
administrator's: there the bridges must be put into a zone that forwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHAIN = "ip filter FORWARD"
LIST = f"list chain {CHAIN}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """One of our rules as found: whose, for which bridge, which way."""

    handle: int
    bridge: str
    way: str


def plan(listing: Sequence[Mapping[str, Any]], owner: str, bridges: Collection[str]) -> str:
    """Commands that leave exactly two rules per bridge of ours in the chain, given its JSON listing."""
    rules = [item["rule"] for item in listing if "rule" in item]
    if not any("chain" in item for item in listing):
        return ""
    anchor, ours = 0, list[Accepted]()
    seen = set[tuple[str, str]]()
    commands = []
    for rule in rules:
        mine = _ours(rule, owner)
        if mine is None:
            anchor = rule["handle"] if _is_docker(rule) else anchor
            continue
        late = bool(anchor) or not any(_is_docker(other) for other in rules)
        if late and mine.bridge in bridges and (mine.bridge, mine.way) not in seen:
            seen.add((mine.bridge, mine.way))
            ours.append(mine)
        else:
            commands.append(f"delete rule {CHAIN} handle {mine.handle}\n")
    for bridge in sorted(bridges):
        for way in ("iifname", "oifname"):
            if (bridge, way) not in seen:
                rule = f'{way} "{bridge}" counter accept comment "{owner}"'
                at = f"add rule {CHAIN} position {anchor}" if anchor else f"insert rule {CHAIN}"
                commands.append(f"{at} {rule}\n")
    return "".join(commands)


def legacy_filter(proc: Path = Path("/proc")) -> bool:
    """Whether iptables-legacy's filter table exists, whose policy this daemon cannot change."""
    try:
        return "filter" in (proc / "net/ip_tables_names").read_text().split()
    except OSError:
        return False


def _ours(rule: Mapping[str, Any], owner: str) -> Accepted | None:
    if rule.get("comment") != owner:
        return None
    for expression in rule["expr"]:
        match expression:
            case {"match": {"left": {"meta": {"key": ("iifname" | "oifname") as way}}, "right": str(bridge)}}:
                return Accepted(rule["handle"], bridge, way)
    return None


def _is_docker(rule: Mapping[str, Any]) -> bool:
    return any(
        str(expression.get("jump", {}).get("target", "")).startswith("DOCKER")
        for expression in rule["expr"]
        if isinstance(expression.get("jump"), dict)
    )
