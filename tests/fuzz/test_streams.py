"""Framing, detach keys, log lines: however the bytes are cut on their way, what comes out is the same."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import strategies as st

from api.compress import negotiated
from api.streams import frame
from client.streams import Demultiplexer
from daemon.containers.logs.journald import split
from daemon.containers.logs.jsonfile import JsonFormat
from daemon.containers.logs.localfile import LocalFormat
from daemon.runtime.attach import DetachKeys
from daemon.runtime.loglines import LIMIT, JsonEncoder, Lines, LocalEncoder
from tests.fuzz.running import all_night, once

CHUNKS = st.lists(st.binary(max_size=40), max_size=12)
KEYS = st.binary(min_size=1, max_size=4)
NOW = 1_700_000_000_000_000_000


def check_detach(keys: bytes, chunks: list[bytes]) -> None:
    """As if the whole input were searched at once: everything before the first occurrence passes."""
    passed, detached, finder = b"", False, DetachKeys(keys)
    for chunk in chunks:
        out, detached = finder.feed(chunk)
        passed += out
        if detached:
            break
    whole = b"".join(chunks)
    at = whole.find(keys)
    assert detached == (at >= 0)
    if detached:
        assert passed == whole[:at]
    else:
        held = len(whole) - len(passed)
        assert whole.startswith(passed) and held < len(keys) and keys.startswith(whole[len(passed) :])


LINES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"\n", b"x" * (LIMIT - 1), b"y" * LIMIT, b"z" * (LIMIT + 1), b"\xc3", b"\xa9\n"]),
    ),
    max_size=10,
)


def check_lines(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    for encoder, format in ((LocalEncoder("stdout", {"a": "b"}), LocalFormat()),):
        lines = Lines(encoder)
        written = b"".join(lines.feed(chunk, NOW) for chunk in chunks) + lines.finish(NOW)
        records, rest = format.split(written)
        assert rest == b""
        check_last(format, written, records)
        entries = [format.parse(record) for record in records]
        assert b"".join(e.line for e in entries if e) == whole
        assert all(e and len(e.line) <= LIMIT + 1 for e in entries)
    lines = Lines(JsonEncoder("stderr", {}))
    written = b"".join(lines.feed(chunk, NOW) for chunk in chunks) + lines.finish(NOW)
    records, rest = JsonFormat().split(written)
    assert rest == b""
    text = "".join(json.loads(record)["log"] for record in records)
    if whole.isascii():
        assert text.encode() == whole
    assert text.count("\n") == whole.count(b"\n")


def check_last(format: LocalFormat, written: bytes, records: list[bytes]) -> None:
    """From the end backwards there is what there is from the beginning, wherever one begins."""
    for start in {0, *range(1, len(written), max(1, len(written) // 7))}:
        for unfinished in (0, 1, 5):
            found = format.last(written[start : len(written) - unfinished], whole=not start)
            if found is not None and not unfinished:
                assert found == (records[len(records) - len(found[0]) :], b"")
                assert start or found[0] == records


NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,6}", fullmatch=True)
EXPORTED = st.lists(st.dictionaries(NAMES, st.binary(max_size=30), min_size=1, max_size=4), max_size=4)


def check_export(entries: list[dict[str, bytes]], cuts: list[int]) -> None:
    """The journal's export format: values without newlines as text, others with their length."""
    data = b""
    for entry in entries:
        for name, value in entry.items():
            size = len(value).to_bytes(8, "little")
            data += name.encode() + (b"\n" + size if b"\n" in value else b"=") + value + b"\n"
        data += b"\n"
    got: list[dict[str, bytes]] = []
    pending = b""
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found, pending = split(pending + data[start:end])
        got += found
    assert (got, pending) == (entries, b"")


def check_negotiation(header: str) -> None:
    """Anything may stand in Accept-Encoding."""
    assert negotiated(header) in ("", "gzip", "deflate")


ACCEPTED = st.lists(
    st.one_of(
        st.sampled_from(["gzip", "deflate", "*", ";q=", "0.5", "1", ",", " ", ";", "\t"]), st.text(max_size=3)
    )
).map("".join)


def check_frames(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """The client's reader gives back what the server framed, wherever the network cuts."""
    data = b"".join(frame(stream, payload) for stream, payload in pieces)
    reader, got = Demultiplexer(), {1: b"", 2: b""}
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        for stream, payload in reader.feed(data[start:end]):
            got[stream] += bytes(payload)
    for stream in got:
        assert got[stream] == b"".join(p for s, p in pieces if s == stream)
    assert len(data) == sum(8 + len(p) for _, p in pieces)
    if pieces:
        assert struct.unpack(">BxxxL", data[:8]) == (pieces[0][0], len(pieces[0][1]))


PIECES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=8)
CUTS = st.lists(st.integers(0, 400), max_size=8)


def test_detach_keys() -> None:
    once(check_detach, 500, keys=KEYS, chunks=CHUNKS)
    small = st.lists(st.sampled_from([b"a", b"b", b"ab", b"ba"]), max_size=12)  # overlaps of every kind
    once(check_detach, 500, keys=st.text("ab", min_size=1, max_size=4).map(str.encode), chunks=small)


def test_log_lines() -> None:
    once(check_lines, 150, chunks=LINES)


def test_exported_entries() -> None:
    once(check_export, 100, entries=EXPORTED, cuts=CUTS)


def test_negotiation() -> None:
    once(check_negotiation, 300, header=ACCEPTED)


def test_frames() -> None:
    once(check_frames, 200, pieces=PIECES, cuts=CUTS)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_all_night() -> None:
    all_night(check_detach, keys=KEYS, chunks=CHUNKS)
    all_night(check_lines, chunks=LINES)
    all_night(check_frames, pieces=PIECES, cuts=CUTS)
