"""What the front end is asked, whom it asks, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from daemon.build.frontend.site import RunOptions, local_context
from daemon.build.frontend.variables import PlatformName
from daemon.build.graph import Output
from daemon.build.sources.resolved import ResolvedImage

LINUX = PlatformName("linux", "amd64")


class Resolver(Protocol):
    async def image(self, reference: str, platform: str) -> ResolvedImage:
        """`platform` empty: what this machine runs best. Raises what stands in the way: no such image, no access."""
        ...


@dataclass(frozen=True)
class NamedContext:
    """What `--build-context NAME=...` stands for."""

    output: Output | None
    config: Mapping[str, Any] | None = None
    """Of an image."""
    platform: str = ""


class Contexts(Protocol):
    async def named(self, name: str, platform: str) -> NamedContext | None:
        """None: nothing of that name was given."""
        ...


class NoContexts:
    async def named(self, name: str, platform: str) -> NamedContext | None:
        return None


@dataclass(frozen=True)
class Request:
    """What a build is asked for beside its Dockerfile."""

    target: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: PlatformName = LINUX
    build_platform: PlatformName = LINUX
    asked: bool = False
    """Whether somebody asked for the platform; else images of this machine's are taken as they are."""
    several: bool = False
    """One of several platforms: steps' names tell which."""
    every_stage: bool = False
    """Not only what the target needs: for the build checks."""
    context: Output | None = field(default_factory=local_context)
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    network: str = "default"
    options: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Step:
    """One instruction of a needed stage, for those who show progress."""

    text: str
    output: Output | None
    builds: bool
    """Whether the instruction made a vertex; else it only changed the configuration."""
    stage: int


@dataclass(frozen=True)
class Built:
    """The target stage."""

    output: Output | None
    document: dict[str, Any]
    steps: tuple[Step, ...]
    unused_arguments: tuple[str, ...] = ()
    paths: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What is read of the context (its name is empty) and of each named one; "/" is all of it."""
    epoch: int | None = None
    """SOURCE_DATE_EPOCH in nanoseconds."""
    scans: Mapping[str, Output | None] = field(default_factory=dict)
    """What a list of contents should also be made of: other stages by their names, and "context"."""
