"""Local directories of clients, kept between builds so that only what differs travels again.

    build/contexts/KEY/meta.json     what it is of, when and how often it was used, which generation is whole
                       7/            that generation (daemon.build.session.receive)

KEY is a digest of the client's shared key, the directory's name and the patterns; directories that differ in their
patterns only are a family: the first synchronisation of one begins with another's files. Generations in use by a
build are not changed; a build that finds differences makes another, and the older goes when its last user has ended.

What was written before the machine last started is not trusted, since nothing is flushed to disk: it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from daemon.build.upkeep.cache import identifier
from storage.disk import spread

TREE = "tree"
_META = "meta.json"
REMOVED = "removed-"
REMEMBERED = 60 * 10**9
"""Nanoseconds of use that a crash may forget, where nothing but the time of use has changed."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Fill = Callable[[Path, int, Path | None, bool, bool], Awaitable[dict[str, int]]]
"""(directory, number, base, in place, own) to what receive.Receiver.finish() gives."""


@dataclass(frozen=True)
class Kept:
    """One directory of one client's, as meta.json has it."""

    key: str
    family: str
    name: str
    generation: int = 0
    """0: none is whole."""
    entries: int = 0
    size: int = 0
    created: int = 0
    used: int = 0
    """Nanoseconds, as `created`."""
    uses: int = 0
    noted: int = 0
    """When meta.json was written."""
    boot: str = ""

    @property
    def id(self) -> str:
        """What users see, in the form of other cache entries' IDs."""
        return identifier(self.key)

    @property
    def description(self) -> str:
        return f"local source for {self.name}"


