"""An overlay's upper directory as an image layer (signatures; being filled)."""

from __future__ import annotations

from pathlib import Path

from storage.archive.create import CreateOptions, Writable


def write_layer(
    out: Writable, layer: int | Path, *, userxattr: bool = False, options: CreateOptions | None = None
) -> None:
    """Writes what `layer` holds as a layer tar: 0/0 devices become `.wh.x`, opaque directories `.wh..wh..opq`."""
    raise NotImplementedError
