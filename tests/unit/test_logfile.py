"""Log lines and log files: Docker's formats byte for byte, cutting of long lines, rotation, recovery."""

from __future__ import annotations

import gzip
import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.runtime.journal import Journal
from daemon.runtime.logfile import LogError, LogFile, open_log, parse_size
from daemon.runtime.loglines import LIMIT, JsonEncoder, Lines, LocalEncoder, rfc3339, segments

NOW = 1_700_000_000_120_000_000
STAMP = "2023-11-14T22:13:20.12Z"


def encoded(data: bytes, attributes: dict[str, str] | None = None) -> str:
    lines = Lines(JsonEncoder("stdout", attributes or {}))
    return (lines.feed(data, NOW) + lines.finish(NOW)).decode()


def never(fd: int, callback: Callable[[], None]) -> None:
    raise AssertionError("nothing is compressed here")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain", "plain"),
        (b"", ""),
        (b'quote " and \\ backslash', 'quote \\" and \\\\ backslash'),
        (b"a\\nb", "a\\\\nb"),
        (b"<a href=b&c>", "\\u003ca href=b\\u0026c\\u003e"),
        (b"tab\tcr\rbell\x07null\x00", "tab\\u0009cr\\rbell\\u0007null\\u0000"),
        (b"\x08\x0c\x1b[0m\x7f", "\\u0008\\u000c\\u001b[0m\x7f"),
        ("grün 日本 🎉".encode(), "grün 日本 🎉"),
        (b"bad \xff\xe2\x82 \xed\xa0\x80", "bad \\ufffd\\ufffd\\ufffd \\ufffd\\ufffd\\ufffd"),
        ("\ufffd itself".encode(), "\ufffd itself"),
        ("\u2028\u2029".encode(), "\\u2028\\u2029"),
    ],
)
def test_json_lines_are_dockers(line: bytes, text: str) -> None:
    expected = f'{{"log":"{text}\\n","stream":"stdout","time":"{STAMP}"}}\n'
    assert encoded(line + b"\n") == expected
    assert encoded(b"first\n" + line + b"\nlast\n").splitlines()[1] + "\n" == expected


def test_attributes_come_before_the_time_and_sorted() -> None:
    line = encoded(b"x\n", {"tag": "<t>", "env": "e"})
    assert line == (
        '{"log":"x\\n","stream":"stdout","attrs":{"env":"e","tag":"\\u003ct\\u003e"},"time":"'
        + STAMP
        + '"}\n'
    )


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (NOW, STAMP),
    ],
)
def test_times_are_gos_rfc3339nano(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text


def test_the_last_line_without_newline_is_kept_as_it_is() -> None:
    logs = [json.loads(line)["log"] for line in encoded(b"one\ntwo").splitlines()]
    assert logs == ["one\n", "two"]


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, 5 * LIMIT + 7])
def test_long_lines_are_cut_at_16_kib(length: int) -> None:
    text = encoded(b"before\n" + b"x" * length + b"\nafter\n")
    logs = [json.loads(line)["log"] for line in text.splitlines()]
    pieces = ["x" * LIMIT] * (length // LIMIT) + ["x" * (length % LIMIT) + "\n"]
    assert logs == ["before\n", *pieces, "after\n"]


def test_all_pieces_of_a_line_have_the_time_of_the_first() -> None:
    lines = Lines(JsonEncoder("stdout", {}))
    text = lines.feed(b"x" * (LIMIT + 5), NOW) + lines.feed(b"y\nnext\n", NOW + 10**9)
    times = [json.loads(line)["time"] for line in text.decode().splitlines()]
    assert times == [STAMP, STAMP, "2023-11-14T22:13:21.12Z"]


def by_the_book(data: bytes) -> list[str]:
    """Docker's copier, line by line: what the fast path must equal."""
    out = []
    for line in data.split(b"\n")[:-1]:
        while len(line) >= LIMIT:
            out.append(line[:LIMIT])
            line = line[LIMIT:]
        out.append(line + b"\n")
    rest = data.split(b"\n")[-1]
    while len(rest) >= LIMIT:
        out.append(rest[:LIMIT])
        rest = rest[LIMIT:]
    return [piece.decode() for piece in [*out, rest] if piece]


@settings(deadline=None)  # a busy machine is no fault
@given(
    st.lists(
        st.one_of(st.integers(0, 3 * LIMIT), st.sampled_from([0, 1, LIMIT - 1, LIMIT, LIMIT + 1])), max_size=8
    ),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=30),
)
def test_however_the_stream_is_chopped_the_entries_are_the_same(lengths: list[int], sizes: list[int]) -> None:
    data = b"\n".join(bytes([97 + index % 26]) * length for index, length in enumerate(lengths))
    lines, text, position = Lines(JsonEncoder("stderr", {})), b"", 0
    while position < len(data):
        size = sizes[position % len(sizes)]
        text += lines.feed(data[position : position + size], NOW)
        assert len(lines.carry) < LIMIT
        position += size
    text += lines.finish(NOW)
    assert [json.loads(line)["log"] for line in text.decode().splitlines()] == by_the_book(data)


