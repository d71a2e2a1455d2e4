"""The tar formats: what others write is read, what is written others read, what is broken is refused."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.archive import Entry, EntryType, TarReader, TarWriter
from storage.archive.format import BLOCK, parse_number, parse_records, parse_time
from storage.errors import DataCorrupted, InvalidArgument, PydError


class Dribble:
    """A stream that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._step))


def read_all(data: bytes, step: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    reader = TarReader(Dribble(data, step))
    return [(entry, b"".join(reader.chunks())) for entry in reader]


def by_tarfile(*infos: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8") as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def info(name: str, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


FORMATS = pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@FORMATS
@pytest.mark.parametrize("step", [1, 100, 512, 1 << 20])
def test_every_type_of_entry_is_read(format: int, step: int) -> None:
    data = by_tarfile(
        (info("dir", type=tarfile.DIRTYPE, mode=0o1777), b""),
        (info("dir/file", mode=0o4755, uid=1000, gid=100, mtime=1234567890), b"x" * 1000),
        (info("link", type=tarfile.SYMTYPE, linkname="dir/file"), b""),
        (info("hard", type=tarfile.LNKTYPE, linkname="dir/file"), b""),
        (info("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        (info("sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0), b""),
        (info("fifo", type=tarfile.FIFOTYPE), b""),
        (info("last"), b"end"),
        format=format,
    )
    found = read_all(data, step)
    assert [entry.type for entry, _ in found] == [
        EntryType.DIRECTORY,
        EntryType.REGULAR,
        EntryType.SYMLINK,
        EntryType.HARDLINK,
        EntryType.CHARACTER,
        EntryType.BLOCK,
        EntryType.FIFO,
        EntryType.REGULAR,
    ]
    file, content = found[1]
    assert (file.name, file.mode, file.uid, file.gid, file.size) == ("dir/file", 0o4755, 1000, 100, 1000)
    assert file.mtime == 1234567890 * 10**9
    assert content == b"x" * 1000
    assert found[2][0].linkname == "dir/file"
    assert found[4][0].device == os.makedev(1, 3)
    assert found[7][1] == b"end"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_large_numbers_and_odd_bytes_are_read(format: int) -> None:
    name, target = "é" * 90 + "/" + "n" * 300, "t" * 400
    data = by_tarfile(
        (info(name, uid=3_000_000, gid=4_000_000_000, mtime=12345), b"1"),
        (info("link", type=tarfile.SYMTYPE, linkname=target), b""),
        (info("caf\udce9"), b"2"),
        format=format,
    )
    (file, _), (link, _), (odd, _) = read_all(data)
    assert (file.name, file.uid, file.gid) == (name, 3_000_000, 4_000_000_000)
    assert link.linkname == target
    assert odd.name == "caf\udce9"


def test_pax_times_have_nanoseconds_and_xattrs_are_bytes() -> None:
    capability = b"\x01\0\0\x02\0\x20\0\0\n=\0"
    entry = info("f", mtime=0)
    entry.pax_headers = {
        "mtime": "1350244992.023960108",
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
    }
    ((found, _),) = read_all(by_tarfile((entry, b"")))
    assert found.mtime == 1350244992_023960108
    assert found.xattrs["security.capability"].startswith(b"\x01\0\0\x02")


@pytest.mark.parametrize(
    "arguments",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_of_gnu_tar_are_read(tmp_path: Path, arguments: list[str]) -> None:
    content = bytearray(4 << 20)
    for piece in range(30):
        content[piece * 131072 : piece * 131072 + 5000] = os.urandom(5000)
    with open(tmp_path / "holes", "wb") as file:
        for piece in range(30):
            file.seek(piece * 131072)
            file.write(content[piece * 131072 : piece * 131072 + 5000])
        file.truncate(len(content))
    (tmp_path / "after").write_bytes(b"after")
    data = subprocess.run(
        ["tar", "-C", tmp_path, "-S", *arguments, "-c", "holes", "after"], capture_output=True, check=True
    ).stdout
    assert len(data) < len(content) // 2, "tar did not make it sparse"
    (holes, found), (after, rest) = read_all(data, 1000)
    assert (holes.name, holes.size) == ("holes", len(content))
    assert found == bytes(content)
    assert (after.name, rest) == ("after", b"after")
    reader = TarReader(io.BytesIO(data))
    reader.next()
    with open(tmp_path / "copy", "wb") as out:
        reader.copy_to(out.fileno())
    assert (tmp_path / "copy").read_bytes() == bytes(content)
    assert (tmp_path / "copy").stat().st_blocks * 512 < len(content) // 2, "the holes were filled"


def header(name: bytes = b"f", **fields: bytes) -> bytes:
    """A raw ustar header with fields put in by offset name, checksum right."""
    offsets = {
        "mode": 100,
        "uid": 108,
        "gid": 116,
        "size": 124,
        "mtime": 136,
        "type": 156,
        "magic": 257,
        "major": 329,
    }
    block = bytearray(BLOCK)
    block[: len(name)] = name
    for at, text in ((100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (257, b"ustar\x0000")):
        block[at : at + len(text)] = text
    block[124:136] = block[136:148] = b"00000000000\0"
    block[156:157] = b"0"
    for key, value in fields.items():
        block[offsets[key] : offsets[key] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(size=b"\xff" + b"\xff" * 11) + END, "invalid size: -1"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "invalid size"),
        (header(size=b"-0000000001\0") + END, "invalid size"),
        (header(size=b"0o000000001\0") + END, "invalid size"),
        (header(uid=b"\xff" * 8) + END, "invalid uid"),
        (header(uid=b"\x80\0\0\0\xff\xff\xff\xff") + END, "no user or group"),
        (header(type=b"Z") + END, "unknown type"),
        (header(type=b"M") + END, "unknown type"),
        (header(type=b"3", major=b"7777777\0") + END, "invalid device"),
        (header(size=b"00000002000\0") + b"x" * 1000, "unexpected end"),
        (header()[:300], "unexpected end"),
        (header(type=b"x", size=b"00000000012\0") + b"3 a=b\nxxxx".ljust(BLOCK, b"\0") + END, "damaged"),
        (header(type=b"x", size=b"77777777777\0") + END, "extended header"),
        (header(type=b"L", size=b"00010000000\0") + END, "extended header"),
        (header(type=b"x", size=b"00000000013\0") + b"11 path=abc"[:11].ljust(BLOCK, b"\0") + END, "damaged"),
        (
            header(type=b"x", size=b"00000000014\0") + b"12 path=a\0b\n".ljust(BLOCK, b"\0") + header() + END,
            "NUL",
        ),
        (
            header(type=b"x", size=b"00000000014\0") + b"12 path=abc\n".ljust(BLOCK, b"\0"),
            "ends after an extended",
        ),
        (bytes(BLOCK) + header() + END, "lone zero block"),
        (b"\x1f\x8b" + b"gzip" * 500, "checksum"),
        (header(type=b"S", magic=b"ustar  \0") + END, ""),
    ],
)
def test_broken_archives_are_refused(data: bytes, message: str) -> None:
    if not message:  # no map at all: an empty file
        assert read_all(data)[0][1] == b""
        return
    with pytest.raises(DataCorrupted, match=message):
        read_all(data)


def test_truncation_anywhere_inside_an_entry_names_it() -> None:
    data = by_tarfile((info("first"), b"1" * 700), (info("second"), b"2" * 700))
    for cut in range(1, 3 * BLOCK):
        if cut % BLOCK:
            with pytest.raises(DataCorrupted, match="end of archive"):
                read_all(data[:cut])
    with pytest.raises(DataCorrupted, match="'second'"):
        read_all(data[: 4 * BLOCK + 10])


def test_archive_may_end_without_zero_blocks() -> None:
    data = by_tarfile((info("only"), b"x"))[: 2 * BLOCK]
    assert [entry.name for entry, _ in read_all(data)] == ["only"]
    assert read_all(b"") == []
    assert read_all(bytes(BLOCK)) == []


def test_data_that_nobody_reads_is_skipped() -> None:
    data = by_tarfile(*((info(str(n)), b"x" * n) for n in range(0, 2000, 100)))
    assert [entry.name for entry in TarReader(Dribble(data, 333))] == [str(n) for n in range(0, 2000, 100)]


def test_reading_more_than_allowed_is_refused() -> None:
    reader = TarReader(io.BytesIO(by_tarfile((info("manifest.json"), b"x" * 100))))
    reader.next()
    with pytest.raises(DataCorrupted, match=r"manifest\.json"):
        reader.read(99)


def test_small_numbers() -> None:
    assert parse_number(b"0000644\0") == 0o644
    assert parse_number(b"    644 ") == 0o644
    assert parse_number(b"\0" * 8) == 0
    assert parse_number(b"\x80\0\0\0\0\0\x01\0") == 256
    assert parse_number(b"\xff" * 8) == -1
    assert parse_time("-1.5") == -1_500_000_000
    assert parse_time("9" * 19) == 0
    for text in ("", "1e3", "1.2.3", "+1", "nan"):
        with pytest.raises(ValueError):
            parse_time(text)


# Against Python's tarfile

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))
entries = st.builds(
    Entry,
    name=names,
    type=st.sampled_from([EntryType.REGULAR, EntryType.SYMLINK, EntryType.DIRECTORY, EntryType.FIFO]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 2),
    gid=st.integers(0, (1 << 32) - 2),
    mtime=st.integers(-(1 << 31), 9 * 10**9).map(lambda s: s * 10**9),
    linkname=names,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(entries, st.binary(max_size=2000)), max_size=5), st.sampled_from([1, 700, 1 << 20]))
