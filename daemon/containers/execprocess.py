"""The OCI `process` of one more process in a running container: `exec`, and the engine's own probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.containers import links, merge
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.spec import build, security
from daemon.containers.surroundings import hostname_of


async def process(
    ctx: Context,
    container: Container,
    argv: list[str],
    asked: Mapping[str, Any],
    *,
    tty: bool = False,
) -> dict[str, Any]:
    """`asked` is an exec's configuration (User, Env, WorkingDir, Privileged); what it lacks is the container's.

    Raises NotFound, InvalidArgument when there is no such user.
    """
    user = asked.get("User") or container.config.get("User") or ""
    groups = () if asked.get("User") else tuple(container.host.get("GroupAdd") or ())
    identity = await ctx.users.identity(container, user, groups)
    privileged = bool(asked.get("Privileged")) or bool(container.host.get("Privileged"))
    caps = security.capabilities({**container.host, "Privileged": True} if privileged else container.host)
    options = security.parse(
        container.host.get("SecurityOpt"), no_new_privileges=ctx.config.no_new_privileges
    )
    return {
        "terminal": tty,
        "user": identity.as_oci(),
        "args": argv,
        "env": _environment(ctx, container, asked, identity.home, tty=tty),
        "cwd": asked.get("WorkingDir") or container.config.get("WorkingDir") or "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "noNewPrivileges": options.no_new_privileges,
        "rlimits": build.rlimits(container, ctx.config),
        "oomScoreAdj": container.host.get("OomScoreAdj") or 0,
    }


def _environment(
    ctx: Context, container: Container, asked: Mapping[str, Any], home: str, *, tty: bool
) -> list[str]:
    base = merge.environment(
        container.config,
        hostname=hostname_of(container, ctx.registry),
        home=home,
        linked=links.environment(container, ctx.registry),
    )
    if tty and not any(entry.startswith("TERM=") for entry in base):
        base.insert(2, "TERM=xterm")
    if asked.get("User"):  # another user has another home, unless the container sets one
        own = {entry.partition("=")[0] for entry in container.config.get("Env") or []}
        base = [entry for entry in base if not entry.startswith("HOME=") or "HOME" in own]
    return merge.replaced_environment(base, list(asked.get("Env") or []), home)
