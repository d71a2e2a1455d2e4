"""What the user wants mounted: `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's VOLUMEs.

Parsed once at create into `MountPoint`s; texts and rules follow moby volume/mounts (linux parser).
Precedence at one destination: binds and mounts, then --volumes-from, then the image's volumes.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from daemon.containers.model import Container, MountPoint
from daemon.containers.registry import Registry
from daemon.containers.wire import HostConfig, Mount
from daemon.volumes.service import Volumes
from storage.errors import InvalidArgument, NotFound, PydError

_ACCESS = ("ro", "rw")
_LABELS = ("z", "Z")
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_CONSISTENCY = ("consistent", "cached", "delegated", "default")


def requested(host: HostConfig) -> list[MountPoint]:
    """Mount points of Binds, Mounts and Tmpfs. Raises InvalidArgument naming the specification."""
    points: dict[str, MountPoint] = {}
    for spec in host.get("Binds") or []:
        _add(points, parse_bind(spec, host.get("VolumeDriver") or ""))
    for mount in host.get("Mounts") or []:
        _add(points, parse_mount(mount))
    for target, options in (host.get("Tmpfs") or {}).items():
        if not target.startswith("/"):
            raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
        _add(points, MountPoint("tmpfs", "", _clean(target), options=[o for o in options.split(",") if o]))
    return list(points.values())


def _add(points: dict[str, MountPoint], point: MountPoint) -> None:
    if point.destination in points:
        raise InvalidArgument(f"Duplicate mount point: {point.destination}")
    points[point.destination] = point


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def parse_bind(spec: str, driver: str = "") -> MountPoint:
    """`[SOURCE:]DESTINATION[:MODE,...]`; a source that is no path names a volume."""
    invalid = InvalidArgument(f"invalid volume specification: '{spec}'")
    parts = spec.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise invalid
    source, destination, mode = ("", parts[0], "") if len(parts) == 1 else (*parts[:2], ":".join(parts[2:]))
    if not destination.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{spec}': invalid mount config for type "
            f'"{"bind" if source.startswith("/") else "volume"}": invalid mount path: '
            f"'{destination}' mount path must be absolute"
        )
    if _clean(destination) == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{spec}': invalid mount config for type "
            f'"{"bind" if source.startswith("/") else "volume"}": invalid specification: '
            "destination can't be '/'"
        )
    point = MountPoint("bind" if source.startswith("/") else "volume", "", _clean(destination), mode=mode)
    _apply_mode(point, mode, spec)
    point.recursive_read_only = not point.writable
    if point.type == "bind":
        point.source = posixpath.normpath(source)
        point.propagation = point.propagation or "rprivate"
    else:
        if point.propagation:
            raise InvalidArgument(
                f"invalid volume specification: '{spec}': invalid mount config for type \"volume\": "
                "field BindOptions must not be specified"
            )
        point.name, point.driver, point.anonymous = source, driver or "local", not source
    return point


def _apply_mode(point: MountPoint, mode: str, spec: str) -> None:
    point.copy_up = point.type == "volume"
    seen: set[str] = set()
    for flag in filter(None, mode.split(",")):
        for group in (_ACCESS, _LABELS, _PROPAGATION, _CONSISTENCY, ("nocopy",)):
            if flag in group:
                if group[0] in seen:
                    raise InvalidArgument(f"invalid mode: {mode}")
                seen.add(group[0])
                break
        else:
            raise InvalidArgument(f"invalid mode: {flag}" if "," not in mode else f"invalid mode: {mode}")
        if flag == "ro":
            point.writable = False
        elif flag in _PROPAGATION:
            point.propagation = flag
        elif flag == "nocopy":
            point.copy_up = False


def parse_mount(mount: Mount) -> MountPoint:
    """One `--mount`. Raises InvalidArgument with Docker's `invalid mount config for type` text."""
    kind, target, source = mount.get("Type") or "", mount.get("Target") or "", mount.get("Source") or ""

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{kind}": {why}')

    if kind not in ("bind", "volume", "tmpfs", "image"):
        raise refuse("mount type unknown")
    if not target:
        raise refuse("field Target must not be empty")
    if not target.startswith("/"):
        raise refuse(f"invalid mount path: '{target}' mount path must be absolute")
    if _clean(target) == "/":
        raise refuse("invalid specification: destination can't be '/'")
    point = MountPoint(kind, source, _clean(target), writable=not mount.get("ReadOnly"))
    if kind == "bind":
        _bind_mount(point, mount, refuse)
    elif kind == "volume":
        options = mount.get("VolumeOptions") or {}
        point.source, point.name, point.anonymous = "", source, not source
        driver = options.get("DriverConfig") or {}
        point.driver, point.driver_options = driver.get("Name") or "local", driver.get("Options")
        point.labels = options.get("Labels")
        point.copy_up = not options.get("NoCopy")
        point.subpath = options.get("Subpath") or ""
        point.mode = "z"
        point.recursive_read_only = not point.writable
    elif kind == "tmpfs":
        if source:
            raise refuse("field Source must not be specified")
        point.options = _tmpfs_options(mount)
    elif not source:
        raise refuse("field Source must not be empty")
    else:
        point.subpath = (mount.get("ImageOptions") or {}).get("Subpath") or ""
    return point


