"""Unpacking: nothing leaves the root, everything inside is as the archive says."""

from __future__ import annotations

import ctypes
import io
import os
import re
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.archive import ExtractOptions, Limits, Root, Whiteouts, create, extract, write_layer
from storage.archive.extract import clean
from storage.errors import DataCorrupted, InvalidArgument, NoSpace, NotFound

LITERAL = ExtractOptions(Whiteouts.LITERAL)
APPLY = ExtractOptions(Whiteouts.APPLY)

Member = tuple[str, bytes | str, dict[str, object]]


def directory(name: str, **values: object) -> Member:
    return name, b"", {"type": tarfile.DIRTYPE, "mode": 0o755, **values}


def file(name: str, data: bytes = b"evil", **values: object) -> Member:
    return name, data, values


def symlink(name: str, target: str, **values: object) -> Member:
    return name, b"", {"type": tarfile.SYMTYPE, "linkname": target, **values}


def hardlink(name: str, target: str) -> Member:
    return name, b"", {"type": tarfile.LNKTYPE, "linkname": target}


def archive(*members: Member) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as made:
        for name, data, values in members:
            info = tarfile.TarInfo(name)
            for key, value in values.items():
                setattr(info, key, value)
            content = data.encode() if isinstance(data, str) else data
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the root with a file that must not change."""
    victim = tmp_path / "outside"
    victim.mkdir()
    (victim / "victim").write_bytes(b"untouched")
    before = os.stat(victim)
    yield victim
    assert sorted(path.name for path in victim.iterdir()) == ["victim"]
    assert (victim / "victim").read_bytes() == b"untouched"
    assert os.stat(victim / "victim").st_nlink == 1
    assert (os.stat(victim).st_mode, os.stat(victim).st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


# Hostile


@pytest.mark.parametrize("options", [ExtractOptions(), LITERAL, APPLY], ids=lambda o: o.whiteouts.value)
@pytest.mark.parametrize(
    "members",
    [
        [file("../outside/evil")],
        [file("a/../../outside/evil")],
        [file("..")],
        [directory("../outside/evil")],
        [symlink("../outside/evil", "x")],
        [hardlink("evil", "../outside/victim")],
        [hardlink("evil", "a/../../outside/victim")],
        [file("a/b"), hardlink("evil", "a/b/../../../outside/victim")],
    ],
)
def test_names_that_leave_the_root_are_refused_by_name(
    root: Path, members: list[Member], options: ExtractOptions
) -> None:
    with pytest.raises(DataCorrupted, match=re.escape(members[-1][0])):
        extract(archive(*members), root, options)
    assert tree(root) <= {"a", "a/b"}


@pytest.mark.parametrize("options", [ExtractOptions(), LITERAL, APPLY], ids=lambda o: o.whiteouts.value)
def test_writing_through_a_symlink_stays_inside(root: Path, outside: Path, options: ExtractOptions) -> None:
    (root / str(outside)[1:]).mkdir(parents=True)
    extract(
        archive(
            symlink("absolute", str(outside)),
            file("absolute/evil"),
            symlink("relative", "../outside"),
            directory("outside"),
            file("relative/evil"),
        ),
        root,
        options,
    )
    assert (root / str(outside)[1:] / "evil").read_bytes() == b"evil"
    assert (root / "outside/evil").read_bytes() == b"evil"


def test_dangling_symlink_is_no_parent(root: Path) -> None:
    with pytest.raises(DataCorrupted, match="link/evil"):
        extract(archive(symlink("link", "../outside"), file("link/evil")), root)


def test_symlink_in_the_place_of_a_file_is_replaced_not_followed(root: Path, outside: Path) -> None:
    victim = str(outside / "victim")
    members = [symlink("x", victim), file("x"), symlink("y", victim), directory("y"), file("y/z")]
    extract(archive(*members), root)
    assert (root / "x").read_bytes() == b"evil" and not (root / "x").is_symlink()
    assert (root / "y/z").is_file()


def test_hardlink_to_a_symlink_links_the_symlink(root: Path, outside: Path) -> None:
    extract(archive(symlink("x", str(outside / "victim")), hardlink("y", "x")), root)
    assert (root / "y").is_symlink()
    assert os.lstat(root / "y").st_ino == os.lstat(root / "x").st_ino


def test_hardlink_entry_does_not_change_what_its_symlink_points_to(root: Path, outside: Path) -> None:
    before = os.stat(outside / "victim")
    link = ("y", b"", {"type": tarfile.LNKTYPE, "linkname": "x", "mode": 0o4777, "uid": 99, "mtime": 1})
    extract(archive(symlink("x", str(outside / "victim")), link), root)
    after = os.stat(outside / "victim")
    assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([hardlink("evil", "nothing")], "nothing"),
        ([directory("d"), hardlink("evil", "d")], "'d'"),
        ([file("f"), hardlink("f", "f")], "itself"),
        ([hardlink("evil", "")], "evil"),
        ([file("f"), file("f/evil")], "f/evil"),
        ([file("n" * 256)], "nnn"),
        ([file("d/" * 2100 + "f")], "4201 characters"),
        ([file("./")], "'./'"),
        ([("/", b"", {"type": tarfile.SYMTYPE, "linkname": "x"})], "no name"),
        ([symlink("s", "")], "nothing"),
        ([symlink("s", "t" * 5000)], "'s'"),
        ([file(".wh...")], ".wh..."),
        ([file("d/.wh.")], "d/.wh."),
        ([file(".wh..")], ".wh.."),
    ],
)
def test_impossible_entries_are_refused_by_name(root: Path, members: list[Member], name: str) -> None:
    with pytest.raises(DataCorrupted, match=re.escape(name)):
        extract(archive(*members), root)


def test_whiteouts_through_symlinks_stay_inside(root: Path, outside: Path) -> None:
    for options in (ExtractOptions(), APPLY):
        extract(archive(directory("outside"), symlink("l", "../outside")), root, options)
        extract(archive(file("l/.wh.victim", b""), file("l/.wh..wh..opq", b"")), root, options)


def test_truncated_and_damaged_archives_name_the_entry(root: Path) -> None:
    data = archive(file("good", b"x" * 600), file("cut", b"y" * 600)).getvalue()
    with pytest.raises(DataCorrupted, match="'cut'"):
        extract(io.BytesIO(data[:2300]), root)
    assert (root / "good").read_bytes() == b"x" * 600
    with pytest.raises(DataCorrupted, match="'good'"):
        extract(io.BytesIO(data[:1536] + b"?" * 512 + data[2048:]), root)


def test_limits_name_the_entry_that_breaks_them(root: Path) -> None:
    with pytest.raises(DataCorrupted, match="'c'"):
        extract(archive(file("a"), file("b"), file("c")), root, ExtractOptions(limits=Limits(entries=2)))
    with pytest.raises(DataCorrupted, match="'big'"):
        extract(archive(file("big", b"x" * 101)), root, ExtractOptions(limits=Limits(size=100)))
    assert not (root / "big").exists()


def test_overlays_own_attributes_are_not_taken_from_an_archive(root: Path) -> None:
    entry = tarfile.TarInfo("d")
    entry.type = tarfile.DIRTYPE
    entry.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.kept": "yes",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(entry)
    extract(io.BytesIO(out.getvalue()), root)
    assert os.listxattr(root / "d") == ["user.kept"]


def test_full_disk_is_no_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with pytest.raises(NoSpace, match="'large'"):
            extract(archive(file("small"), file("large", b"x" * (2 << 20))), small)
    finally:
        subprocess.run(["umount", small], check=True)


def test_live_root_with_a_busy_swapper_never_leaks(root: Path, outside: Path) -> None:
    """docker cp into a container that keeps exchanging a directory and a symlink to the host (CVE-2018-15664)."""
    (root / "dir").mkdir()
    (root / "link").symlink_to(f"../../../../../../..{outside}")
    stop = threading.Event()
    libc = ctypes.CDLL(None)

    def swap() -> None:
        names = os.fsencode(root / "dir"), os.fsencode(root / "link")
        while not stop.is_set():
            assert libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        landed = 0
        for n in range(400):
            data = archive(file(f"dir/evil{n}"), directory("dir/sub"), file("dir/sub/.wh.victim", b""))
            for options in (LITERAL, ExtractOptions()):
                try:
                    extract(io.BytesIO(data.getvalue()), root, options)
                    landed += 1
                except DataCorrupted:
                    pass
            out = io.BytesIO()
            try:
                create(out, root, "/dir/victim", name="victim")
            except NotFound:
                pass
            else:
                assert b"untouched" not in out.getvalue()
    finally:
        stop.set()
        thread.join()
    assert landed


# Faithful


def test_metadata_is_as_the_archive_says(root: Path) -> None:
    extract(
        archive(
            directory("d", mode=0o1770, uid=5, gid=6, mtime=1000),
            file("d/suid", b"x", mode=0o6755, uid=7, gid=8, mtime=2000),
            symlink("d/l", "suid", uid=9, gid=10, mtime=3000),
            (
                "d/null",
                b"",
                {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666, "mtime": 4000},
            ),
            ("d/fifo", b"", {"type": tarfile.FIFOTYPE, "mode": 0o622, "uid": 11, "gid": 0, "mtime": 5000}),
            hardlink("d/hard", "d/suid"),
        ),
        root,
    )

    def looks(name: str) -> tuple[int, int, int, float]:
        found = os.lstat(root / name)
        return found.st_mode, found.st_uid, found.st_gid, found.st_mtime

    assert looks("d") == (stat.S_IFDIR | 0o1770, 5, 6, 1000)
    assert looks("d/l") == (stat.S_IFLNK | 0o777, 9, 10, 3000)
    assert looks("d/null") == (stat.S_IFCHR | 0o666, 0, 0, 4000)
    assert os.lstat(root / "d/null").st_rdev == os.makedev(1, 3)
    assert looks("d/fifo") == (stat.S_IFIFO | 0o622, 11, 0, 5000)
    assert os.lstat(root / "d/hard").st_ino == os.lstat(root / "d/suid").st_ino
    extract(archive(file("suid", b"x", mode=0o6755, uid=7, gid=8, mtime=2000)), root)
    assert looks("suid") == (stat.S_IFREG | 0o6755, 7, 8, 2000)


def test_same_archive_unpacks_as_by_gnu_tar(tmp_path: Path) -> None:
    """A real tree: names, types, modes, owners, nanosecond times, links, contents."""
    source = tmp_path / "a.tar"
    subprocess.run(
        [
            "tar",
            "--format=pax",
            "--xattrs",
            "-C",
            "/",
            "-cf",
            source,
            "usr/share/bash-completion",
            "etc",
            "dev/null",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    with open(source, "rb") as stream:
        extracted = extract(stream, ours)
        assert stream.read() == b"", "the stream was not read to its end"
    subprocess.run(["tar", "-C", theirs, "-xpf", source], check=True)
    listing = (
        "find . -mindepth 2 -not -path ./usr/share -printf '%p %y %m %U %G %T@ %l %n %s\\n' | sort;"
        " find . -type f | sort | xargs -d '\\n' cat | sha256sum"
    )
    results = [
        subprocess.run(listing, shell=True, cwd=at, capture_output=True, check=True).stdout
        for at in (ours, theirs)
    ]
    assert results[0] == results[1]
    assert extracted.entries > 100


def test_devices_are_skipped_when_asked(root: Path) -> None:
    device = ("null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})
    extract(archive(device, file("f")), root, ExtractOptions(devices=False))
    assert tree(root) == {"f"}


def test_owner_hook_maps_ids_of_entries_and_made_parents(root: Path) -> None:
    options = ExtractOptions(owner=lambda uid, gid: (uid + 100000, gid + 200000))
    extract(archive(file("made/f", uid=1, gid=2), symlink("l", "x")), root, options)
    for name, owner in (("made", (100000, 200000)), ("made/f", (100001, 200002)), ("l", (100000, 200000))):
        assert (os.lstat(root / name).st_uid, os.lstat(root / name).st_gid) == owner


def test_duplicate_entries_leave_the_last(root: Path) -> None:
    extract(
        archive(
            file("a", b"1"), file("a", b"2"), symlink("a", "x"), directory("a"), file("a/b"), file("a", b"3")
        ),
        root,
    )
    assert (root / "a").read_bytes() == b"3"


def test_parents_not_listed_are_made(root: Path) -> None:
    os.umask(0o077)
    try:
        extract(archive(file("a/b/c", mode=0o644)), root)
    finally:
        os.umask(0o022)
    assert (root / "a/b/c").exists()
    assert stat.S_IMODE(os.stat(root / "a/b/c").st_mode) == 0o644


def test_absolute_and_dotted_names_are_inside(root: Path) -> None:
    extract(
        archive(file("/abs"), file("./dot"), file("a/./b//c"), file("/../up"), hardlink("h", "/abs")), root
    )
    assert tree(root) == {"abs", "dot", "a", "a/b", "a/b/c", "up", "h"}


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a", "a"),
        ("", ""),
        (".", ""),
        ("./", ""),
        ("a/../..", ".."),
        ("/..", ""),
        ("..a/b", "..a/b"),
        ("a//b/", "a/b"),
    ],
)
def test_names_are_cleaned_as_docker_does(name: str, cleaned: str) -> None:
    assert clean(name) == cleaned


def test_no_overwrite_of_directories_by_others_and_reverse(root: Path) -> None:
    (root / "d").mkdir()
    (root / "f").write_bytes(b"")
    options = ExtractOptions(Whiteouts.LITERAL, no_overwrite_dir_non_dir=True)
    with pytest.raises(InvalidArgument, match="cannot overwrite directory 'd'"):
        extract(archive(file("d")), root, options)
    with pytest.raises(InvalidArgument, match="cannot overwrite non-directory 'f'"):
        extract(archive(directory("f")), root, options)
    extract(archive(directory("d"), file("f", b"new")), root, options)
    assert (root / "f").read_bytes() == b"new"


def test_literal_names_are_kept_and_the_place_itself_is_left_alone(root: Path) -> None:
    root.chmod(0o711)
    extract(archive(directory("./", mode=0o777), file(".wh.x", b"")), root, LITERAL)
    assert tree(root) == {".wh.x"}
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    extract(archive(directory("./", mode=0o777)), root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o777


def test_into_a_directory_reached_by_the_containers_own_links(root: Path) -> None:
    (root / "var/real").mkdir(parents=True)
    (root / "var/link").symlink_to("/var/real")
    extract(archive(file("f")), root, LITERAL, into="/var/link")
    assert (root / "var/real/f").exists()
    with pytest.raises(NotFound):
        extract(archive(file("f")), root, LITERAL, into="/nowhere")


# Whiteouts


def opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def whiteout(path: Path) -> bool:
    found = os.lstat(path)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_whiteouts_become_overlays(root: Path) -> None:
    extract(
        archive(file("d/.wh.gone", b""), directory("o"), file("o/.wh..wh..opq", b""), file(".wh..wh.plnk/x")),
        root,
    )
    assert whiteout(root / "d/gone")
    assert opaque(root / "o")
    assert tree(root) == {"d", "d/gone", "o"}


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [1, 0, 2], [0, 2, 1]])
def test_whiteout_beside_its_own_layers_directory_hides_only_lower_ones(root: Path, order: list[int]) -> None:
    members = [file(".wh.d", b""), directory("d"), file("d/new")]
    extract(archive(*(members[n] for n in order)), root)
    assert (root / "d/new").exists()
    assert opaque(root / "d")


def test_whiteout_beside_its_own_layers_file_is_the_file(root: Path) -> None:
    extract(archive(file("a"), file(".wh.a", b""), file(".wh.b", b""), file("b")), root)
    assert (root / "a").is_file() and (root / "b").is_file()


def test_applied_whiteouts_remove_lower_things_and_spare_own(root: Path) -> None:
    extract(archive(file("d/old"), file("d/sub/old"), file("gone/x"), file("f")), root)
    extract(
        archive(
            file("d/sub/new"),
            file("d/.wh..wh..opq", b""),
            file(".wh.gone", b""),
            file("own"),
            file(".wh.own", b""),
        ),
        root,
        APPLY,
    )
    assert tree(root) == {"d", "d/sub", "d/sub/new", "f", "own"}


def test_layer_written_back_is_the_layer_read(root: Path, tmp_path: Path) -> None:
    members = [
        directory("a", mtime=1),
        file("a/.wh..wh..opq", b"", mode=0o600, mtime=1),
        file("a/f", b"data", mode=0o640, uid=3, mtime=2),
        ("a/g", b"", {"type": tarfile.LNKTYPE, "linkname": "a/f", "mode": 0o640, "uid": 3, "mtime": 2}),
        symlink("a/l", "f", mtime=4),
        file(".wh.z", b"", mode=0o600),
    ]
    extract(archive(*members), root)
    out = io.BytesIO()
    write_layer(out, root)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as written:
        found = [(m.name, m.type, m.linkname, m.uid, m.size) for m in written]
    assert found == [
        ("a", tarfile.DIRTYPE, "", 0, 0),
        ("a/.wh..wh..opq", tarfile.REGTYPE, "", 0, 0),
        ("a/f", tarfile.REGTYPE, "", 3, 4),
        ("a/g", tarfile.LNKTYPE, "a/f", 3, 0),
        ("a/l", tarfile.SYMTYPE, "f", 0, 0),
        (".wh.z", tarfile.REGTYPE, "", 0, 0),
    ]
    again = io.BytesIO()
    write_layer(again, root)
    assert again.getvalue() == out.getvalue()


# Creating


def names_in(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        return made.getnames()


def packed(root: Path, path: str = "/", name: str = "") -> bytes:
    out = io.BytesIO()
    create(out, root, path, name=name)
    return out.getvalue()


@pytest.fixture
def filled(root: Path) -> Path:
    (root / "etc/sub").mkdir(parents=True)
    (root / "etc/hosts").write_bytes(b"h")
    (root / "etc/sub/x").write_bytes(b"x")
    (root / "link").symlink_to("/etc")
    return root


def test_paths_are_renamed_as_docker_cp_does(filled: Path) -> None:
    assert names_in(packed(filled, "/etc/hosts", "hosts")) == ["hosts"]
    assert names_in(packed(filled, "/etc", "renamed")) == [
        "renamed",
        "renamed/hosts",
        "renamed/sub",
        "renamed/sub/x",
    ]
    assert names_in(packed(filled, "/link", "link")) == ["link"]
    assert names_in(packed(filled, "/link/", "link")) == ["link", "link/hosts", "link/sub", "link/sub/x"]
    assert names_in(packed(filled, "/link/sub/../hosts", "h")) == ["h"]
    assert names_in(packed(filled)) == ["etc", "etc/hosts", "etc/sub", "etc/sub/x", "link"]
    with pytest.raises(NotFound):
        packed(filled, "/etc/nothing", "n")
    with pytest.raises(NotFound):
        packed(filled, "/etc/hosts/", "n")


def test_links_out_of_the_root_read_inside(filled: Path, outside: Path) -> None:
    (filled / "out").symlink_to(outside)
    with pytest.raises(NotFound):
        packed(filled, "/out/victim", "v")
    with pytest.raises(NotFound):
        packed(filled, "/../../outside/victim", "v")


def test_sockets_are_left_out_and_deep_trees_go_in(root: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s"))
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1500):  # deeper than Python's stack and than PATH_MAX
        os.mkdir("deep", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    members = names_in(packed(root))
    assert len(members) == 1500
    from storage import trees

    parent = os.open(root, os.O_RDONLY)
    assert trees.measure(parent) == (0, 1502)
    trees.remove("deep", dir_fd=parent)
    os.close(parent)
    assert [path.name for path in root.iterdir()] == ["s"]


def test_root_resolves_names_as_a_chroot_would(filled: Path) -> None:
    (filled / "loop").symlink_to("loop")
    (filled / "etc/up").symlink_to("../../../../etc/sub")
    with Root(filled) as inside:
        assert inside.realpath("/link/hosts") == "/etc/hosts"
        assert inside.realpath("/etc/up/../nothing/x") == "/etc/nothing/x"
        assert inside.realpath("/link", follow_last=False) == "/link"
        assert inside.lstat("/link").st_mode & 0o170000 == stat.S_IFLNK
        assert inside.stat("/link").st_mode & 0o170000 == stat.S_IFDIR
        assert inside.readlink("/etc/up") == "../../../../etc/sub"
        with pytest.raises(OSError, match="symbolic links"):
            inside.realpath("/loop")
        with pytest.raises(OSError, match="Invalid argument"):
            inside.readlink("/etc/hosts")
    with Root(Path("/proc/self")) as inside, pytest.raises(OSError, match="symbolic links"):
        inside.open("root/etc/passwd")  # a magic link
