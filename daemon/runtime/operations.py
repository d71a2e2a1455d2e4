"""What is done to build a container's root: small operations, each with `execute` and `describe`.

The plan (rootfs.py) is a list of these, made before the clone and printable; init (init.py) runs them in
order. An operation holds only data. What operations hand to one another (the root's descriptor, the
container's own procfs) is in the Context.

Everything is done through descriptors: a file system is configured as a context (fsopen), becomes a
detached mount (fsmount, open_tree), and is attached (move_mount) to a descriptor that was resolved inside the root.
No step looks up a path that somebody else could exchange. See mount_setattr(2), move_mount(2), openat2(2).
"""

from __future__ import annotations

import os
import stat

from daemon.runtime import inroot, overlay
from daemon.runtime import mountoptions as options
from daemon.runtime import syscalls as sc
from daemon.runtime.mountoptions import MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Operation(Protocol):
        """One step. `execute` raises OSError; the message names `describe()`."""

        def execute(self, context: Context) -> None: ...

        def describe(self) -> str: ...


DEVPTS_MAGIC = 0x1CD1
PROC_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
MOVE = sc.MOVE_MOUNT_F_EMPTY_PATH | sc.MOVE_MOUNT_T_EMPTY_PATH


class Context:
    """What init's operations share. Descriptors are -1 until the operation that opens them has run."""

    __slots__ = ("devpts", "mask", "null", "proc", "root", "shared", "sources")

    def __init__(self, sources: dict[int, int]) -> None:
        self.root = self.proc = self.null = self.devpts = self.mask = -1
        self.sources = sources
        """Operation's id() -> tree that was opened for it: by the parent (user namespaces), or by OpenShared."""
        self.shared: set[int] = set()


def new_filesystem(kind: bytes, parameters: list[tuple[bytes, bytes | None]], attributes: int) -> int:
    """A configured file system as a detached mount."""
    fs = sc.fsopen(kind)
    try:
        for key, value in parameters:
            sc.fsconfig(fs, sc.FSCONFIG_SET_FLAG if value is None else sc.FSCONFIG_SET_STRING, key, value)
        sc.fsconfig(fs, sc.FSCONFIG_CMD_CREATE, None, None)
        return sc.fsmount(fs, attributes)
    finally:
        os.close(fs)


def clone_tree(fd: int, *, recursive: bool = False) -> int:
    """A detached bind mount of what `fd` refers to."""
    flags = sc.AT_EMPTY_PATH | sc.OPEN_TREE_CLONE | (sc.AT_RECURSIVE if recursive else 0)
    return sc.open_tree(fd, b"", flags)


def attach(mount: int, target: int) -> None:
    sc.move_mount(mount, b"", target, b"", MOVE)


def attach_over_root(mount: int) -> None:
    """Attach on top of the namespace's root, which needs no directory and no right to reach one.

    The process' own root stays the mount below, until pivot_root(2).
    """
    place = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    attach(mount, place)
    os.close(place)


def set_attributes(mount: int, wanted: MountOptions, *, whole: bool) -> None:
    """Apply attributes and propagation; the plain attributes too when `whole` (a bind has its source's)."""
    if whole and (wanted.set or wanted.clear):
        sc.mount_setattr(
            mount, b"", sc.AT_EMPTY_PATH, set_=wanted.set, clear=_clear_mask(wanted.set, wanted.clear)
        )
    if wanted.recursive_set or wanted.recursive_clear:
        clear = _clear_mask(wanted.recursive_set, wanted.recursive_clear)
        sc.mount_setattr(
            mount, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, set_=wanted.recursive_set, clear=clear
        )
    for propagation, recursive in wanted.propagation:
        flags = sc.AT_EMPTY_PATH | (sc.AT_RECURSIVE if recursive else 0)
        sc.mount_setattr(mount, b"", flags, propagation=propagation)


def _clear_mask(set_: int, clear: int) -> int:
    """The access time field is changed as a whole or not at all (mount_setattr(2))."""
    if (set_ | clear) & sc.MOUNT_ATTR__ATIME:
        return clear | sc.MOUNT_ATTR__ATIME
    return clear