@settings(deadline=None)  # a busy machine is no fault
@given(st.binary(max_size=300))
def test_any_bytes_make_valid_json_of_the_same_text(data: bytes) -> None:
    text = encoded(data.replace(b"\n", b"") + b"\n")
    log = json.loads(text)["log"][:-1]
    expected = data.replace(b"\n", b"").decode("utf-8", "surrogateescape")
    assert log == "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in expected)


def test_segments_leave_less_than_a_limit() -> None:
    assert list(segments(b"a\nb\nc")) == [(b"a\nb\n", True)]
    assert list(segments(b"x" * LIMIT)) == [(b"x" * LIMIT, False)]


# -- the local driver ----------------------------------------------------------------------------------


def local_entries(data: bytes) -> list[bytes]:
    entries, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        entries.append(data[position + 4 : position + 4 + size])
        assert int.from_bytes(data[position + 4 + size : position + 8 + size], "big") == size
        position += size + 8
    return entries


def test_local_entries_are_protobuf_between_lengths() -> None:
    lines = Lines(LocalEncoder("stdout", {"k": "v"}))
    first, empty = local_entries(lines.feed(b"hi\n\n", 300))
    attribute = b"\x32\x06\x0a\x01k\x12\x01v"
    assert first == b"\x0a\x06stdout\x10\xac\x02\x1a\x02hi" + attribute
    assert empty == b"\x0a\x06stdout\x10\xac\x02" + attribute


def test_local_pieces_are_marked() -> None:
    lines = Lines(LocalEncoder("stdout", {}))
    piece, tail = local_entries(lines.feed(b"x" * LIMIT + b"end\n", 300))
    assert b"\x20\x01\x2a" in piece
    assert piece.endswith(b"\x18\x01")
    assert b"\x1a\x03end\x20\x01\x2a" in tail
    assert tail.endswith(b"\x18\x02")
    assert tail[tail.index(b"\x2a") + 2 :].startswith(b"\x08\x01")  # the last one


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [("10m", 10_000_000), ("5k", 5000), ("1.5kB", 1500), ("7", 7), ("2GiB", 2 * 10**9)]
)
def test_sizes_are_go_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "10q", "nan"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(LogError):
        parse_size(text)


@pytest.mark.parametrize(
    "options",
    [
        {"max-size": "-1"},
        {"max-file": "0"},
        {"max-file": "x"},
        {"compress": "true"},
        {"compress": "true", "max-file": "3"},
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(LogError):
        open_log({"driver": "json-file", "path": str(tmp_path / "log"), "options": options}, never)


def test_an_unknown_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="gelf"):
        open_log({"driver": "gelf", "path": str(tmp_path / "log"), "options": {}}, never)


def test_none_is_no_log() -> None:
    assert open_log(None, never) is None
    assert open_log({"driver": "none", "path": "", "options": {}}, never) is None


def write_numbers(file: LogFile, first: int, last: int) -> None:
    encoder = JsonEncoder("stdout", {})
    lines = Lines(encoder)
    file.write(lines.feed(b"".join(b"%d\n" % n for n in range(first, last)), NOW), encoder)


def read_numbers(*paths: Path) -> list[int]:
    text = b"".join(gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in paths)
    return [int(json.loads(line)["log"]) for line in text.splitlines()]


def test_rotation_happens_at_entries_once_the_size_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), capacity=1000, files=3, compress=False, watch=never)
    write_numbers(file, 0, 100)
    parts = [path.with_name("log.2"), path.with_name("log.1"), path]
    found = read_numbers(*parts)
    assert found == list(range(found[0], 100))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    for part in parts[:2]:
        size = part.stat().st_size
        assert 1000 <= size < 1000 + len(part.read_bytes().splitlines()[-1]) + 1
    file.close()


def test_one_file_is_started_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), capacity=1000, files=1, compress=False, watch=never)
    write_numbers(file, 0, 100)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
    assert read_numbers(path)[-1] == 99
    file.close()


