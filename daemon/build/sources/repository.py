"""A registry's repository, opened as a build's client may."""

from __future__ import annotations

from daemon.build.bench import Bench, Job
from daemon.images.reference import Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session


async def open_repository(
    bench: Bench, job: Job, name: Reference, *, push: bool, insecure: bool = False
) -> Session:
    """With the credentials of the build's client; to be released. RegistryError of the last place that was tried.

    `insecure`: the registry may speak plain HTTP, whatever the daemon's configuration says of it.
    """
    registries = bench.ctx.images.registries
    auth = await job.credentials(name.domain)
    lax = [name.domain] if insecure else []
    error: RegistryError | None = None
    secure: set[str] = set()
    for endpoint in await registries.endpoints(name.domain, push=push, insecure=lax):
        if endpoint.plain and endpoint.host in secure:
            continue
        try:
            return await registries.open(endpoint, name, auth, "pull,push" if push else "pull")
        except RegistryError as failed:
            error = failed
            if failed.code != "transport" and not endpoint.plain:
                secure.add(endpoint.host)
    raise error or RegistryError("transport", f"no endpoint for {name.domain}")