class SetPropagation:
    """Cut the new mount namespace off from the host's, so that nothing mounted from here on gets out."""

    __slots__ = ("propagation",)

    def __init__(self, propagation: int) -> None:
        self.propagation = propagation

    def execute(self, context: Context) -> None:
        sc.mount(None, b"/", None, sc.MS_REC | self.propagation, None)

    def describe(self) -> str:
        names = {value: name for name, (value, _) in options.PROPAGATION.items()}
        return f"make all mounts {names[self.propagation]}"


class OpenShared:
    """Open the source of a shared bind while the host's mounts still are peers: mounts made on either side
    then appear on the other, which is what `shared` means."""

    __slots__ = ("bind",)

    def __init__(self, bind: BindMount) -> None:
        self.bind = bind

    def execute(self, context: Context) -> None:
        if id(self.bind) not in context.sources:  # in a user namespace there are no peers
            context.sources[id(self.bind)] = self.bind.open_source()
            context.shared.add(id(self.bind))

    def describe(self) -> str:
        return f"open {self.bind.source} as a peer of the host's mount"


class OverlayRoot:
    """Mount an overlay as the root: in the container's own mount namespace, the host never has it.

    Linux 6.5 takes the lower directories one by one. An older one swallows them so, and refuses the mount when
    it is made; it wants them as one text, which must go by mount(2): fsconfig(2) takes no more than 256 bytes.

    A `volatile` one (Linux 5.10) is never synced, neither by fsync(2) inside nor when it is unmounted, which
    otherwise syncs the upper directory's whole file system before the container's end is known: for what no
    power cut may leave behind anyway.
    """

    __slots__ = ("lower", "target", "upper", "volatile", "work")

    def __init__(
        self, lower: list[str], upper: str | None, work: str | None, target: str, *, volatile: bool = False
    ) -> None:
        self.lower, self.upper, self.work, self.target = lower, upper, work, target
        self.volatile = volatile and upper is not None

    def mounts_as(self, other: OverlayRoot) -> bool:
        mine = self.lower, self.upper, self.work, self.volatile
        return mine == (other.lower, other.upper, other.work, other.volatile)

    def open_source(self) -> int:
        if self.volatile:
            overlay.forget_volatile(f"{self.work}")
        if not overlay.ONE_BY_ONE:
            return self._classic()
        parameters: list[tuple[bytes, bytes | None]] = [(b"source", b"overlay")]
        parameters += [(b"lowerdir+", os.fsencode(path)) for path in self.lower]
        if self.upper and self.work:
            parameters += [(b"upperdir", os.fsencode(self.upper)), (b"workdir", os.fsencode(self.work))]
        if self.volatile:
            parameters.append((b"volatile", None))
        return new_filesystem(b"overlay", parameters, 0)

    def _classic(self) -> int:
        data = "=".join(*overlay.lower_parameters(self.lower))
        if self.upper and self.work:
            data += f",upperdir={self.upper},workdir={self.work}" + ",volatile" * self.volatile
        target = os.fsencode(self.target)
        sc.mount(b"overlay", target, b"overlay", 0, os.fsencode(data))
        try:
            return sc.open_tree(sc.AT_FDCWD, target, sc.OPEN_TREE_CLONE)
        finally:
            sc.umount2(target, sc.MNT_DETACH)

    def execute(self, context: Context) -> None:
        tree = context.sources.get(id(self), -1)
        if tree < 0:
            tree = self.open_source()
        attach_over_root(tree)
        context.root = tree

    def describe(self) -> str:
        kind = "volatile overlay" if self.volatile else "overlay"
        return f"mount {kind} of {len(self.lower)} layers, upper {self.upper or 'none'}, as the root"


