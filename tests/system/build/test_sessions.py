"""Sessions: directories that are kept and of which only differences travel, and clients that mean harm."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.build.proto.fsutil_pb2 import Listed, Packet
from daemon.build.session.listing import GO_DIRECTORY
from daemon.build.session.sessions import Session, Sessions
from storage.errors import InvalidArgument, NotFound, PydError, Unavailable
from tests.system.build.session_peer import Directory, Job, attached, sessions, syncing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def held(tmp_path: Path) -> Directory:
    directory = Directory()
    directory.file("a", b"first")
    directory.directory("d", 0o750)
    directory.file("d/big", bytes(range(256)) * 1024, 0o755)
    directory.file("d/empty")
    directory.link("d/linked", "d/big")
    directory.symlink("d/to", "../a")
    directory.file("d.x", b"sorts after what is in d")
    return directory


def seen(top: Path) -> dict[str, Any]:
    """Types, modes, times, owners and contents of all that is in a directory."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (
            stat.filemode(status.st_mode), status.st_mtime_ns, status.st_uid, content
        )  # fmt: skip
    return found


async def synced(session: Session, name: str = "context", **more: Any) -> tuple[Path, Job]:
    job = Job()
    path = await session.sync(job, name, **more)  # type: ignore[arg-type]
    return path, job


async def test_a_directory_comes_whole_and_then_only_what_differs(tmp_path: Path) -> None:
    directory = held(tmp_path)
    async with sessions(tmp_path) as made, attached(made, tmp_path / "s", directory.service) as session:
        path, job = await synced(session, exclude=["*.tmp", "ü"], follow=["a"])
        assert directory.headers["dir-name"] == "context"
        assert directory.headers["exclude-patterns-encoded"] == "1" and "*.tmp" not in directory.headers
        first = seen(path)
        assert first["d/big"] == ("-rwxr-xr-x", 10**18, 0, bytes(range(256)) * 1024)
        assert first["d/to"][3] == "../a" and first["d"][:2] == ("drwxr-x---", 10**18)
        assert (path / "d/linked").samefile(path / "d/big")
        assert sorted(directory.sent) == ["a", "d.x", "d/big", "d/empty"]

        directory.sent.clear()
        again, second = await synced(session, exclude=["*.tmp", "ü"], follow=["a"])
        assert again == path and directory.sent == []
        await job.stack.aclose()
        await second.stack.aclose()

        kept = (path / "d/big").stat().st_ino
        directory.file("a", b"other", time=2 * 10**18)
        directory.remove("d/empty")
        directory.directory("new")
        directory.file("new/file", b"n")
        third, job = await synced(session, exclude=["*.tmp", "ü"], follow=["a"])
        assert sorted(directory.sent) == ["a", "new/file"]
        assert third != path and not path.exists(), "generations have names of their own"
        now = seen(third)
        assert now["a"] == ("-rw-r--r--", 2 * 10**18, 0, b"other") and "d/empty" not in now
        assert (third / "d/big").stat().st_ino == kept and now["d"][1] == 10**18
        await job.stack.aclose()


async def test_a_directory_in_use_stays_as_it_is_and_files_are_never_written_in_place(tmp_path: Path) -> None:
    directory = held(tmp_path)
    async with sessions(tmp_path) as made, attached(made, tmp_path / "s", directory.service) as session:
        old, job = await synced(session)
        before = seen(old)
        os.link(old / "a", tmp_path / "layer")  # as COPY does
        directory.file("a", b"other", time=2 * 10**18)
        directory.remove("d/to")
        new, second = await synced(session)
        assert seen(old) == before and (new / "a").read_bytes() == b"other"
        assert (new / "d/big").samefile(old / "d/big")
        await job.stack.aclose()
        await asyncio.sleep(0.1)
        assert not old.exists(), "its last user has gone"
        await second.stack.aclose()
        directory.file("a", b"third", mode=0o600, time=3 * 10**18)
        await synced(session)
        assert (tmp_path / "layer").read_bytes() == b"first"


