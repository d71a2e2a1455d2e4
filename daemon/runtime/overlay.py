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


def lower_parameters(directories: list[str], *, one_by_one: bool = ONE_BY_ONE) -> list[tuple[str, str]]:
    """The parameters of fsconfig(2) for the lower directories, topmost first; colons in paths are escaped."""
    if one_by_one:
        return [("lowerdir+", path) for path in directories]
    escaped = (path.replace("\\", "\\\\").replace(":", "\\:") for path in directories)
    return [("lowerdir", ":".join(escaped))]
