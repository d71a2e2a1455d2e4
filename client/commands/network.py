"""`pyd network`: ls, create, rm, prune, connect, disconnect."""

from __future__ import annotations

from typing import Any

from client.commands.ps import chosen_format
from client.commands.remove import ask
from client.creation.networks import UNSET_ENDPOINT
from client.creation.validators import label, link, to_map
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import go_timestamp, short_id
from client.session import Session, each, filters_json, say, warn
from client.values import Converter

LIST_FLAGS = """
f|filter|filter||Show only what fits these conditions
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
 |no-trunc|bool||Do not shorten
q|quiet|bool||Show IDs only
"""
CREATE_FLAGS = """
 |attachable|bool||Let containers be attached by hand
 |aux-address|map||Addresses that the driver uses itself
 |config-from|string||Network to copy the configuration from
 |config-only|bool||Make a configuration only
d|driver|string|bridge|Driver of the network
 |gateway|strings*||Gateway of a subnet
 |ingress|bool||Make a swarm's routing mesh
 |internal|bool||Keep the network from the outside
 |ip-range|strings*||Part of a subnet to give addresses from
 |ipam-driver|string|default|Driver that manages the addresses
 |ipam-opt|map||Options of that driver
 |ipv4|bool|true|Give IPv4 addresses
 |ipv6|bool||Give IPv6 addresses
 |label|list:label||Set metadata
o|opt|map||Options of the driver
 |scope|string||Scope of the network
 |subnet|strings*||Subnet in CIDR form
"""
CONNECT_FLAGS = """
 |alias|strings*||Name of the container in the network
 |driver-opt|strings*||Options of the driver
 |gw-priority|int||The endpoint with the highest one gives the default gateway
 |ip|string||IPv4 address
 |ip6|string||IPv6 address
 |link|list:link||Add a link to another container
 |link-local-ip|strings*||Link-local addresses
"""
PRUNE_FLAGS = """
 |filter|filter||What to remove ("until=<timestamp>")
f|force|bool||Do not ask
"""
COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
           "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT", "Label": ""}  # fmt: skip
CONVERTERS: dict[str, Converter] = {"label": label, "link": link}


def _row(network: dict[str, Any], *, short: bool) -> dict[str, Any]:
    labels: dict[str, str] = network.get("Labels") or {}
    return {
        "ID": short_id(network["Id"]) if short else network["Id"],
        "Name": network["Name"],
        "Driver": network["Driver"],
        "Scope": network["Scope"],
        "IPv4": str(bool(network.get("EnableIPv4", True))).lower(),
        "IPv6": str(bool(network.get("EnableIPv6"))).lower(),
        "Internal": str(bool(network.get("Internal"))).lower(),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "CreatedAt": go_timestamp(network.get("Created", "")),
        "Label": lambda name: labels.get(name, ""),
    }


def list_networks(session: Session, parsed: Parsed) -> int:
    text = chosen_format(session, parsed, "networksFormat")
    check_template(text)
    networks = session.api.json("GET", "/networks", query={"filters": filters_json(parsed.items("filter"))})
    rows = [_row(network, short=not parsed.on("no-trunc")) for network in networks]
    rows.sort(key=lambda row: str(row["Name"]))
    if parsed.on("quiet") and not text:
        for row in rows:
            say(row["ID"])
        return 0
    show(rows, COLUMNS, ("ID", "Name", "Driver", "Scope"), text, kind="*network.networkContext")
    return 0


