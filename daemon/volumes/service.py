"""Local volumes: named directories under `data_root/volumes/NAME/_data` that outlive containers.

A volume's record is written after its directory exists and dropped before the directory goes, so a
kill in between leaves at most a directory without a record, which `start` removes when it is empty.
What `local` options (type, o, device) name is mounted at the directory while somebody uses it (mounting.py).
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from daemon.clock import now_ns, rfc3339
from daemon.labels import has_label
from daemon.sizes import ram_in_bytes
from daemon.volumes import mounting
from daemon.volumes.mounting import Mounted
from storage.errors import Conflict, InvalidArgument, NotFound
from storage.records import Delete, Put, Records
from storage.snapshots.quota import ProjectQuota

KIND = "volumes"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*$")
Filters = dict[str, list[str]]
Publish = Callable[[str, str, str, dict[str, str]], None]


@dataclass
class Volume:
    name: str
    mountpoint: str
    created: int
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    driver: str = "local"
    populated: bool = False
    """Whether an image's files were already copied in, or anything ever mounted it."""
    extra: dict[str, Any] = field(default_factory=dict)
    """`maker`: ID of the container that an anonymous volume was made for and lives and dies with."""

    def as_docker(self) -> dict[str, Any]:
        return {
            "CreatedAt": rfc3339(self.created // 10**9 * 10**9),
            "Driver": self.driver,
            "Labels": self.labels,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": self.options,
            "Scope": "local",
        }


class Volumes:
    def __init__(self, root: Path, records: Records, publish: Publish) -> None:
        self._root = root
        self._records = records
        self._publish = publish
        self._volumes: dict[str, Volume] = {}
        self.users: Callable[[str], list[str]] = lambda name: []
        """IDs of the containers that mount a volume; the engine sets it."""
        self._quota: ProjectQuota | None = None
        self._mounted = Mounted()

    async def start(self) -> None:
        self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
        self._volumes = {key: Volume(**record) for key, record in self._records.load(KIND).items()}
        await asyncio.to_thread(self._sweep)
        self._quota = await asyncio.to_thread(self._open_quota)

    def _open_quota(self) -> ProjectQuota | None:
        return ProjectQuota.open(self._root, [f"{entry.path}/_data" for entry in os.scandir(self._root)])

    def _sweep(self) -> None:
        for entry in self._root.iterdir():
            if entry.name not in self._volumes and entry.is_dir():
                for path in (entry / "_data", entry):
                    try:
                        path.rmdir()
                    except OSError:  # holds data: whose, nobody knows; never delete what may be wanted
                        break

    def hold(self, name: str, user: str) -> None:
        """The volume's file system is there from now on until `let_go`. Blocking. Raises NotFound, Internal."""
        volume = self.get(name)
        self._mounted.hold(volume.mountpoint, volume.options, user)

    def adopt(self, name: str, user: str) -> None:
        """A container of an earlier daemon's uses the volume."""
        volume = self.get(name)
        self._mounted.adopt(volume.mountpoint, volume.options, user)

    def let_go(self, name: str, user: str) -> None:
        """Blocking, idempotent; a volume that is gone has no file system any more."""
        if volume := self._volumes.get(name):
            self._mounted.let_go(volume.mountpoint, user)

    def sweep_mounts(self) -> None:
        """Blocking. Unmount what no container has, after all that run were adopted."""
        self._mounted.sweep(v.mountpoint for v in self.all() if mounting.needed(v.options))

    def get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        maker: str = "",
    ) -> Volume:
        """Docker's `volume create`: an existing name gives the existing volume."""
        if driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
        extra: dict[str, Any] = {}
        if not name:
            name = secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS_LABEL: ""}
            extra = {"maker": maker} if maker else {}
        if len(name) < 2 and name:
            raise InvalidArgument(
                "volume name is too short, names should be at least two alphanumeric characters"
            )
        if not _NAME.match(name):
            raise InvalidArgument(
                f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
                "are allowed. If you intended to pass a host directory, use absolute path"
            )
        existing = self._volumes.get(name)
        if existing:
            if options and options != (existing.options or {}):
                raise Conflict(f"volume {name} already exists with different options: {existing.options}")
            return existing
        _check_options(options or {}, limits=self._quota is not None)
        directory = self._root / name / "_data"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(directory.parent, 0o701)
        size = ram_in_bytes((options or {}).get("size") or "0")
        if size and self._quota:
            await asyncio.to_thread(self._quota.limit, str(directory), size)
        volume = Volume(name, str(directory), now_ns(), labels, options, extra=extra)
        await self._save(volume)
        self._volumes[name] = volume
        self._publish("volume", "create", name, {"driver": "local"})
        return volume

    async def _save(self, volume: Volume) -> None:
        await self._records.write([Put(KIND, volume.name, asdict(volume))])

    def made_for(self, container_id: str) -> list[str]:
        """Names of the anonymous volumes that this container alone brought about."""
        return [name for name, volume in self._volumes.items() if volume.extra.get("maker") == container_id]

    async def keep(self, names: Iterable[str]) -> None:
        """They outlive their maker: it is removed without them."""
        for name in names:
            volume = self.get(name)
            del volume.extra["maker"]
            await self._save(volume)

    async def drop_orphans(self, known: Callable[[str], bool]) -> None:
        """After a crash: volumes of containers that were never recorded, or were on their way out with them."""
        for name, volume in list(self._volumes.items()):
            maker = volume.extra.get("maker")
            if maker and not known(maker) and not self.users(name):
                await self.remove(name)

    async def mark_populated(self, name: str) -> None:
        volume = self.get(name)
        if not volume.populated:
            volume.populated = True
            await self._save(volume)

    async def remove(self, name: str, *, force: bool = False) -> None:
        if force and name not in self._volumes:
            return
        volume = self.get(name)
        users = self.users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        await self._records.write([Delete(KIND, name)])
        del self._volumes[name]
        await asyncio.to_thread(self._delete, volume)
        self._publish("volume", "destroy", name, {"driver": "local"})

    def _delete(self, volume: Volume) -> None:
        self._mounted.sweep([volume.mountpoint])
        with suppress(FileNotFoundError):
            if mounting.is_mounted(volume.mountpoint):  # never delete what is not the volume's own
                raise Conflict(f"remove {volume.name}: its file system is still mounted")
        project = self._quota.limited(volume.mountpoint) if self._quota else 0
        shutil.rmtree(Path(volume.mountpoint).parent, ignore_errors=True)
        if self._quota:
            self._quota.release(project)

    def list(self, filters: Filters | None = None) -> dict[str, Any]:
        chosen = [v.as_docker() for v in self._volumes.values() if self._matches(v, filters or {})]
        return {"Volumes": chosen, "Warnings": None}

    def _matches(self, volume: Volume, filters: Filters) -> bool:
        for key, values in filters.items():
            match key:
                case "name":
                    ok = any(value in volume.name for value in values)
                case "driver":
                    ok = volume.driver in values
                case "label":
                    ok = all(has_label(volume.labels or {}, value) for value in values)
                case "label!":
                    ok = not any(has_label(volume.labels or {}, value) for value in values)
                case "dangling":
                    ok = bool(self.users(volume.name)) != (values[-1].lower() in ("1", "true"))
                case "all" | "until":
                    ok = True
                case _:
                    raise InvalidArgument(f"invalid filter '{key}'")
            if not ok:
                return False
        return True

    async def prune(self, filters: Filters) -> dict[str, Any]:
        everything = (filters.get("all") or ["false"])[-1].lower() in ("1", "true")
        deleted, reclaimed = [], 0
        for volume in list(self._volumes.values()):
            anonymous = ANONYMOUS_LABEL in (volume.labels or {})
            if self.users(volume.name) or not (everything or anonymous) or not self._matches(volume, filters):
                continue
            reclaimed += await asyncio.to_thread(size_of, Path(volume.mountpoint))
            await self.remove(volume.name)
            deleted.append(volume.name)
        self._publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": deleted, "SpaceReclaimed": reclaimed}

    def all(self) -> Iterable[Volume]:
        return list(self._volumes.values())


def _check_options(options: dict[str, str], *, limits: bool) -> None:
    """As moby volume/local validateOpts."""
    for key in options:
        if key not in ("type", "o", "device", "size"):
            raise InvalidArgument(f'invalid option: "{key}"')
    if "size" in options:
        try:
            size = ram_in_bytes(options["size"])
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        if size and not limits:
            raise InvalidArgument("quota size requested but no quota support")
    if options.get("o") and not options.get("type"):
        raise InvalidArgument('missing required option: "type"')
    if options.get("type") and not options.get("device"):
        raise InvalidArgument('missing required option: "device"')


def size_of(root: Path) -> int:
    """Bytes of the files below, each inode once; symlinks are not followed."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                status = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total
