"""Tar archives in and out: layers, `docker cp`, build contexts, `docker export`.

    extract(stream, root)        a hostile tar into a directory                 extract.py
    create(out, root, path)      a tree, or one path of it, into a tar          create.py
    write_layer(out, layer_dir)  an overlay's upper directory into a layer      layer.py
    Root(fd)                     paths resolved inside a root, never outside    root.py
    TarReader, TarWriter         the formats themselves                         reader.py, writer.py

All of it is synchronous: call it in a thread or in a worker process.
"""

from storage.archive.create import create
from storage.archive.extract import extract
from storage.archive.format import Entry, EntryType
from storage.archive.layer import write_layer
from storage.archive.options import CreateOptions, Extracted, ExtractOptions, Limits, Whiteouts
from storage.archive.reader import TarReader
from storage.archive.root import Root
from storage.archive.writer import TarWriter

__all__ = [
    "CreateOptions",
    "Entry",
    "EntryType",
    "ExtractOptions",
    "Extracted",
    "Limits",
    "Root",
    "TarReader",
    "TarWriter",
    "Whiteouts",
    "create",
    "extract",
    "write_layer",
]
