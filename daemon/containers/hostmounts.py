"""The few mounts that must be on the host while a container runs; each is named after its container.

A shareable /dev/shm, so that others can join it; the root of a container of a foreign runtime, which
(unlike pyd's own) cannot mount the overlay in the container's namespace; what volumemounts.py has. `reconcile`
drops what is left.
"""

from __future__ import annotations

import asyncio
import os

from daemon.containers import rootview, volumemounts
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.surroundings import foreign_root, shm_dir
from daemon.containers.volumemounts import unmount
from daemon.runtime import syscalls


def prepare(ctx: Context, container: Container, *, foreign: bool) -> None:
    """Blocking. Idempotent."""
    if container.host.get("IpcMode") == "shareable":
        _mount_shm(ctx, container)
    if foreign:
        _mount_root(ctx, container)
    volumemounts.prepare(ctx, container)


def _mount_shm(ctx: Context, container: Container) -> None:
    directory = shm_dir(container, ctx.config)
    directory.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(directory):
        size = container.host.get("ShmSize") or ctx.config.default_shm_size
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount(b"shm", os.fsencode(directory), b"tmpfs", flags, f"mode=1777,size={size}".encode())


def _mount_root(ctx: Context, container: Container) -> None:
    directory = foreign_root(container, ctx.config)
    directory.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(directory):
        return
    tree = rootview.open_tree(ctx.snapshots.overlay(container.id), writable=True)
    try:
        syscalls.move_mount(
            tree, b"", syscalls.AT_FDCWD, os.fsencode(directory), syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(tree)


def drop(ctx: Context, container: Container) -> None:
    """Blocking. Idempotent; costs two stats for a container that has none."""
    unmount(shm_dir(container, ctx.config))
    unmount(foreign_root(container, ctx.config))
    volumemounts.drop(ctx, container)


async def leave(ctx: Context, container: Container) -> None:
    """`drop`, in a thread where it may take its time: unmounting waits for a disk or another machine."""
    if volumemounts.on_host(ctx, container):
        await asyncio.to_thread(drop, ctx, container)
    else:
        drop(ctx, container)


def sweep(ctx: Context) -> None:
    """Drop those of containers that don't run."""
    for parent in (ctx.config.exec_root / "shm", ctx.config.exec_root / "rootfs"):
        for directory in parent.iterdir() if parent.is_dir() else ():
            owner = ctx.registry.by_id(directory.name)
            if owner is None or not owner.state.alive:
                unmount(directory)
    volumemounts.sweep(ctx)
