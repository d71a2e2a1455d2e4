"""Mounts that are more than a bind of a directory: images, and volumes of the `local` driver with options.

`--mount type=image` shows an image's tree, read-only; of a part of one (`image-subpath`) the tree is mounted on
the host meanwhile, as only what is mounted can be resolved safely and bound. Volumes with options are mounted by
daemon/volumes while a container has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon.containers import rootview
from daemon.containers.context import Context
from daemon.containers.model import Container, MountPoint
from daemon.runtime import overlay, syscalls
from daemon.volumes import mounting
from storage.errors import InvalidArgument


def special(ctx: Context, container: Container) -> dict[str, dict[str, Any]]:
    """Destination → OCI mount. Raises NotFound when an image is gone, InvalidArgument."""
    found: dict[str, dict[str, Any]] = {}
    for point in container.mounts:
        if point.type == "image":
            found[point.destination] = _image(ctx, container, point)
        if point.subpath and container.runtime != "pyd":
            what = f"volume {point.name}" if point.type == "volume" else "an image"
            raise InvalidArgument(f"runtime {container.runtime} cannot mount a subpath of {what} safely")
    return found


def settle_images(ctx: Context, container: Container) -> None:
    """At create: an image is meant as it is now, whatever its name means later. Raises NotFound."""
    for point in container.mounts:
        if point.type == "image":
            point.source, point.writable = ctx.images.resolve(point.source).id, False


def _image(ctx: Context, container: Container, point: MountPoint) -> dict[str, Any]:
    if point.subpath:
        source = str(_place(ctx, container, point))
        return _mount(point, "bind", source, ["rbind", "rprivate", "ro"]) | {"subpath": point.subpath}
    chain_ids = ctx.images.resolve(point.source).chain_ids
    layers = [str(ctx.snapshots.layer_dir(chain_id)) for chain_id in reversed(chain_ids)]
    if len(layers) == 1:
        return _mount(point, "bind", layers[0], ["rbind", "rprivate", "ro"])
    options = [f"{key}={value}" for key, value in overlay.lower_parameters(layers)]
    return _mount(point, "overlay", "overlay", [*options, "ro"])


def _mount(point: MountPoint, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": point.destination, "type": kind, "source": source, "options": options}


# -- on the host, while the container runs


def on_host(ctx: Context, container: Container) -> bool:
    """Whether `prepare` has something to do. Raises NotFound when a volume is gone."""
    return any(
        (p.type == "volume" and ctx.volumes.get(p.name).options) or (p.type == "image" and p.subpath)
        for p in container.mounts
    )


def prepare(ctx: Context, container: Container) -> None:
    """Blocking. Idempotent."""
    for point in container.mounts:
        if point.type == "volume":
            ctx.volumes.hold(point.name, container.id)
    for point, place in _partial(ctx, container):
        place.mkdir(parents=True, exist_ok=True)
        if not mounting.is_mounted(place):
            tree = image_tree(ctx, point)
            try:
                flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
                syscalls.move_mount(tree, b"", syscalls.AT_FDCWD, os.fsencode(place), flags)
            finally:
                os.close(tree)


def image_tree(ctx: Context, point: MountPoint) -> int:
    """A detached, read-only mount of the image. Raises NotFound when it is gone."""
    tree = ctx.snapshots.overlay(ctx.images.resolve(point.source).chain_ids[-1])
    if tree.plain is None:
        return rootview.open_tree(tree, writable=False)
    fd = syscalls.open_tree(syscalls.AT_FDCWD, os.fsencode(tree.plain), syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(fd, b"", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    return fd


def drop(ctx: Context, container: Container) -> None:
    """Blocking. Idempotent."""
    for point in container.mounts:
        if point.type == "volume":
            ctx.volumes.let_go(point.name, container.id)
    places = [place for _, place in _partial(ctx, container)]
    for place in places:
        unmount(place)
    if places and places[0].parent.exists():
        places[0].parent.rmdir()


def _partial(ctx: Context, container: Container) -> Iterator[tuple[MountPoint, Path]]:
    for point in container.mounts:
        if point.type == "image" and point.subpath:
            yield point, _place(ctx, container, point)


def _place(ctx: Context, container: Container, point: MountPoint) -> Path:
    return directory(ctx) / container.id / str(container.mounts.index(point))


def directory(ctx: Context) -> Path:
    """Where trees of images are mounted, in a directory for each container."""
    return ctx.config.exec_root / "images"


def unmount(place: Path) -> None:
    if place.exists():
        mounting.unmount(place)
        place.rmdir()


def sweep(ctx: Context) -> None:
    """Drop what containers that don't run left mounted; blocking."""
    for container in ctx.registry:
        if container.state.alive:
            for point in container.mounts:
                if point.type == "volume":
                    ctx.volumes.adopt(point.name, container.id)
    ctx.volumes.sweep_mounts()
    for own in directory(ctx).iterdir() if directory(ctx).is_dir() else ():
        owner = ctx.registry.by_id(own.name)
        if owner is None or not owner.state.alive:
            for place in own.iterdir():
                unmount(place)
            own.rmdir()
