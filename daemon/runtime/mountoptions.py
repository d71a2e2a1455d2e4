"""Mount options as in /etc/fstab and `config.json`, parsed into what the mount system calls want.

The names are those of mount(8) and of the runtime specification (config.md, "Linux mount options");
an option that is none of them belongs to the file system (`size=64k`, `newinstance`).
"""

from __future__ import annotations

from daemon.runtime import syscalls as sc
from daemon.runtime.errors import SpecError

# Per-mount attributes: option -> (bits to set, bits to clear). The access time bits are one field of three.
_ATIME = sc.MOUNT_ATTR__ATIME
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "atime": (sc.MOUNT_ATTR_RELATIME, _ATIME),
    "dev": (0, sc.MOUNT_ATTR_NODEV),
    "diratime": (0, sc.MOUNT_ATTR_NODIRATIME),
    "exec": (0, sc.MOUNT_ATTR_NOEXEC),
    "noatime": (sc.MOUNT_ATTR_NOATIME, _ATIME),
    "nodev": (sc.MOUNT_ATTR_NODEV, 0),
    "nodiratime": (sc.MOUNT_ATTR_NODIRATIME, 0),
    "noexec": (sc.MOUNT_ATTR_NOEXEC, 0),
    "norelatime": (sc.MOUNT_ATTR_STRICTATIME, _ATIME),
    "nostrictatime": (sc.MOUNT_ATTR_RELATIME, _ATIME),
    "nosuid": (sc.MOUNT_ATTR_NOSUID, 0),
    "nosymfollow": (sc.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "relatime": (sc.MOUNT_ATTR_RELATIME, _ATIME),
    "ro": (sc.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, sc.MOUNT_ATTR_RDONLY),
    "strictatime": (sc.MOUNT_ATTR_STRICTATIME, _ATIME),
    "suid": (0, sc.MOUNT_ATTR_NOSUID),
    "symfollow": (0, sc.MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (sc.MS_PRIVATE, False),
    "rprivate": (sc.MS_PRIVATE, True),
    "rshared": (sc.MS_SHARED, True),
    "rslave": (sc.MS_SLAVE, True),
    "runbindable": (sc.MS_UNBINDABLE, True),
    "shared": (sc.MS_SHARED, False),
    "slave": (sc.MS_SLAVE, False),
    "unbindable": (sc.MS_UNBINDABLE, False),
}
# Flags of the superblock, given to fsconfig(2) under these names.
SUPERBLOCK = {"dirsync", "lazytime", "mand", "silent", "sync"}
NO_EFFECT = {"async", "defaults", "iversion", "loud", "noiversion", "nolazytime", "nomand", "tmpcopyup"}


class MountOptions:
    """What one mount's option list asks for."""

    __slots__ = (
        "bind", "clear", "parameters", "propagation", "recursive", "recursive_clear", "recursive_set",
        "remount", "set",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bind = self.recursive = self.remount = False
        self.set = self.clear = self.recursive_set = self.recursive_clear = 0
        self.propagation: list[tuple[int, bool]] = []
        self.parameters: list[tuple[bytes, bytes | None]] = []

    def _attribute(self, name: str) -> bool:
        if bits := ATTRIBUTES.get(name):
            self.set = self.set & ~bits[1] | bits[0]
            self.clear = self.clear & ~bits[0] | bits[1]
            return True
        # `rro` and its kind act on the whole tree (mount_setattr with AT_RECURSIVE).
        if name[:1] == "r" and (bits := ATTRIBUTES.get(name[1:])):
            self.recursive_set = self.recursive_set & ~bits[1] | bits[0]
            self.recursive_clear = self.recursive_clear & ~bits[0] | bits[1]
            return True
        return False

    def add(self, option: str, field: str) -> None:
        if self._attribute(option) or option in NO_EFFECT or not option:
            return
        if option in ("bind", "rbind"):
            self.bind, self.recursive = True, option == "rbind"
        elif option == "remount":
            self.remount = True
        elif option in PROPAGATION:
            self.propagation.append(PROPAGATION[option])
        elif option in ("idmap", "ridmap"):
            raise SpecError(field, f"{option!r} is not supported")
        else:
            key, equals, value = option.partition("=")
            if option in SUPERBLOCK:
                equals = ""
            self.parameters.append((key.encode(), value.encode() if equals else None))


def parse(options: list[str], field: str) -> MountOptions:
    parsed = MountOptions()
    for option in options:
        parsed.add(option, field)
    return parsed


def describe(parsed: MountOptions) -> str:
    """The per-mount part in words, for `Plan.describe`."""
    words = [name for name, (bits, _) in ATTRIBUTES.items() if bits and parsed.set & bits == bits]
    words += [
        f"r{name}" for name, (bits, _) in ATTRIBUTES.items() if bits and parsed.recursive_set & bits == bits
    ]
    words += [name for name, value in PROPAGATION.items() if value in parsed.propagation]
    words += [
        (key + (b"=" + value if value is not None else b"")).decode() for key, value in parsed.parameters
    ]
    return ",".join(words) or "defaults"
