"""What a spare prepares for a container that it does not know yet: the parts that all have, and itself. And the root
of the one that it is to become, when it is told (spare.py).

A *tree* is a mount with all that belongs on and below it: /proc with its read-only and masked paths, /dev with
nodes, links, pts, shm and mqueue. Containers of one engine nearly all have the same, so the spare builds
those of the last plan in a mount namespace that it throws away, and keeps a detached copy of each (open_tree(2)).
A plan travels with its trees pickled apart from the rest: where the bytes are those that were rehearsed,
the ready tree is attached in one call, otherwise its operations are done like any other.

/sys is no such tree: what a sysfs shows depends on the network namespace of its maker.

The rehearsal has a second effect. A page is copied when it is first written to, and reference counts make every
use of an object a write: afterwards most of what the real start will touch is the process' own.
"""

from __future__ import annotations

import _pickle
import os
import resource
import stat

from daemon.runtime import devices, inroot
from daemon.runtime import operations as ops
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.launch import Plan
    from daemon.runtime.operations import Context, Operation
    from daemon.runtime.rootfs import RootPlan
    from daemon.runtime.spec import Object

    Trees = dict[str, bytes]

TREES = ("/dev", "/proc")  # in this order: files of /proc are masked with the null device
_ORDINARY = ("/proc", "/sys")
"""Where a symlink is refused (operations.FilesystemMount)."""
_KINDS = ("devpts", "mqueue", "proc", "sysfs", "tmpfs")  # that concern nobody else
_PREPARED = (
    ops.ReadonlyPath,
    ops.MaskedPath,
    devices.MakeDevice,
    devices.MakeSymlink,
    devices.LinkPtmx,
)


class Tree:
    """Stands for a tree's operations, and attaches the ready one."""

    __slots__ = ("path", "tree")

    def __init__(self, path: str) -> None:
        self.path = path
        self.tree = -1

    def execute(self, context: Context) -> None:
        target = inroot.make_directory(context.root, self.path, symlinks=self.path != "/proc")
        ops.attach(self.tree, target)
        os.close(target)
        os.close(self.tree)
        if self.path == "/dev":
            context.null = _null(context.root)

    def describe(self) -> str:
        return f"attach the ready {self.path}"


class UseProc:
    """The private procfs is there already (it is of the spare's pid namespace)."""

    __slots__ = ("proc",)

    def __init__(self, proc: int) -> None:
        self.proc = proc

    def execute(self, context: Context) -> None:
        context.proc = self.proc

    def describe(self) -> str:
        return "use the ready private procfs"


class UseRoot:
    """The root is mounted already, detached."""

    __slots__ = ("tree",)

    def __init__(self, tree: int) -> None:
        self.tree = tree

    def execute(self, context: Context) -> None:
        ops.attach_over_root(self.tree)
        context.root = self.tree

    def describe(self) -> str:
        return "use the ready root"


class Ready:
    """`trees`: path -> (what it was made from, descriptor of the detached copy); `proc`: a private procfs;
    `root`: the operation that mounted it, and its descriptor."""

    __slots__ = ("proc", "root", "trees")

    def __init__(self) -> None:
        self.trees: dict[str, tuple[bytes, int]] = {}
        self.proc = -1
        self.root: tuple[ops.OverlayRoot, int] | None = None

    def mount_root(self, order: bytes) -> None:
        """`write_root`'s. What fails here will fail, and be reported, in the real start."""
        root, directories, files = _pickle.loads(order)
        try:
            tree = root.open_source()
            self.root = root, tree
            for path in directories:
                os.close(inroot.make_directory(tree, path, symlinks=path not in _ORDINARY))
            for path in files:
                os.close(inroot.make_file(tree, path))
        except OSError:
            pass


def write_root(root: ops.OverlayRoot, directories: list[str], files: list[str]) -> bytes:
    """The root, and what has to be in it to be mounted on: made where the image lacks it."""
    return _pickle.dumps((root, directories, files), 5)


# -- a plan in two parts ---------------------------------------------------------------------------


def typical(spec: Object) -> Object:
    """The specification without what is only this container's: what it runs, and with which secrets."""
    process = spec.get("process")
    if not isinstance(process, dict):
        return spec
    environment = [entry for entry in process.get("env") or () if str(entry).startswith("PATH=")]
    return {**spec, "process": {**process, "args": ["sh"], "env": environment}}


