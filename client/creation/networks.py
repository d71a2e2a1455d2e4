"""`--network` and the flags that describe the container's first endpoint."""

from __future__ import annotations

import csv
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from client.errors import ClientError
from client.options import Parsed

_LONG = re.compile(r"\w+=\w+(,\w+=\w+)*")
UNSET_ENDPOINT: dict[str, Any] = {
    "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0,
    "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
    "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": None,
}  # fmt: skip
"""Every field of the API's EndpointSettings as docker sends it when nothing is asked for."""


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f'ParseAddr("{text}"): unable to parse IP') from None


def parse_network(text: str) -> dict[str, Any]:
    """A name, or `name=net,alias=x,ip=1.2.3.4,driver-opt=k=v,gw-priority=1`."""
    option: dict[str, Any] = {
        "Target": text,
        "Aliases": [],
        "LinkLocalIPs": [],
        "DriverOpts": {},
        "Links": [],
    }
    if not _LONG.search(text):
        return option
    option["Target"] = ""
    for item in next(csv.reader([text])):
        key, equals, value = (part.strip() for part in item.lower().partition("="))
        if not equals or not key:
            raise ValueError(f"invalid field {item}")
        if key == "name":
            option["Target"] = value
        elif key == "alias":
            option["Aliases"].append(value)
        elif key == "link-local-ip":
            option["LinkLocalIPs"].append(_ip(value))
        elif key in ("ip", "ip6"):
            option[key] = value
        elif key == "mac-address":
            option["mac"] = value
        elif key == "driver-opt":
            name, sign, setting = value.partition("=")
            if not sign or not name:
                raise ValueError("invalid key value pair format in driver options")
            option["DriverOpts"][name.strip()] = setting.strip()
        elif key == "gw-priority":
            if not re.fullmatch(r"[+-]?[0-9]+", value):
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
            option["GwPriority"] = int(value)
        else:
            raise ValueError(f"invalid field key {key}")
    if not option["Target"]:
        raise ValueError("network name/id is not specified")
    return option


def is_user_defined(mode: str) -> bool:
    return mode not in ("default", "bridge", "host", "none") and not mode.startswith("container:")


def check_mac(text: str) -> str:
    if not re.fullmatch(
        r"([0-9A-Fa-f]{2}[:-]){5,7}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2,3}[0-9A-Fa-f]{4}", text.strip()
    ):
        raise ClientError(f"{text} is not a valid mac address")
    return text


def _merge_flags(option: dict[str, Any], parsed: Parsed) -> None:
    """The first network takes what the flags without a network's name say."""
    aliases = parsed.items("network-alias") + parsed.items("net-alias")
    links, local = parsed.items("link"), parsed.items("link-local-ip")
    conflicts = (
        (option["Aliases"] and aliases, "--network-alias and per-network alias"),
        (option["Links"] and links, "--link and per-network links"),
        (option.get("ip") and parsed.text("ip"), "--ip and per-network IPv4 address"),
        (option.get("ip6") and parsed.text("ip6"), "--ip6 and per-network IPv6 address"),
        (option.get("mac") and parsed.text("mac-address"), "--mac-address and per-network MAC address"),
        (option["LinkLocalIPs"] and local, "--link-local-ip and per-network link-local IP addresses"),
    )
    for clash, names in conflicts:
        if clash:
            raise ClientError(f"conflicting options: cannot specify both {names}")
    option["Aliases"] = option["Aliases"] or aliases
    if is_user_defined(option["Target"]):
        option["Links"] = option["Links"] or links
    option["ip"] = option.get("ip") or parsed.text("ip")
    option["ip6"] = option.get("ip6") or parsed.text("ip6")
    option["mac"] = option.get("mac") or parsed.text("mac-address")
    option["LinkLocalIPs"] = option["LinkLocalIPs"] or local


def endpoint_settings(option: Mapping[str, Any]) -> dict[str, Any]:
    """The API's EndpointSettings with every field that docker sends."""
    target = option["Target"]
    if not target.strip():
        raise ClientError("no name set for network")
    if not is_user_defined(target):
        if option["Aliases"]:
            raise ClientError("network-scoped aliases are only supported for user-defined networks")
        if option["Links"]:
            raise ClientError("links are only supported for user-defined networks")
    addresses = {"IPv4Address": option.get("ip"), "IPv6Address": option.get("ip6"),
                 "LinkLocalIPs": option["LinkLocalIPs"]}  # fmt: skip
    given = {key: value for key, value in addresses.items() if value}
    return {
        **UNSET_ENDPOINT,
        "IPAMConfig": given or None,
        "Links": option["Links"] or None,
        "Aliases": list(option["Aliases"]) or None,
        "MacAddress": check_mac(option["mac"]) if option.get("mac") else "",
        "DriverOpts": option["DriverOpts"] or None,
        "GwPriority": option.get("GwPriority", 0),
    }


def _is_plain(endpoint: Mapping[str, Any]) -> bool:
    return not any(endpoint.values())


def build_endpoints(parsed: Parsed) -> tuple[str, dict[str, Any]]:
    """(NetworkMode, EndpointsConfig) of the create body."""
    options = [dict(option) for option in parsed.items("network") + parsed.items("net")]
    if not options:
        options = [{**parse_network("default")}]
        _merge_flags(options[0], parsed)
        return "default", {"default": endpoint_settings(options[0])}
    endpoints: dict[str, Any] = {}
    for index, option in enumerate(options):
        if index == 0:
            _merge_flags(option, parsed)
        if option["Target"] in endpoints:
            raise ClientError(f'network "{option["Target"]}" is specified multiple times')
        endpoint = endpoint_settings(option)
        if len(options) == 1 and _is_plain(endpoint):
            continue
        endpoints[option["Target"]] = endpoint
    if len({is_user_defined(option["Target"]) for option in options}) > 1:
        raise ClientError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return options[0]["Target"], endpoints
