"""`-p` and `--expose` to the API's PortBindings and ExposedPorts."""

from __future__ import annotations

import ipaddress
import re

from client.errors import ClientError

Bindings = dict[str, list[dict[str, str]]]


def _port_range(text: str) -> tuple[int, int]:
    """`80` or `80-90`; ValueError with Go's words."""
    if not text:
        raise ValueError("empty string specified for ports")
    first, dash, last = text.partition("-")
    numbers = []
    for part in (first, last if dash else first):
        if not re.fullmatch("[0-9]+", part):
            raise ValueError(f'strconv.ParseUint: parsing "{part}": invalid syntax')
        if int(part) > 65535:
            raise ValueError(f'strconv.ParseUint: parsing "{part}": value out of range')
        numbers.append(int(part))
    if numbers[1] < numbers[0]:
        raise ValueError(f"invalid range specified for port: {text}")
    return numbers[0], numbers[1]


def _split(text: str) -> tuple[str, str, str]:
    """(address, host port, container port) of `[ip:][host]:container`."""
    parts = text.split(":")
    if len(parts) <= 2:
        return "", parts[0] if len(parts) == 2 else "", parts[-1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _check_address(address: str, text: str) -> str:
    if address.startswith("["):
        address = address.strip("[]")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ClientError(f"invalid IP address: {address}") from None
    return address


def parse_publish(text: str) -> list[tuple[str, dict[str, str]]]:
    """One -p value to (port/protocol, binding) pairs."""
    if "=" in text:
        text = _from_long_form(text)
    address, host, rest = _split(text)
    container, slash, protocol = rest.partition("/")
    protocol = protocol if slash and protocol else "tcp"
    address = _check_address(address, text)
    if not container:
        raise ClientError(f"no port specified: {text}<empty>")
    try:
        start, end = _port_range(container)
    except ValueError:
        raise ClientError(f"invalid containerPort: {container}") from None
    host_start = host_end = 0
    if host:
        try:
            host_start, host_end = _port_range(host)
        except ValueError:
            raise ClientError(f"invalid hostPort: {host}") from None
    if host and end - start != host_end - host_start and end != start:
        raise ClientError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ClientError(f"invalid proto: {protocol}")
    pairs = []
    for offset in range(end - start + 1):
        host_port = str(host_start + offset) if host else ""
        if host and start == end and host_start != host_end:
            host_port = f"{host_start}-{host_end}"
        pairs.append((f"{start + offset}/{protocol.lower()}", {"HostIp": address, "HostPort": host_port}))
    return pairs


def _from_long_form(text: str) -> str:
    values = {"protocol": "tcp", "published": "", "target": ""}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ClientError(f"invalid publish opts format (should be name=value but got '{part}')")
        values[key] = value
    return f"{values['published']}:{values['target']}/{values['protocol']}"


def parse_expose(text: str) -> list[str]:
    if ":" in text:
        raise ClientError(f"invalid port format for --expose: {text}")
    number, slash, protocol = text.partition("/")
    protocol = protocol if slash and protocol else "tcp"
    try:
        start, end = _port_range(number)
    except ValueError as error:
        raise ClientError(f"invalid range format for --expose: {text}, error: {error}") from None
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ClientError(f"invalid proto: {protocol}")
    return [f"{port}/{protocol.lower()}" for port in range(start, end + 1)]


def build_ports(publish: list[str], expose: list[str]) -> tuple[dict[str, dict[str, str]], Bindings]:
    """(ExposedPorts, PortBindings)."""
    exposed: dict[str, dict[str, str]] = {}
    bindings: Bindings = {}
    for text in publish:
        for port, binding in parse_publish(text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in expose:
        for port in parse_expose(text):
            exposed.setdefault(port, {})
    return exposed, bindings
