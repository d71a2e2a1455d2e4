"""What a Dockerfile can say, as frozen records. Values are as written: expansion comes later.

Dockerfile ── metaargs: ARG before the first FROM
           └─ stages ── Stage (its FROM) ── commands: the union `Command`
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.build.dockerfile.lexer import Heredoc
from daemon.build.dockerfile.mounts import Mount
from daemon.build.dockerfile.source import Span


@dataclass(frozen=True, kw_only=True)
class Base:
    """What every instruction has: where it stands and how it was written."""

    span: Span
    original: str = field(repr=False)
    name: str = ""
    """As written, `from` or `FROM`: a build check looks at the case."""
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """`key=value` of ENV, LABEL and ARG. `bare`: the old form with a blank. ARG's value may be absent."""

    key: str
    value: str | None
    bare: bool = False


@dataclass(frozen=True, kw_only=True)
class Arg(Base):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Env(Base):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Label(Base):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Maintainer(Base):
    who: str


@dataclass(frozen=True, kw_only=True)
class CommandLine(Base):
    """CMD, ENTRYPOINT: words of the JSON form, or one text for the shell."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, kw_only=True)
class Cmd(CommandLine):
    pass


@dataclass(frozen=True, kw_only=True)
class Entrypoint(CommandLine):
    pass


@dataclass(frozen=True, kw_only=True)
class Run(CommandLine):
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Files(Base):
    """COPY and ADD: sources, a destination, and the heredocs among the sources."""

    sources: tuple[str, ...]
    target: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Copy(Files):
    origin: str = ""
    """--from"""
    parents: bool = False


@dataclass(frozen=True, kw_only=True)
class Add(Files):
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Expose(Base):
    ports: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Volume(Base):
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class User(Base):
    user: str


@dataclass(frozen=True, kw_only=True)
class Workdir(Base):
    path: str


@dataclass(frozen=True, kw_only=True)
class StopSignal(Base):
    signal: str


@dataclass(frozen=True, kw_only=True)
class Shell(Base):
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OnBuild(Base):
    trigger: str


@dataclass(frozen=True, kw_only=True)
class HealthCheck(Base):
    """Docker's Healthcheck of the image configuration; durations in nanoseconds."""

    test: tuple[str, ...]
    shell: bool = False
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


Command = (
    Arg | Env | Label | Maintainer | Cmd | Entrypoint | Run | Copy | Add | Expose | Volume | User | Workdir
    | StopSignal | Shell | OnBuild | HealthCheck
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """One FROM and what follows it."""

    base: str
    alias: str = ""
    platform: str = ""
    commands: tuple[Command, ...] = ()
