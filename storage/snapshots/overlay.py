"""Snapshots as overlayfs directories (signatures; being filled)."""

from __future__ import annotations

from pathlib import Path


class OverlaySnapshotter:
    """Implements Snapshotter; snapshots/<n>/{fs,work,info.json} beneath `root`."""

    def __init__(self, root: Path) -> None:
        raise NotImplementedError
