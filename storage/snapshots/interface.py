"""What a snapshotter is. The model first, the methods after it.

Model
-----
A *snapshot* is the difference between a file tree and its parent's; a chain of them down to one without
parent is a tree. A snapshotter keeps snapshots and says how to see one as a tree. It never mounts
anything itself and knows nothing of images: a name is a string that the caller chose.

    active      writable. Named by a *key*. A container's root, or a layer being unpacked.
    view        read-only, otherwise like an active one.
    committed   unchangeable. Named by a *name* (for layers the chain ID). Only these can be parents.

    prepare(key, parent) ──► active ──commit(name, key, parent)──► committed
    view(key, parent)    ──► view                                     │ may be parent of any number
            remove(key or name) ◄─────────────────────────────────────┘ of all three kinds

Keys and names share one space; taking one that is taken raises Conflict.

Unpacking layers, all at once
-----------------------------
A layer's files don't depend on its parent's, so the parent is only named when the layer is committed, and
layers unpack in parallel, in any order. Only the commits go bottom up, and those are cheap:

    for layer in layers:                         # concurrently
        snapshots.prepare(f"unpack-{token}-{i}", None)
        extract(stream, snapshots.layer_dir(f"unpack-{token}-{i}"), ExtractOptions())
    for i, chain_id in enumerate(chain_ids):     # in order
        snapshots.commit(chain_id, f"unpack-{token}-{i}", parent=chain_ids[i - 1] if i else None)
    snapshots.sync()                             # once: now they would survive a power cut

Two pulls may race to the same chain ID. The second commit raises Conflict and leaves its active snapshot
as it was: the loser removes its key and uses the winner's layer.

Running a container
-------------------
    snapshots.prepare(container_id, image_chain_id)
    mount = snapshots.overlay(container_id)      # goes into the OCI specification: mount.to_spec()
    ...
    snapshots.changes(container_id)              # docker diff
    snapshots.diff(container_id, out)            # docker commit: the layer as a tar
    snapshots.remove(container_id)               # returns at once; purge() later frees the space

Crashes
-------
Every method is atomic: after kill -9 at any instant, opening the snapshotter again shows the call as done
or as not begun, and what was half-made is deleted by the next purge(). A power cut may take back what was
not yet followed by sync(); committed snapshots that it might have left with holes are dropped on opening
(they carry the boot that wrote them until sync() has confirmed them), never served.

Threads
-------
All methods may be called from any thread. prepare, view, commit, remove, stat, overlay and layer_dir
take well under a millisecond and may be called on the event loop; sync, purge, usage, changes and diff
walk trees or wait for the disk and belong in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from storage.streams import Writable


class Kind(StrEnum):
    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot's record. `key` is the name when committed; times are nanoseconds since 1970."""

    key: str
    kind: Kind
    parent: str | None
    created: int
    labels: Mapping[str, str] = field(default_factory=dict)


class Usage(NamedTuple):
    """What a snapshot alone takes, its parents not counted: allocated-independent bytes and inodes."""

    size: int
    inodes: int


class ChangeKind(IntEnum):
    """Docker's numbers in GET /containers/{id}/changes."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2

    @property
    def letter(self) -> str:
        return "CAD"[self]


class Change(NamedTuple):
    """An absolute path inside the tree, and what happened to it since the parent."""

    path: str
    kind: ChangeKind


@dataclass(frozen=True, slots=True)
class OverlayMount:
    """How to see a snapshot as a tree.

    `lower` is topmost first. Without `upper` the tree is read-only. When `work` is None no overlay is
    needed: `plain` is the directory that holds the tree (to be bound read-only when `read_only`).
    """

    lower: tuple[Path, ...]
    upper: Path | None
    work: Path | None

    @property
    def plain(self) -> Path | None:
        if self.upper is not None and self.work is None:
            return self.upper
        if self.upper is None and len(self.lower) == 1:
            return self.lower[0]
        return None

    @property
    def read_only(self) -> bool:
        return self.upper is None

    def as_read_only(self) -> OverlayMount:
        """The same tree with the upper directory as one more lower: nothing to write back when unmounted."""
        if self.upper is None:
            return self
        return OverlayMount((self.upper, *self.lower), None, None)

    def to_spec(self) -> dict[str, Any]:
        """The `root` members of the OCI specification as pyd's runtime understands them."""
        if self.plain is not None:
            return {"path": str(self.plain)}
        overlay: dict[str, Any] = {"lower": [str(path) for path in self.lower]}
        if self.upper is not None:
            overlay |= {"upper": str(self.upper), "work": str(self.work)}
        return {"overlay": overlay}


class Snapshotter(Protocol):
    """See the module's text for the model. NotFound is raised for a key that is not there."""

    @property
    def limits(self) -> bool:
        """Whether an active snapshot can be given a limit: the file system has project quotas."""
        ...

    def prepare(
        self, key: str, parent: str | None, *, labels: Mapping[str, str] | None = None, limit: int = 0
    ) -> Snapshot:
        """Makes an active snapshot on a committed parent, or on nothing. Conflict when the key is taken.

        Its own files may take `limit` bytes, 0 for any number. InvalidArgument where there are no limits.
        """
        ...

    def view(self, key: str, parent: str, *, labels: Mapping[str, str] | None = None) -> Snapshot:
        """Makes a read-only snapshot of a committed one, which it keeps from being removed."""
        ...

    def commit(
        self, name: str, key: str, *, parent: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Snapshot:
        """Turns the active snapshot `key` into the committed `name`; the key is gone afterwards.

        `parent` replaces the one given to prepare; None keeps that. It must be committed already.
        Conflict when `name` is taken; the active snapshot is then left as it was.
        """
        ...

    def remove(self, key: str) -> None:
        """Forgets a snapshot and moves its files aside. Conflict when it is another one's parent."""
        ...

    def stat(self, key: str) -> Snapshot:
        """The record of one snapshot."""
        ...

    def exists(self, key: str) -> bool: ...

    def walk(self) -> Iterator[Snapshot]:
        """All snapshots as they were when the walk began."""
        ...

    def chain(self, key: str) -> tuple[str, ...]:
        """The snapshot itself and its ancestors, topmost first."""
        ...

    def usage(self, key: str) -> Usage:
        """Bytes and inodes of this snapshot alone. Remembered for committed ones."""
        ...

    def overlay(self, key: str) -> OverlayMount:
        """How to see an active snapshot or a view as a tree.

        Of a committed one where that costs nothing (overlay), else InvalidArgument: take a view.
        """
        ...

    def layer_dir(self, key: str) -> Path:
        """The directory holding the snapshot's own files, in overlay's form; where a layer is unpacked to.

        Only for committed snapshots and for active ones without parent everywhere.
        """
        ...

    def changes(self, key: str) -> list[Change]:
        """What differs from the parent, as `docker diff` has it, sorted by path."""
        ...

    def diff(self, key: str, out: Writable) -> None:
        """Writes the difference to the parent as a layer: an uncompressed tar with OCI whiteouts."""
        ...

    def sync(self) -> None:
        """Returns when every snapshot committed so far would survive a power cut."""
        ...

    def purge(self) -> int:
        """Deletes the files of removed snapshots, and of ones never finished; returns how many."""
        ...
