"""The build's worker process: whatever reads users' files or takes long runs here, not on the event loop.

Started by the first build, kept while builds go on and some seconds longer, and gone then with all its memory.
The protocol is the image worker's (daemon.images.transfer.worker): JSON lines over a socket.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from daemon.build.dockerfile.ignore import Ignore
from daemon.build.dockerfile.source import MAX_SIZE
from daemon.build.files import actions, direct, hashing, layers, packing, sources, stacking
from daemon.build.files.looking import Looking, small_file, small_files
from daemon.build.session.operations import SessionOperations
from daemon.images.transfer.compression import Decompressed
from daemon.images.transfer.ingest import WorkerStore
from daemon.images.transfer.worker import Server, begun
from storage import trees
from storage.archive import ExtractOptions, Limits, Root, Whiteouts, extract
from storage.errors import InvalidArgument, NotFound
from storage.snapshots import OverlayMount, mounted
from storage.snapshots.layers import lookup

Report = Callable[[dict[str, Any]], None]
_MIRRORS = 64
Tree = dict[str, Any]
"""{"lower": [paths], "upper": path or None, "work": path or None}; None is scratch."""


def overlay(tree: Tree) -> OverlayMount:
    upper, work = tree.get("upper"), tree.get("work")
    lower = tuple(Path(path) for path in tree["lower"])
    return OverlayMount(lower, Path(upper) if upper else None, Path(work) if work else None)


@contextlib.contextmanager
def opened(tree: Tree | None) -> Iterator[Root | None]:
    """A tree, mounted for this process alone."""
    if tree is None:
        yield None
        return
    with mounted(overlay(tree)) as fd, Root(fd) as root:
        yield root


@contextlib.contextmanager
def listed(tree: Tree | None) -> Iterator[hashing.Known | None]:
    """What is known of a client's directory."""
    from daemon.build.session.generation import Generation

    known = Generation.behind(tree["lower"]) if tree else None
    try:
        yield known
    finally:
        if known is not None:
            known.close()


class Files:
    """What the daemon may ask for."""

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._mirrors: dict[str, packing.Mirror] = {}
        """Snapshots' directories that are nothing but links to a client's directory, until they are layers."""

    async def file(
        self,
        report: Report,
        actions: list[dict[str, Any]],
        target: Tree,
        inputs: list[Tree | None],
        own: list[bool],
    ) -> None:
        """A File vertex: actions upon the writable tree `target`. `own`: inputs that are the build's alone."""
        mirror = await asyncio.to_thread(_file, actions, target, inputs, own)
        if mirror is not None:
            if len(self._mirrors) >= _MIRRORS:
                self._mirrors.clear()
            self._mirrors[str(target["upper"])] = mirror

    async def digest(
        self, report: Report, tree: Tree | None, paths: list[str], wildcard: bool, excludes: list[str]
    ) -> str:
        """The content digest of what a copy would take."""
        return await asyncio.to_thread(_digest, tree, paths, wildcard, excludes)

    async def layer(
        self, report: Report, upper: str, lower: list[str], stubs: list[str], tidy: bool
    ) -> dict[str, Any]:
        """What a step changed, as a stored layer."""

        def work() -> dict[str, Any]:
            if tidy:
                layers.tidy(Path(upper), [Path(path) for path in lower], stubs)
            return layers.make(Path(upper), self._store, mirror).fields()

        mirror = None if tidy else self._mirrors.pop(upper, None)
        return await asyncio.to_thread(work)

    async def restack(self, report: Report, source: str, target: str) -> None:
        """A committed snapshot's directory into a new one's, to lie upon another parent."""
        await asyncio.to_thread(stacking.restack, Path(source), Path(target))

    async def difference(self, report: Report, lower: list[str], upper: Tree | None, target: str) -> None:
        """What makes the tree `upper` of the layers `lower`, as a snapshot's directory."""

        def work() -> None:
            with contextlib.ExitStack() as stack:
                tree = stack.enter_context(opened(upper))
                if tree is None:
                    tree = stack.enter_context(Root(Path(stack.enter_context(TemporaryDirectory()))))
                stacking.difference(lower, tree, Path(target))

        await asyncio.to_thread(work)

    async def context(self, report: Report, fd: int, directory: str) -> dict[str, Any]:
        """Unpacks the archive that comes from a socket, whatever compresses it."""
        return await asyncio.to_thread(_context, fd, Path(directory))

    async def subtree(self, report: Report, lower: list[str], path: str) -> dict[str, Any]:
        """Where a path of a read-only tree lies on this machine, to be mounted elsewhere."""
        return await asyncio.to_thread(_subtree, lower, path)

    async def read(self, report: Report, directory: str, path: str, limit: int) -> str | None:
        """A small file of a context, base64; None when there is none."""
        (found,) = await asyncio.to_thread(small_files, Path(directory), [path], limit)
        return _encoded(found)

    async def peek(self, report: Report, tree: Tree, path: str, limit: int) -> str | None:
        """A small file of a tree, base64; None when there is none. `limit` below 0: its begin of that size."""

        def work() -> str | None:
            with opened(tree) as root:
                return _encoded(None if root is None else small_file(root, path, limit))

        return await asyncio.to_thread(work)

    async def prune(self, report: Report, directory: str, patterns: list[str]) -> None:
        """Removes from a context what .dockerignore names."""
        await asyncio.to_thread(_prune, Path(directory), patterns)

    async def download(
        self, report: Report, url: str, directory: str, checksum: str, headers: dict[str, str] | None = None
    ) -> dict[str, str]:
        from daemon.build.files import remote

        return await asyncio.to_thread(remote.download, url, Path(directory), checksum, headers)

    async def clone(
        self,
        report: Report,
        url: str,
        directory: str,
        keep_git: bool,
        checksum: str,
        access: dict[str, str] | None = None,
        submodules: bool = True,
    ) -> dict[str, str]:
        """A git repository; `access`: fields of gitaccess.Access."""
        from daemon.build.files import remote
        from daemon.build.sources.gitaccess import Access

        return await asyncio.to_thread(
            remote.clone,
            url,
            Path(directory),
            keep_git=keep_git,
            checksum=checksum,
            access=Access(**access or {}),
            submodules=submodules,
        )


