"""A new volume starts with what the image has at its mount point (moby populateVolumes)."""

from __future__ import annotations

import asyncio
import os
import shutil

from daemon.containers import rootview
from daemon.containers.context import Context
from daemon.containers.model import Container, MountPoint


async def volumes(ctx: Context, container: Container) -> None:
    """Copy up into each empty named or anonymous volume that wants it."""
    for point in container.mounts:
        if point.type != "volume" or not point.copy_up:
            continue
        volume = ctx.volumes.get(point.name)
        if volume.populated:
            continue
        if container.layers:
            await asyncio.to_thread(_copy_up, ctx, container, point)
        await ctx.volumes.mark_populated(point.name)


def _copy_up(ctx: Context, container: Container, point: MountPoint) -> None:
    ctx.volumes.hold(point.name, container.id)
    try:
        _fill(ctx, container, point)
    finally:
        ctx.volumes.let_go(point.name, container.id)


def _fill(ctx: Context, container: Container, point: MountPoint) -> None:
    if os.listdir(point.source):
        return
    root = rootview.open_tree(ctx.snapshots.overlay(container.layers[0]), writable=False)
    try:
        try:
            source = rootview.open_in(root, point.destination, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # the image has no such directory: the volume stays empty
            return
        try:
            _copy_tree(f"/proc/self/fd/{source}/", point.source)
        finally:
            os.close(source)
    finally:
        os.close(root)


def _copy_tree(source: str, target: str) -> None:
    """Like cp -a: owners, modes, times and extended attributes; nothing is followed below `source`."""
    with os.scandir(source) as entries:
        for entry in entries:
            destination = os.path.join(target, entry.name)
            status = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), destination)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(destination)
                _copy_tree(entry.path, destination)
            elif entry.is_file(follow_symlinks=False):
                shutil.copyfile(entry.path, destination, follow_symlinks=False)
            else:
                os.mknod(destination, status.st_mode, status.st_rdev)
            os.chown(destination, status.st_uid, status.st_gid, follow_symlinks=False)
            if not entry.is_symlink():
                shutil.copystat(entry.path, destination, follow_symlinks=False)
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
