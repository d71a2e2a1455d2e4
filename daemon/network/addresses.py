"""Whether a text is an address."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, ip_address


def is_address(text: str) -> bool:
    """Of either kind."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True