async def test_kinds_change_and_links_follow_what_they_link_to(tmp_path: Path) -> None:
    directory = held(tmp_path)
    async with sessions(tmp_path) as made, attached(made, tmp_path / "s", directory.service) as session:
        _, job = await synced(session)
        await job.stack.aclose()
        for path in ("d/empty", "d/linked", "d/to", "d/big"):
            directory.remove(path)
        directory.file("d", b"a file now")
        directory.remove("a")
        directory.directory("a")
        directory.file("a/b", b"1")
        directory.link("a/c", "a/b")
        path, job = await synced(session)
        assert (path / "d").read_bytes() == b"a file now" and (path / "a/c").samefile(path / "a/b")
        await job.stack.aclose()
        directory.file("a/b", b"2", time=5 * 10**18)  # its link is listed as before
        directory.sent.clear()
        path, job = await synced(session)
        assert (path / "a/c").read_bytes() == b"2" and directory.sent == ["a/b"]
        await job.stack.aclose()


async def test_another_selection_of_the_same_directory_begins_with_its_files(tmp_path: Path) -> None:
    directory = held(tmp_path)
    async with sessions(tmp_path) as made, attached(made, tmp_path / "s", directory.service) as session:
        first, _ = await synced(session)
        directory.sent.clear()
        directory.file("e", b"e")
        second, _ = await synced(session, exclude=["x"])
        assert directory.sent == ["e"] and (second / "a").samefile(first / "a")
        assert len(made.contexts.all()) == 2 and all(made.contexts.busy(each) for each in made.contexts.all())


async def test_digests_of_files_are_kept_and_are_right(tmp_path: Path) -> None:
    directory = held(tmp_path)
    directory.file("attributed", b"x", 0o755, xattrs={"user.note": b"1", "trusted.overlay.redirect": b"/etc"})
    async with sessions(tmp_path) as made, attached(made, tmp_path / "s", directory.service) as session:
        path, _ = await synced(session)
        assert os.listxattr(path / "attributed") == ["user.note"]

        async def digest(tree: Path) -> str:
            arguments = {"tree": {"lower": [str(tree)]}, "paths": ["/"], "wildcard": False, "excludes": []}
            found = await made.workshop.call("digest", **arguments)
            assert isinstance(found, str)
            return found

        known = await digest(path)
        digests = path.with_name("digests")
        digests.rename(tmp_path / "digests")
        assert await digest(path) == known, "as when everything is read"
        (tmp_path / "digests").rename(digests)
        status = (path / "a").stat()
        (path / "a").write_bytes(b"tsrif")
        os.utime(path / "a", ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert await digest(path) == known, "nothing is read: the test would see it"
        os.link(path / "d/big", tmp_path / "elsewhere")
        assert await digest(path) == known, "a layer's link changes nothing"


def listing(*entries: Listed) -> Callable[[Any], Any]:
    async def serve(stream: Any) -> None:
        for entry in entries:
            await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=entry))
        await stream.send_message(Packet(type=Packet.PACKET_STAT))
        async for packet in stream:
            if packet.type == Packet.PACKET_REQ:
                await stream.send_message(Packet(type=Packet.PACKET_DATA, id=packet.id, data=b"evil"))
                await stream.send_message(Packet(type=Packet.PACKET_DATA, id=packet.id))
            elif packet.type == Packet.PACKET_FIN:
                await stream.send_message(packet)
                return
            elif packet.type == Packet.PACKET_ERR:
                return

    return serve


def entry(path: str, mode: int = 0o644, **more: Any) -> Listed:
    return Listed(path=path.encode(), mode=mode, mod_time=1, **more)


