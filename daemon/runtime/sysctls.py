"""Kernel parameters of a container: only those that its own namespaces keep apart from the host's."""

from __future__ import annotations

from daemon.runtime.errors import SpecError
from daemon.runtime.spec import get_object, get_string_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.namespaces import Namespaces
    from daemon.runtime.spec import Object

_IPC = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm_rmid_forced", "kernel.shmall",
    "kernel.shmmax", "kernel.shmmni",
}  # fmt: skip
# Name (or prefix, with a final dot) -> the namespace that keeps it apart.
_NAMESPACE = {"fs.mqueue.": "ipc", "kernel.domainname": "uts", "net.": "network", "user.": "user"}


def plan(spec: Object, namespaces: Namespaces) -> list[tuple[str, bytes]]:
    """(path below /proc, value) of each; SpecError for one that would change the host."""
    linux = get_object(spec, "linux", "linux")
    result = []
    for key, value in get_string_map(linux, "sysctl", "linux.sysctl").items():
        name = dotted(key)
        _check(name, key, namespaces)
        parts = [part.replace("/", ".") for part in name.split(".")]
        if not all(part and part not in (".", "..") for part in parts):
            raise SpecError("linux.sysctl", f"{key!r} is not the name of a kernel parameter")
        result.append(("sys/" + "/".join(parts), value.encode()))
    return result


def dotted(key: str) -> str:
    """The form with dots; whichever of `.` and `/` comes first is the separator (sysctl.d(5))."""
    dot, slash = key.find("."), key.find("/")
    if slash < 0 or (0 <= dot < slash):
        return key
    return key.translate({ord("/"): ".", ord("."): "/"})


def _check(name: str, key: str, namespaces: Namespaces) -> None:
    if name == "kernel.hostname":
        raise SpecError("linux.sysctl", f"{key!r} conflicts with the field hostname")
    kind = "ipc" if name in _IPC else ""
    for prefix, namespace in _NAMESPACE.items():
        if name == prefix or (prefix.endswith(".") and name.startswith(prefix)):
            kind = namespace
    if not kind:
        raise SpecError("linux.sysctl", f"{key!r} is not in a separate kernel namespace")
    if not namespaces.has(kind):
        raise SpecError(
            "linux.sysctl", f"{key!r} is not allowed without a {kind} namespace of the container's own"
        )
