"""Kept directories: what is made of them by what is noted is what comes out when everything is looked at."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.build.files import actions, direct, hashing, layers, packing
from daemon.build.files.sources import find
from daemon.build.graph import CopyFiles, describe
from daemon.build.proto.fsutil_pb2 import Listed, Packet
from daemon.build.session import ahead
from daemon.build.session.generation import Differ, Generation, Records, Same, compared
from daemon.build.session.listing import Reader, go_mode
from daemon.build.session.receive import Receiver
from storage import trees
from storage.archive import Root
from storage.content import ContentStore

Tree = dict[str, dict[str, Any]]
"""Paths to what is there; parents that are missing are made."""
SECOND = 10**9


def file(data: bytes, mode: int = 0o644, time: int = SECOND, **more: Any) -> dict[str, Any]:
    return {"kind": "file", "data": data, "mode": mode, "time": time, **more}


class Bench:
    """A client's directory, what is kept of it, and snapshots of it."""

    def __init__(self, top: Path) -> None:
        self.top, self.client = top, top / "client"
        self.kept = top / "kept"
        self.kept.mkdir()
        self.store = ContentStore(top / "content")
        self.generation: Path | None = None
        self.number = 0

    def has(self, tree: Tree) -> None:
        shutil.rmtree(self.client, ignore_errors=True)
        self.client.mkdir()
        for path, what in sorted(tree.items()):
            _make(self.client, path, what)
        for path, what in sorted(tree.items(), reverse=True):
            target = self.client / path
            if os.path.lexists(target):
                os.utime(target, ns=(what["time"],) * 2, follow_symlinks=False)

    def sync(self, *, in_place: bool) -> Path:
        """The directory comes; its tree."""
        self.number += 1
        own = self.generation is not None
        receiver = Receiver(self.kept, self.number, self.generation, in_place=in_place and own, own=own)
        entries = list(_listed(self.client))
        asked = [
            number
            for found in entries
            for number in receiver.take([Packet(type=Packet.PACKET_STAT, stat=found).SerializeToString()])
        ]
        asked += receiver.take([Packet(type=Packet.PACKET_STAT).SerializeToString()])
        for number in asked:
            data = (self.client / os.fsdecode(entries[number].path)).read_bytes()
            for piece in (data, b"") if data else (b"",):
                receiver.take([Packet(type=Packet.PACKET_DATA, id=number, data=piece).SerializeToString()])
        if receiver.finish():
            self.generation = self.kept / str(self.number)
        else:
            receiver.abandon()
        assert self.generation is not None
        return self.generation / "tree"

    @contextmanager
    def copied(self, tree: Path, source: str, target: str) -> Iterator[tuple[Path, packing.Mirror | None]]:
        """A snapshot's directory with a copy in it, and what is known of it."""
        upper = self.top / f"upper-{self.number}"
        upper.mkdir()
        try:
            with Root(tree) as origin, Root(upper) as root:
                step = describe(CopyFiles(0, (source,), target, wildcard=False))
                generation = tree.parent
                (made,) = actions.run(
                    [step], root, [origin], [True], lambda _, path: ahead.take(generation, path.strip("/"))
                )
            assert self.generation is not None
            mirror = None
            if made.target is not None and Generation(self.generation).plain:
                mirror = packing.Mirror(self.generation, made.path.strip("/"), made.target.strip("/"))
            yield upper, mirror
        finally:
            shutil.rmtree(upper)


def _make(top: Path, path: str, what: dict[str, Any]) -> None:
    target = top / path
    for parent in reversed(target.relative_to(top).parents):
        above = top / parent
        if os.path.lexists(above) and (above.is_symlink() or not above.is_dir()):
            return  # a name that is somebody else's already
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        return
    match what["kind"]:
        case "file":
            target.write_bytes(what["data"])
            if note := what.get("note"):
                os.setxattr(target, "user.note", note)
            target.chmod(what["mode"])
        case "directory":
            target.mkdir(mode=what["mode"])
        case "symlink":
            target.symlink_to(what["to"])
        case "fifo":
            os.mkfifo(target)
        case "link":
            files = sorted(each for each in top.rglob("*") if each.is_file() and not each.is_symlink())
            if files:
                os.link(files[0], target)