def test_what_is_written_reads_back_and_tarfile_agrees(made: list[tuple[Entry, bytes]], step: int) -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    for entry, data in made:
        if entry.type is not EntryType.SYMLINK:
            entry.linkname = ""
        entry.size = len(data) if entry.type is EntryType.REGULAR else 0
        writer.header(entry)
        if entry.size:
            writer.write(data)
    writer.close()
    ours = read_all(out.getvalue(), step)
    assert len(ours) == len(made)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), encoding="utf-8") as archive:
        theirs = archive.getmembers()
        for (wrote, data), (read, content), member in zip(made, ours, theirs, strict=True):
            assert read.name.rstrip("/") == wrote.name.rstrip("/")
            assert member.name == wrote.name.rstrip("/")
            assert (read.type, read.mode, read.uid, read.gid, read.mtime) == (
                wrote.type,
                wrote.mode,
                wrote.uid,
                wrote.gid,
                wrote.mtime,
            )
            assert (member.mode, member.uid, member.gid, member.mtime) == (
                wrote.mode,
                wrote.uid,
                wrote.gid,
                wrote.mtime // 10**9,
            )
            assert read.linkname == member.linkname == wrote.linkname
            assert content == (data if wrote.type is EntryType.REGULAR else b"")


BASES = [
    *(
        by_tarfile(
            (info("plain", mtime=5), b"p" * 600),
            (info("n" * 90 + "/" + "n" * 90, uid=70000), b"long"),
            (info("sym", type=tarfile.SYMTYPE, linkname="t" * 90), b""),
            format=format,
        )
        for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ),
    by_tarfile((info("n" * 150), b"long"), (info("l", linkname="t" * 150), b""), format=tarfile.GNU_FORMAT),
    by_tarfile((info("é" * 150), b"pax"), (info("l", linkname="t" * 150), b"")),
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_archives_are_read_as_tarfile_does_or_refused(data: st.DataObject) -> None:
    """Never an exception but ours; and where tarfile finds a file too, the same bytes are in it."""
    base = bytearray(data.draw(st.sampled_from(BASES)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(base) - 1))
        base[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        _fix_checksums(base)
    del base[data.draw(st.integers(0, len(base))) :]
    try:
        found = read_all(bytes(base), data.draw(st.sampled_from([13, 1 << 20])))
    except PydError:
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(bytes(base)), encoding="utf-8") as archive:
            theirs = {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}  # type: ignore[union-attr]
    except (tarfile.TarError, ValueError, OSError, OverflowError):
        return
    ours = {e.name.rstrip("/"): content for e, content in found if e.type is EntryType.REGULAR}
    for name in theirs.keys() & ours.keys():
        assert ours[name] == theirs[name]


def _fix_checksums(data: bytearray) -> None:
    for at in range(0, len(data) - BLOCK + 1, BLOCK):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
@example(b"ustar\x0000".rjust(265, b"\0"))
def test_random_bytes_raise_nothing_but_our_errors(data: bytes) -> None:
    for candidate in (data, bytes(header(type=b"x", size=b"%011o\0" % len(data))) + data):
        with contextlib.suppress(DataCorrupted):
            read_all(candidate, 100)
    with contextlib.suppress(ValueError):
        parse_records(data)


# The writer


def test_writer_refuses_too_much_and_too_little_data() -> None:
    writer = TarWriter(io.BytesIO())
    writer.header(Entry("a", size=3))
    with pytest.raises(InvalidArgument):
        writer.write(b"1234")
    with pytest.raises(InvalidArgument):
        writer.header(Entry("b"))
    with pytest.raises(InvalidArgument):
        writer.close()


def test_written_nanoseconds_and_xattrs_read_back() -> None:
    out = io.BytesIO()
    writer = TarWriter(out, nanoseconds=True)
    for mtime in (1_500_000_000_123_456_789, -1, -1_500_000_000, 10**9):
        writer.header(Entry("f", mtime=mtime, xattrs={"user.k": b"\0\xff\n", "security.capability": b"c"}))
    writer.close()
    found = [entry for entry, _ in read_all(out.getvalue())]
    assert [entry.mtime for entry in found] == [1_500_000_000_123_456_789, -1, -1_500_000_000, 10**9]
    assert found[0].xattrs == {"user.k": b"\0\xff\n", "security.capability": b"c"}