def write(plan: Plan, *, network: bool) -> bytes:
    """The plan, pickled with its trees apart. The plan stays as it is."""
    whole = plan.root.early, plan.root.closing
    trees: Trees = {}
    try:
        for path in TREES:
            _take_out(plan.root, path, trees)
        return _pickle.dumps((plan, trees, network), 5)
    finally:
        plan.root.early, plan.root.closing = whole


def _take_out(root: RootPlan, path: str, trees: Trees) -> None:
    """Put a `Tree` in place of what belongs to the tree at `path`, when all of that can be prepared."""
    early = [operation for operation in root.early if _within(operation, path)]
    closing = [operation for operation in root.closing if _within(operation, path)]
    everything = [*early, *closing, *(operation for operation in root.late if _within(operation, path))]
    if not early or not isinstance(early[0], ops.FilesystemMount) or _place(early[0]) != path:
        return
    if not all(_preparable(operation) for operation in everything):
        return
    trees[path] = _pickle.dumps((early, closing), 5)
    rest: list[Operation] = [operation for operation in root.early if operation not in early]
    rest.insert(root.early.index(early[0]), Tree(path))
    root.early = rest
    root.closing = [operation for operation in root.closing if operation not in closing]


def _preparable(operation: Operation) -> bool:
    if isinstance(operation, ops.FilesystemMount):
        return operation.kind in _KINDS
    return isinstance(operation, _PREPARED)


def _place(operation: Operation) -> str:
    if isinstance(operation, devices.LinkPtmx):
        return "/dev/ptmx"
    place = getattr(operation, "destination", None) or getattr(operation, "path", "")
    return str(place).rstrip("/")


def _within(operation: Operation, path: str) -> bool:
    return f"{_place(operation)}/".startswith(f"{path}/")


def restore(root: RootPlan, trees: Trees, ready: Ready | None) -> None:
    """Put the trees back into a received plan: ready ones, or their operations. The ready root, if it is the one."""
    for operation in [operation for operation in root.early if isinstance(operation, Tree)]:
        made = ready.trees.get(operation.path) if ready else None
        if made is not None and made[0] == trees[operation.path]:
            operation.tree = made[1]
            continue
        at = root.early.index(operation)
        early, closing = _pickle.loads(trees[operation.path])
        root.early[at : at + 1] = early
        root.closing[1:1] = closing  # after MakeWorkingDirectory
    if ready is not None:
        root.early = [_ready_for(operation, ready) for operation in root.early]


def _ready_for(operation: Operation, ready: Ready) -> Operation:
    if isinstance(operation, ops.OpenProc) and ready.proc >= 0:
        return UseProc(ready.proc)
    if isinstance(operation, ops.OverlayRoot) and ready.root and ready.root[0].mounts_as(operation):
        return UseRoot(ready.root[1])
    return operation


# -- the rehearsal ---------------------------------------------------------------------------------


def rehearse(order: bytes) -> Ready:
    """Do what the last container's init did, on an empty root in a mount namespace that is thrown away."""
    host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    plan, trees, _ = _pickle.loads(order)
    ready = Ready()
    context = ops.Context({})
    sc.unshare(sc.CLONE_NEWNS)
    try:
        sc.mount(None, b"/", None, sc.MS_REC | sc.MS_PRIVATE, None)
        context.root = ops.new_filesystem(b"tmpfs", [(b"source", b"rehearsal")], 0)
        ops.attach_over_root(context.root)
        ops.OpenProc().execute(context)
        ready.proc = context.proc
        for path, pickled in trees.items():
            early, closing = _pickle.loads(pickled)
            for operation in (*early, *closing):
                operation.execute(context)
            found = inroot.open_path(context.root, path)
            ready.trees[path] = pickled, ops.clone_tree(found, recursive=True)
            os.close(found)
        _warm(plan, context)
    except (OSError, LaunchError):
        pass  # what fails here will fail, and be reported, in the real start
    finally:
        sc.setns(host, sc.CLONE_NEWNS)
        for fd in (host, context.root, context.null, context.devpts, context.mask):
            if fd >= 0:
                os.close(fd)
    return ready


def _warm(plan: Plan, context: Context) -> None:
    """Use what the rest of a start uses, to no effect."""
    for operation in plan.root.early + plan.root.closing:
        if _preparable(operation):
            operation.execute(context)
    os.setgroups(())
    resource.prlimit(0, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    plan.process.find_executable()


def _null(root: int) -> int:
    """The node, as devices.MakeDevice verifies it."""
    node = inroot.open_path(root, "/dev/null", symlinks=False)
    found = os.fstat(node)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        raise FileExistsError(17, "exists and is not the null device", "/dev/null")
    return node
