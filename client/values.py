"""Flag values: from the text on the command line to what the API takes.

Each parser takes the text and returns the value or raises ValueError whose message is Go's or docker's
(the command prints it after `invalid argument "x" for "--flag" flag: `).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

Converter = Callable[[str], Any]

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_SIZE_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6,
                   "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}  # fmt: skip


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Go's ParseInt with base 0: decimal, 0x, 0o, 0b and a leading zero for octal; 64 bits."""
    return _integer(text, "ParseInt", -(1 << 63), (1 << 63) - 1)


def parse_uint(text: str) -> int:
    return _integer(text, "ParseUint", 0, (1 << 64) - 1)


def parse_uint16(text: str) -> int:
    return _integer(text, "ParseUint", 0, (1 << 16) - 1)


def _integer(text: str, function: str, low: int, high: int) -> int:
    digits = text[1:] if text[:1] in "+-" and text[:1] else text
    octal = re.fullmatch(r"0[0-7]+", digits)
    try:
        value = int(text, 8) if octal else int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax') from None
    if low == 0 and text[:1] in ("-", "+"):
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax')
    if not low <= value <= high:
        raise ValueError(f'strconv.{function}: parsing "{text}": value out of range')
    return value


def parse_bytes(text: str) -> int:
    """`512m`, `1.5GiB`, `64 kb`: binary units whatever the suffix says (go-units RAMInBytes)."""
    split = len(text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    number, suffix = text[:split].removesuffix(" "), text[split:].lower()
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", number):
        raise ValueError(f"invalid size: '{text}'")
    unit = suffix.removesuffix("b").removesuffix("i") if len(suffix) > 1 else suffix
    plain = suffix in _SIZE_UNITS or suffix in {f"{u}{t}" for u in "kmgtp" for t in ("b", "ib")}
    if not plain:
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(Decimal(number) * 1024 ** _SIZE_UNITS[unit])


def parse_swap(text: str) -> int:
    """A size, or -1 for unlimited swap."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_duration(text: str) -> int:
    """Go's ParseDuration, to nanoseconds: `1h15m30.918s`, `-1.5h`, `300ms`, `0`."""
    rest, sign = text, 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = Decimal(0)
    while rest:
        match = re.match(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)", rest)
        if not match:
            raise ValueError(f'time: invalid duration "{text}"')
        number, unit = match.groups()
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _DURATION_UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += Decimal(number) * _DURATION_UNITS[unit]
        rest = rest[match.end() :]
    return sign * int(total)


def parse_decimal(text: str) -> int:
    """CPUs as a fraction, to billionths."""
    try:
        if "/" in text:
            above, below = text.split("/", 1)
            value = Decimal(above) / Decimal(below)
        else:
            value = Decimal(text)
        nano = value * 10**9
    except (InvalidOperation, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if not nano.is_finite():
        raise ValueError(f"failed to parse {text} as a rational number")
    if nano != nano.to_integral_value():
        raise ValueError("value is too precise")
    return int(nano)


def parse_pair(text: str) -> tuple[str, str]:
    """`key=value` for flags that fill a map."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text} must be formatted as key=value")
    return key, value


def parse_filter(text: str) -> tuple[str, str]:
    """`name=value` for --filter."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return key.strip().lower(), value.strip()


CONVERTERS: dict[str, Converter] = {
    "bool": parse_bool,
    "int": parse_int,
    "uint": parse_uint,
    "uint16": parse_uint16,
    "bytes": parse_bytes,
    "swap": parse_swap,
    "duration": parse_duration,
    "decimal": parse_decimal,
    "map": parse_pair,
    "filter": parse_filter,
}
"""By kind; a kind that is not here is text."""
