"""Log files read back: order over rotations, tail, time bounds, torn lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from daemon.clock import parse_rfc3339
from daemon.containers.logs.entry import Place, Selection
from daemon.containers.logs.files import LogFiles
from daemon.containers.logs.jsonfile import JsonFormat
from daemon.containers.logs.localfile import LocalFormat
from daemon.runtime.loglines import LocalEncoder

BOTH = frozenset(("stdout", "stderr"))


def line(number: int, stream: str = "stdout") -> bytes:
    stamp = f"2026-01-01T00:00:{number % 60:02d}.5Z"
    return json.dumps({"log": f"{number}\n", "stream": stream, "time": stamp}).encode() + b"\n"


def texts(path: Path, selection: Selection) -> list[str]:
    cursor = LogFiles(str(path), JsonFormat()).open(selection)
    found: list[str] = []
    while batch := cursor.batch():
        found += [entry.line.decode().strip() for entry in batch]
    cursor.close()
    return found


def rotated_log(directory: Path) -> Path:
    path = directory / "c-json.log"
    (directory / "c-json.log.2.gz").write_bytes(gzip.compress(line(0) + line(1)))
    (directory / "c-json.log.1").write_bytes(line(2, "stderr") + line(3))
    path.write_bytes(line(4) + line(5) + b'{"log":"torn')
    return path


def test_rotated_files_come_oldest_first_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    assert texts(rotated_log(tmp_path), Selection(BOTH)) == ["0", "1", "2", "3", "4", "5"]


def test_tail_reaches_back_over_files(tmp_path: Path) -> None:
    path = rotated_log(tmp_path)
    for count in range(8):
        assert texts(path, Selection(BOTH, tail=count)) == ["0", "1", "2", "3", "4", "5"][max(0, 6 - count) :]


def test_one_stream_only(tmp_path: Path) -> None:
    assert texts(rotated_log(tmp_path), Selection(frozenset(("stderr",)))) == ["2"]


def test_time_bounds(tmp_path: Path) -> None:
    since, until = parse_rfc3339("2026-01-01T00:00:02Z"), parse_rfc3339("2026-01-01T00:00:04Z")
    assert texts(rotated_log(tmp_path), Selection(BOTH, since=since, until=until)) == ["2", "3"]


def test_a_long_tail_in_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(b"".join(line(n) for n in range(20000)))
    assert texts(path, Selection(BOTH, tail=5000)) == [str(n) for n in range(15000, 20000)]


@pytest.mark.parametrize("torn", [b"", b"\0\0\0\x10\x0a", b"\0\0\0\0"])
def test_the_tail_of_a_local_log_is_found_backwards(tmp_path: Path, torn: bytes) -> None:
    """As what forward reading finds, also when the last record is being written."""
    path = tmp_path / "container.log"
    lines = b"".join(b"%d %s\n" % (n, b"x" * (n % 500)) for n in range(20_000))
    path.write_bytes(LocalEncoder("stdout", {"a": "b"}).run(lines, 1) + torn)
    for count in (1, 3, 15_000, 30_000):
        cursor = LogFiles(str(path), LocalFormat()).open(Selection(BOTH, tail=count))
        found = [entry.line for entry in cursor.batch()]
        assert found == lines.splitlines(keepends=True)[-count:]
        cursor.close()


@pytest.mark.parametrize("shifts", [0, 1, 2])
def test_reading_ends_at_a_place_wherever_its_file_is_now(tmp_path: Path, shifts: int) -> None:
    path = tmp_path / "c-json.log"
    (tmp_path / "c-json.log.1").write_bytes(line(0))
    path.write_bytes(line(1))
    cursor = LogFiles(str(path), JsonFormat()).open(Selection(BOTH))
    status = path.stat()
    cursor.stop_at(Place(status.st_ino, status.st_size))
    with path.open("ab") as file:
        file.write(line(2))
    for shift in range(shifts):
        for number in range(shift + 2, 0, -1):
            (tmp_path / f"c-json.log.{number - 1}".removesuffix(".0")).rename(f"{path}.{number}")
        path.write_bytes(line(3 + shift))
    found: list[bytes] = []
    while batch := cursor.batch():
        found += [entry.line for entry in batch]
    assert (found, cursor.finished) == ([b"0\n", b"1\n"], True)
    cursor.close()


def test_what_is_appended_later_is_seen_and_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(line(0))
    cursor = LogFiles(str(path), JsonFormat()).open(Selection(BOTH))
    assert [e.line for e in cursor.batch()] == [b"0\n"]
    assert cursor.batch() == []
    with path.open("ab") as file:
        file.write(line(1)[:10])
    assert cursor.batch() == []
    with path.open("ab") as file:
        file.write(line(1)[10:])
    path.rename(tmp_path / "c-json.log.1")
    path.write_bytes(line(2))
    (tmp_path / "c-json.log.1").rename(tmp_path / "c-json.log.2")
    path.rename(tmp_path / "c-json.log.1")
    path.write_bytes(line(3))
    found: list[bytes] = []
    while batch := cursor.batch():
        found += [entry.line for entry in batch]
    assert found == [b"1\n", b"2\n", b"3\n"]


def test_the_local_format_is_read_as_it_was_written() -> None:
    data = LocalEncoder("stderr", {"tag": "x"}).run(b"one\ntwo\n", 1_700_000_000_000_000_001)
    records, rest = LocalFormat().split(data + b"\0\0\1")
    entries = [LocalFormat().parse(record) for record in records]
    assert rest == b"\0\0\1"
    assert [e and (e.stream, e.line, dict(e.attrs), e.time) for e in entries] == [
        ("stderr", text, {"tag": "x"}, "2023-11-14T22:13:20.000000001Z") for text in (b"one\n", b"two\n")
    ]
