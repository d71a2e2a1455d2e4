"""Directories of RUN --mount=type=cache: kept between builds, shared, locked or private, listed and pruned.

build/cache/NAME          the directory; NAME is a digest of its ID and owner (and, private, a number)
build/cache/NAME.json     what `du` tells of it
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from daemon.build.graph import ExecMount
from daemon.build.upkeep.cache import identifier
from daemon.build.upkeep.inventory import MOUNT, Record

_META = ".json"
_GONE = "removed-"


@dataclass
class CacheMounts:
    """All of a daemon's. Calls are made on the event loop; sizes and deletions run in threads."""

    root: Path

    def __post_init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: Counter[str] = Counter()
        self._filling: dict[str, asyncio.Lock] = {}

    async def take(
        self, mount: ExecMount, description: str, fill: Callable[[Path], Awaitable[None]] | None
    ) -> tuple[Path, Callable[[], None]]:
        """The directory for a step, and what gives it back. Waits for others when it is locked.

        `fill` puts into a new one what it begins with.
        """
        name = hashlib.sha256(f"{mount.id}\0{mount.uid}\0{mount.gid}".encode()).hexdigest()
        lock: asyncio.Lock | None = None
        if mount.sharing == "locked":
            lock = self._locks.setdefault(name, asyncio.Lock())
            await lock.acquire()
        elif mount.sharing == "private":
            name = self._free(name)
        self._used[name] += 1

        def release() -> None:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]
            if lock is not None:
                lock.release()

        try:
            await self._make(name, mount, description, fill)
        except BaseException:
            release()
            raise
        return self.root / name, release

    def _free(self, name: str) -> str:
        """The first copy of a private one that nobody uses."""
        number = 0
        while self._used[f"{name}-{number}"]:
            number += 1
        return f"{name}-{number}"

    async def _make(
        self, name: str, mount: ExecMount, description: str, fill: Callable[[Path], Awaitable[None]] | None
    ) -> None:
        """Whole or absent: a new one is made aside."""
        directory = self.root / name
        async with self._filling.setdefault(name, asyncio.Lock()):
            if not directory.exists():
                aside = self.root / f"{_GONE}new-{name}"
                await asyncio.to_thread(shutil.rmtree, aside, True)
                aside.mkdir(parents=True, mode=0o755)
                os.chown(aside, mount.uid, mount.gid)
                os.chmod(aside, 0o755 if mount.mode is None else mount.mode)
                if fill is not None:
                    await fill(aside)
                aside.rename(directory)
            self._note(name, description)

    def _note(self, name: str, description: str) -> None:
        now = time.time_ns()
        known = self._read(name)
        fields = {"created": now, **known, "description": description, "used": now}
        fields["uses"] = known.get("uses", 0) + 1
        aside = self.root / f"{name}{_META}.new"
        aside.write_text(json.dumps(fields))
        aside.rename(self.root / f"{name}{_META}")

    def _read(self, name: str) -> dict[str, int]:
        try:
            found = json.loads((self.root / f"{name}{_META}").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    # -- what is shown and removed

    async def records(self) -> list[Record]:
        return await asyncio.to_thread(self._records)

    def _records(self) -> list[Record]:
        found = []
        for directory in self._directories():
            fields = self._read(directory.name)
            created = fields.get("created") or int(directory.stat().st_mtime_ns)
            found.append(
                Record(
                    id=identifier(f"sha256:{hashlib.sha256(directory.name.encode()).hexdigest()}"),
                    type=MOUNT,
                    description=str(fields.get("description") or "cached mount"),
                    size=_size(directory),
                    created=created,
                    used=fields.get("used") or created,
                    uses=fields.get("uses", 0),
                    name=directory.name,
                    in_use=bool(self._used[directory.name]),
                    mutable=True,
                )
            )
        return found

    def _directories(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(_GONE)]
        return []

    async def remove(self, names: Iterable[str]) -> None:
        """Those that nobody uses."""
        gone = []
        for name in names:
            if not self._used[name]:
                aside = self.root / f"{_GONE}{name}"
                with contextlib.suppress(OSError):
                    (self.root / name).rename(aside)
                (self.root / f"{name}{_META}").unlink(missing_ok=True)
                gone.append(aside)
        for aside in gone:
            await asyncio.to_thread(shutil.rmtree, aside, True)


def _size(directory: Path) -> int:
    """Bytes on disk, as du counts them: a file of many names once."""
    total, seen = 0, set()
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(place, name))
                if found.st_nlink > 1 and (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total
