"""A container's files: `diff`, `export`, `cp`. Nothing resolves a path but the kernel, inside its root.

Archive work is synchronous (storage.archive) and runs in a thread; bytes pass through a pipe, so neither
a large tree nor a slow client holds the event loop or memory.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

from daemon import scaffold
from daemon.clock import rfc3339
from daemon.containers import mountview, rootview
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.images.transfer.compression import Decompressed
from storage.archive import ExtractOptions, Root, Whiteouts, create, extract
from storage.errors import Conflict, InvalidArgument, NotFound
from storage.streams import Readable

CHUNK = 1 << 18


async def changes(ctx: Context, ref: str) -> list[dict[str, Any]] | None:
    container = ctx.registry.find(ref)
    found = scaffold.without(await asyncio.to_thread(ctx.snapshots.changes, container.id))
    return [{"Path": c.path, "Kind": int(c.kind)} for c in found] or None


def export(ctx: Context, ref: str) -> AsyncIterator[bytes]:
    """The container's tree as a tar, mounts left out. Raises NotFound at once."""
    container = ctx.registry.find(ref)
    if container.removing or container.state.dead:
        raise Conflict(f"You cannot export container {container.id} which is being removed")

    def write(out: BinaryIO) -> None:
        root = rootview.open_tree(ctx.snapshots.overlay(container.id), writable=False)
        try:
            create(out, root)
        finally:
            os.close(root)

    ctx.publish(container, "export")
    return piped(write)


async def piped(write: Callable[[BinaryIO], None]) -> AsyncIterator[bytes]:
    """What `write` puts into a file, as it comes; closing the iterator ends the writer."""
    reader, writer = os.pipe()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with open(writer, "wb", buffering=0) as out:
                write(out)
        except BrokenPipeError:
            pass
        except BaseException as error:
            failure.append(error)

    work = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        with os.fdopen(reader, "rb", buffering=0) as source:
            while data := await asyncio.to_thread(source.read, CHUNK):
                yield data
    finally:
        await work
    if failure:
        raise failure[0]


async def stat_path(ctx: Context, ref: str, path: str) -> dict[str, Any]:
    """X-Docker-Container-Path-Stat. Raises NotFound."""
    container = _with_path(ctx, ref, path)
    return await asyncio.to_thread(_stat, ctx, container, ref, path)


def _with_path(ctx: Context, ref: str, path: str) -> Container:
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    container = ctx.registry.find(ref)
    if container.removing or container.state.dead:
        raise Conflict(f"container {container.id} is being removed")
    return container


def _missing(ref: str, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {ref}")


def _stat(ctx: Context, container: Container, ref: str, path: str) -> dict[str, Any]:
    with mountview.root_of(ctx, container) as fd, Root(fd) as root:
        try:
            found = root.stat(path) if path.endswith(("/", "/.")) else root.lstat(path)
            link = ""
            if stat.S_ISLNK(found.st_mode):
                link = _target(root, path)
        except OSError:
            raise _missing(ref, path) from None
    return {
        "name": "." if path.endswith("/.") else posixpath.basename(posixpath.normpath(path)) or "/",
        "size": found.st_size,
        "mode": go_mode(found.st_mode),
        "mtime": rfc3339(found.st_mtime_ns),
        "linkTarget": link,
    }


def _target(root: Root, path: str) -> str:
    """Where a symlink leads inside the container, as an absolute path."""
    target = root.readlink(path)
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target))


_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}


def go_mode(mode: int) -> int:
    """Go's os.FileMode bits, which Docker's clients decode."""
    bits = mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0)
    for flag, bit in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        if mode & flag:
            bits |= bit
    return bits


async def get(ctx: Context, ref: str, path: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
    """A path's stat and its tar, named after its last component. Raises NotFound."""
    container = _with_path(ctx, ref, path)
    found = await asyncio.to_thread(_stat, ctx, container, ref, path)
    name = "." if path.endswith("/.") else posixpath.basename(posixpath.normpath(path)) or "/"

    def write(out: BinaryIO) -> None:
        with mountview.root_of(ctx, container) as fd:
            create(out, fd, path, name="" if name == "." else name)

    ctx.publish(container, "archive-path")
    return found, piped(write)


async def put(
    ctx: Context,
    ref: str,
    path: str,
    body: AsyncIterator[bytes],
    *,
    no_overwrite_dir_non_dir: bool,
    copy_owner: bool,
) -> None:
    """Unpack a tar into a directory of the container. Raises NotFound, InvalidArgument, Conflict (read-only)."""
    container = _with_path(ctx, ref, path)
    _check_writable(container, path)
    owner = None
    if copy_owner and container.config.get("User"):
        identity = await ctx.users.identity(container, container.config["User"], ())
        owner = (identity.uid, identity.gid)
    options = ExtractOptions(
        whiteouts=Whiteouts.LITERAL,
        no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
        owner=(lambda uid, gid: owner) if owner else None,
    )
    await _feed(body, lambda source: _unpack(ctx, container, ref, path, source, options))
    ctx.publish(container, "extract-to-dir")


def _check_writable(container: Container, path: str) -> None:
    """What is certain before the path is resolved; the kernel refuses the rest."""
    inside = posixpath.normpath(posixpath.join("/", path))
    holding = [
        p for p in container.mounts if inside == p.destination or inside.startswith(f"{p.destination}/")
    ]
    point = max(holding, key=lambda p: len(p.destination), default=None)
    if point is not None and point.type != "tmpfs" and not point.writable:
        raise InvalidArgument("mounted volume is marked read-only")
    if point is None and container.host.get("ReadonlyRootfs"):
        raise InvalidArgument("container rootfs is marked read-only")


def _unpack(
    ctx: Context, container: Container, ref: str, path: str, source: Readable, options: ExtractOptions
) -> None:
    with mountview.root_of(ctx, container, writable=True) as fd:
        with Root(fd) as root:
            try:
                found = root.stat(path)
            except OSError:
                raise _missing(ref, path) from None
        if not stat.S_ISDIR(found.st_mode):
            raise InvalidArgument("extraction point is not a directory")
        extract(source, fd, options, into=path)


async def _feed(body: AsyncIterator[bytes], work: Callable[[Readable], None]) -> None:
    """Run `work` in a thread on what comes in `body`, through a pipe and the decompressor it needs."""
    reader, writer = os.pipe()

    def run() -> None:
        with open(reader, "rb", buffering=CHUNK) as source:
            work(Decompressed(source))

    unpacking = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        with os.fdopen(writer, "wb", buffering=0) as sink:
            async for chunk in body:
                await asyncio.to_thread(sink.write, chunk)
    except BrokenPipeError:  # the work failed and says why below
        pass
    finally:
        await unpacking
