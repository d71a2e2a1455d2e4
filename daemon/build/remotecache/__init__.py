"""Caches of other machines: --cache-from and --cache-to, `registry`, `local` and `inline`.

    envelope   an OCI image manifest (or an index) as BuildKit's own caches have it: layers, and a configuration of
               type application/vnd.buildkit.cacheconfig.v0; or the member `moby.buildkit.cache.v0` of an image's
               configuration. Registries and tools take it for a BuildKit cache.
    inside     one record of ours says which key gave which tree, and which contents were read (config.py)
    import     a table beside the local cache for one build; layers come when a step needs them (imported.py)
    export     what the build's steps were keyed by, and the blobs of their layers (exporting.py)

Everything that comes in is checked: documents against their digests, layers against digest and diff ID, before
anything is stored under a name. What an imported cache claims about keys serves the build that asked for it alone.

Source: BuildKit cache/remotecache, cache/remotecache/v1/types/doc.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.build.bench import Bench, Job
    from daemon.build.outcome import Outcome

MEMBER = "moby.buildkit.cache.v0"
"""Of an image's configuration: base64 of its inline cache."""
CacheSpec = tuple[str, Mapping[str, str]]
"""(type, attributes), as the client sent them."""


def check(exports: Sequence[CacheSpec]) -> None:
    """Before the build. InvalidArgument for an unknown type, a missing or senseless attribute, or one place twice."""
    from daemon.build.remotecache.options import check

    check(exports)


async def import_caches(bench: Bench, job: Job, specs: Sequence[CacheSpec]) -> None:
    """Makes `job.imported` of what can be had. One that can't is a failed step of the build, never its end."""
    from daemon.build.remotecache.importing import import_caches

    await import_caches(bench, job, specs)


async def export_caches(
    bench: Bench, job: Job, outcome: Outcome, specs: Sequence[CacheSpec], session: object = None
) -> dict[str, str]:
    """After the build's own exporters, through the job's sessions; {"cache.manifest": descriptor as JSON} for some.

    Raises what went wrong, unless the export has ignore-error.
    """
    from daemon.build.remotecache.exporting import export_caches

    return await export_caches(bench, job, outcome, specs)


def inline(bench: Bench, job: Job, outcome: Outcome) -> tuple[bytes | None, ...]:
    """For each of `outcome.made` what its configuration's member `moby.buildkit.cache.v0` encodes; None: nothing."""
    from daemon.build.remotecache.exporting import inline

    return inline(bench, job, outcome)
