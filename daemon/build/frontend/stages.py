"""From a parsed Dockerfile to a build graph and an image configuration.

    1. names      FROM lines are expanded, each stage learns which stages and images it needs
    2. needed     from the target backwards; what nobody needs is never looked at again
    3. dispatch   needed stages, in order: each instruction adds a vertex, or changes the configuration

Only the second step's stages ask the resolver for images. Source: BuildKit frontend/dockerfile/dockerfile2llb.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daemon import parsebool
from daemon.build import imageconfig
from daemon.build.dockerfile import checks
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.parser import Dockerfile, parse_trigger
from daemon.build.dockerfile.source import DockerfileError, locate, nearest
from daemon.build.dockerfile.words import Lexer
from daemon.build.epoch import moment
from daemon.build.frontend import naming
from daemon.build.frontend.dispatch import follow
from daemon.build.frontend.lineage import Lineage
from daemon.build.frontend.site import Site, StageState, Surroundings
from daemon.build.frontend.terms import Built, Contexts, NamedContext, NoContexts, Request, Resolver, Step
from daemon.build.frontend.variables import SCAN_CONTEXT, SCAN_STAGE, platform_arguments
from daemon.build.graph import About, Output, Source, Vertex
from daemon.images import platforms
from storage.errors import InvalidArgument, NotFound, PydError

SCRATCH = "scratch"
RESERVED = (SCRATCH, "context")


@dataclass(frozen=True)
class _Named:
    """A stage whose FROM is expanded, and the numbers of stages that it needs."""

    number: int
    stage: ins.Stage
    base: str
    platform: str
    base_stage: int | None
    needs: tuple[int, ...]
    context: NamedContext | None = None
    """A named context of the stage's name: it takes the stage's place."""


class Frontend:
    def __init__(
        self, dockerfile: Dockerfile, request: Request, resolver: Resolver, contexts: Contexts | None = None
    ) -> None:
        self._file, self._request, self._resolver = dockerfile, request, resolver
        self._contexts = contexts or NoContexts()
        self._paths: dict[str, set[str]] = {}
        self._lexer = Lexer(dockerfile.directives.escape)
        self._aliases: dict[str, int] = {}
        self._used: set[str] = set()
        self._globals = platform_arguments(request.build_platform, request.platform, request.target)
        self._stages: list[_Named] = []
        self._lineage = Lineage((), 0)
        self._steps: list[Step] = []
        self._bases: dict[int, checks.Base] = {}
        self._lines: dict[int, int] = {}

    @property
    def seen(self) -> checks.Seen:
        """How far it got, also where it failed."""
        return checks.Seen(self._bases, self._lines)

    async def run(self) -> Built:
        self._read_globals()
        stages = [await self._named(number, stage) for number, stage in enumerate(self._file.stages)]
        for number, named in enumerate(stages):
            stages[number] = replace(named, needs=self._needs(named))
        self._check_circles(stages)
        target = self._target()
        self._stages = stages
        self._lineage = Lineage((stage.base_stage for stage in stages), target)
        needed = self._ordered(target, stages)
        for number in needed:
            await self._follow(number)
            await asyncio.sleep(0)  # others have their turn between stages, however many there are
        scans = self._scans(target, list(self._lineage))
        return replace(self._finish(self._lineage[target], self._steps), scans=scans)

    async def _follow(self, number: int) -> None:
        """Once. Also what only an ONBUILD of a base names, which nobody knows before the base is there."""
        if self._lineage.is_over(number):
            return
        if number in self._lineage:
            self._circular(number)
        self._steps += await self._dispatch(self._stages[number])
        self._lineage.end(number, SCAN_STAGE, SCAN_CONTEXT)

    def _scans(self, target: int, needed: Sequence[int]) -> dict[str, Output | None]:
        """BUILDKIT_SBOM_SCAN_*: true, or a list of stages that are meant."""
        found: dict[str, Output | None] = {}
        if self._is_scanned(SCAN_CONTEXT, target):
            found["context"] = self._request.context
        for number in needed:
            if number != target and self._is_scanned(SCAN_STAGE, number):
                found[self._file.stages[number].alias or f"stage-{number}"] = self._lineage[number].output
        return found

    def _is_scanned(self, name: str, number: int) -> bool:
        wanted = self._lineage.argument(number, name) or self._globals.get(name, "")
        stage = self._file.stages[number].alias or f"stage-{number}"
        return wanted in parsebool.TRUE or stage in wanted.split(",")

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

    async def _named(self, number: int, stage: ins.Stage) -> _Named:
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
        context = None
        if stage.alias:
            self._aliases[stage.alias] = number
            context = await self._context(stage.alias, self._platform(platform, stage), whole=True)
        return _Named(number, stage, base, platform, base_stage if context is None else None, (), context)

    def _platform(self, text: str, instruction: ins.Base) -> str:
        """--platform's value, else the one that was asked for; empty where nobody asked."""
        if not text:
            return str(self._request.platform) if self._request.asked else ""
        try:
            return str(platforms.parse(text))
        except InvalidArgument as error:
            sentence = f"failed to parse platform {text}: {error}"
            raise DockerfileError(sentence, self._file.source, [instruction.span]) from None

    async def _context(self, name: str, platform: str, *, whole: bool = False) -> NamedContext | None:
        if name.lower() in RESERVED:
            return None
        found = await self._contexts.named(name, platform)
        if found is not None:
            self._paths.setdefault(name, set())
            if whole:
                self._paths[name].add("/")
        return found

    def stage_number(self, name: str, instruction: ins.Base) -> int | None:
        """What `--from=NAME` means among the stages; None: an image or a named context."""
        if "$" in name and isinstance(instruction, ins.Copy):
            raise DockerfileError(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global "
                "scope as a workaround",
                self._file.source,
                [instruction.span],
            )
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
        if named.context is not None:
            return ()
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
        hint = nearest(wanted, tuple(self._aliases))
        raise DockerfileError(f'target stage "{wanted}" could not be found{hint}')

    def _circular(self, number: int) -> None:
        stage = self._file.stages[number]
        spans = [c.span for c in stage.commands if any(True for _ in _origins(c))] or [stage.span]
        name = stage.alias or str(number)
        raise DockerfileError(f"circular dependency detected on stage: {name}", self._file.source, spans)

    def _ordered(self, target: int, stages: Sequence[_Named]) -> list[int]:
        """Needed stages, each behind those it needs."""
        done: dict[int, None] = {}
        for number in range(len(stages)) if self._request.every_stage else (target,):
            _visit(number, stages, done)
        return list(done)

    def _check_circles(self, stages: Sequence[_Named]) -> None:
        """All stages, needed or not; the first from which a circle is reached is named, as BuildKit does."""
        done: dict[int, None] = {}
        for number in range(len(stages)):
            if not _visit(number, stages, done):
                self._circular(number)

    # -- stages

    async def _dispatch(self, named: _Named) -> list[Step]:
        stage = named.stage
        count = naming.steps(stage.commands)
        own = named.base_stage is None and named.base.lower() != SCRATCH
        names = naming.Naming(self._stage_name(named), count + own, self._shown_platform(named))
        try:
            state = await self._base(named, names)
        except PydError:
            self._lines.clear()  # BuildKit has all images before it follows a stage
            raise
        self._lineage.begin(named.number, state)
        if named.context is not None:
            return [Step(stage.original, state.output, True, named.number)]
        names.total += len(state.triggers)
        site = Site(state, self._surroundings(named, names))
        steps = [Step(stage.original, state.output, True, named.number)]
        self._lines[named.number] = 0
        for trigger in state.triggers:
            command = parse_trigger(trigger, self._file.directives.escape, self._file.source, stage.span)
            before = state.output
            await follow(replace(site, triggered=True), command)
            steps.append(Step(trigger, state.output, state.output is not before, named.number))
        for command in stage.commands:
            before = state.output
            self._lines[named.number] = command.span.last
            await follow(site, command)
            steps.append(Step(command.original, state.output, state.output is not before, named.number))
        return steps

    def _surroundings(self, named: _Named, names: naming.Naming) -> Surroundings:
        return Surroundings(
            source=self._file.source,
            lexer=self._lexer,
            globals=self._globals,
            arguments=self._request.arguments,
            used=self._used,
            network=self._request.network,
            no_cache=self._request.no_cache or self._skips_cache(named.stage, named.number),
            stage=named.stage.alias or f"stage-{named.number}",
            naming=names,
            context=self._request.context,
            paths=self._paths.setdefault("", set()),
            origin=self._origin,
            options=self._request.options,
            epoch=self._epoch(),
        )

    def _stage_name(self, named: _Named) -> str:
        if len(self._file.stages) == 1:
            return ""
        return named.stage.alias or f"stage-{named.number}"

    def _shown_platform(self, named: _Named) -> str:
        """`linux/amd64`, or `linux/amd64->arm64` for a stage that runs on another than it builds for."""
        if not self._request.several:
            return ""
        wanted = self._request.platform
        base = self._platform(named.platform, named.stage) or str(self._request.build_platform)
        if named.base_stage is not None and named.base_stage in self._lineage:
            base = self._lineage[named.base_stage].platform or str(self._request.build_platform)
        own = platforms.parse(base)
        if (own.os, own.architecture) == (wanted.os, wanted.architecture):
            return base
        target = str(wanted).partition("/")[2] if own.os == wanted.os else str(wanted)
        return f"{base}->{target}"

    def _epoch(self) -> int | None:
        return moment(
            self._request.arguments.get("SOURCE_DATE_EPOCH") or self._globals.get("SOURCE_DATE_EPOCH")
        )

    def _skips_cache(self, stage: ins.Stage, number: int) -> bool:
        return stage.alias in self._request.no_cache_stages or str(number) in self._request.no_cache_stages

    async def _base(self, named: _Named, names: naming.Naming) -> StageState:
        platform = self._platform(named.platform, named.stage)
        if named.context is not None:
            return self._of_context(named.context, platform)
        if named.base_stage is not None:
            return self._lineage.child(named.base_stage)
        if named.base.lower() == SCRATCH:
            own = platforms.parse(platform or str(self._request.platform))
            return StageState(
                None, imageconfig.empty(own.architecture, own.variant), platform=self._foreign(platform)
            )
        state = await self._image(named.base, platform, named.stage, names)
        actual = [str(state.document.get(key) or "") for key in ("os", "architecture", "variant")]
        wanted = platforms.parse(platform or str(self._request.platform))
        differs = bool(actual[1]) and actual[:2] != [wanted.os, wanted.architecture]
        shown = (str(wanted), "/".join(filter(None, actual))) if differs else ("", "")
        shell = bool(state.config.get("Shell"))
        self._bases[named.number] = checks.Base(named.base, frozenset(state.image_env), *shown, shell)
        return state

    def _foreign(self, platform: str) -> str:
        """What processes must be told of a platform: nothing when it is this machine's."""
        return "" if platform in ("", str(self._request.build_platform)) else platform

    def _of_context(self, context: NamedContext, platform: str) -> StageState:
        target = platforms.parse(context.platform or platform or str(self._request.platform))
        if context.config is None:
            document = imageconfig.empty(target.architecture, target.variant)
            return StageState(context.output, document, platform=self._foreign(str(target)))
        document = imageconfig.inherited(context.config)
        triggers = tuple((context.config.get("config") or {}).get("OnBuild") or ())
        return StageState(context.output, document, triggers, self._foreign(str(target)))

    async def _image(
        self,
        reference: str,
        platform: str,
        instruction: ins.Base,
        names: naming.Naming,
        *,
        whole: bool = True,
    ) -> StageState:
        context = await self._context(reference, platform, whole=whole)
        if context is not None:
            return self._of_context(context, platform)
        try:
            image = await self._resolver.image(reference, platform)
        except InvalidArgument as error:
            if isinstance(error, DockerfileError):
                raise
            sentence = f'failed to parse stage name "{reference}": {error}'
            raise DockerfileError(sentence, self._file.source, [instruction.span]) from None
        except NotFound as error:
            hint = nearest(reference, tuple(self._aliases))
            sentence = f"{error}{hint}"
            raise NoImage(sentence, self._file.source, [instruction.span]) from None
        except PydError as error:
            error.args = (f"{error}{nearest(reference, tuple(self._aliases))}",)
            locate(error, self._file.source, instruction.span)
            raise
        shown = image.identifier.removeprefix("docker-image://")
        about = About(names.following(f"FROM {shown}"), instruction.span, text=self._file.source)
        document = imageconfig.inherited(image.config)
        triggers = tuple((image.config.get("config") or {}).get("OnBuild") or ())
        has_layers = bool((image.config.get("rootfs") or {}).get("diff_ids"))
        source = Source(image.identifier, (), self._foreign(platform))
        output = Output(Vertex(source, (), about)) if has_layers else None
        return StageState(output, document, triggers, self._foreign(platform))

    async def _origin(self, name: str, instruction: ins.Base, read: Sequence[str]) -> Output | None:
        """The tree of `--from=NAME`; None is scratch."""
        number = self.stage_number(name, instruction)
        if number is not None:
            needed: dict[int, None] = {}
            _visit(number, self._stages, needed)
            for each in needed:
                await self._follow(each)
            return self._lineage[number].output
        if name.lower() == SCRATCH:
            return None
        platform = self._platform("", instruction)
        found = await self._image(name, platform, instruction, naming.Naming(), whole=False)
        if name in self._paths:
            self._paths[name].update(read)
        return found.output

    def _finish(self, state: StageState, steps: list[Step]) -> Built:
        document = state.sealed()
        if self._request.labels:
            labels = {**(document["config"].get("Labels") or {}), **self._request.labels}
            document["config"]["Labels"] = labels
        wanted = self._request.platform
        if self._request.asked:
            same = (document.get("os"), document.get("architecture")) == (wanted.os, wanted.architecture)
            document |= {"os": wanted.os, "architecture": wanted.architecture}
            if wanted.variant:
                document["variant"] = wanted.variant
            elif not same:
                document.pop("variant", None)
        document.setdefault("architecture", wanted.architecture)
        document.setdefault("os", "linux")
        unused = sorted(set(self._request.arguments) - self._used)
        paths = {name: frozenset(each) for name, each in self._paths.items()}
        return Built(state.output, document, tuple(steps), tuple(unused), paths, self._epoch())


class NoImage(NotFound, DockerfileError):
    """A base image that there is not, and where it is asked for."""


def _visit(start: int, stages: Sequence[_Named], done: dict[int, None]) -> bool:
    """Adds what `start` needs, and it, to `done`. False: there is a circle. No recursion: there may be thousands."""
    if start in done:
        return True
    entered = {start}
    stack = [(start, iter(stages[start].needs))]
    while stack:
        number, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            stack.pop()
            entered.discard(number)
            done[number] = None
        elif following in entered:
            return False
        elif following not in done:
            entered.add(following)
            stack.append((following, iter(stages[following].needs)))
    return True


def _origins(command: ins.Command) -> list[str]:
    if isinstance(command, ins.Copy) and command.origin:
        return [command.origin]
    if isinstance(command, ins.Run):
        return [mount.origin for mount in command.mounts if mount.origin]
    return []
