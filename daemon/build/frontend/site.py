"""Where an instruction works: its stage as it is so far, and what it may refer to."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.build import imageconfig
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.source import DockerfileError, Source
from daemon.build.dockerfile.words import Lexer
from daemon.build.frontend import naming
from daemon.build.frontend.variables import PREDEFINED, PROXIES
from daemon.build.graph import About, File, Mkfile, Operation, Output, Vertex
from daemon.build.graph import Source as SourceOp

CONTEXT = "local://context"
LOAD_CONTEXT = "[internal] load build context"
INLINE_DOCUMENT = "[internal] preparing inline document"
MAX_ENVIRONMENT = 4 << 20
"""Characters of a stage's variables together; the kernel takes 2 MiB of arguments and environment."""


@dataclass
class StageState:
    """What a stage has become so far."""

    output: Output | None
    document: dict[str, Any]
    triggers: tuple[str, ...] = ()
    platform: str = ""
    """What its processes run on; empty: this machine."""
    image_env: dict[str, str] = field(default_factory=dict)
    """ENV's, the image's; the document's are only brought up to date in the end."""
    env: dict[str, str] = field(default_factory=dict)
    """ENV and ARG together: what expansion and processes see."""
    arguments: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False
    size: int = 0
    """Characters of all variables together."""

    def __post_init__(self) -> None:
        self.image_env = self.image_env or imageconfig.environment(self.config.get("Env") or ())
        self.env = self.env or dict(self.image_env)
        self.size = sum(len(name) + len(value) for name, value in self.env.items())

    def sealed(self) -> dict[str, Any]:
        """The document with the variables that ENV set."""
        self.config["Env"] = [f"{name}={value}" for name, value in self.image_env.items()]
        return self.document

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def directory(self) -> str:
        """WORKDIR's."""
        return self.config.get("WorkingDir") or "/"

    @property
    def shell(self) -> list[str]:
        """What runs a command that is one text."""
        return list(self.config.get("Shell") or ("/bin/sh", "-c"))

    def set(self, name: str, value: str) -> None:
        """A variable of ENV or ARG."""
        old = self.env.get(name)
        self.size += len(value) - len(old) if old is not None else len(name) + len(value)
        self.env[name] = value
        if self.size > MAX_ENVIRONMENT:
            raise DockerfileError(f"the stage's variables take more than {MAX_ENVIRONMENT >> 20} MiB")

    def child(self, *, last: bool) -> StageState:
        """FROM this stage: its files, its configuration and its variables, those of ARG as well.

        The last child takes over what there is: with thousands of stages, copies would take all memory.
        """
        found = self if last else self._copied()
        triggers = tuple(found.config.pop("OnBuild", None) or ())
        return StageState(
            self.output, found.document, triggers, self.platform, found.image_env, found.env, found.arguments
        )

    def _copied(self) -> StageState:
        """As deep as anything is changed."""
        config = {name: copy.copy(value) for name, value in self.config.items()}
        document = {**self.document, "config": config, "history": list(self.document["history"])}
        return StageState(
            self.output,
            document,
            (),
            self.platform,
            dict(self.image_env),
            dict(self.env),
            dict(self.arguments),
        )

    def weight(self) -> int:
        """How many things a copy has."""
        named = (value for value in self.config.values() if isinstance(value, dict | list))
        own = (self.image_env, self.env, self.arguments, self.document["history"], *named)
        return sum(map(len, own))


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


@dataclass(frozen=True)
class Site:
    """A stage and its surroundings, as all instructions use them."""

    state: StageState
    around: Surroundings
    triggered: bool = False
    """Its instructions are ONBUILD's of the base."""

    def __post_init__(self) -> None:
        given = self.around.arguments
        self.around.used.update(name for name in PROXIES + PREDEFINED if given.get(name) is not None)

    def word(self, text: str) -> str:
        """Variables expanded, quotes taken off."""
        return self.around.lexer.word(text, self.state.env)

    def history(self, text: str, *, layer: bool = False, files: bool = False) -> None:
        imageconfig.add_history(self.state.document, text, layer=layer, files=files)

    def shown(self, command: ins.Command) -> str:
        return naming.shown(command, self.around.lexer, self.state.env)

    def step_name(self, command: ins.Command) -> str:
        """What the step that an instruction makes is called."""
        return self.around.naming.following(self.shown(command), trigger=self.triggered)

    def made(
        self,
        operation: Operation,
        inputs: Sequence[Output | None],
        command: ins.Base,
        name: str,
        group: str = "",
    ) -> Output:
        """An instruction's vertex."""
        around = self.around
        about = About(name, command.span, around.stage, around.no_cache, group, around.source)
        return Output(Vertex(operation, tuple(inputs), about))

    def inline(self, files: Sequence[Mkfile], command: ins.Base) -> Output:
        """What the Dockerfile holds itself, as a tree of its own."""
        return self.made(File(tuple(files)), (None,), command, INLINE_DOCUMENT)

    async def tree(self, origin: str | None, command: ins.Base, paths: Sequence[str]) -> Output | None:
        """--from's (a stage, an image, a named context), without one the context; `paths` are read of it."""
        if origin is not None:
            return await self.around.origin(origin, command, paths)
        self.around.paths.update(paths)
        return self.around.context
