"""The build graph: what is to be done, content-addressed, in the vocabulary of BuildKit's LLB.

    Source   an image, a local directory, a git repository or a URL     no inputs
    Exec     a process in a root made of its inputs                     inputs by mounts
    File     copies, directories, files, links, removals                inputs by number
    Merge    trees laid over one another
    Diff     what one tree has more than another

A vertex is immutable; its digest is that of its operation and of its inputs' digests, so equal work has equal
names, whoever asks for it. An `Output` is one of the trees that a vertex gives; `None` is scratch. What the user
is shown (a name, a place in the Dockerfile) stands beside the operation and is no part of the digest.

(BuildKit solver/pb/ops.proto is the other door's form of the same records.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from daemon.build.dockerfile.source import Source as Text
from daemon.build.dockerfile.source import Span


@dataclass(frozen=True)
class Source:
    """`identifier`: docker-image://NAME, local://context, git://URL#ref, https://..., oci-layout://NAME@DIGEST

    Attributes have BuildKit's names (solver/pb/attr.go).
    """

    identifier: str
    attributes: tuple[tuple[str, str], ...] = ()
    platform: str = ""
    """Of an image; empty: this machine's."""

    def attribute(self, name: str) -> str:
        return dict(self.attributes).get(name, "")


@dataclass(frozen=True)
class ExecMount:
    """Where an input (or a cache, tmpfs, secret, ssh agent) is in the process's root. `input` -1: none.

    `output` N above 0: what the process leaves there is the vertex's output N (0 is its root).
    """

    kind: str
    target: str
    input: int = -1
    source: str = "/"
    readonly: bool = False
    output: int = -1
    id: str = ""
    sharing: str = "shared"
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size: int = 0
    required: bool = False
    env: str = ""


@dataclass(frozen=True)
class Exec:
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    mounts: tuple[ExecMount, ...] = ()
    """The root is input 0 and not among them."""
    network: str = "default"
    security: str = "sandbox"
    platform: str = ""
    """Empty: this machine's."""
    hostname: str = ""
    hosts: tuple[str, ...] = ()
    """Lines for /etc/hosts, `name:address`."""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard)"""
    cgroup_parent: str = ""
    shm_size: int = 0
    readonly: bool = False
    """The root: what is written there fails, and there is no output 0."""
    valid_codes: tuple[int, ...] = (0,)
    proxy: tuple[str, ...] = ()
    """Variables that the process sees and no key knows of."""


@dataclass(frozen=True)
class Mkdir:
    path: str
    mode: int = 0o755
    parents: bool = True
    owner: str = ""
    time: int = -1
    """Nanoseconds; below 0 now."""


@dataclass(frozen=True)
class Mkfile:
    path: str
    data: str
    mode: int = 0o644
    owner: str = ""
    time: int = -1


@dataclass(frozen=True)
class Symlink:
    path: str
    target: str
    owner: str = ""
    time: int = -1


@dataclass(frozen=True)
class Remove:
    path: str
    missing_ok: bool = False
    wildcard: bool = False


@dataclass(frozen=True)
class CopyFiles:
    """Sources of input `input` (-1: scratch) to `target`, as COPY and ADD have it."""

    input: int
    sources: tuple[str, ...]
    target: str
    owner: str = ""
    mode: str = ""
    """Octal, or chmod(1)'s symbols."""
    unpack: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    wildcard: bool = True
    contents: bool = True
    """A directory's contents, not the directory (COPY); cp -r otherwise."""
    required: bool = False
    """A wildcard must match something."""
    follow: bool = True
    """A source that is a link means what it points at."""
    create: bool = True
    """Directories above the target are made."""
    includes: tuple[str, ...] = ()
    """If there are any: only what these patterns match."""
    time: int = -1


Action = Mkdir | Mkfile | Symlink | Remove | CopyFiles


@dataclass(frozen=True)
class File:
    """`actions`, one after the other on input 0."""

    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Merge:
    """All inputs, each laid over those before it."""


@dataclass(frozen=True)
class Diff:
    """Input 0 is the lower tree, input 1 the upper."""


Operation = Source | Exec | File | Merge | Diff


@dataclass(frozen=True)
class About:
    """For people only."""

    name: str = ""
    span: Span | None = None
    stage: str = ""
    no_cache: bool = False
    group: str = ""
    """Vertices that are shown as one have the same."""
    text: Text | None = None
    """The file that `span` is of."""


@dataclass(frozen=True, eq=False)
class Vertex:
    operation: Operation
    inputs: tuple[Output | None, ...] = ()
    about: About = field(default_factory=About)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # at once and not lazily: the inputs have theirs, so that no long chain is ever walked by recursion
        below = [f"{each.vertex.digest}:{each.index}" if each else "" for each in self.inputs]
        object.__setattr__(self, "digest", digest_of([describe(self.operation), below]))

    def __repr__(self) -> str:
        return f"Vertex({self.digest[7:19]} {self.about.name or type(self.operation).__name__})"


@dataclass(frozen=True)
class Output:
    vertex: Vertex
    index: int = 0


def describe(operation: Operation | Action) -> dict[str, Any]:
    """As JSON, the kind included; the same operation always gives the same text."""
    described: dict[str, Any] = {"kind": type(operation).__name__}
    for each in fields(operation):
        value = getattr(operation, each.name)
        if each.name == "actions":
            value = [describe(action) for action in value]
        elif each.name == "mounts":
            value = [asdict(mount) for mount in value]
        described[each.name] = value
    return described


def digest_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def ordered(outputs: Iterable[Output | None]) -> list[Vertex]:
    """Every vertex that is needed, inputs before those that use them; equal ones once. No recursion."""
    found: dict[str, Vertex] = {}
    for output in outputs:
        if output is None or output.vertex.digest in found:
            continue
        stack: list[tuple[Vertex, Iterator[Output | None]]] = [(output.vertex, iter(output.vertex.inputs))]
        entered = {output.vertex.digest}
        while stack:
            vertex, rest = stack[-1]
            below = next(rest, _END)
            if below is _END:
                stack.pop()
                found.setdefault(vertex.digest, vertex)
            elif isinstance(below, Output) and below.vertex.digest not in entered:
                entered.add(below.vertex.digest)
                if below.vertex.digest not in found:
                    stack.append((below.vertex, iter(below.vertex.inputs)))
    return list(found.values())


_END = object()
