"""A registry's repository, opened as a build's client may."""

from __future__ import annotations

from daemon.build.bench import Bench, Job
from daemon.images.attempts import Attempts
from daemon.images.reference import Reference
from daemon.images.sessions import Session


async def open_repository(
    bench: Bench, job: Job, name: Reference, *, push: bool, insecure: bool = False
) -> Session:
    """With the credentials of the build's client; to be released. RegistryError of the last place that was tried.

    `insecure`: the registry may speak plain HTTP, whatever the daemon's configuration says of it.
    """
    auth = await job.credentials(name.domain)
    lax = [name.domain] if insecure else []
    attempts = Attempts(bench.ctx.images.registries, name, auth, push=push, insecure=lax)
    async for session in attempts:
        return session
    raise attempts.error
