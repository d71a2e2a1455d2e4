"""Trees as chains of differences: see interface.py for the model."""

from storage.snapshots.copy import CopySnapshotter
from storage.snapshots.interface import (
    Change,
    ChangeKind,
    Kind,
    OverlayMount,
    Snapshot,
    Snapshotter,
    Usage,
)
from storage.snapshots.mounts import mounted, open_tree
from storage.snapshots.overlay import OverlaySnapshotter

__all__ = [
    "Change",
    "ChangeKind",
    "CopySnapshotter",
    "Kind",
    "OverlayMount",
    "OverlaySnapshotter",
    "Snapshot",
    "Snapshotter",
    "Usage",
    "mounted",
    "open_tree",
]
