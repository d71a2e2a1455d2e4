"""A registry's repository, opened as a build's client may."""

from __future__ import annotations

from daemon.build.bench import Bench, Job
from daemon.images.model import AuthConfig
from daemon.images.reference import Reference
from daemon.images.registry.endpoints import Endpoint
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session


async def open_repository(
    bench: Bench, job: Job, name: Reference, *, push: bool, insecure: bool = False
) -> Session:
    """With the credentials of the build's client; to be released. RegistryError of the last place that was tried.

    `insecure`: the registry may speak plain HTTP, whatever the daemon's configuration says of it.
    """
    registries = bench.ctx.images.registries
    auth = await credentials(job, name.domain)
    error: RegistryError | None = None
    secure: set[str] = set()
    for endpoint in await _endpoints(bench, name.domain, push=push, insecure=insecure):
        if endpoint.plain and endpoint.host in secure:
            continue
        try:
            return await registries.open(endpoint, name, auth, "pull,push" if push else "pull")
        except RegistryError as failed:
            error = failed
            if failed.code != "transport" and not endpoint.plain:
                secure.add(endpoint.host)
    raise error or RegistryError("transport", f"no endpoint for {name.domain}")


async def _endpoints(bench: Bench, domain: str, *, push: bool, insecure: bool) -> list[Endpoint]:
    if insecure:
        return [Endpoint(f"https://{domain}", verify=False), Endpoint(f"http://{domain}", verify=False)]
    return await bench.ctx.images.registries.endpoints(domain, push=push)


async def credentials(job: Job, domain: str) -> AuthConfig | None:
    """Of the first of the build's clients that has any; the classic door sent them with its request."""
    for session in job.sessions:
        found: AuthConfig | None = await session.credentials(domain)
        if found is not None:
            return found
    return job.credentials(domain) if job.credentials is not None else None
