"""From a parsed Dockerfile to a build graph and an image configuration.

    1. names      FROM lines are expanded, each stage learns which stages and images it needs
    2. needed     from the target backwards; what nobody needs is never looked at again
    3. dispatch   needed stages, in order: each instruction adds a vertex, or changes the configuration

Only the second step's stages ask the resolver for images. Source: BuildKit frontend/dockerfile/dockerfile2llb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from daemon.build import imageconfig
from daemon.build.dispatch import Dispatch, StageState, Surroundings
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.parser import Dockerfile
from daemon.build.dockerfile.source import DockerfileError, nearest
from daemon.build.dockerfile.words import Lexer
from daemon.build.graph import About, Output, Source, Vertex
from daemon.build.variables import PlatformName, platform_arguments
from storage.errors import InvalidArgument

SCRATCH = "scratch"
LINUX = PlatformName("linux", "amd64")
_GIT_URL = re.compile(r"(?:git://|git@|ssh://git@).+|https?://[^#]+\.git(?:#.*)?")


@dataclass(frozen=True)
class ResolvedImage:
    """What an image reference means now."""

    identifier: str
    """docker-image://NAME@DIGEST"""
    config: Mapping[str, Any]


class Resolver(Protocol):
    async def image(self, reference: str, platform: str) -> ResolvedImage:
        """Raises what stands in the way: no such image, no access."""
        ...


