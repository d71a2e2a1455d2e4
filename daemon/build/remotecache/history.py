"""Local images as caches, as the classic builder's --cache-from has them.

An image that was built with an inline cache says itself what it is good for. Of any other, a RUN's layer is taken
again when the image's history up to it reads the same and the layers below are the very same: what COPY and ADD
brought is then equal, because the layers are, and not because a text says so.

Source: moby daemon/images/cache.go and image/cache (which trust the text of COPY, with a digest of the files in it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daemon.build.bench import Bench, Job
from daemon.build.frontend.terms import Built
from daemon.build.graph import Exec, Merge, Output, Vertex
from daemon.build.remotecache import config
from daemon.build.remotecache.config import Table
from daemon.build.remotecache.imported import Cache, ImportedCaches
from daemon.build.remotecache.importing import inline_of
from daemon.build.solver.keys import exec_key
from daemon.images import times
from daemon.images.model import Image, chain_ids
from storage.errors import InvalidArgument, NotFound

Json = Mapping[str, Any]


def from_images(bench: Bench, job: Job, built: Built, names: Sequence[str]) -> None:
    """Sets `job.imported`. Names that are no local images are passed over, as the classic builder does."""
    imported = ImportedCaches(bench, job)
    for name in names:
        try:
            image = bench.ctx.images.resolve(name)
        except (NotFound, InvalidArgument):
            continue
        for table in (_inline(image), claims(built, image)):
            if table.steps:
                imported.add(Cache(table))
    job.imported = imported if imported.caches else None


def _inline(image: Image) -> Table:
    try:
        records, _ = inline_of(image.config)
        return config.decode(records) if records is not None else Table()
    except InvalidArgument:
        return Table()


def claims(built: Built, image: Image) -> Table:
    """The keys that RUN steps of the target stage would have upon the image's layers. Pure."""
    writer = config.Writer()
    for vertex, place in _placed(built):
        process = vertex.operation
        count = _agrees(built.document["history"][: place + 1], image.config.get("history") or ())
        if not count or count > len(image.diff_ids) or not isinstance(process, Exec) or not _plain(process):
            continue
        diff_ids = image.diff_ids[:count]
        below = chain_ids(diff_ids[:-1])[-1] if count > 1 else ""
        entry = image.config["history"][place]
        writer.step(
            exec_key(process, below, []), diff_ids, times.nanoseconds(str(entry.get("created") or ""))
        )
    return config.decode(config.encode(writer.document(lambda diff_id: None)[0])) if writer else Table()


def _placed(built: Built) -> list[tuple[Vertex, int]]:
    """Steps of the target stage with their places in the history, from the last one down: one layer each."""
    places = [n for n, entry in enumerate(built.document["history"]) if not entry.get("empty_layer")]
    found = []
    for vertex, place in zip(_downwards(built.output), reversed(places), strict=False):
        found.append((vertex, place))
    return found


def _downwards(output: Output | None) -> Iterable[Vertex]:
    while output is not None:
        yield output.vertex
        operation, inputs = output.vertex.operation, output.vertex.inputs
        if isinstance(operation, Merge) and len(inputs) != 2:
            return
        output = inputs[0] if inputs else None


def _agrees(wanted: Sequence[Json], history: Sequence[Json]) -> int:
    """Layers that both have when they read the same as far as the first goes; 0 when they don't."""
    if len(history) < len(wanted):
        return 0
    for ours, theirs in zip(wanted, history, strict=False):
        if _read(ours) != _read(theirs):
            return 0
    return sum(1 for entry in wanted if not entry.get("empty_layer"))


def _read(entry: Json) -> tuple[str, bool]:
    return str(entry.get("created_by") or ""), bool(entry.get("empty_layer"))


def _plain(process: Exec) -> bool:
    """Its text says all: no other trees, no secrets; a cache mount or memory makes no difference."""
    return all(mount.input < 0 and mount.kind in ("cache", "tmpfs") for mount in process.mounts)