def _inside(subnet: str, address: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(address.partition("/")[0]) in ipaddress.ip_network(subnet, strict=False)
    except ValueError:
        raise ClientError(f"invalid CIDR address: {subnet}") from None


def ipam_config(parsed: Parsed) -> list[dict[str, Any]]:
    """One record a subnet, with the gateway, range and auxiliary addresses that lie in it."""
    subnets = _split(parsed.items("subnet"))
    ranges, gateways = _split(parsed.items("ip-range")), _split(parsed.items("gateway"))
    auxiliary = dict(parsed.items("aux-address"))
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise ClientError("every ip-range or gateway must have a corresponding subnet")
    records: list[dict[str, Any]] = []
    for subnet in subnets:
        record: dict[str, Any] = {"Subnet": subnet}
        for key, values in (("IPRange", ranges), ("Gateway", gateways)):
            matching = [value for value in values if _inside(subnet, value)]
            if len(matching) > 1:
                clash = ", ".join(matching)
                raise ClientError(f"cannot configure multiple {key} ({clash}) on the same subnet ({subnet})")
            if matching:
                record[key] = matching[0]
        inside = {name: address for name, address in auxiliary.items() if _inside(subnet, address)}
        if inside:
            record["AuxiliaryAddresses"] = inside
        records.append(record)
    for kind, values in (
        ("ip-range", ranges),
        ("gateway", gateways),
        ("aux-address", list(auxiliary.values())),
    ):
        for value in values:
            if not any(_inside(subnet, value) for subnet in subnets):
                raise ClientError(f"no matching subnet for {kind} {value}")
    return records


def _split(values: list[str]) -> list[str]:
    return [part for value in values for part in value.split(",")]


def create(session: Session, parsed: Parsed) -> int:
    body: dict[str, Any] = {
        "Name": parsed.arguments[0],
        "Driver": parsed.text("driver"),
        "Scope": parsed.text("scope"),
        "IPAM": {"Driver": parsed.text("ipam-driver"), "Options": dict(parsed.items("ipam-opt")),
                 "Config": ipam_config(parsed)},
        "Internal": parsed.on("internal"),
        "Attachable": parsed.on("attachable"),
        "Ingress": parsed.on("ingress"),
        "ConfigOnly": parsed.on("config-only"),
        "ConfigFrom": {"Network": parsed.text("config-from")} if parsed.text("config-from") else None,
        "Options": dict(parsed.items("opt")),
        "Labels": to_map(parsed.items("label")),
    }  # fmt: skip
    for flag, field in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if flag in parsed.changed:
            body[field] = parsed.on(flag)
    answer = session.api.json("POST", "/networks/create", json=body)
    if answer.get("Warning"):
        warn(f"WARNING: {answer['Warning']}")
    say(answer["Id"])
    return 0


def remove(session: Session, parsed: Parsed) -> int:
    force = parsed.on("force")

    def one(name: str) -> None:
        try:
            session.api.request("DELETE", f"/networks/{name}")
        except ClientError as error:
            if not (force and getattr(error, "status", 0) == 404):
                raise

    return each(parsed.arguments, one)


def prune(session: Session, parsed: Parsed) -> int:
    ask(parsed, "This will remove all custom networks not used by at least one container.")
    answer = session.api.json(
        "POST", "/networks/prune", query={"filters": filters_json(parsed.items("filter"))}
    )
    if names := answer.get("NetworksDeleted"):
        say("\n".join(["Deleted Networks:", *names, ""]))
    return 0


def connect(session: Session, parsed: Parsed) -> int:
    network, container = parsed.arguments
    addresses = {"IPv4Address": parsed.text("ip"), "IPv6Address": parsed.text("ip6"),
                 "LinkLocalIPs": _split(parsed.items("link-local-ip"))}  # fmt: skip
    endpoint = {
        **UNSET_ENDPOINT,
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Links": parsed.items("link") or None,
        "Aliases": _split(parsed.items("alias")),
        "DriverOpts": to_map(_split(parsed.items("driver-opt"))),
        "GwPriority": parsed.number("gw-priority"),
    }
    session.api.request("POST", f"/networks/{network}/connect",
                        json={"Container": container, "EndpointConfig": endpoint})  # fmt: skip
    return 0


def disconnect(session: Session, parsed: Parsed) -> int:
    network, container = parsed.arguments
    session.api.request("POST", f"/networks/{network}/disconnect",
                        json={"Container": container, "Force": parsed.on("force")})  # fmt: skip
    return 0


COMMANDS = (
    Command(("network ls", "network list"), "", "List networks", list_networks, LIST_FLAGS, most=0),
    Command(("network create",), "NETWORK", "Create a network", create, CREATE_FLAGS, least=1, most=1,
            converters=CONVERTERS),
    Command(("network rm", "network remove"), "NETWORK [NETWORK...]", "Remove one or more networks", remove,
            "f|force|bool||Do not complain of networks that do not exist", least=1, completes="networks"),
    Command(("network prune",), "", "Remove all unused networks", prune, PRUNE_FLAGS, most=0),
    Command(("network connect",), "NETWORK CONTAINER", "Connect a container to a network", connect, CONNECT_FLAGS,
            least=2, most=2, converters=CONVERTERS, completes="networks"),
    Command(("network disconnect",), "NETWORK CONTAINER", "Disconnect a container from a network", disconnect,
            "f|force|bool||Disconnect even if the container is gone", least=2, most=2, completes="networks"),
)  # fmt: skip