@dataclass(frozen=True)
class Request:
    """What a build is asked for beside its Dockerfile."""

    target: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: PlatformName = LINUX
    build_platform: PlatformName = LINUX
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts: name to identifier."""
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    network: str = "default"


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


@dataclass(frozen=True)
class _Named:
    """A stage whose FROM is expanded, and the numbers of stages that it needs."""

    number: int
    stage: ins.Stage
    base: str
    platform: str
    base_stage: int | None
    needs: tuple[int, ...]


class Frontend:
    def __init__(self, dockerfile: Dockerfile, request: Request, resolver: Resolver) -> None:
        self._file, self._request, self._resolver = dockerfile, request, resolver
        self._lexer = Lexer(dockerfile.directives.escape)
        self._aliases: dict[str, int] = {}
        self._used: set[str] = set()
        self._globals = platform_arguments(request.build_platform, request.platform, request.target)
        self._states: dict[int, StageState] = {}

    async def run(self) -> Built:
        self._read_globals()
        stages = [self._named(number, stage) for number, stage in enumerate(self._file.stages)]
        for number, named in enumerate(stages):
            stages[number] = replace(named, needs=self._needs(named))
        target = self._target()
        needed = self._ordered(target, stages)
        steps: list[Step] = []
        for number in needed:
            steps += await self._dispatch(stages[number])
        return self._finish(self._states[target], steps)

    # -- names

    def _read_globals(self) -> None:
        """ARG before the first FROM: their values, or those asked for."""
        scope = dict(self._globals)
        declared: dict[str, str] = {}
        for instruction in self._file.metaargs:
            for pair in instruction.pairs:
                asked = self._request.arguments.get(pair.key)
                if asked is not None:
                    self._used.add(pair.key)
                    value: str | None = asked
                else:
                    value = None if pair.value is None else self._expand(pair.value, scope, instruction)
                if value is not None:
                    scope[pair.key] = declared[pair.key] = value
        for name in self._globals:
            if self._request.arguments.get(name) is not None:
                self._used.add(name)
                scope[name] = self._request.arguments[name] or ""
        self._globals = scope

    def _expand(self, text: str, scope: Mapping[str, str], instruction: ins.Base) -> str:
        try:
            return self._lexer.word(text, scope)
        except DockerfileError as error:
            raise error.at(self._file.source, instruction.span) from None

    def _named(self, number: int, stage: ins.Stage) -> _Named:
        base = self._expand(stage.base, self._globals, stage)
        if not base:
            raise DockerfileError(
                f"base name ({stage.base}) should not be blank", self._file.source, [stage.span]
            )
        platform = self._expand(stage.platform, self._globals, stage)
        if stage.platform and not platform:
            raise DockerfileError(
                f"empty platform value from expression {stage.platform}", self._file.source, [stage.span]
            )
        base_stage = self._aliases.get(base.lower())
        if stage.alias:
            self._aliases[stage.alias] = number
        return _Named(number, stage, base, platform, base_stage, ())

    def stage_number(self, name: str, instruction: ins.Base) -> int | None:
        """What `--from=NAME` means among the stages; None: an image or a named context."""
        if name.lower() in self._aliases:
            return self._aliases[name.lower()]
        if name.isdigit():
            if len(name) > 6 or int(name) >= len(self._file.stages):
                raise DockerfileError(
                    f"invalid stage index {name[:20]}", self._file.source, [instruction.span]
                )
            return int(name)
        return None

    def _needs(self, named: _Named) -> tuple[int, ...]:
        found = [] if named.base_stage is None else [named.base_stage]
        for command in named.stage.commands:
            for origin in _origins(command):
                number = self.stage_number(origin, command)
                if number is not None:
                    if number == named.number:
                        self._circular(number)
                    found.append(number)
        return tuple(dict.fromkeys(found))

    def _target(self) -> int:
        wanted = self._request.target
        if not wanted:
            return len(self._file.stages) - 1
        if wanted.lower() in self._aliases:
            return self._aliases[wanted.lower()]
        if wanted.isdigit() and len(wanted) < 7 and int(wanted) < len(self._file.stages):
            return int(wanted)
        hint = nearest(wanted, tuple(self._aliases))
        raise DockerfileError(f'target stage "{wanted}" could not be found{hint}')

    def _circular(self, number: int) -> None:
        stage = self._file.stages[number]
        spans = [stage.span, *(c.span for c in stage.commands if any(True for _ in _origins(c)))]
        name = stage.alias or str(number)
        raise DockerfileError(f"circular dependency detected on stage: {name}", self._file.source, spans)

    def _ordered(self, target: int, stages: Sequence[_Named]) -> list[int]:
        """Needed stages, each behind those it needs; without recursion, for there may be 10,000."""
        done: dict[int, None] = {}
        entered = {target}
        stack = [(target, iter(stages[target].needs))]
        while stack:
            number, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                entered.discard(number)
                done[number] = None
            elif following in entered:
                self._circular(following)
            elif following not in done:
                entered.add(following)
                stack.append((following, iter(stages[following].needs)))
        return list(done)

    # -- stages

    async def _dispatch(self, named: _Named) -> list[Step]:
        stage = named.stage
        state = await self._base(named)
        self._states[named.number] = state
        around = Surroundings(
            source=self._file.source,
            lexer=self._lexer,
            escape=self._file.directives.escape,
            globals=self._globals,
            arguments=self._request.arguments,
            used=self._used,
            network=self._request.network,
            no_cache=self._request.no_cache or self._skips_cache(stage, named.number),
            stage=stage.alias or f"stage-{named.number}",
            origin=self._origin,
        )
        worker = Dispatch(state, around)
        steps = [Step(stage.original, state.output, True, named.number)]
        for trigger in state.triggers:
            command = worker.trigger(trigger, stage.span)
            before = state.output
            await worker.run(command)
            steps.append(Step(trigger, state.output, state.output is not before, named.number))
        for command in stage.commands:
            before = state.output
            await worker.run(command)
            steps.append(Step(command.original, state.output, state.output is not before, named.number))
        return steps

    def _skips_cache(self, stage: ins.Stage, number: int) -> bool:
        return stage.alias in self._request.no_cache_stages or str(number) in self._request.no_cache_stages

    async def _base(self, named: _Named) -> StageState:
        if named.base_stage is not None:
            return self._states[named.base_stage].child()
        if named.base.lower() == SCRATCH and SCRATCH not in self._request.contexts:
            platform = self._request.platform
            return StageState(None, imageconfig.empty(platform.architecture, platform.variant))
        return await self._image(named.base, named.platform, named.stage)

    async def _image(self, reference: str, platform: str, instruction: ins.Base) -> StageState:
        context = self._request.contexts.get(reference)
        if context is not None and not context.startswith("docker-image://"):
            vertex = Vertex(Source(context), (), About(f"[context {reference}]", instruction.span))
            target = self._request.platform
            return StageState(Output(vertex), imageconfig.empty(target.architecture, target.variant))
        if context is not None:
            reference = context.removeprefix("docker-image://")
        try:
            image = await self._resolver.image(reference, platform)
        except InvalidArgument as error:
            if isinstance(error, DockerfileError):
                raise
            sentence = f'failed to parse stage name "{reference}": {error}'
            raise DockerfileError(sentence, self._file.source, [instruction.span]) from None
        about = About(f"FROM {reference}", instruction.span)
        document = imageconfig.inherited(image.config)
        triggers = tuple((image.config.get("config") or {}).get("OnBuild") or ())
        has_layers = bool((image.config.get("rootfs") or {}).get("diff_ids"))
        output = Output(Vertex(Source(image.identifier), (), about)) if has_layers else None
        return StageState(output, document, triggers=triggers)

    async def _origin(self, name: str, instruction: ins.Base) -> Output | None:
        """The tree of `--from=NAME`; None is scratch."""
        number = self.stage_number(name, instruction)
        if number is not None:
            if number not in self._states:
                raise DockerfileError(
                    f"stage {name} is not available here", self._file.source, [instruction.span]
                )
            return self._states[number].output
        if name.lower() == SCRATCH:
            return None
        return (await self._image(name, "", instruction)).output

    def _finish(self, state: StageState, steps: list[Step]) -> Built:
        document = state.sealed()
        if self._request.labels:
            labels = {**(document["config"].get("Labels") or {}), **self._request.labels}
            document["config"]["Labels"] = labels
        document.setdefault("architecture", self._request.platform.architecture)
        document.setdefault("os", "linux")
        unused = sorted(set(self._request.arguments) - self._used)
        return Built(state.output, document, tuple(steps), tuple(unused))


def _origins(command: ins.Command) -> list[str]:
    if isinstance(command, ins.Copy) and command.origin:
        return [command.origin]
    if isinstance(command, ins.Run):
        return [mount.origin for mount in command.mounts if mount.origin]
    return []


def is_git_url(text: str) -> bool:
    return _GIT_URL.fullmatch(text) is not None