def test_a_rotation_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("current\n" * 200)
    path.with_name("log.2").write_text("oldest")  # log.1 was moved, the current one not yet
    file = LogFile(str(path), capacity=100, files=3, compress=False, watch=never)
    write_numbers(file, 0, 1)
    assert path.with_name("log.2").read_text() == "oldest"
    assert path.with_name("log.1").read_text().startswith("current")
    file.close()


def test_old_files_are_compressed_and_writing_waits_for_it(tmp_path: Path) -> None:
    watched: list[tuple[int, Callable[[], None]]] = []
    path = tmp_path / "log"
    file = LogFile(
        str(path), capacity=2000, files=4, compress=True, watch=lambda fd, cb: watched.append((fd, cb))
    )
    ready: list[bool] = []
    file.on_ready = lambda: ready.append(True)
    write_numbers(file, 0, 100)
    assert file.blocked
    while watched:
        fd, callback = watched.pop(0)
        select.select([fd], [], [], 10)
        os.close(fd)
        callback()
    assert not file.blocked
    assert ready
    parts = [path.with_name(f"log.{n}.gz") for n in (3, 2, 1)]
    found = read_numbers(*parts, path)
    assert found == list(range(found[0], 100))
    assert not list(tmp_path.glob("*.tmp"))
    file.close()


def test_a_full_disk_drops_whole_entries_only(tmp_path: Path) -> None:
    path = Path("/dev/full")
    file = LogFile(str(path), capacity=-1, files=1, compress=False, watch=never)
    write_numbers(file, 0, 10)
    assert file.failed == 1
    file.close()


# -- the journal ---------------------------------------------------------------------------------------


def test_a_flight_is_found_by_the_next_keeper_only_if_the_read_happened() -> None:
    first = Journal(None)
    slot = first.allocate()
    first.begin(slot, 5, 100, 7)
    assert Journal(os.dup(first.fd)).flight(slot) is None
    number = first.begin(slot, 5, 100, 7)
    first.chunk[:5] = b"hello"
    flight = Journal(os.dup(first.fd)).flight(slot)
    assert flight is not None
    assert (flight.number, flight.size, flight.inode, flight.data) == (number, 100, 7, b"hello")


def test_flights_set_aside_are_found_beside_the_one_under_way() -> None:
    first = Journal(None)
    slots = [first.allocate() for _ in range(3)]
    for slot in slots:
        first.begin(slot, 1, slot, 7)
        first.chunk[:1] = b"%d" % slot
        if slot != slots[-1]:
            first.set_aside(slot)
        first.stamp(slot, 1000 + slot)
        first.place(slot, 8, 9, 10 + slot)
    first.end(slots[0])
    second = Journal(os.dup(first.fd))
    third = Journal(os.dup(second.fd))
    assert third.flight(slots[0]) is None
    for slot in slots[1:]:
        found = third.flight(slot)
        assert found is not None
        assert (found.now, found.inode, found.size, found.done) == (1000 + slot, 8, 9, 10 + slot)
        assert found.data == b"%d" % slot
    third.free(slots[1])
    assert third.allocate() == slots[1] and third.flight(slots[1]) is None


def test_nothing_is_under_way_after_the_end() -> None:
    journal = Journal(None)
    slot = journal.allocate()
    journal.begin(slot, 1, 0, 0)
    journal.chunk[:1] = b"x"
    journal.end(slot)
    assert Journal(os.dup(journal.fd)).flight(slot) is None


def test_slots_are_used_again_and_claimed() -> None:
    journal = Journal(None)
    first, second = journal.allocate(), journal.allocate()
    journal.free(first)
    assert journal.allocate() == first
    other = Journal(os.dup(journal.fd))
    other.claim(second)
    assert other.allocate() == first
    assert other.allocate() == second + 1


def test_a_carry_survives() -> None:
    journal = Journal(None)
    slot = journal.allocate()
    journal.save(slot, 1, b"begin of a li", 3, NOW, "ab" * 32)
    carry = Journal(os.dup(journal.fd)).load(slot)
    assert (carry.data, carry.ordinal, carry.time, carry.ident) == (b"begin of a li", 3, NOW, "ab" * 32)


def test_a_million_lines_a_second() -> None:
    lines = Lines(JsonEncoder("stdout", {}))
    chunk = b"".join(b"line %d of the log\n" % n for n in range(3300))
    best = 0.0
    for _ in range(5):
        began = time.process_time()
        for _ in range(20):
            lines.feed(chunk, time.time_ns())
        best = max(best, 66_000 / (time.process_time() - began))
    print(f"{best / 1e6:.1f} million lines a second")
    assert best > 1e6
