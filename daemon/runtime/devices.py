"""Device nodes and symlinks of a container's /dev."""

from __future__ import annotations

import os
import stat

from daemon.runtime import inroot
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError
from daemon.runtime.operations import attach
from daemon.runtime.spec import get_int, get_objects, get_path, get_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.operations import Context, Operation
    from daemon.runtime.spec import Object

# What every container has (runtime-spec, config-linux.md, "Default Devices"): name, major, minor.
DEFAULT = (("null", 1, 3), ("random", 1, 8), ("full", 1, 7), ("tty", 5, 0), ("zero", 1, 5), ("urandom", 1, 9))
SYMLINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_TYPES = {"b": stat.S_IFBLK, "c": stat.S_IFCHR, "p": stat.S_IFIFO, "u": stat.S_IFCHR}
_NULL = os.makedev(1, 3)


class MakeDevice:
    """Make one device node, or (in a user namespace, where mknod(2) is refused) bind the host's."""

    __slots__ = ("bind", "device", "gid", "mode", "path", "uid")

    def __init__(self, path: str, mode: int, device: int, *, uid: int = 0, gid: int = 0, bind: bool) -> None:
        self.path, self.mode, self.device, self.uid, self.gid, self.bind = path, mode, device, uid, gid, bind

    def open_source(self) -> int:
        return sc.open_tree(sc.AT_FDCWD, os.fsencode(self.path), sc.OPEN_TREE_CLONE)

    def execute(self, context: Context) -> None:
        if self.bind:
            self._bind(context)
        else:
            self._make(context)

    def _make(self, context: Context) -> None:
        parent, name = inroot.parent_of(context.root, self.path)
        try:
            os.mknod(name, self.mode, self.device, dir_fd=parent)
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            pass
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        os.close(parent)
        self._keep(context, node)

    def _bind(self, context: Context) -> None:
        target = inroot.make_file(context.root, self.path)
        tree = context.sources.get(id(self), -1)
        if tree < 0:
            tree = self.open_source()
        attach(tree, target)
        os.close(target)
        self._keep(context, tree)

    def _keep(self, context: Context, node: int) -> None:
        """Be sure that the node is the device; masked paths are covered with this very descriptor."""
        found = os.fstat(node)
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(self.mode) or found.st_rdev != self.device:
            raise FileExistsError(17, "exists and is not this device", self.path)
        if self.device == _NULL and stat.S_ISCHR(found.st_mode) and context.null < 0:
            context.null = node
        else:
            os.close(node)

    def describe(self) -> str:
        how = "bind the host's" if self.bind else "make"
        return f"{how} device {self.path} {os.major(self.device)}:{os.minor(self.device)} mode {self.mode & 0o7777:o}"


class MakeSymlink:
    """Make a symlink unless something is at its place already."""

    __slots__ = ("path", "target")

    def __init__(self, path: str, target: str) -> None:
        self.path, self.target = path, target

    def execute(self, context: Context) -> None:
        parent, name = inroot.parent_of(context.root, self.path)
        try:
            os.symlink(self.target, name, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"


class LinkPtmx:
    """/dev/ptmx must be the container's own; one from the image is replaced (config-linux.md)."""

    __slots__ = ()

    def execute(self, context: Context) -> None:
        parent, name = inroot.parent_of(context.root, "/dev/ptmx")
        try:
            try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            os.symlink("pts/ptmx", name, dir_fd=parent)
        finally:
            os.close(parent)

    def describe(self) -> str:
        return "link /dev/ptmx to pts/ptmx"


def plan(linux: Object, *, bind: bool) -> list[Operation]:
    """The default devices and those of `linux.devices`, which win over a default of the same path."""
    wanted: dict[str, MakeDevice] = {}
    for name, major, minor in DEFAULT:
        path = f"/dev/{name}"
        wanted[path] = MakeDevice(path, stat.S_IFCHR | 0o666, os.makedev(major, minor), bind=bind)
    for index, entry in enumerate(get_objects(linux, "devices", "linux.devices")):
        device = _device(entry, f"linux.devices[{index}]", bind=bind)
        wanted[device.path] = device
    operations: list[Operation] = list(wanted.values())
    operations += [MakeSymlink(path, target) for path, target in SYMLINKS]
    operations.append(LinkPtmx())
    return operations


def _device(entry: Object, field: str, *, bind: bool) -> MakeDevice:
    path = get_path(entry, "path", f"{field}.path")
    kind = get_string(entry, "type", f"{field}.type")
    if kind not in _TYPES:
        raise SpecError(f"{field}.type", f"must be one of b, c, u, p, not {kind!r}")
    device = 0
    if kind != "p":
        device = os.makedev(
            get_int(entry, "major", f"{field}.major", high=0xFFF),
            get_int(entry, "minor", f"{field}.minor", high=0xFFFFF),
        )
    return MakeDevice(
        path,
        _TYPES[kind] | get_int(entry, "fileMode", f"{field}.fileMode", default=0o666) & 0o7777,
        device,
        uid=get_int(entry, "uid", f"{field}.uid", default=0),
        gid=get_int(entry, "gid", f"{field}.gid", default=0),
        bind=bind,
    )