LINK = 1 << 27 | 0o777
HOSTILE = {
    "up": [entry("../evil")],
    "up within": [entry("a", GO_DIRECTORY | 0o755), entry("a/../../evil")],
    "absolute": [entry("/tmp/evil")],
    "unclean": [entry("a//b")],
    "dot": [entry(".")],
    "empty": [entry("")],
    "nul": [entry("a\0b")],
    "below a link out": [entry("a", LINK, linkname=b"/"), entry("a/evil")],
    "below a link up": [entry("a", LINK, linkname=b".."), entry("a/evil")],
    "below a link to a directory": [
        entry("a", GO_DIRECTORY | 0o755), entry("b", LINK, linkname=b"a"), entry("b/x")
    ],
    "below a file": [entry("a"), entry("a/b")],
    "below nothing": [entry("a/b/c")],
    "twice": [entry("a"), entry("a")],
    "backwards": [entry("b"), entry("a")],
    "hard link out": [entry("a"), entry("b", linkname=b"../../etc/passwd")],
    "hard link to absolute": [entry("b", linkname=b"/etc/passwd")],
    "hard link through a link": [entry("a", LINK, linkname=b"/etc"), entry("b", linkname=b"a/passwd")],
    "hard link to a link": [entry("a", LINK, linkname=b"/etc/passwd"), entry("b", linkname=b"a")],
    "endless name": [entry("n" * 5000)],
    "long component": [entry("n" * 300)],
    "symlink to nothing": [entry("a", LINK)],
}  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Callable[[], list[str]]:
    """All names below the test's directory but the store's own."""

    def names() -> list[str]:
        return [str(path) for path in tmp_path.rglob("*evil*")] + [
            str(path) for path in Path("/").glob("*evil*")
        ]

    return names


async def test_hostile_lists_are_refused_and_leave_nothing(
    tmp_path: Path, outside: Callable[[], list[str]]
) -> None:
    async with sessions(tmp_path) as made:
        for how, entries in HOSTILE.items():
            async with attached(made, tmp_path / "s", syncing(listing(*entries))) as session:
                with pytest.raises(InvalidArgument):
                    await asyncio.wait_for(synced(session), 20)
                    pytest.fail(f"{how} was taken")
            assert outside() == [], how
            left = [path for path in (tmp_path / "contexts").iterdir() if any(path.iterdir())]
            assert left == [], f"{how}: what was begun is gone"


async def test_packets_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async def unasked(stream: Any) -> None:
        await stream.send_message(Packet(type=Packet.PACKET_DATA, id=7, data=b"x"))

    async def endless(stream: Any) -> None:
        await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=entry("a")))

    async def complaining(stream: Any) -> None:
        await stream.send_message(Packet(type=Packet.PACKET_ERR, data=b"no such directory"))

    async def more(stream: Any) -> None:
        await stream.send_message(Packet(type=Packet.PACKET_STAT))
        await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=entry("a")))

    async with sessions(tmp_path) as made:
        for serve in (unasked, endless, complaining, more):
            async with attached(made, tmp_path / "s", syncing(serve)) as session:
                with pytest.raises(PydError) as error:
                    await asyncio.wait_for(synced(session), 20)
                if serve is complaining:
                    assert "no such directory" in str(error.value)


async def test_a_client_that_goes_ends_what_waits_for_it(tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def silent(stream: Any) -> None:
        waiting.set()
        await asyncio.sleep(60)

    async with sessions(tmp_path) as made:
        async with attached(made, tmp_path / "s", syncing(silent)) as session:
            syncing_task = asyncio.create_task(synced(session))
            await waiting.wait()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(syncing_task, 10)
        assert session.closed.is_set()
        with pytest.raises(NotFound):
            await made.get("s1", timeout=0.05)
        with pytest.raises(Unavailable):
            await synced(session)


async def test_a_killed_worker_leaves_the_old_directory_or_none(tmp_path: Path) -> None:
    directory = held(tmp_path)
    async with sessions(tmp_path) as made:
        async with attached(made, tmp_path / "s", directory.service) as session:
            path, job = await synced(session)
            await job.stack.aclose()
        os.environ["PYD_FAILPOINTS"] = "contexts.finish=kill"
        try:
            await made.workshop.close()
            directory.file("a", b"other", time=2 * 10**18)
            async with attached(made, tmp_path / "s", directory.service) as session:
                with pytest.raises(PydError):
                    await synced(session)
        finally:
            del os.environ["PYD_FAILPOINTS"]
        assert not path.exists() and list((tmp_path / "contexts").iterdir()) == []
        async with attached(made, tmp_path / "s", directory.service) as session:
            path, _ = await synced(session)
            assert (path / "a").read_bytes() == b"other"
        again = Sessions(made.workshop, tmp_path / "contexts", tmp_path / "sockets").contexts
        assert [each.entries for each in again.all()] == [7], "the next daemon finds it"
