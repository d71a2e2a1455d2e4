"""Descriptors of the directories that an archive's entries go into."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

from storage.archive.root import Root

_KEPT = 32
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class Parents:
    """Opens parents by cleaned name beneath `into`, making what is missing, and keeps the latest.

    A kept descriptor is what the name meant when it was resolved. Within one archive only removing
    something can change that, so whoever removes calls forget().
    """

    def __init__(self, root: Root, into: str, make: Callable[[int, str], None]) -> None:
        self._root = root
        self._into = into.rstrip("/")
        self._make = make
        self._kept: OrderedDict[str, int] = OrderedDict()

    def open(self, name: str, *, create: bool = True) -> int:
        """The directory's descriptor, still ours. NotADirectoryError, FileNotFoundError (unless `create`)."""
        fd = self._kept.get(name)
        if fd is not None:
            self._kept.move_to_end(name)
            return fd
        try:
            fd = self._root.open(f"{self._into}/{name}", _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            if not create or not name:
                raise
            self._create(name)
            fd = self._root.open(f"{self._into}/{name}", _DIRECTORY)
        self.keep(name, fd)
        return fd

    def lookup(self, name: str) -> int:
        """A readable descriptor of its own for what `name` is now, a final link not followed."""
        return self._root.open(f"{self._into}/{name}", os.O_PATH | os.O_NOFOLLOW)

    def keep(self, name: str, fd: int) -> None:
        """Takes over `fd`, the directory `name`."""
        previous = self._kept.pop(name, None)
        if previous is not None:
            os.close(previous)
        self._kept[name] = fd
        if len(self._kept) > _KEPT:
            os.close(self._kept.popitem(last=False)[1])

    def forget(self, *, keep: int = -1) -> None:
        """Drops all descriptors but `keep`, which a caller is still using."""
        for name, fd in list(self._kept.items()):
            if fd != keep:
                os.close(fd)
                del self._kept[name]

    def close(self) -> None:
        self.forget()

    def _create(self, name: str) -> None:
        """Makes the missing directories on the way, through links that lead inside."""
        parts = name.split("/")
        for length in range(1, len(parts) + 1):
            try:
                fd = self._root.open("/".join([self._into, *parts[:length]]), _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                self._make(self.open("/".join(parts[: length - 1])), parts[length - 1])
            else:
                os.close(fd)