def _listed(top: Path) -> Iterator[Listed]:
    """As fsutil's walk has it."""
    seen: dict[int, bytes] = {}
    for path in sorted(top.rglob("*"), key=lambda each: os.fsencode(each).replace(b"/", b"\0")):
        status, name = path.lstat(), os.fsencode(path.relative_to(top))
        found = Listed(path=name, mode=go_mode(status.st_mode), mod_time=status.st_mtime_ns)
        if stat.S_ISREG(status.st_mode):
            found.size = status.st_size
            if status.st_nlink > 1:
                first = seen.setdefault(status.st_ino, name)
                found.linkname = first if first != name else b""
            for attribute in os.listxattr(path):
                found.xattrs[attribute] = os.getxattr(path, attribute)
        elif path.is_symlink():
            found.linkname = os.fsencode(os.readlink(path))
        yield found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


NAMES = st.sampled_from(["a", "a.b", "a-b", "b", "ü", "\udce4", "x" * 120])
TIMES = st.sampled_from([0, SECOND, SECOND + 1, 5 * SECOND, 1 << 61])
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o4755])
PLAIN = st.one_of(
    st.builds(file, st.sampled_from([b"", b"1", b"2" * 512, b"3" * 70_000]), MODES, TIMES),
    st.builds(lambda m, t: {"kind": "directory", "mode": m, "time": t}, MODES, TIMES),
    st.builds(lambda to, t: {"kind": "symlink", "to": to, "time": t}, st.sampled_from(["a", "/b"]), TIMES),
)
OTHERS = st.one_of(
    st.builds(lambda t: {"kind": "fifo", "time": t}, TIMES),
    st.builds(lambda t: {"kind": "link", "time": t}, TIMES),
    st.builds(lambda: file(b"x", 0o755, note=b"1")),
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PLAIN_TREES = st.dictionaries(PATHS, PLAIN, max_size=12)
TREES = st.one_of(
    PLAIN_TREES, PLAIN_TREES, st.dictionaries(PATHS, st.one_of(PLAIN, PLAIN, OTHERS), max_size=12)
)
CHANGES = st.tuples(TREES, st.booleans(), st.sampled_from(["keep", "keep", "lose", "damage"]))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHANGES, min_size=2, max_size=4), TREES, st.sampled_from(["/", "s"]))
def test_however_a_directory_changes(
    changes: list[tuple[Tree, bool, str]], common: Tree, source: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        for tree, in_place, fate in changes:
            bench.has({"s/always": file(b"there"), **{f"s/{path}": each for path, each in common.items()}}
                      | {f"s/{path}": each for path, each in tree.items()})  # fmt: skip
            kept = bench.sync(in_place=in_place)
            _check_sums(bench, kept, source)
            with bench.copied(kept, source, "/to/it") as (upper, mirror):
                noted = layers.make(upper, bench.store, mirror)
                assert noted == layers.make(upper, bench.store), "as when everything is looked at"
                fd = os.open(upper, os.O_RDONLY)
                assert noted.size == trees.measure(fd)[0]
                os.close(fd)
            blob = bench.store.path(noted.blob)
            if fate == "lose":
                blob.unlink()
            elif fate == "damage":
                data = bytearray(blob.read_bytes())
                data[len(data) // 2] ^= 0x55
                blob.write_bytes(data)


def _check_sums(bench: Bench, kept: Path, source: str) -> None:
    generation = Generation(kept.parent)
    with Root(kept) as root:
        found = find(root, source, wildcard=False, parents=False)
        assert hashing.digest(root, found, None, generation) == hashing.digest(root, found, None)
    generation.close()
    assert _seen(kept) == _seen(bench.client)


def _seen(top: Path) -> dict[str, Any]:
    found = {}
    for path in top.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        to = os.readlink(path) if path.is_symlink() else ""
        time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[str(path.relative_to(top))] = (status.st_mode, time, content, to)
    return found


def test_what_was_packed_is_not_read_again(bench: Bench) -> None:
    """The file is another by now, which nobody may do: the layer would tell if somebody had read it."""
    before = {f"d{n}/{m}": file(f"{n} {m}".encode(), time=n * SECOND) for n in range(3) for m in range(5)}
    bench.has(before)
    kept = bench.sync(in_place=True)
    with bench.copied(kept, "/", "/to") as (upper, mirror):
        assert mirror is not None
        first = layers.make(upper, bench.store, mirror)
    bench.has(before | {"d1/2": file(b"newer")})
    kept = bench.sync(in_place=True)
    status = (kept / "d0/1").stat()
    (kept / "d0/1").write_bytes(b"9 9")
    os.utime(kept / "d0/1", ns=(status.st_mtime_ns, status.st_mtime_ns))
    with bench.copied(kept, "/", "/to") as (upper, mirror):
        assert mirror is not None
        second = layers.make(upper, bench.store, mirror)
        assert second.diff_id not in (first.diff_id, layers.make(upper, bench.store).diff_id)
        (kept / "d0/1").write_bytes(b"0 1")
        os.utime(kept / "d0/1", ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert second == layers.make(upper, bench.store)


def _ready(kept: Path) -> list[Path]:
    return list(kept.parent.glob("ahead-*"))


@pytest.mark.parametrize("in_place", [True, False])
def test_links_are_made_before_they_are_asked_for(bench: Bench, in_place: bool) -> None:
    before = {f"s/d{n}/{m}": file(b"x") for n in range(3) for m in range(150)} | {"other": file(b"")}
    bench.has(before)
    kept = bench.sync(in_place=True)
    with bench.copied(kept, "s", "/to") as (upper, mirror):
        layers.make(upper, bench.store, mirror)
    bench.has(before | {"other": file(b"1")})
    kept = bench.sync(in_place=in_place)
    assert not _ready(kept), "what differs is nothing of what was copied"
    bench.has(before | {"s/d1": {"kind": "symlink", "to": "/", "time": 0}, "s/d0/new": file(b"1")})
    kept = bench.sync(in_place=in_place)
    assert len(_ready(kept)) == 1
    with bench.copied(kept, "s", "/to") as (upper, mirror):
        assert not _ready(kept) and not list(kept.parent.glob("taken-*"))
        assert all((upper / f"to/d2/{n}").samefile(kept / f"s/d2/{n}") for n in range(150))
        assert (upper / "to/d1").readlink() == Path("/")
        assert layers.make(upper, bench.store, mirror) == layers.make(upper, bench.store)
    bench.has(before)
    assert len(_ready(bench.sync(in_place=in_place))) == 1
    bench.has(before | {"other": file(b"2")})
    assert len(_ready(bench.sync(in_place=True))) == 0, "nobody took them"


def test_only_so_many_layers_are_remembered(bench: Bench) -> None:
    bench.has({"a": file(b"1")})
    kept = bench.sync(in_place=True)
    for number in range(12):
        with bench.copied(kept, "/", f"/{number}") as (upper, mirror):
            layers.make(upper, bench.store, mirror)
    assert len(list(kept.parent.glob("packed-*"))) == 8


def test_a_layer_that_has_rotted_is_not_copied_from(bench: Bench) -> None:
    before = {"a": file(os.urandom(300_000)), "b": file(os.urandom(300_000))}
    bench.has(before)
    kept = bench.sync(in_place=True)
    with bench.copied(kept, "/", "/to") as (upper, mirror):
        blob = bench.store.path(layers.make(upper, bench.store, mirror).blob)
    data = bytearray(blob.read_bytes())
    data[150_000] ^= 1  # within bytes that are stored as they are: only the archive's own sum tells
    blob.write_bytes(data)
    bench.has(before | {"c": file(b"new")})
    kept = bench.sync(in_place=True)
    with bench.copied(kept, "/", "/to") as (upper, mirror):
        assert layers.make(upper, bench.store, mirror) == layers.make(upper, bench.store)


def test_a_file_that_is_not_what_was_noted_is_packed_as_it_is(bench: Bench) -> None:
    bench.has({"a": file(b"12345"), "b": file(b"1")})
    kept = bench.sync(in_place=True)
    with bench.copied(kept, "/", "/to") as (upper, mirror):
        (kept / "a").write_bytes(b"123")
        assert layers.make(upper, bench.store, mirror) == layers.make(upper, bench.store)
        assert not list(kept.parent.glob("packed-*")), "nothing is built on that"


def test_a_copy_into_what_is_there_already_links_and_replaces(tmp_path: Path) -> None:
    for name, text in (("one/d/x", "1"), ("one/d/y", "1"), ("two/d/x", "2"), ("two/z", "2")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for number in range(300):  # so many that threads do it
        (tmp_path / f"two/d/{number}").write_text(str(number))
    (tmp_path / "upper").mkdir()
    with Root(tmp_path) as origin, Root(tmp_path / "upper") as root:
        step = describe(CopyFiles(0, ("one", "two"), "/to/", wildcard=False))
        actions.run([step], root, [origin], [True])
    to = tmp_path / "upper/to"
    assert {path.name: path.read_text() for path in to.rglob("[xyz]")} == {"x": "2", "y": "1", "z": "2"}
    assert all((to / f"d/{number}").samefile(tmp_path / f"two/d/{number}") for number in range(300))
    assert (to / "d").stat().st_mtime_ns == (tmp_path / "two/d").stat().st_mtime_ns


def test_a_tree_deeper_than_stacks_is_linked(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in ["source"] + ["d"] * 1500:
        os.mkdir(name, dir_fd=fd)
        following = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = following
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    (tmp_path / "upper").mkdir()
    with Root(tmp_path) as origin, Root(tmp_path / "upper") as root:
        actions.run([describe(CopyFiles(0, ("source",), "/to", wildcard=False))], root, [origin], [True])
    fd = os.open(tmp_path / "upper", os.O_RDONLY)
    _, inodes = trees.measure(fd)
    os.close(fd)
    assert inodes == 1 + 1501 + 1
    for name in ("source", "upper"):
        parent = os.open(tmp_path, os.O_RDONLY)
        trees.remove(name, dir_fd=parent)
        os.close(parent)


def test_an_empty_directory_of_the_image_is_no_reason_to_merge(tmp_path: Path) -> None:
    for name in ("image/app", "image/srv/there", "upper", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "image/app").chmod(0o2750)
    with Root(tmp_path / "image") as image:
        assert direct.prepare(image, tmp_path / "upper", "/app/") == "/app/"
        assert direct.prepare(image, tmp_path / "other", "/srv") is None
    assert stat.S_IMODE((tmp_path / "upper/app").stat().st_mode) == 0o2750


def test_listings_are_compared_from_the_begin_to_the_end(bench: Bench) -> None:
    bench.has({f"{n}": file(b"", time=SECOND) for n in (1, 2, 3, 5, 6)})
    old = Records.of(bench.sync(in_place=False).parent / "index")
    bench.has({f"{n}": file(b"", time=SECOND * (1 + (n == 5))) for n in (0, 1, 3, 4, 5, 6)})
    new = Records.of(bench.sync(in_place=False).parent / "index")
    assert list(compared(old, new, range(len(old)), range(len(new)))) == [
        Differ(range(0), range(1)),
        Same(0, 1, 1),
        Differ(range(1, 2), range(2, 2)),
        Same(2, 2, 1),
        Differ(range(3, 3), range(3, 4)),
        Differ(range(3, 4), range(4, 5)),
        Same(4, 5, 1),
    ]
    reader = Reader(bench.kept / "2/index")
    assert new.path(0) == Listed.FromString(reader.stat).path
    reader.close()
    assert [new.find(path) for path in (b"", b"0", b"2", b"6", b"7")] == [0, 0, 2, 5, 6]
