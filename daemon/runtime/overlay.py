"""How an overlay is asked for. Linux 6.5 takes the lower directories one by one; before that all are one text.

An older kernel swallows what it does not know when it is told, and refuses it when the file system is made:
too late to see from the error what was wrong. So the kernel's version decides.
"""

from __future__ import annotations

import os


def _one_by_one() -> bool:
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor) if minor.isdigit() else 0) >= (6, 5)


ONE_BY_ONE = _one_by_one()


Parameters = list[tuple[bytes, bytes | None]]


def lower_parameters(directories: list[str], *, one_by_one: bool = ONE_BY_ONE) -> list[tuple[str, str]]:
    """The parameters of fsconfig(2) for the lower directories, topmost first; colons in paths are escaped."""
    if one_by_one:
        return [("lowerdir+", path) for path in directories]
    escaped = (path.replace("\\", "\\\\").replace(":", "\\:") for path in directories)
    return [("lowerdir", ":".join(escaped))]


def forget_volatile(work: str) -> None:
    """Remove the mark that a volatile mount leaves in its work directory, and by which the kernel refuses the next
    mount: after a crash of the machine the tree may have holes (overlayfs.rst, "Volatile mount"). Nobody mounts
    one again after that; who mounts it again has stopped the container and starts it anew."""
    mark = f"{work}/work/incompat/volatile"
    try:
        os.unlink(f"{mark}/dirty")
        os.rmdir(mark)
    except FileNotFoundError:
        pass  # not mounted before


def split(parameters: Parameters, *, one_by_one: bool = ONE_BY_ONE) -> Parameters:
    """`lowerdir=A:B` of an OCI mount as the kernel takes it: fsconfig(2) allows no more than 256 bytes for each.

    Left alone where data-only layers (`::`) are meant.
    """
    found: Parameters = []
    for key, value in parameters:
        if key == b"lowerdir" and value and one_by_one and b"::" not in value:
            found += [(b"lowerdir+", path) for path in _paths(value)]
        else:
            found.append((key, value))
    return found


def _paths(text: bytes) -> list[bytes]:
    """The paths between colons; a backslash takes the meaning from a colon or backslash behind it."""
    paths, escaped = [bytearray()], False
    for byte in text:
        if escaped or byte not in b":\\":
            paths[-1].append(byte)
            escaped = False
        elif byte == ord(":"):
            paths.append(bytearray())
        else:
            escaped = True
    return [bytes(path) for path in paths]