class Contexts:
    """All of them. One instance a daemon; all calls on its event loop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, Kept] | None = None
        self._reading = threading.Lock()
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: Counter[tuple[str, int]] = Counter()

    async def sync(
        self, shared: str, name: str, patterns: Sequence[Sequence[str]], fill: Fill
    ) -> tuple[Path, Callable[[], None]]:
        """The directory brought up to date by `fill`, and what gives it back."""
        family = _digest([shared, name])
        key = _digest([shared, name, *[list(each) for each in patterns]])
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known if self._known is not None else await asyncio.to_thread(self._load)
            kept = known.get(key) or Kept(key, family, name, created=time.time_ns())
            old = (key, kept.generation)
            with contextlib.ExitStack() as held:
                kept = await self._filled(kept, known, fill, held)
                if old == (key, kept.generation) and kept.used - kept.noted < REMEMBERED:
                    known[key] = kept
                else:
                    await asyncio.to_thread(self._save, replace(kept, noted=kept.used))
            if old != (key, kept.generation) and not self._used[old]:
                self._discard(*old)
            return self._hold(kept)

    async def _filled(
        self, kept: Kept, known: dict[str, Kept], fill: Fill, held: contextlib.ExitStack
    ) -> Kept:
        own, base = kept.generation > 0, kept
        if not own:
            # another of the family that nobody changes, held meanwhile so that nobody does
            others = [
                each
                for each in known.values()
                if each.family == kept.family and each.generation and not self._changing(each)
            ]
            base = max(others, key=lambda each: each.used, default=kept)
            if base is not kept:
                held.callback(self._hold(base)[1])
        directory = self._root / kept.key
        if not own:
            await asyncio.to_thread(self._place, directory)
        path = self._root / base.key / str(base.generation) if base.generation else None
        in_place = own and not self._used[kept.key, kept.generation]
        number = max(kept.generation + 1, time.time_ns() // 1_000_000)  # no name is ever used again
        try:
            made = await fill(directory, number, path, in_place, own)
        except BaseException:
            if path is not None and own and not path.exists():
                known.pop(kept.key, None)
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, True))
            raise
        now = time.time_ns()
        kept = replace(kept, used=now, uses=kept.uses + 1, boot=_boot())
        if not made:
            return kept
        return replace(kept, generation=made["number"], entries=made["entries"], size=made["size"])

    def _place(self, directory: Path) -> None:
        if not self._root.is_dir():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            spread(self._root)
        directory.mkdir(mode=0o700, exist_ok=True)

    def _hold(self, kept: Kept) -> tuple[Path, Callable[[], None]]:
        place = (kept.key, kept.generation)
        self._used[place] += 1
        done = False

        def release() -> None:
            nonlocal done
            if done:
                return
            done = True
            self._used[place] -= 1
            if not self._used[place]:
                del self._used[place]
                current = (self._known or {}).get(kept.key)
                if current is None or current.generation != kept.generation:
                    self._discard(*place)

        return self._root / kept.key / str(kept.generation) / TREE, release

    def _discard(self, key: str, generation: int) -> None:
        """Out of sight at once, deleted in a thread."""
        directory = self._root / key / str(generation)
        gone = self._root / f"{REMOVED}{key}-{generation}"
        with contextlib.suppress(OSError):
            directory.rename(gone)
            asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, gone, True)

    def keeps(self, path: Path) -> bool:
        """Whether a directory is one of ours: no file of it is ever written to."""
        return path.is_relative_to(self._root)

    # -- what is shown and removed

    def all(self) -> list[Kept]:
        """Those that are whole, oldest use first; a few small files are read the first time."""
        return sorted((each for each in self._load().values() if each.generation), key=lambda each: each.used)

    def busy(self, kept: Kept) -> bool:
        """Whether a build uses it or is bringing it up to date."""
        return bool(self._used[kept.key, kept.generation]) or self._changing(kept)

    def _changing(self, kept: Kept) -> bool:
        lock = self._locks.get(kept.key)
        return lock is not None and lock.locked()

    async def remove(self, chosen: Iterable[Kept]) -> list[Kept]:
        """Those that nobody uses; returns which went."""
        gone = [each for each in chosen if not self.busy(each) and each.key in self._load()]
        for each in gone:
            self._load().pop(each.key, None)
            self._locks.pop(each.key, None)
        await asyncio.to_thread(self._delete, gone)
        return gone

    def _delete(self, gone: list[Kept]) -> None:
        for each in gone:
            aside = self._root / f"{REMOVED}{each.key}"
            with contextlib.suppress(OSError):
                (self._root / each.key).rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    # -- on disk

    def _load(self) -> dict[str, Kept]:
        """What is there; the first time, what is not whole or not to be trusted is removed.

        By one of those that come at once: the next would take what the first goes on to make for what is left over.
        """
        if self._known is not None:
            return self._known
        with self._reading:
            if self._known is not None:
                return self._known
            known: dict[str, Kept] = {}
            gone: list[Path] = []
            for directory in self._root.iterdir() if self._root.is_dir() else ():
                kept = _read(directory)
                if kept is None:
                    gone.append(directory)
                    continue
                known[kept.key] = kept
                gone += [
                    each for each in directory.iterdir() if each.name not in (_META, str(kept.generation))
                ]
            self._known = known
            _remove_aside(self._root, gone)
        return self._known

    def _save(self, kept: Kept) -> None:
        directory = self._root / kept.key
        aside = directory / f"{_META}.new"
        aside.write_text(json.dumps(asdict(kept)))
        aside.rename(directory / _META)
        assert self._known is not None
        self._known[kept.key] = kept


def _remove_aside(root: Path, gone: list[Path]) -> None:
    """Out of the way at once, deleted by and by: whoever lists what is there waits for no disk."""
    aside = []
    for path in gone:
        moved = path if path.name.startswith(REMOVED) else root / f"{REMOVED}{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            if moved != path:
                path.rename(moved)
            aside.append(moved)
    if aside:
        threading.Thread(target=_delete_all, args=(aside,), daemon=True).start()


def _delete_all(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _read(directory: Path) -> Kept | None:
    try:
        kept = Kept(**json.loads((directory / _META).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    whole = (directory / str(kept.generation) / TREE).is_dir()
    return kept if whole and kept.key == directory.name and kept.boot == _boot() else None


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _digest(parts: Any) -> str:
    text = json.dumps(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:48]


__all__ = ["Contexts", "Kept"]
