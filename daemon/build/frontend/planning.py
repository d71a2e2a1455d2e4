"""dockerfile.v0: what a BuildKit client asks the Dockerfile front end for, as graphs, one a platform.

    options    the client's attributes                                    options.py
    sources    the context, the Dockerfile, .dockerignore, named contexts contexts.py
    twice      the front end runs once to see which paths of the client's directories are used, and once more
               with sources that ask for these paths alone

Source: BuildKit frontend/dockerui and frontend/dockerfile/builder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daemon.build.bench import Bench, Job
from daemon.build.dockerfile import checks
from daemon.build.dockerfile.directives import Directives
from daemon.build.dockerfile.ignore import Ignore
from daemon.build.dockerfile.parser import Dockerfile, parse
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.frontend import options as options_of
from daemon.build.frontend.contexts import Context as MainContext
from daemon.build.frontend.contexts import Named, Sources
from daemon.build.frontend.options import Options
from daemon.build.frontend.stages import Frontend
from daemon.build.frontend.terms import Built, Request
from daemon.build.frontend.variables import PlatformName
from daemon.build.graph import Output
from daemon.build.sources.images import Images
from daemon.build.steps import Remark
from daemon.images import platforms
from daemon.images.platforms import Platform
from storage.errors import PydError

if TYPE_CHECKING:
    from daemon.containers.context import Context

AT_ONCE = 16 << 10
"""Bytes of a Dockerfile that are parsed in less time than a thread takes to begin."""
multi = options_of.several
"""Whether the result is to be one of several platforms (an index), even if there is one."""


@dataclass(frozen=True)
class Planned:
    """What to build for one platform."""

    platform: Platform
    built: Built


async def plan(
    bench: Bench, job: Job, ctx: Context, opts: Mapping[str, str], inputs: Mapping[str, Output | None]
) -> list[Planned]:
    """In the order in which the platforms were asked for. `opts`: the attributes, as the client sent them."""
    return await begin(bench, job, ctx, opts, inputs).plan()


def begin(
    bench: Bench, job: Job, ctx: Context, opts: Mapping[str, str], inputs: Mapping[str, Output | None]
) -> Planning:
    """Nothing is read yet. InvalidArgument for attributes that mean nothing."""
    return Planning(bench, job, ctx, options_of.read(opts), inputs)


class Planning:
    """One build's way from options to graphs."""

    def __init__(
        self, bench: Bench, job: Job, ctx: Context, options: Options, inputs: Mapping[str, Output | None]
    ) -> None:
        self._job, self._options = job, options
        self._images = Images(
            bench, job, ctx, options.mode, job.credentials, job.step, several=options.several
        )
        job.resolver = self._images
        self._sources = Sources(bench, job, options, inputs, self._images)
        self._main: MainContext | None = None
        self._file: tuple[str, bytes, Output | None] | None = None

    async def read(self) -> tuple[str, bytes]:
        """The Dockerfile's name and bytes: what may be for another front end."""
        if self._main is None:
            self._main = await self._sources.main()
            self._file = await self._sources.dockerfile(self._main)
        assert self._file is not None
        return self._file[0], self._file[1]

    async def dockerfile(self) -> tuple[Dockerfile, Output | None]:
        """Parsed, and the source that it was read from."""
        name, data = await self.read()
        assert self._file is not None
        if not data:
            raise DockerfileError("the Dockerfile cannot be empty")
        dockerfile = parse(data, name) if len(data) <= AT_ONCE else await asyncio.to_thread(parse, data, name)
        if self._options.check is not None:
            directives = replace(dockerfile.directives, check=self._options.check)
            dockerfile = replace(dockerfile, directives=directives)
        return dockerfile, self._file[2]

    async def plan(self) -> list[Planned]:
        """In the order in which the platforms were asked for."""
        dockerfile, _ = await self.dockerfile()
        wanted: tuple[Platform | None, ...] = self._options.platforms or (None,)
        first, *others = wanted
        built = await asyncio.gather(
            self.build(dockerfile, first, warn=True), *(self.build(dockerfile, each) for each in others)
        )
        return [
            Planned(platform or platforms.local(), each) for platform, each in zip(wanted, built, strict=True)
        ]

    async def subrequest(self, name: str) -> dict[str, bytes] | None:
        """frontend.lint, frontend.outline, frontend.targets: the result's metadata; None: there is no such."""
        from daemon.build.frontend import subrequests

        if name not in subrequests.KNOWN:
            return None
        if name == subrequests.LINT:
            return subrequests.lint(*await self._lint())
        dockerfile, _ = await self.dockerfile()
        return subrequests.answer(name, dockerfile, self._options)

    async def build(self, dockerfile: Dockerfile, platform: Platform | None, *, warn: bool = False) -> Built:
        """The graph for one platform. `warn`: what the build checks find is told, and fails the build if it is to."""
        assert self._main is not None
        request = self._request(platform)
        if not self._main.local:
            request = replace(request, context=self._main.output)
        checks.rules(dockerfile)
        frontend = Frontend(dockerfile, request, self._images, Named(self._sources, {}))
        try:
            seen = await frontend.run()
        except PydError:
            if warn:
                self._warn(await self._findings(dockerfile, frontend), dockerfile)
            raise
        if warn:
            found = await self._findings(dockerfile, frontend)
            self._warn(found, dockerfile)
            if violation := checks.violation(found, dockerfile):
                raise DockerfileError(violation)
        await self._sources.ignored(self._main)  # also where nothing of the context is used: clients show it
        if not seen.paths.get("") and len(seen.paths) < 2:
            return seen
        used = await self._sources.used(self._main, seen.paths.get("", frozenset()))
        named = Named(self._sources, seen.paths)
        return await Frontend(dockerfile, replace(request, context=used), self._images, named).run()

    async def _findings(self, dockerfile: Dockerfile, frontend: Frontend) -> list[checks.Finding]:
        """What the build checks find as far as the front end got."""
        ignore = None
        if self._main is not None and checks.rules(dockerfile).experimental:
            ignore = Ignore(await self._sources.ignored(self._main))
        return checks.run(dockerfile, self._options.arguments, seen=frontend.seen, ignore=ignore)

    async def _lint(self) -> tuple[Dockerfile, list[checks.Finding], Exception | None]:
        """The checks of all stages, or of what the target needs; and what a build would fail with."""
        try:
            dockerfile, _ = await self.dockerfile()
        except DockerfileError as error:
            if self._file is None or error.source is None:
                raise
            return Dockerfile(error.source, Directives(), (), ()), [], error
        assert self._main is not None
        request = self._request((self._options.platforms or (None,))[0])
        request = replace(request, every_stage=not request.target)
        if not self._main.local:
            request = replace(request, context=self._main.output)
        frontend = Frontend(dockerfile, request, self._images, Named(self._sources, {}))
        problem: Exception | None = None
        try:
            checks.rules(dockerfile)
        except DockerfileError as error:
            return dockerfile, [], error
        try:
            await frontend.run()
        except PydError as error:
            problem = error
        found = await self._findings(dockerfile, frontend)
        if problem is None and (violation := checks.violation(found, dockerfile)):
            problem = DockerfileError(violation)
        return dockerfile, found, problem

    def _warn(self, found: list[checks.Finding], dockerfile: Dockerfile) -> None:
        """At the vertex that the Dockerfile came by."""
        source = self._file[2] if self._file is not None else None
        if source is None or not found:
            return
        progress = self._job.of(source.vertex)
        text = "\n".join(dockerfile.source.lines).encode("utf-8", "surrogateescape")
        for each in found:
            short = f"{each.rule}: {each.text} (line {each.span.first})"
            detail = (checks.DESCRIPTIONS.get(each.rule, each.text),)
            progress.warn(Remark(short, detail, each.url, 1, dockerfile.source.name, text, (each.span,)))

    def _request(self, platform: Platform | None) -> Request:
        options, local = self._options, platforms.local()
        wanted = platform or local
        return Request(
            target=options.target,
            arguments=options.arguments,
            labels=options.labels,
            platform=PlatformName(wanted.os, wanted.architecture, wanted.variant),
            build_platform=PlatformName(local.os, local.architecture, local.variant),
            asked=platform is not None,
            several=options.several,
            no_cache=options.no_cache,
            no_cache_stages=options.no_cache_stages,
            network=options.network,
            options=options.run,
        )
