"""An exported image in the image store: its layers unpacked, its names bound to what was written.

Source: BuildKit exporter/containerimage/export.go; moby daemon/internal/builder-next/exporter (what moby has set).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from daemon.build.bench import Bench, Job
from daemon.build.export import layers
from daemon.build.export.image import Committed
from daemon.build.export.options import ImageOptions
from daemon.build.steps import Progress
from daemon.containers.context import Context
from daemon.images import reference
from daemon.images.listing import labels_of
from daemon.images.model import Image, chain_ids
from daemon.images.reference import Reference
from storage import failpoints


async def keep(
    bench: Bench,
    job: Job,
    ctx: Context,
    options: ImageOptions,
    names: Sequence[Reference],
    committed: Committed,
    progress: Progress,
) -> Image:
    """All names in one transaction; none of them: a dangling image that has its target nevertheless."""
    tagged = [name for name in names if name.tag]
    shown = str(tagged[0]) if tagged else committed.target.digest
    with progress.status(f"unpacking to {shown}") if _lacks(bench, committed) else contextlib.nullcontext():
        for each in committed.images:
            await layers.unpacked(bench, job, ctx.images.layer_jobs, each.layers)
    failpoints.hit("exports.name")
    with contextlib.ExitStack() as stack:
        for name in tagged:
            stack.enter_context(progress.status(f"naming to {name}"))
        main = committed.main
        image = await bench.store.add_image(
            main.config,
            [*tagged, *_canonical(options, names, committed.target.digest)],
            tagged=True,
            target=committed.target,
            others=[each.config for each in committed.images if each is not main],
        )
    ctx.events.publish("image", "create", image.id, {"name": image.id})
    for name in tagged:
        ctx.events.publish("image", "tag", image.id, {"name": name.familiar, **labels_of(image)})
    return image


def _lacks(bench: Bench, committed: Committed) -> bool:
    """Whether layers are only blobs yet: those whose times were rewritten."""
    for image in committed.images:
        diff_ids = [layer.made.diff_id for layer in image.layers]
        if not all(bench.store.has_layer(chain) for chain in chain_ids(diff_ids)):
            return True
    return False


def _canonical(options: ImageOptions, names: Sequence[Reference], digest: str) -> list[Reference]:
    """NAME@DIGEST as further names."""
    found = [name.with_digest(digest) for name in names if options.name_canonical]
    if options.dangling_prefix and not options.dangling_empty_only:
        found.append(reference.parse(options.dangling_prefix).with_digest(digest))
    return list(dict.fromkeys(found))