def _file(
    steps: list[dict[str, Any]], target: Tree, inputs: list[Tree | None], own: list[bool]
) -> packing.Mirror | None:
    with contextlib.ExitStack() as stack:
        trees = [stack.enter_context(opened(tree)) for tree in inputs]
        place = _direct(steps, target)
        if place is not None:
            steps = [{**step, "target": place} for step in steps]
            target = {"lower": [], "upper": target["upper"]}
        root = stack.enter_context(opened(target))
        assert root is not None
        own = own if not target["lower"] else []
        copied = actions.run(steps, root, trees, own, lambda number, path: _ahead(inputs[number], path))
    alone = len(steps) == 1 and (place is not None or not target["lower"])
    return _mirror(copied, inputs) if alone else None


def _ahead(tree: Tree | None, path: str) -> Path | None:
    from daemon.build.session import ahead
    from daemon.build.session.generation import Generation

    generation = Generation.behind(tree["lower"]) if tree else None
    return ahead.take(generation.directory, path.strip("/")) if generation else None


def _mirror(copied: list[actions.Copied], inputs: list[Tree | None]) -> packing.Mirror | None:
    """What a snapshot mirrors that one copy made, straight into its empty directory."""
    if len(copied) != 1 or copied[0].target is None:
        return None
    from daemon.build.session.generation import Generation

    tree = inputs[copied[0].input]
    generation = Generation.behind(tree["lower"]) if tree else None
    if generation is None or not generation.plain:
        return None
    return packing.Mirror(generation.directory, copied[0].path.strip("/"), copied[0].target.strip("/"))


def _direct(steps: list[dict[str, Any]], target: Tree) -> str | None:
    """Where to copy to in the snapshot's own directory; None: through an overlay."""
    if not target["lower"] or not direct.possible(steps):
        return None
    with opened({"lower": target["lower"]}) as below:
        assert below is not None
        return direct.prepare(below, Path(target["upper"]), steps[0]["target"])


def _digest(tree: Tree | None, paths: list[str], wildcard: bool, excludes: list[str]) -> str:
    with opened(tree) as root:
        if root is None:
            raise NotFound(f'"{paths[0]}": not found')
        found = [
            each for path in paths for each in sources.find(root, path, wildcard=wildcard, parents=False)
        ]
        with listed(tree) as known:
            return hashing.digest(root, found, Ignore(excludes) if excludes else None, known)


def _context(fd: int, directory: Path) -> dict[str, Any]:
    """A lone Dockerfile (not an archive) is stored as one."""
    with open(fd, "rb", buffering=0) as stream:
        plain = Decompressed(stream)
        head = b""
        while len(head) < 512 and (more := plain.read(512 - len(head))):
            head += more
        rest = _Joined(head, plain)
        if not actions.is_tar_header(head):
            if any(head):
                _store_dockerfile(rest, directory)
                return {"archive": False, "size": 0}
            return {"archive": True, "size": 0}
        options = ExtractOptions(
            whiteouts=Whiteouts.LITERAL, owner=lambda uid, gid: (0, 0), devices=False, limits=Limits()
        )
        done = extract(rest, directory, options)
        return {"archive": True, "size": done.size}


def _subtree(lower: list[str], path: str) -> dict[str, Any]:
    """{"file": path} or {"directories": [topmost first]}. NotFound as a copy says it."""
    with opened({"lower": lower}) as root:
        assert root is not None
        try:
            real = root.realpath(path)
            root.lstat(real)
        except OSError:
            raise NotFound(f'"{path}": not found') from None
    directories = lower
    for part in [part for part in real.split("/") if part]:
        found = lookup(directories, part, "trusted.overlay.opaque")
        if found is None:
            raise NotFound(f'"{path}": not found')
        if not found.directories:
            return {"file": found.path}
        directories = found.directories
    return {"directories": directories}


def _prune(directory: Path, patterns: list[str]) -> None:
    ignore = Ignore(patterns)
    gone: list[str] = []
    kept: set[str] = set()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, *_ in hashing.walk(fd, ".", None):
            if not path:
                continue
            if not ignore.ignored(path):
                while path and path not in kept:
                    kept.add(path)
                    path = path.rpartition("/")[0]
            else:
                gone.append(path)
        for path in reversed(gone):
            if path in kept:
                continue
            with contextlib.suppress(FileNotFoundError):
                trees.remove(path, dir_fd=fd)
    finally:
        os.close(fd)


def _encoded(data: bytes | None) -> str | None:
    """As it travels in JSON."""
    return None if data is None else base64.b64encode(data).decode()


def _store_dockerfile(stream: _Joined, directory: Path) -> None:
    data = b""
    while more := stream.read(1 << 16):
        data += more
        if len(data) > MAX_SIZE:
            raise InvalidArgument(f"the Dockerfile is larger than {MAX_SIZE >> 20} MiB")
    (directory / "Dockerfile").write_bytes(data)


class _Joined:
    """Bytes that were read already, and the rest."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = 1 << 18, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        data = self._rest.read(size)
        assert isinstance(data, bytes)
        return data


def main() -> None:
    connection, channel, root = begun()
    operations: list[object] = [Files(WorkerStore(root)), SessionOperations(opened), Looking(opened)]
    asyncio.run(Server(operations, channel).serve(connection))
    os._exit(0)
