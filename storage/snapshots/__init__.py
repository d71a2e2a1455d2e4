"""Trees as chains of differences: see interface.py for the model."""

from storage.snapshots.interface import (
    Change,
    ChangeKind,
    Kind,
    OverlayMount,
    Snapshot,
    Snapshotter,
    Usage,
)
from storage.snapshots.overlay import OverlaySnapshotter

__all__ = [
    "Change",
    "ChangeKind",
    "Kind",
    "OverlayMount",
    "OverlaySnapshotter",
    "Snapshot",
    "Snapshotter",
    "Usage",
]
