"""One instruction after the other upon a stage: vertices for what makes files, configuration for the rest."""

from __future__ import annotations

import copy
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.lexer import Heredoc, heredoc_head
from daemon.build.dockerfile.mounts import Mount
from daemon.build.dockerfile.parser import parse_trigger
from daemon.build.dockerfile.source import DockerfileError, Source, Span
from daemon.build.dockerfile.words import Lexer
from daemon.build.frontend import imageconfig, naming, places
from daemon.build.frontend.variables import NOT_IN_PROCESSES, PREDEFINED, PROXIES
from daemon.build.graph import (
    About,
    Action,
    CopyFiles,
    Exec,
    ExecMount,
    File,
    Merge,
    Mkdir,
    Mkfile,
    Operation,
    Output,
    Vertex,
)
from daemon.build.graph import Source as SourceOp
from daemon.build.sources import gitrefs
from daemon.containers import signals
from daemon.images import reference
from storage.errors import InvalidArgument

CONTEXT = "local://context"
LOAD_CONTEXT = "[internal] load build context"
MAX_ENVIRONMENT = 4 << 20
"""Characters of a stage's variables together; the kernel takes 2 MiB of arguments and environment."""
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/([A-Za-z]+))?")
_MODE = re.compile(r"0?[0-7]{1,4}|[ugoa]*[+=-][rwxXstugo]*(,[ugoa]*[+=-][rwxXstugo]*)*")


@dataclass
class StageState:
    """What a stage has become so far."""

    output: Output | None
    document: dict[str, Any]
    triggers: tuple[str, ...] = ()
    platform: str = ""
    """What its processes run on; empty: this machine."""
    image_env: dict[str, str] = field(init=False)
    """ENV's, the image's."""
    env: dict[str, str] = field(default_factory=dict)
    """ENV and ARG together: what expansion and processes see."""
    arguments: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False
    size: int = 0
    """Characters of all variables together."""

    def __post_init__(self) -> None:
        self.image_env = imageconfig.environment(self.config.get("Env") or ())
        self.env = self.image_env | self.env
        self.size = sum(len(name) + len(value) for name, value in self.env.items())

    def sealed(self) -> dict[str, Any]:
        """The document with the variables that ENV set."""
        self.config["Env"] = [f"{name}={value}" for name, value in self.image_env.items()]
        return self.document

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.document["config"]
        return config

    def child(self) -> StageState:
        """FROM this stage: its files and configuration, its variables only where they are ENV's."""
        sealed = self.sealed()
        # as deep as anything is changed: with thousands of stages a deep copy would take minutes
        config = {name: copy.copy(value) for name, value in sealed["config"].items()}
        document = {**sealed, "config": config, "history": list(sealed["history"])}
        triggers = tuple(document["config"].pop("OnBuild", None) or ())
        return StageState(self.output, document, triggers, self.platform)