class BindRoot:
    """Use a directory as the root (a mount of its own, as pivot_root(2) demands)."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def open_source(self) -> int:
        return sc.open_tree(sc.AT_FDCWD, os.fsencode(self.path), sc.OPEN_TREE_CLONE | sc.AT_RECURSIVE)

    def execute(self, context: Context) -> None:
        tree = context.sources.get(id(self), -1)
        if tree < 0:
            tree = self.open_source()
        else:
            sc.mount_setattr(tree, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, propagation=sc.MS_SLAVE)
        attach_over_root(tree)
        context.root = tree

    def describe(self) -> str:
        return f"use {self.path} as the root"


class OpenProc:
    """A procfs of the container's own, never attached anywhere.

    What init writes below /proc goes through it, so that nothing mounted at the container's /proc can catch
    or redirect the write (CVE-2019-16884, CVE-2025-52881).
    """

    __slots__ = ()

    def execute(self, context: Context) -> None:
        context.proc = new_filesystem(
            b"proc", [], sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
        )

    def describe(self) -> str:
        return "open a private procfs"


class FilesystemMount:
    """Mount a new file system of some kind at a place in the root."""

    __slots__ = ("destination", "kind", "options", "source")

    # These are what the container's isolation rests on: refuse to be led elsewhere (CVE-2019-19921, CVE-2023-27561).
    _ORDINARY = ("proc", "sysfs")

    def __init__(self, kind: str, source: str, destination: str, wanted: MountOptions) -> None:
        self.kind, self.source, self.destination, self.options = kind, source, destination, wanted

    def execute(self, context: Context) -> None:
        parameters: list[tuple[bytes, bytes | None]] = [(b"source", os.fsencode(self.source or self.kind))]
        parameters += self.options.parameters
        if self.kind == "overlay":
            parameters = overlay.split(parameters)
        tree = new_filesystem(self.kind.encode(), parameters, self.options.set)
        target = inroot.make_directory(
            context.root, self.destination, symlinks=self.kind not in self._ORDINARY
        )
        attach(tree, target)
        os.close(target)
        set_attributes(tree, self.options, whole=False)
        if self.kind == "devpts" and self.destination.rstrip("/") == "/dev/pts":
            context.devpts = tree
        else:
            os.close(tree)

    def describe(self) -> str:
        return f"mount {self.kind} at {self.destination} ({options.describe(self.options)})"


class BindMount:
    """Make a file or directory of the host (or of a volume) visible in the root."""

    __slots__ = ("destination", "options", "source", "subpath")

    def __init__(self, source: str, destination: str, wanted: MountOptions, subpath: str = "") -> None:
        self.source, self.destination, self.options = source, destination, wanted
        self.subpath = subpath
        """Below the source, resolved inside it: another container may put a symlink there."""

    @property
    def shared(self) -> bool:
        return any(propagation == sc.MS_SHARED for propagation, _ in self.options.propagation)

    def open_source(self) -> int:
        recursive = sc.AT_RECURSIVE if self.options.recursive else 0
        if not self.subpath:
            return sc.open_tree(sc.AT_FDCWD, os.fsencode(self.source), sc.OPEN_TREE_CLONE | recursive)
        top = os.open(self.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        below = inroot.open_path(top, self.subpath)
        os.close(top)
        tree = clone_tree(below, recursive=bool(recursive))
        os.close(below)
        return tree

    def execute(self, context: Context) -> None:
        tree = context.sources.get(id(self), -1)
        if tree < 0:
            tree = self.open_source()
        elif id(self) not in context.shared:
            sc.mount_setattr(tree, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, propagation=sc.MS_SLAVE)
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            target = inroot.make_directory(context.root, self.destination)
        else:
            target = inroot.make_file(context.root, self.destination)
        attach(tree, target)
        os.close(target)
        set_attributes(tree, self.options, whole=True)
        os.close(tree)

    def describe(self) -> str:
        return f"bind {self.source} to {self.destination} ({options.describe(self.options)})"


class Remount:
    """Change attributes of what is mounted at a place already (the option `remount`)."""

    __slots__ = ("destination", "options")

    def __init__(self, destination: str, wanted: MountOptions) -> None:
        self.destination, self.options = destination, wanted

    def execute(self, context: Context) -> None:
        target = inroot.open_path(context.root, self.destination)
        set_attributes(target, self.options, whole=True)
        os.close(target)

    def describe(self) -> str:
        return f"remount {self.destination} ({options.describe(self.options)})"


class ReadonlyPath:
    """Bind a path onto itself read-only; a path that is not there is passed over."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def execute(self, context: Context) -> None:
        target = open_existing(context.root, self.path)
        if target < 0:
            return
        tree = clone_tree(target, recursive=True)
        sc.mount_setattr(tree, b"", sc.AT_EMPTY_PATH | sc.AT_RECURSIVE, set_=sc.MOUNT_ATTR_RDONLY)
        attach(tree, target)
        os.close(tree)
        os.close(target)

    def describe(self) -> str:
        return f"make {self.path} read-only"


