"""DNS messages, as little as an answering forwarder needs (RFC 1035, EDNS of RFC 6891): pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

A, PTR, OPT, AAAA, ANY = 1, 12, 41, 28, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
TTL = 600
"""What dockerd answers with."""
PLAIN_SIZE = 512
_HEADER = struct.Struct("!HHHHHH")
_MAX_POINTERS = 32


class Malformed(ValueError):
    """Not a DNS query that can be answered."""


@dataclass(frozen=True, slots=True)
class Query:
    id: int
    flags: int
    name: str
    """Lower case, without the final dot."""
    type: int
    question: bytes
    """As received, to be repeated in the answer."""
    size: int
    """How large an answer by UDP the client takes."""

    @property
    def reversed_address(self) -> IPv4Address | None:
        """The address a PTR query asks about (`2.0.18.172.in-addr.arpa`)."""
        if self.type != PTR or not self.name.endswith(".in-addr.arpa"):
            return None
        try:
            return IPv4Address(".".join(reversed(self.name.removesuffix(".in-addr.arpa").split("."))))
        except AddressValueError:
            return None


def parse_query(data: bytes) -> Query:
    """One question; anything else is Malformed."""
    if len(data) < _HEADER.size:
        raise Malformed("short header")
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if flags & QR or flags & 0x7800 or questions != 1 or answers or authorities:
        raise Malformed("no plain query")
    labels, at = _name(data, _HEADER.size)
    if at + 4 > len(data):
        raise Malformed("short question")
    kind, klass = struct.unpack_from("!HH", data, at)
    if klass != IN:
        raise Malformed("class is not IN")
    size = _edns_size(data, at + 4) if additionals else PLAIN_SIZE
    return Query(ident, flags, ".".join(labels).lower(), kind, data[_HEADER.size : at + 4], size)


def answer_addresses(query: Query, addresses: Iterable[IPv4Address]) -> bytes:
    """An A answer; of other types than A an empty one, which says that the name exists."""
    records = [
        b"\xc0\x0c" + struct.pack("!HHIH", A, IN, TTL, 4) + address.packed
        for address in addresses
        if query.type in (A, ANY)
    ]
    return _reply(query, NOERROR, records)


def answer_name(query: Query, name: str) -> bytes:
    """A PTR answer."""
    target = encode_name(name)
    return _reply(query, NOERROR, [b"\xc0\x0c" + struct.pack("!HHIH", PTR, IN, TTL, len(target)) + target])


def refuse(query: Query, code: int) -> bytes:
    return _reply(query, code, [])


def truncated(data: bytes, size: int) -> bytes:
    """An answer too long for UDP becomes one that tells the client to ask by TCP."""
    if len(data) <= size:
        return data
    ident, flags, questions, *_counts = _HEADER.unpack_from(data)
    _labels, at = _name(data, _HEADER.size)
    return _HEADER.pack(ident, flags | TC, questions, 0, 0, 0) + data[_HEADER.size : at + 4]


def answers_to(query: bytes, data: bytes) -> bool:
    """Whether `data` is the reply to `query`: same ID, and the same question if it repeats one."""
    if len(data) < _HEADER.size or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    try:
        asked, asked_end = _name(query, _HEADER.size)
        replied, _end = _name(data, _HEADER.size) if data[5] else (asked, asked_end)
    except Malformed:
        return False
    return [label.lower() for label in asked] == [label.lower() for label in replied]


def encode_name(name: str) -> bytes:
    labels = [label.encode("ascii", "replace") for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in (label[:63] for label in labels)) + b"\0"


def _reply(query: Query, code: int, records: list[bytes]) -> bytes:
    flags = QR | RA | (query.flags & RD) | code
    kept, size = list[bytes](), _HEADER.size + len(query.question)
    for record in records:
        if size + len(record) > query.size:
            flags |= TC
            break
        size += len(record)
        kept.append(record)
    return _HEADER.pack(query.id, flags, 1, len(kept), 0, 0) + query.question + b"".join(kept)


def _name(data: bytes, at: int) -> tuple[list[str], int]:
    """Labels of a possibly compressed name, and where what follows it begins."""
    labels, end, hops, total = list[str](), 0, 0, 0
    while True:
        if at >= len(data):
            raise Malformed("name runs past the message")
        length = data[at]
        if length & 0xC0 == 0xC0:
            if at + 1 >= len(data) or hops >= _MAX_POINTERS:
                raise Malformed("bad pointer")
            end = end or at + 2
            at, hops = (length & 0x3F) << 8 | data[at + 1], hops + 1
        elif length > 63:
            raise Malformed("bad label")
        elif length == 0:
            return labels, end or at + 1
        else:
            total += length + 1
            if total > 255 or at + 1 + length > len(data):
                raise Malformed("name too long")
            labels.append(data[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length


def _edns_size(data: bytes, at: int) -> int:
    try:
        _labels, at = _name(data, at)
    except Malformed:
        return PLAIN_SIZE
    if at + 4 > len(data):
        return PLAIN_SIZE
    kind, size = struct.unpack_from("!HH", data, at)
    return max(PLAIN_SIZE, min(size, 4096)) if kind == OPT else PLAIN_SIZE
