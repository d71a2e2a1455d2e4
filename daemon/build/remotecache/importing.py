"""--cache-from: documents to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.build.bench import Bench, Job


async def import_caches(bench: Bench, job: Job, specs: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """See the package."""
