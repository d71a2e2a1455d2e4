"""What a build has come to, in the words that exporters, attestations and caches share.

Outcome        one Made for each platform that was built
Attestation    a statement about one of them, as it is to stand beside the image
ExporterRequest  what the client wants to have made of it
BuildRecord    what was asked for and used: what history and provenance tell
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.build.bench import Result
from daemon.build.graph import Output
from daemon.images.platforms import Platform


@dataclass(frozen=True)
class Made:
    """What was built for one platform."""

    platform: Platform
    result: Result
    document: dict[str, Any] | None = None
    """The image's configuration without its root file system (Built.document); None: no front end gave one."""


@dataclass(frozen=True)
class Attestation:
    """An in-toto statement without its subject, which is the image's manifest unless `subjects` says else."""

    platform_index: int
    """Place of what it speaks of in Outcome.made."""
    predicate_type: str
    predicate: bytes
    """JSON of the statement's member `predicate`."""
    reason: str = "provenance"
    """Which of the client's wishes it fulfils: provenance or sbom."""
    inline_only: bool = False
    """Nobody asked for it: it goes with images, not into directories and archives of files."""
    path: str = "provenance.json"
    """File name, for the exporters local and tar."""
    subjects: tuple[tuple[str, Mapping[str, str]], ...] = ()
    """(name, {algorithm: hex}) as a generator gave them."""


@dataclass(frozen=True)
class Outcome:
    made: tuple[Made, ...]
    multi: bool = False
    """Several platforms were asked for (even if it is a list of one): the image becomes an index."""
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    """What the front end's result carried."""


@dataclass(frozen=True)
class ExporterRequest:
    """`type`: image, moby, docker, oci, tar, local, cacheonly; `attrs` as the client sent them."""

    id: int | str
    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceUsed:
    """A git repository or URL that was read."""

    identifier: str
    digest: str
    """Commit, or ALGORITHM:HEX of the file."""


@dataclass(frozen=True)
class BuildRecord:
    """One build from outside. Times in nanoseconds since 1970; `finished` 0 while it runs."""

    ref: str
    frontend: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    """The front end's attributes as the client sent them."""
    started: int = 0
    finished: int = 0
    locals: tuple[str, ...] = ()
    """Names of the client's directories that were read."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Normalised names of base images to their digests."""
    sources: tuple[SourceUsed, ...] = ()
    outputs: tuple[Output | None, ...] = ()
    """The graphs, one for each Outcome.made."""
    scans: tuple[Mapping[str, Output | None], ...] = ()
    """What lists of contents should also be made of (Built.scans), one for each Outcome.made."""