def _bind_mount(point: MountPoint, mount: Mount, refuse: object) -> None:
    assert callable(refuse)
    options = mount.get("BindOptions") or {}
    if not point.source:
        raise refuse("field Source must not be empty")
    if not point.source.startswith("/"):
        raise refuse(f"invalid mount path: '{point.source}' mount path must be absolute")
    propagation = options.get("Propagation") or "rprivate"
    if propagation not in _PROPAGATION:
        raise refuse(f"invalid propagation mode: {propagation}")
    point.propagation = propagation
    point.non_recursive = bool(options.get("NonRecursive"))
    point.recursive_read_only = not point.writable and not options.get("ReadOnlyNonRecursive")
    if not os.path.lexists(point.source):
        if options.get("CreateMountpoint"):
            return
        raise refuse(f"bind source path does not exist: {point.source}")


def _tmpfs_options(mount: Mount) -> list[str]:
    options = mount.get("TmpfsOptions") or {}
    chosen = []
    if options.get("SizeBytes"):
        chosen.append(f"size={options['SizeBytes']}")
    if options.get("Mode"):
        chosen.append(f"mode={int(options['Mode']):o}")
    chosen += [":".join(pair) if len(pair) > 1 else pair[0] for pair in options.get("Options") or []]
    return chosen


def inherited(host: HostConfig, registry: Registry) -> list[MountPoint]:
    """Mount points of --volumes-from containers. Raises NotFound, InvalidArgument."""
    points: list[MountPoint] = []
    for entry in host.get("VolumesFrom") or []:
        ref, _, mode = entry.partition(":")
        if not ref or mode not in ("", *_ACCESS, *_LABELS):
            raise InvalidArgument(f"invalid mode: {mode}" if ref else f"invalid volumes-from: '{entry}'")
        try:
            other = registry.find(ref)
        except NotFound as error:
            raise InvalidArgument(str(error)) from None
        for point in other.mounts:
            if point.type != "tmpfs":
                copy = MountPoint(**{**vars(point), "copy_up": False, "anonymous": False})
                copy.writable = point.writable and mode != "ro"
                if copy.writable != point.writable:
                    copy.recursive_read_only = True
                points.append(copy)
    return points


async def settle(container: Container, registry: Registry, volumes: Volumes) -> list[MountPoint]:
    """All mount points of a container to be made, with their volumes created; ordered by destination."""
    points = {p.destination: p for p in requested(container.host)}
    for point in inherited(container.host, registry):
        points.setdefault(point.destination, point)
    for target in container.config.get("Volumes") or {}:
        destination = _clean(target)
        if destination not in points:
            points[destination] = MountPoint(
                "volume",
                "",
                destination,
                driver=container.host.get("VolumeDriver") or "local",
                anonymous=True,
                copy_up=True,
            )
    for point in points.values():
        if point.type == "volume":
            try:
                volume = await volumes.create(
                    point.name,
                    driver=point.driver,
                    options=point.driver_options,
                    labels=point.labels,
                    maker=container.id,
                )
            except PydError as error:
                raise type(error)(f"create {point.name}: {error}") from None
            point.name, point.source, point.driver = volume.name, volume.mountpoint, volume.driver
    return sorted(points.values(), key=lambda p: (p.destination.count("/"), p.destination))


def read_only_not_recursive(points: list[MountPoint]) -> None:
    """What read-only binds were before API 1.44 (moby DefaultReadOnlyNonRecursive)."""
    for point in points:
        if point.type == "bind":
            point.recursive_read_only = False


def ensure_bind_sources(points: list[MountPoint]) -> None:
    """`-v` makes missing host directories, as dockerd does at start."""
    for point in points:
        if point.type == "bind" and not os.path.lexists(point.source):
            Path(point.source).mkdir(parents=True, exist_ok=True)


def check_propagation(points: list[MountPoint]) -> None:
    """What is to be shared with the host must be shared there. Raises InvalidArgument (moby ensureShared)."""
    for point in points:
        kind = point.propagation.removeprefix("r")
        if kind not in ("shared", "slave"):
            continue
        place, tags = _mount_of(os.path.realpath(point.source))
        if "shared" in tags or (kind == "slave" and "master" in tags):
            continue
        what = "a shared mount" if kind == "shared" else "a shared or slave mount"
        raise InvalidArgument(f"path {point.source} is mounted on {place} but it is not {what}")


def _mount_of(path: str) -> tuple[str, set[str]]:
    """Where the mount that holds `path` is, and its propagation (`shared`, `master`): proc_pid_mountinfo(5)."""
    best, tags = "", set[str]()
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split(" ")
            place = fields[4].encode().decode("unicode_escape")
            inside = path == place or path.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best):
                optional = fields[6 : fields.index("-")]
                best, tags = place, {each.partition(":")[0] for each in optional}
    return best, tags


Publish = Callable[[str, str, str, dict[str, str]], None]


def publish(event: Publish, container: Container, action: str) -> None:
    """Docker's volume events around a life: `mount` tells how, `unmount` only of what."""
    for point in container.mounts:
        if point.type != "volume":
            continue
        attributes = {"driver": point.driver or "local", "container": container.id}
        if action == "mount":
            attributes |= {
                "destination": point.destination,
                "propagation": point.propagation,
                "read/write": "true" if point.writable else "false",
            }
        event("volume", action, point.name, attributes)
