"""dockerfile.v0: what a BuildKit client asks the Dockerfile front end for, as graphs, one a platform.

Source: BuildKit frontend/dockerui and frontend/dockerfile/builder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.build.bench import Bench, Job
from daemon.build.frontend import Built
from daemon.build.graph import Output
from daemon.images.platforms import Platform
from storage.errors import NotImplementedYet

if TYPE_CHECKING:
    from daemon.containers.context import Context


@dataclass(frozen=True)
class Planned:
    """What to build for one platform."""

    platform: Platform
    built: Built


async def plan(
    bench: Bench, job: Job, ctx: Context, opts: Mapping[str, str], inputs: Mapping[str, Output | None]
) -> list[Planned]:
    """In the order in which the platforms were asked for. `opts`: the attributes, as the client sent them."""
    raise NotImplementedYet("the front end dockerfile.v0")


def multi(opts: Mapping[str, str]) -> bool:
    """Whether the result is to be one of several platforms (an index), even if there is one."""
    return "," in opts.get("platform", "")


async def subrequest(
    bench: Bench, job: Job, ctx: Context, opts: Mapping[str, str], inputs: Mapping[str, Output | None]
) -> dict[str, bytes] | None:
    """frontend.lint, frontend.outline, frontend.targets (`opts["requestid"]`): the result's metadata; None: no such."""
    raise NotImplementedYet("the front end's subrequests")
