"""Planning a container's root filesystem: `config.json` to the list of operations that builds it."""

from __future__ import annotations

import os

from daemon.runtime import cgroupmounts, devices, inroot, mountoptions
from daemon.runtime import operations as ops
from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError
from daemon.runtime.spec import get_bool, get_list, get_object, get_objects, get_path, get_string, get_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.namespaces import Namespaces
    from daemon.runtime.operations import Context, Operation
    from daemon.runtime.spec import Object

_PROPAGATION = {
    "private": sc.MS_PRIVATE,
    "shared": sc.MS_SHARED,
    "slave": sc.MS_SLAVE,
    "unbindable": sc.MS_UNBINDABLE,
}


class MakeWorkingDirectory:
    """The process' working directory is made when the image lacks it, as runc does."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def execute(self, context: Context) -> None:
        try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
            os.close(inroot.make_directory(context.root, self.path))
        except OSError:
            pass  # chdir tells the user, with the path, when it is not there in the end

    def describe(self) -> str:
        return f"make {self.path} where it is missing"


class RootPlan:
    """The operations in two halves: what must wait for the parent (cgroups) is in `late`, in order."""

    __slots__ = ("closing", "early", "late", "propagation")

    def __init__(self) -> None:
        self.early: list[Operation] = []
        self.late: list[Operation] = []
        self.closing: list[Operation] = []
        self.propagation: Operation | None = None

    def all(self) -> list[Operation]:
        return self.early + self.late + self.closing


def plan(spec: Object, namespaces: Namespaces, bundle: str, *, pivot: bool = True) -> RootPlan:
    linux = get_object(spec, "linux", "linux")
    root = get_object(spec, "root", "root")
    result = RootPlan()
    mounts = [
        _mount(entry, index, bundle, namespaces)
        for index, entry in enumerate(get_objects(spec, "mounts", "mounts"))
    ]
    result.early = [
        ops.OpenShared(bind) for bind in mounts if isinstance(bind, ops.BindMount) and bind.shared
    ]
    result.early += [ops.SetPropagation(_root_propagation(linux)), _root(root, bundle), ops.OpenProc()]
    result.early += mounts
    userns = namespaces.has("user")
    result.early += devices.plan(linux, bind=userns)
    _defer_cgroups(result)
    process = get_object(spec, "process", "process")
    result.closing.append(MakeWorkingDirectory(get_path(process, "cwd", "process.cwd")))
    result.closing += [ops.ReadonlyPath(path) for path in _paths(linux, "readonlyPaths")]
    result.closing += [ops.MaskedPath(path) for path in _paths(linux, "maskedPaths")]
    if get_bool(root, "readonly", "root.readonly"):
        result.closing.append(ops.ReadonlyRoot())
    result.closing.append(ops.PivotRoot() if pivot else ops.MoveRoot())
    result.closing += _propagation(linux)  # pivot_root(2) refuses a shared root
    return result


def _root_propagation(linux: Object) -> int:
    """How the host's mounts are seen while the root is built; `shared` roots still do not leak back early."""
    name = get_string(linux, "rootfsPropagation", "linux.rootfsPropagation").removeprefix("r")
    if name and name not in _PROPAGATION:
        raise SpecError("linux.rootfsPropagation", f"must be one of {', '.join(_PROPAGATION)}, not {name!r}")
    return sc.MS_PRIVATE if name == "private" else sc.MS_SLAVE


def _propagation(linux: Object) -> list[Operation]:
    name = get_string(linux, "rootfsPropagation", "linux.rootfsPropagation").removeprefix("r")
    return [ops.RootPropagation(_PROPAGATION[name])] if name in ("shared", "unbindable") else []


def _root(root: Object, bundle: str) -> Operation:
    path = get_string(root, "path", "root.path")
    path = os.path.join(bundle, path) if path else bundle
    if root.get("overlay") is None:
        if path == bundle:
            raise SpecError("root.path", "is required")
        return ops.BindRoot(os.path.realpath(path))
    return overlay_root(get_object(root, "overlay", "root.overlay"), path if os.path.isdir(path) else bundle)


def overlay_root(overlay: Object, target: str) -> ops.OverlayRoot:
    """`root.overlay` of a specification: pyd's own, for a root that the container's init mounts itself."""
    lower = get_strings(overlay, "lower", "root.overlay.lower")
    if not lower:
        raise SpecError("root.overlay.lower", "must name at least one directory")
    upper = get_string(overlay, "upper", "root.overlay.upper") or None
    work = get_string(overlay, "work", "root.overlay.work") or None
    if (upper is None) != (work is None):
        raise SpecError("root.overlay", "upper and work are given together or not at all")
    volatile = get_bool(overlay, "volatile", "root.overlay.volatile")
    return ops.OverlayRoot(lower, upper, work, target, volatile=volatile)


def _mount(entry: Object, index: int, bundle: str, namespaces: Namespaces) -> Operation:
    field = f"mounts[{index}]"
    destination = get_string(entry, "destination", f"{field}.destination")
    if not destination:
        raise SpecError(f"{field}.destination", "is required")
    if not destination.startswith("/"):
        destination = f"/{destination}"  # deprecated by the specification, still accepted
    for key in ("uidMappings", "gidMappings"):
        if get_list(entry, key, f"{field}.{key}"):
            raise SpecError(f"{field}.{key}", "is not supported")
    wanted = mountoptions.parse(get_strings(entry, "options", f"{field}.options"), f"{field}.options")
    kind = get_string(entry, "type", f"{field}.type")
    source = get_string(entry, "source", f"{field}.source")
    if wanted.remount:
        return ops.Remount(destination, wanted)
    if wanted.bind or kind == "bind":
        if not source:
            raise SpecError(f"{field}.source", "a bind mount needs a source")
        subpath = get_string(entry, "subpath", f"{field}.subpath")  # pyd's own, for volumes
        return ops.BindMount(os.path.join(bundle, source), destination, wanted, subpath)
    if not kind:
        raise SpecError(f"{field}.type", "is required")
    if kind in ("cgroup", "cgroup2"):
        host = cgroupmounts.hierarchies()
        if not host:
            raise SpecError(field, "the host has no cgroup mounts below /sys/fs/cgroup")
        return cgroupmounts.CgroupMount(destination, wanted, host, namespace=namespaces.has("cgroup"))
    return ops.FilesystemMount(kind, source, destination, wanted)


def _defer_cgroups(result: RootPlan) -> None:
    """Move the cgroup mounts to the end where no other mount depends on the order.

    They have to wait until the parent has moved the process into its cgroups, which takes the kernel
    milliseconds on v1; everything else is done meanwhile.
    """
    for operation in [op for op in result.early if isinstance(op, cgroupmounts.CgroupMount)]:
        position = result.early.index(operation)
        later = [op for op in result.early[position + 1 :] if hasattr(op, "destination")]
        if any(_related(operation.destination, getattr(op, "destination")) for op in later):  # noqa: B009
            result.late = result.early[position:]
            del result.early[position:]
            return
        result.early.remove(operation)
        result.late.append(operation)


def _related(one: str, other: str) -> bool:
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _paths(linux: Object, key: str) -> list[str]:
    paths = get_strings(linux, key, f"linux.{key}")
    for index, path in enumerate(paths):
        if not path.startswith("/"):
            raise SpecError(f"linux.{key}[{index}]", f"must be an absolute path, not {path!r}")
    return paths
