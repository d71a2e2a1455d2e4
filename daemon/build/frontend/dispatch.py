"""One instruction after the other upon a stage: vertices for what makes files, configuration for the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend import copying, running, settings
from daemon.build.frontend.site import Site

INSTRUCTIONS: Mapping[type[ins.Base], Callable[[Site, Any], Awaitable[None] | None]] = {
    ins.Add: copying.copy,
    ins.Arg: settings.arg,
    ins.Cmd: settings.cmd,
    ins.Copy: copying.copy,
    ins.Entrypoint: settings.entrypoint,
    ins.Env: settings.env,
    ins.Expose: settings.expose,
    ins.HealthCheck: settings.health_check,
    ins.Label: settings.label,
    ins.Maintainer: settings.maintainer,
    ins.OnBuild: settings.on_build,
    ins.Run: running.run,
    ins.Shell: settings.shell,
    ins.StopSignal: settings.stop_signal,
    ins.User: settings.user,
    ins.Volume: settings.volume,
    ins.Workdir: copying.workdir,
}


async def follow(site: Site, command: ins.Command) -> None:
    """DockerfileError with the instruction's place."""
    try:
        under_way = INSTRUCTIONS[type(command)](site, command)
        if under_way is not None:
            await under_way
    except DockerfileError as error:
        raise error.at(site.around.source, command.span) from None