class MaskedPath:
    """Hide a path: a directory behind an empty read-only tmpfs, a file behind the null device.

    The null device is the descriptor devices.py verified when it made the node, not whatever `/dev/null` leads
    to by now (CVE-2025-31133).
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def execute(self, context: Context) -> None:
        target = open_existing(context.root, self.path)
        if target < 0:
            return
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            tree = clone_tree(context.null)
        else:
            tree = self._empty_directory(context)
        attach(tree, target)
        os.close(tree)
        os.close(target)

    def _empty_directory(self, context: Context) -> int:
        if context.mask < 0:
            context.mask = new_filesystem(
                b"tmpfs",
                [(b"source", b"tmpfs"), (b"nr_blocks", b"1"), (b"nr_inodes", b"1")],
                sc.MOUNT_ATTR_RDONLY,
            )
            return os.dup(context.mask)
        return clone_tree(context.mask)

    def describe(self) -> str:
        return f"mask {self.path}"


def open_existing(root: int, path: str) -> int:
    """-1 when the path is not there. Below /proc and /sys nothing may be a symlink."""
    kernel = path.startswith(("/proc/", "/sys/"))
    try:
        return inroot.open_path(root, path, symlinks=not kernel)
    except (FileNotFoundError, NotADirectoryError):
        return -1


class ReadonlyRoot:
    """Make the root's own mount read-only; mounts in it stay as they are."""

    __slots__ = ()

    def execute(self, context: Context) -> None:
        sc.mount_setattr(context.root, b"", sc.AT_EMPTY_PATH, set_=sc.MOUNT_ATTR_RDONLY)

    def describe(self) -> str:
        return "make the root read-only"


class RootPropagation:
    __slots__ = ("propagation",)

    def __init__(self, propagation: int) -> None:
        self.propagation = propagation

    def execute(self, context: Context) -> None:
        sc.mount_setattr(context.root, b"", sc.AT_EMPTY_PATH, propagation=self.propagation)

    def describe(self) -> str:
        names = {value: name for name, (value, _) in options.PROPAGATION.items()}
        return f"make the root mount {names[self.propagation]}"


class PivotRoot:
    """Make the root the namespace's root and let go of the host's mounts.

    pivot_root(".", ".") stacks the old root upon the new one, where umount2 then takes it away: no directory
    for the old root is needed (pivot_root(2), NOTES).
    """

    __slots__ = ()

    def execute(self, context: Context) -> None:
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(context.root)
        sc.pivot_root(b".", b".")
        os.fchdir(old)
        sc.mount(None, b".", None, sc.MS_REC | sc.MS_SLAVE, None)
        sc.umount2(b".", sc.MNT_DETACH)
        os.chdir("/")
        os.close(old)

    def describe(self) -> str:
        return "pivot_root"


class MoveRoot:
    """`--no-pivot`, for hosts whose root is a ramfs: chroot into the root on top of /; weaker than pivot_root."""

    __slots__ = ()

    def execute(self, context: Context) -> None:
        os.fchdir(context.root)
        os.chroot(".")
        os.chdir("/")

    def describe(self) -> str:
        return "chroot (no pivot_root)"