@dataclass(frozen=True)
class RunOptions:
    """What a build asks for all its processes."""

    hostname: str = ""
    hosts: tuple[str, ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    cgroup_parent: str = ""
    shm_size: int = 0
    cache_namespace: str = ""


def local_context() -> Output:
    """The context that the classic door unpacked."""
    return Output(Vertex(SourceOp(CONTEXT), (), About(LOAD_CONTEXT)))


@dataclass(frozen=True)
class Surroundings:
    """What the instructions of a stage may refer to."""

    source: Source
    lexer: Lexer
    escape: str
    globals: Mapping[str, str]
    arguments: Mapping[str, str | None]
    used: set[str]
    network: str
    no_cache: bool
    stage: str
    naming: naming.Naming
    context: Output | None
    """The build's own context."""
    paths: set[str]
    """What of it is used; instructions add to it."""
    origin: Callable[[str, ins.Base, Sequence[str]], Awaitable[Output | None]]
    """(--from's name, its instruction, the paths that it reads) to a tree."""
    options: RunOptions = RunOptions()
    epoch: int | None = None
    """SOURCE_DATE_EPOCH in nanoseconds."""


class Dispatch:
    def __init__(self, state: StageState, around: Surroundings) -> None:
        self._state, self._around = state, around
        self._triggered = False
        for name in PROXIES + PREDEFINED:
            value = around.arguments.get(name)
            if value is not None:
                around.used.add(name)
        self._proxies = tuple(f"{n}={v}" for n in PROXIES if (v := _folded(around.arguments, n)) is not None)

    async def run(self, command: ins.Command, *, triggered: bool = False) -> None:
        """DockerfileError with the instruction's place. `triggered`: it is an ONBUILD of the base."""
        self._triggered = triggered
        try:
            await self._run(command)
        except DockerfileError as error:
            raise error.at(self._around.source, command.span) from None

    def trigger(self, text: str, span: Span) -> ins.Command:
        return parse_trigger(text, self._around.escape, self._around.source, span)

    async def _run(self, command: ins.Command) -> None:
        match command:
            case ins.Run():
                await self._run_process(command)
            case ins.Copy() | ins.Add():
                await self._copy(command)
            case ins.Workdir():
                self._workdir(command)
            case ins.Arg():
                self._arg(command)
            case _:
                self._configure(command)

    # -- helpers

    def _word(self, text: str) -> str:
        return self._around.lexer.word(text, self._state.env)

    def _history(self, text: str, *, layer: bool = False, files: bool = False) -> None:
        imageconfig.add_history(self._state.document, text, layer=layer, files=files)

    def _push(
        self,
        operation: Operation,
        inputs: tuple[Output | None, ...],
        command: ins.Base,
        name: str,
        group: str = "",
    ) -> Output:
        source = self._around.source
        about = About(name, command.span, self._around.stage, self._around.no_cache, group, source)
        return Output(Vertex(operation, inputs, about))

    def _name(self, command: ins.Command) -> str:
        """What the step that an instruction makes is called."""
        text = naming.shown(command, self._around.lexer, self._state.env)
        return self._around.naming.following(text, trigger=self._triggered)

    def _set(self, name: str, value: str) -> None:
        old = self._state.env.get(name)
        self._state.size += len(value) - len(old) if old is not None else len(name) + len(value)
        self._state.env[name] = value
        if self._state.size > MAX_ENVIRONMENT:
            raise DockerfileError(f"the stage's variables take more than {MAX_ENVIRONMENT >> 20} MiB")

    # -- configuration

    def _configure(self, command: ins.Command) -> None:
        config = self._state.config
        match command:
            case ins.Env():
                self._env(command)
            case ins.Label():
                pairs = [(self._word(p.key), self._word(p.value or "")) for p in command.pairs]
                config["Labels"] = {**(config.get("Labels") or {}), **dict(pairs)}
                self._history("LABEL " + " ".join(f"{key}={value}" for key, value in pairs))
            case ins.Maintainer():
                self._state.document["author"] = command.who
                self._history(f"MAINTAINER {command.who}")
            case ins.Cmd():
                config["Cmd"] = self._command(command)
                config["ArgsEscaped"] = True  # BuildKit always says so; it means something on Windows only
                self._state.cmd_set = True
                self._history(f"CMD {imageconfig.quoted_list(config['Cmd'])}")
            case ins.Entrypoint():
                config["Entrypoint"] = self._command(command)
                if not self._state.cmd_set:
                    config.pop("Cmd", None)
                self._history(f"ENTRYPOINT {imageconfig.quoted_list(config['Entrypoint'])}")
            case ins.Expose():
                ports = self._ports(command)
                config["ExposedPorts"] = {
                    **(config.get("ExposedPorts") or {}),
                    **{port: {} for port in ports},
                }
                self._history(f"EXPOSE {imageconfig.plain_list(ports)}")
            case ins.Volume():
                paths = [self._word(path) for path in command.paths]
                if any(not path for path in paths):
                    raise DockerfileError("VOLUME specified can not be an empty string")
                config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}
                self._history(f"VOLUME {imageconfig.plain_list(paths)}")
            case ins.User():
                config["User"] = self._word(command.user)
                self._history(f"USER {config['User']}")
            case ins.StopSignal():
                config["StopSignal"] = self._signal(self._word(command.signal))
                self._history(f"STOPSIGNAL {config['StopSignal']}")
            case ins.Shell():
                config["Shell"] = list(command.words)
                self._history(f"SHELL {imageconfig.plain_list(command.words)}")
            case ins.OnBuild():
                config["OnBuild"] = [*(config.get("OnBuild") or ()), command.trigger]
            case ins.HealthCheck():
                self._health_check(command)

    def _env(self, command: ins.Env) -> None:
        env = self._state.image_env
        # all values see the variables as they were before the instruction
        pairs = [(self._word(pair.key), self._word(pair.value or "")) for pair in command.pairs]
        for name, value in pairs:
            if not name:
                raise DockerfileError("ENV names can not be blank")
            env[name] = value
            self._set(name, value)
        self._history("ENV " + " ".join(f"{name}={value}" for name, value in pairs))

    def _arg(self, command: ins.Arg) -> None:
        shown = []
        for pair in command.pairs:
            name = self._word(pair.key)
            value, hidden = self._argument(name, pair)
            if value is not None:
                self._set(name, value)
            self._state.arguments[name] = value or ""
            text = name if value is None else f"{name}={value}"
            shown.append(text if not hidden else name)
        self._history("ARG " + " ".join(shown))

    def _argument(self, name: str, pair: ins.Pair) -> tuple[str | None, bool]:
        around = self._around
        if name in around.arguments:
            around.used.add(name)
            given = around.arguments[name]
            if given is not None:
                return given, False
        if pair.value is not None:
            return self._word(pair.value), False
        return around.globals.get(name), False

    def _command(self, command: ins.CommandLine) -> list[str]:
        if not command.shell:
            return list(command.words)
        return [*self._shell(), " ".join(command.words)] if command.words else list(self._shell())

    def _shell(self) -> list[str]:
        return list(self._state.config.get("Shell") or ("/bin/sh", "-c"))

    def _ports(self, command: ins.Expose) -> list[str]:
        found: set[str] = set()
        for text in command.ports:
            for word in self._around.lexer.words(text, self._state.env):
                # an address or a host's port in front is dropped (go-connections nat.ParsePortSpec)
                match = _PORT.fullmatch(word.rpartition(":")[2])
                if match is None or len(match[1]) > 5 or len(match[2] or "") > 5:
                    raise DockerfileError(f"invalid containerPort: {word}")
                first, last, kind = int(match[1]), int(match[2] or match[1]), (match[3] or "tcp").lower()
                if not 0 < first <= last <= 65535:
                    raise DockerfileError(f"invalid containerPort: {word}")
                if kind not in ("tcp", "udp", "sctp"):
                    raise DockerfileError(f'invalid port: "{word}": invalid proto: {match[3]}')
                found |= {f"{port}/{kind}" for port in range(first, last + 1)}
        return sorted(found)

    def _signal(self, text: str) -> str:
        try:
            signals.parse(text[:20])
        except InvalidArgument:
            raise DockerfileError(f"invalid signal: {text}") from None
        return text

    def _health_check(self, command: ins.HealthCheck) -> None:
        check: dict[str, Any] = {"Test": list(command.test)}
        for name, value in (
            ("Interval", command.interval), ("Timeout", command.timeout), ("StartPeriod", command.start_period),
            ("StartInterval", command.start_interval), ("Retries", command.retries),
        ):  # fmt: skip
            if value:
                check[name] = value
        self._state.config["Healthcheck"] = check
        times = (command.interval, command.timeout, command.start_period, command.start_interval)
        spans = " ".join(f'"{imageconfig.duration(each)}"' for each in times)
        retries = places.rune(command.retries)
        self._history(f"HEALTHCHECK &{{{imageconfig.quoted_list(command.test)} {spans} {retries}}}")

    # -- files

    def _workdir(self, command: ins.Workdir) -> None:
        config = self._state.config
        path = places.joined(config.get("WorkingDir") or "/", self._word(command.path))
        config["WorkingDir"] = path
        layer = path != "/"
        if layer:
            time = -1 if self._around.epoch is None else self._around.epoch
            action = Mkdir(path, 0o755, True, config.get("User") or "", time)
            name = self._name(command)
            self._state.output = self._push(File((action,)), (self._state.output,), command, name)
        self._history(f"WORKDIR {path}", layer=layer)

    async def _copy(self, command: ins.Copy | ins.Add) -> None:
        target = places.target(self._state.config.get("WorkingDir") or "/", self._word(command.target))
        sources = [self._word(text) for text in command.sources]
        self._check_copy(command, sources, target)
        name = self._name(command)
        # --link without --chmod is a layer on its own, put over the stage afterwards (as BuildKit has it)
        link = command.link and not command.chmod
        inputs: list[Output | None] = [None if link else self._state.output]
        operation = File(tuple(await self._copies(command, sources, target, inputs, name)))
        if not link:
            self._state.output = self._push(operation, tuple(inputs), command, name)
        else:
            verb = f"LINK {naming.shown(command, self._around.lexer, self._state.env)}"
            shown = self._around.naming.same(verb, trigger=self._triggered)
            made = self._push(operation, tuple(inputs), command, name, group=name)
            if self._state.output is not None:
                made = self._push(Merge(), (self._state.output, made), command, shown, group=name)
            self._state.output = made
        shown = self._shown(command, sources)
        self._history(f"{command.name.upper()} {shown}", layer=True, files=True)

    def _check_copy(self, command: ins.Copy | ins.Add, sources: list[str], target: str) -> None:
        mode = self._word(command.chmod)
        if mode and not _MODE.fullmatch(mode):
            if not mode.isdigit():
                raise DockerfileError("invalid syntax")
            raise DockerfileError(
                f"invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"
            )
        if isinstance(command, ins.Add) and command.checksum:
            if len(sources) != 1:
                raise DockerfileError("checksum can't be specified for multiple sources")
            if not _is_remote(sources[0]):
                raise DockerfileError("checksum requires HTTP(S) or Git sources")
        if isinstance(command, ins.Copy):
            for source in filter(_is_remote, sources):
                kind = "git ref" if gitrefs.parse(source) else "URL"
                raise DockerfileError(f"source can't be a {kind} for COPY")

    async def _copies(
        self,
        command: ins.Copy | ins.Add,
        sources: list[str],
        target: str,
        inputs: list[Output | None],
        name: str,
    ) -> list[Action]:
        """The copies of all sources, in their order; adds to `inputs`."""
        excludes = tuple(self._word(text) for text in command.excludes)
        owner, mode = self._word(command.chown), self._word(command.chmod)
        common = {"target": target, "owner": owner, "mode": mode, "excludes": excludes}
        actions: list[Action] = []
        context = -1
        for source in sources:
            if isinstance(command, ins.Add) and _is_remote(source):
                inputs.append(Output(self._remote(command, source, name)))
                git = gitrefs.parse(source) is not None
                actions.append(CopyFiles(len(inputs) - 1, ("/",) if git else ("/*",), wildcard=not git,
                                         unpack=bool(command.unpack) and not git, **common))  # type: ignore[arg-type]  # fmt: skip
                continue
            if context < 0:
                inputs.append(await self._from(command, sources))
                context = len(inputs) - 1
            unpack = isinstance(command, ins.Add) and command.unpack is not False
            parents = isinstance(command, ins.Copy) and command.parents
            copied = CopyFiles(context, (places.source(source),), unpack=unpack, parents=parents, **common)  # type: ignore[arg-type]
            actions.append(copied)
        if command.heredocs:
            inputs.append(self._inline(command))
            actions += [
                CopyFiles(len(inputs) - 1, (f"/{h.name}",), wildcard=False, **common)  # type: ignore[arg-type]
                for h in command.heredocs
            ]
        return actions

    def _shown(self, command: ins.Copy | ins.Add, sources: list[str]) -> str:
        """As written, variables expanded (instructions' String after Expand)."""
        flags = ["--parents"] if isinstance(command, ins.Copy) and command.parents else []
        if command.chown:
            flags.append(f"--chown={self._word(command.chown)}")
        if command.chmod:
            flags.append(f"--chmod={self._word(command.chmod)}")
        heads = [f"<<{h.name}" for h in command.heredocs]
        return " ".join([*flags, *sources, *heads, self._word(command.target)])

    async def _from(self, command: ins.Copy | ins.Add, sources: list[str]) -> Output | None:
        read = [places.joined("/", source) for source in sources if not _is_remote(source)]
        if isinstance(command, ins.Copy) and command.origin:
            return await self._around.origin(command.origin, command, read)
        self._around.paths.update(read)
        return self._around.context

    def _remote(self, command: ins.Add, source: str, name: str) -> Vertex:
        """ADD's URLs: a git repository, or one file."""
        checksum = self._word(command.checksum)
        about = About(name, command.span, self._around.stage, text=self._around.source)
        if (git := gitrefs.parse(source)) is not None:
            if checksum and git.checksum and checksum != git.checksum:
                raise DockerfileError(f'checksum mismatch "{checksum}" != "{git.checksum}"')
            keep = command.keep_git_dir if git.keep is None else git.keep
            git = replace(git, checksum=checksum or git.checksum, keep=keep)
            return Vertex(SourceOp(git.identifier, git.attributes), (), about)
        if checksum:
            try:
                reference.validate_digest(checksum)
            except InvalidArgument as error:
                raise DockerfileError(str(error)) from None
        return Vertex(SourceOp(source, (("http.checksum", checksum),) if checksum else ()), (), about)

    def _inline(self, command: ins.Copy | ins.Add) -> Output:
        """Heredocs as files in a tree of their own."""
        actions = []
        for head in command.heredocs:
            if "/" in head.name or head.name in (".", ".."):
                raise DockerfileError(f"invalid heredoc name {head.name!r}: it becomes a file's name")
            actions.append(Mkfile(f"/{head.name}", self._document(head)))
        return self._push(File(tuple(actions)), (None,), command, "[internal] preparing inline document")

    def _document(self, head: Heredoc) -> str:
        if not head.expand:
            return head.text
        # quotes mean nothing in a document
        return (
            replace(self._around.lexer, raw_quotes=True).word(head.text, self._state.env)
            if "$" in head.text
            else head.text
        )

    # -- processes

    async def _run_process(self, command: ins.Run) -> None:
        state = self._state
        text, mounts = " ".join(command.words), list[ExecMount]()
        inputs: list[Output | None] = [state.output]
        if command.heredocs:
            text = self._script(command, mounts, inputs)
        args = [*self._shell(), text] if command.shell else list(command.words)
        if not args or not args[0]:
            raise DockerfileError("RUN requires at least one argument")
        for mount in command.mounts:
            mounts.append(await self._mount(mount, command, inputs))
        hidden = NOT_IN_PROCESSES - state.image_env.keys()
        env = [f"{name}={value}" for name, value in state.env.items() if name not in hidden]
        options = self._around.options
        operation = Exec(
            args=tuple(args),
            env=tuple(env),
            cwd=state.config.get("WorkingDir") or "/",
            user=state.config.get("User") or "",
            mounts=tuple(mounts),
            network=command.network if command.network != "default" else self._around.network,
            security=command.security,
            platform=state.platform,
            hostname=options.hostname,
            hosts=options.hosts,
            ulimits=options.ulimits,
            cgroup_parent=options.cgroup_parent,
            shm_size=options.shm_size,
            proxy=self._proxies,
        )
        state.output = self._push(operation, tuple(inputs), command, self._name(command))
        declared = [f"{name}={state.env.get(name, value)}" for name, value in state.arguments.items()]
        counted = [f"|{len(declared)}", *declared] if declared else []
        self._history("RUN " + " ".join([*counted, *args]), layer=True, files=True)

    def _script(self, command: ins.Run, mounts: list[ExecMount], inputs: list[Output | None]) -> str:
        """A heredoc alone is the script; with anything around it the shell reads it itself."""
        if len(command.words) != 1 or not command.shell:
            raise DockerfileError(f"parsing produced an invalid run command: {list(command.words)}")
        head = heredoc_head(command.words[0])
        if head is None:
            return command.words[0] + "".join(f"\n{each.content}{each.name}" for each in command.heredocs)
        document = command.heredocs[0]
        if not document.text.startswith("#!"):
            return document.text
        made = File((Mkfile(f"/{head.name}", document.text, 0o755),))
        inputs.append(self._push(made, (None,), command, "[internal] preparing inline document"))
        mounts.append(ExecMount("bind", "/dev/pipes", input=len(inputs) - 1, readonly=True))
        return f"/dev/pipes/{head.name}"

    async def _mount(self, mount: Mount, command: ins.Run, inputs: list[Output | None]) -> ExecMount:
        target = self._word(mount.target)
        if mount.kind in ("bind", "cache", "tmpfs"):
            target = places.joined(self._state.config.get("WorkingDir") or "/", target)
            if target == "/":
                raise DockerfileError('invalid mount target "/"')
        source, ident = self._word(mount.source), self._word(mount.id)
        made = ExecMount(mount.kind, target, readonly=mount.readonly, uid=mount.uid or 0, gid=mount.gid or 0,
                         mode=mount.mode, size=mount.size, required=mount.required, env=mount.env,
                         sharing=mount.sharing)  # fmt: skip
        if mount.kind in ("secret", "ssh"):
            return places.secret(made, ident, source, target)
        if mount.kind == "cache":
            space = self._around.options.cache_namespace
            made = replace(made, id=f"{space}/{ident or target}" if space else ident or target)
            if not mount.origin:
                return made
        elif mount.kind == "tmpfs":
            return made
        read = [places.joined("/", source or "/")]
        if mount.origin:
            tree = await self._around.origin(self._word(mount.origin), command, read)
        else:
            self._around.paths.update(read)
            tree = self._around.context
        inputs.append(tree)
        return replace(made, input=len(inputs) - 1, source=places.joined("/", source or "/"))


def _folded(arguments: Mapping[str, str | None], name: str) -> str | None:
    """A proxy's value, in whichever case it was given: processes get both."""
    found = arguments.get(name)
    return found if found is not None else arguments.get(name.swapcase())


def _is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://")) or gitrefs.parse(source) is not None
