"""A stopped container's tree with its volumes and binds in place, for `docker cp`.

A running container's root shows its mounts by itself. For a stopped one they are put together in a mount
namespace of one thread (unshare(2) works on a thread, not on the process), which goes with the thread:
no mount is ever to be seen on the host, and nothing is left whatever kills the daemon. Mount points are
opened with RESOLVE_IN_ROOT, so that a symlink in the container cannot lead a mount elsewhere.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from daemon.containers import rootview, volumemounts
from daemon.containers.context import Context
from daemon.containers.model import Container, MountPoint
from daemon.runtime import inroot, syscalls


@contextmanager
def root_of(ctx: Context, container: Container, *, writable: bool = False) -> Iterator[int]:
    """As `rootview.root_of`, with mounts. Blocking: use it in a thread."""
    if not container.mounts or (container.state.alive and container.state.pid):
        with rootview.root_of(container, ctx.snapshots, writable=writable) as fd:
            yield fd
        return
    with ExitStack() as held:
        user = f"files {secrets.token_hex(8)}"
        for point in container.mounts:
            if point.type == "volume":
                held.callback(ctx.volumes.let_go, point.name, user)
                ctx.volumes.hold(point.name, user)
        view = _View(ctx, container, _shown(container.mounts), writable)
        view.start()
        held.callback(view.leave)
        yield view.root()


def _shown(points: list[MountPoint]) -> list[MountPoint]:
    """Not tmpfs, which is each start's own, and not what a start would make on the host."""
    return [p for p in points if p.type == "image" or (p.type != "tmpfs" and os.path.lexists(p.source))]


class _View(threading.Thread):
    """Holds the mount namespace from `start` to `leave`."""

    def __init__(self, ctx: Context, container: Container, points: list[MountPoint], writable: bool) -> None:
        super().__init__(name="mount view", daemon=True)
        self._ctx, self._tree = ctx, ctx.snapshots.overlay(container.id)
        self._points, self._writable = points, writable
        self._made, self._done = threading.Event(), threading.Event()
        self._fd = -1
        self._error: BaseException | None = None

    def root(self) -> int:
        """The descriptor of the root, valid until `leave`."""
        self._made.wait()
        if self._error is not None:
            raise self._error
        return self._fd

    def leave(self) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        try:
            self._fd = self._make()
        except BaseException as error:
            self._error = error
        self._made.set()
        self._done.wait()
        if self._fd >= 0:
            os.close(self._fd)

    def _make(self) -> int:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_SLAVE, None)
        sources = [self._source(point) for point in self._points]
        try:
            root = self._mounted_root()
            for point, source in zip(self._points, sources, strict=True):
                target = _target(root, point, source)
                _move(source, target)
                os.close(target)
            return root
        finally:
            for source in sources:
                os.close(source)

    def _source(self, point: MountPoint) -> int:
        if point.type != "image":
            return _bound(point)
        tree = volumemounts.image_tree(self._ctx, point)
        if not point.subpath:
            return tree
        _over(tree, str(self._ctx.config.exec_root))  # what is attached nowhere cannot be cloned in part
        try:
            below = inroot.open_path(tree, point.subpath)
            try:
                return syscalls.open_tree(below, b"", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
            finally:
                os.close(below)
        finally:
            os.close(tree)

    def _mounted_root(self) -> int:
        """The tree, mounted over a directory of its own: only a mount in a namespace takes mounts."""
        place = self._tree.plain or self._tree.upper
        assert place is not None
        if self._tree.plain is not None:
            tree = syscalls.open_tree(syscalls.AT_FDCWD, os.fsencode(place), syscalls.OPEN_TREE_CLONE)
        else:
            tree = rootview.open_tree(self._tree, writable=self._writable or self._lacks_points())
        _over(tree, str(place))
        return tree

    def _lacks_points(self) -> bool:
        """Whether a mount point is missing, as before the first start: it must be made, in the layer."""
        tree = rootview.open_tree(self._tree, writable=False)
        try:
            for point in self._points:
                os.close(rootview.open_in(tree, point.destination, os.O_PATH))
        except OSError:
            return True
        finally:
            os.close(tree)
        return False


def _bound(point: MountPoint) -> int:
    flags = syscalls.OPEN_TREE_CLONE | (0 if point.non_recursive else syscalls.AT_RECURSIVE)
    if point.subpath:
        top = os.open(point.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        below = inroot.open_path(top, point.subpath)
        tree = syscalls.open_tree(below, b"", flags | syscalls.AT_EMPTY_PATH)
        os.close(below)
        os.close(top)
    else:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, os.fsencode(point.source), flags)
    if not point.writable:
        with suppress(OSError):  # a mount below that may not be changed is refused to writers all the same
            attributes = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
            syscalls.mount_setattr(tree, b"", attributes, set_=syscalls.MOUNT_ATTR_RDONLY)
    return tree


def _target(root: int, point: MountPoint, source: int) -> int:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        return inroot.make_directory(root, point.destination)
    return inroot.make_file(root, point.destination)


def _over(tree: int, place: str) -> None:
    over = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _move(tree, over)
    os.close(over)


def _move(tree: int, target: int) -> None:
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
    syscalls.move_mount(tree, b"", target, b"", flags)
