"""Links made while a client still lists its files, for the copy that is going to follow.

    contexts/KEY/8/ahead-<of what>    a part of tree/ by hard links: who copies that part first takes it away

A directory of which something was copied whole before, and beneath which something differs now, will be copied again:
50,000 links are half a second in which the worker only waits for the client's list. Threads make them while the
tree is being changed under them; what differs is put right when the list has come to its end. Whatever goes wrong,
there just are none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from daemon.build.files import linking
from daemon.build.session.contexts import REMOVED, TREE
from daemon.build.session.generation import PACKED, Differ, Records
from daemon.build.session.listing import GO_DIRECTORY
from daemon.build.session.place import Place
from storage.errors import PydError

_AHEAD, _TAKEN = "ahead-", "taken-"
_MOST = 2000
"""Records that differ: beyond, nothing is put right."""


def copied_part(generation: Path) -> bytes | None:
    """What was copied whole of a directory the last time, if a layer was made of it: a path in its tree."""
    try:
        packed = max(generation.glob(f"{PACKED}*"), key=lambda each: each.stat().st_mtime_ns)
        with packed.open("rb") as file:
            return os.fsencode(json.loads(file.readline())["source"])
    except (OSError, ValueError, LookupError):
        return None


def take(generation: Path, part: str) -> Path | None:
    """The links of a part, for who asks first; he moves the directory away or removes it."""
    taken = generation / f"{_TAKEN}{secrets.token_hex(8)}"
    try:
        (generation / _name(os.fsencode(part))).rename(taken)
    except FileNotFoundError:
        return None
    return taken


def drop(generation: Path) -> None:
    """Out of the way at once, those that nobody took; deleted by and by."""
    for path in (*generation.glob(f"{_AHEAD}*"), *generation.glob(f"{_TAKEN}*")):
        gone = generation.parent.parent / f"{REMOVED}{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            path.rename(gone)
            threading.Thread(target=shutil.rmtree, args=(gone, True), daemon=True).start()


def _name(part: bytes) -> str:
    return _AHEAD + hashlib.sha256(part).hexdigest()[:32]


class Ahead:
    """Under way from the moment it is made."""

    def __init__(self, generation: Path, part: bytes) -> None:
        self._generation, self._part = generation, part
        self._path = generation / f"{_name(part)}.new"
        self._failed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._path.mkdir(mode=0o755)
            # through no symlink: the client may make one of what was a directory
            tree, place = Place(self._generation / TREE), Place(self._path)
            try:
                inside = tree.parent(self._part + b"/.")[0] if self._part else tree.top
                linking.tree(_Links(), inside, ".", place.top, "", changing=True)
            finally:
                tree.close()
                place.close()
        except (OSError, PydError):
            self._failed = True

    def stop(self) -> None:
        """Nothing touches the files any more; idempotent."""
        self._thread.join()

    def finish(
        self, old: Records | None, new: Records, differing: Sequence[Differ], stale: Iterable[int]
    ) -> None:
        """What differs becomes as it is in the tree by now. `stale`: directories whose times are to be set."""
        self.stop()
        if not self._failed and old is not None and len(differing) <= _MOST:
            try:
                self._right(old, new, differing, stale)
                self._path.rename(self._path.with_suffix(""))
                return
            except OSError:
                pass
        drop(self._generation)

    def _right(self, old: Records, new: Records, differing: Sequence[Differ], stale: Iterable[int]) -> None:
        tree, place = Place(self._generation / TREE), Place(self._path)
        try:
            for part in differing:
                for number in part.old:
                    path = self._beneath(old.path(number))
                    if path and not (part.new and _both_directories(old, number, new, part.new.start)):
                        place.remove(path)
                for number in part.new:
                    if path := self._beneath(new.path(number)):
                        _put(tree, place, new, number, path)
            for number in stale:
                found = new.listed(number)
                if found.mode & GO_DIRECTORY and (path := self._beneath(found.path)):
                    place.times(path, found.mod_time)
        finally:
            tree.close()
            place.close()

    def _beneath(self, path: bytes) -> bytes:
        """The path below the part; empty where it is not in it."""
        if not self._part:
            return path
        return path[len(self._part) + 1 :] if path.startswith(self._part + b"/") else b""


def _both_directories(old: Records, number: int, new: Records, other: int) -> bool:
    return bool(old.listed(number).mode & new.listed(other).mode & GO_DIRECTORY)


def _put(tree: Place, place: Place, records: Records, number: int, path: bytes) -> None:
    found = records.listed(number)
    if found.mode & GO_DIRECTORY:
        place.directory(path, found)
        return
    place.remove(path)  # made by the threads, which saw the new one already
    source, name = tree.parent(found.path)
    parent, last = place.parent(path)
    os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


class _Links:
    """Symlinks are linked as files are; files that have too many names make it fail."""

    def directory(self, parent: int, name: str, status: os.stat_result, shown: str) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=parent)

    def entry(
        self, source: int, name: str, status: os.stat_result, parent: int, last: str, shown: str
    ) -> None:
        os.link(name, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
