"""Where a build's files come from: the context, the Dockerfile beside or inside it, and named contexts.

    the client's directory      "context", with .dockerignore's patterns; only what the Dockerfile uses travels
    a repository, a URL         an archive or a lone Dockerfile; also what the client uploads (docker build -)
    an input                    what the client gives as a definition: bake's `target:` contexts
    --build-context NAME=...    any of these, an image, or an OCI layout that the client has

Source: BuildKit frontend/dockerui (context.go, namedcontext.go).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.dockerfile.ignore import lines
from daemon.build.dockerfile.source import MAX_SIZE
from daemon.build.files.looking import small_files
from daemon.build.frontend.options import Options
from daemon.build.frontend.terms import NamedContext
from daemon.build.graph import About, CopyFiles, File, Output, Source, Vertex
from daemon.build.solver.solve import Solver
from daemon.build.sources import gitrefs
from daemon.build.sources.images import Images, NoImage
from daemon.images import platforms, reference
from storage.errors import Forbidden, InvalidArgument, NotFound

IGNORE = ".dockerignore"
_HEAD = 1024
_BLOCK = 512
_COMPRESSED = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\x00")
_IMAGE_CONFIG = "containerimage.config"


@dataclass
class Trees:
    """Trees that are read before there is a graph: solved at once, each once."""

    bench: Bench
    job: Job
    known: dict[tuple[str, int], asyncio.Task[Result]] = field(default_factory=dict)

    def begin(self, output: Output) -> asyncio.Task[Result]:
        key = (output.vertex.digest, output.index)
        if key not in self.known:
            self.known[key] = asyncio.ensure_future(self._solved(output))
        return self.known[key]

    async def of(self, output: Output) -> Result:
        return await self.begin(output)

    async def _solved(self, output: Output) -> Result:
        return (await Solver(self.bench, self.job).trees([output]))[0]

    async def read(self, output: Output | None, *paths: str, limit: int = MAX_SIZE) -> list[bytes | None]:
        """Small files; None for each that is not there."""
        tree = SCRATCH if output is None else await self.of(output)
        if tree.directory is not None:
            return await asyncio.to_thread(small_files, tree.directory, paths, limit)
        mount = self.bench.overlay(tree)
        return [None if mount is None else await self._peek(mount, path, limit) for path in paths]

    async def _peek(self, mount: dict[str, Any], path: str, limit: int) -> bytes | None:
        found = await self.bench.workshop.call("peek", tree=mount, path=path, limit=limit)
        return None if found is None else base64.b64decode(found)


class _Ahead:
    """A tree that is fetched before it is known to be wanted; who looks at the build sees it when it is."""

    def __init__(self, trees: Trees, output: Output) -> None:
        self._trees, self.output = trees, output
        self._progress = trees.job.unseen(output.vertex)
        self._task = trees.begin(output)
        self._shown = False
        trees.job.stack.push_async_callback(self.unwanted)

    def wanted(self) -> Output:
        self._shown = True
        self._trees.job.show(self._progress)
        return self.output

    async def unwanted(self) -> None:
        """Idempotent; nothing once it is wanted."""
        if not self._shown:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._trees.job.forget(self._progress)


@dataclass
class Context:
    """The build's main context. `output` None with `local`: the client's directory, made when its use is known."""

    output: Output | None
    local: bool
    filename: str


class Sources:
    """One build's contexts."""

    def __init__(
        self, bench: Bench, job: Job, options: Options, inputs: Mapping[str, Output | None], images: Images
    ) -> None:
        self.options, self.images = options, images
        self.trees = Trees(bench, job)
        self._job, self.inputs = job, inputs
        self._ignore: list[str] | None = None
        self._beside: bytes | None = None
        self._ahead: _Ahead | None = None

    # -- the client's directories

    def directory(
        self,
        name: str,
        shown: str,
        *,
        follow: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        hint: str = "",
    ) -> Output:
        """A source of the client's directory NAME (its attributes have BuildKit's names and forms)."""
        attributes = [("local.sharedkeyhint", hint or name)]
        session = self.options.sessions.get(name) or (self._job.sessions[0].id if self._job.sessions else "")
        if session:
            attributes.append(("local.session", session))
        if follow:
            attributes.append(("local.followpaths", json.dumps(follow)))
        if exclude:
            attributes.append(("local.excludepatterns", json.dumps(exclude)))
        source = Source(f"local://{name}", tuple(sorted(attributes)))
        return Output(Vertex(source, (), About(shown)))

    # -- the main context

    async def main(self) -> Context:
        """InvalidArgument, NotFound, Unavailable say why it can't be had."""
        options = self.options
        context = Context(None, True, options.filename)
        if (git := gitrefs.parse(options.context, context=True)) is not None:
            if options.keep_git is not None and git.keep is None:
                git = replace(git, keep=options.keep_git)
            about = About(f"[internal] load git source {options.context}")
            source = Source(git.identifier, git.attributes)
            context = Context(Output(Vertex(source, (), about)), False, options.filename)
        elif options.context.startswith(("http://", "https://")):
            context = await self._download(options.context)
        elif "context" in self.inputs:
            context = Context(self.inputs["context"], False, options.filename)
        if context.output is not None and options.subdirectory:
            copied = CopyFiles(1, (options.subdirectory,), "/", wildcard=False)
            context.output = Output(Vertex(File((copied,)), (None, context.output)))
        return context

    async def _download(self, url: str) -> Context:
        """An archive is unpacked; anything else is a lone Dockerfile, named "context"."""
        source = Source(url, (("http.filename", "context"),))
        output = Output(Vertex(source, (), About("[internal] load remote build context")))
        tree = self.trees.bench.overlay(await self.trees.of(output))
        found = await self.trees.bench.workshop.call("peek", tree=tree, path="context", limit=-_HEAD)
        if found is None:
            raise NotFound("failed to read downloaded context")
        if not _is_archive(base64.b64decode(found)):
            return Context(output, False, "context")
        copied = CopyFiles(1, ("/context",), "/", unpack=True, wildcard=False)
        about = About("[internal] unpack remote build context")
        return Context(Output(Vertex(File((copied,)), (None, output), about)), False, self.options.filename)

    async def dockerfile(self, context: Context) -> tuple[str, bytes, Output | None]:
        """Its name, its bytes and where it came from; notes the .dockerignore that lies beside it."""
        if context.local and self._ahead is None:
            self._ahead = _Ahead(self.trees, self._ignore_source())  # the client is asked for both at once
        options = self.options
        name = context.filename
        source = context.output
        if options.own_dockerfile or context.local:
            source = None if options.own_dockerfile else self.inputs.get(options.dockerfile_local)
            if source is None:
                follow = [name, f"{name}.dockerignore"]
                if (fallback := _lowered(name)) is not None:
                    follow.append(fallback)
                shown = f"[internal] load build definition from {name}"
                source = self.directory(options.dockerfile_local, shown, follow=tuple(follow))
        try:
            data, self._beside = await self.trees.read(source, name, f"{name}.dockerignore")
        except Forbidden as error:
            raise Forbidden(f"failed to read dockerfile: {error}") from None
        if data is None and (fallback := _lowered(name)) is not None:
            (data,) = await self.trees.read(source, fallback)
        if data is None:
            raise NotFound(f"failed to read dockerfile: open {name}: no such file or directory")
        if self._beside is not None and self._ahead is not None:
            await self._ahead.unwanted()
        return name, data, source

    def _ignore_source(self) -> Output:
        name = self.options.context_local
        hint, shown = f"{name}-{IGNORE}", f"[internal] load {IGNORE}"
        return self.directory(name, shown, follow=(IGNORE,), hint=hint)

    async def ignored(self, context: Context) -> list[str]:
        """Patterns of the .dockerignore for the client's directory."""
        if not context.local:
            return []
        if self._ignore is None:
            data = self._beside
            if data is None:
                source = self._ahead.wanted() if self._ahead else self._ignore_source()
                (data,) = await self.trees.read(source, IGNORE)
            self._ignore = lines((data or b"").decode("utf-8", "replace"))
        return self._ignore

    async def used(self, context: Context, paths: frozenset[str]) -> Output | None:
        """The context with what is used of it."""
        if not context.local:
            return context.output
        shown = "[internal] load build context"
        exclude = tuple(await self.ignored(context))
        return self.directory(self.options.context_local, shown, follow=followed(paths), exclude=exclude)


class Named:
    """The named contexts, as one platform's build sees them. `paths`: what is used of each."""

    def __init__(self, sources: Sources, paths: Mapping[str, frozenset[str]]) -> None:
        self._sources, self._paths = sources, paths
        self._options = sources.options

    async def named(self, name: str, platform: str) -> NamedContext | None:
        given = self._options.contexts
        if not given:
            return None
        try:
            parsed = reference.parse(name)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid context name {name}: {error}") from None
        short = parsed.familiar.removesuffix(":latest")
        own = f"{short}::{platform or platforms.local()}"
        key = own if own in given else short
        if key not in given:
            return None
        return await self._load(name, key, given[key], platform)

    async def _load(self, name: str, key: str, text: str, platform: str) -> NamedContext:
        kind, colon, rest = text.partition(":")
        if not colon:
            raise InvalidArgument(f"invalid context specifier {text} for {key}")
        if kind == "docker-image":
            return await self._image(key, rest.removeprefix("//"), platform)
        if kind.startswith("git@") or kind in ("git", "http", "https", "ssh"):
            return NamedContext(Output(_remote(key, text)))
        if kind == "oci-layout":
            return await self._layout(key, rest.removeprefix("//"), platform)
        if kind == "local":
            return NamedContext(await self._local(key, rest, self._paths.get(name, frozenset())))
        if kind == "input":
            return self._input(key, rest)
        raise InvalidArgument(f"unsupported context source {kind} for {key}")

    async def _image(self, key: str, text: str, platform: str) -> NamedContext:
        if text == "scratch":
            return NamedContext(None)
        try:
            image = await self._sources.images.image(text, platform, label=f"context {key}")
        except NoImage as changed:
            return await self._load(key, key, changed.identifier.replace("://", ":", 1), platform)
        foreign = "" if platform in ("", str(platforms.local())) else platform
        has_layers = bool((image.config.get("rootfs") or {}).get("diff_ids"))
        source = Source(image.identifier, (), foreign)
        output = Output(Vertex(source, (), About(f"[context {key}] {text}"))) if has_layers else None
        return NamedContext(output, image.config, _platform_of(image.config))

    async def _layout(self, key: str, text: str, platform: str) -> NamedContext:
        """An image in a directory of the client's, which it serves as a content store."""
        name, at, digest = text.partition("@")
        if not at:
            raise InvalidArgument(f'oci-layout reference "{text}" has no digest')
        image = await self._sources.images.layout(name.partition(":")[0], digest, platform, key)
        has_layers = bool((image.config.get("rootfs") or {}).get("diff_ids"))
        source = Source(image.identifier, image.attributes, platform)
        about = About(f"[context {key}] OCI load from client")
        output = Output(Vertex(source, (), about)) if has_layers else None
        return NamedContext(output, image.config, _platform_of(image.config))

    async def _local(self, key: str, name: str, paths: frozenset[str]) -> Output:
        sources = self._sources
        hint, shown = f"context:{key}-{IGNORE}", f"[context {key}] load {IGNORE}"
        source = sources.directory(name, shown, follow=(IGNORE,), hint=hint)
        (data,) = await sources.trees.read(source, IGNORE)
        exclude = tuple(lines((data or b"").decode("utf-8", "replace")))
        shown = f"[context {key}] load from client"
        return sources.directory(name, shown, follow=followed(paths), exclude=exclude, hint=f"context:{key}-")

    def _input(self, key: str, name: str) -> NamedContext:
        inputs = self._sources.inputs
        if name not in inputs:
            raise InvalidArgument(f"invalid input {name} for {key}")
        text = self._options.metadata.get(name)
        if not text:
            return NamedContext(inputs[name])
        try:
            member = json.loads(text).get(_IMAGE_CONFIG)
            config: dict[str, Any] | None = json.loads(base64.b64decode(member)) if member else None
        except (ValueError, AttributeError, TypeError) as error:
            raise InvalidArgument(f"failed to parse input metadata {text[:200]}: {error}") from None
        return NamedContext(inputs[name], config, _platform_of(config) if config else "")


def _remote(key: str, text: str) -> Vertex:
    if (git := gitrefs.parse(text)) is not None:
        return Vertex(Source(git.identifier, git.attributes), (), About(f"[internal] load git source {text}"))
    if not text.startswith(("http://", "https://")):
        raise InvalidArgument(f"invalid git context {text}")
    return Vertex(Source(text, (("http.filename", "context"),)), (), About(f"[context {key}] {text}"))


def _platform_of(config: Mapping[str, Any]) -> str:
    found = platforms.Platform.of(config)
    return str(found.normalized()) if found.os and found.architecture else ""


def followed(paths: frozenset[str]) -> tuple[str, ...]:
    """What a client is asked to send, from what instructions read; empty: everything."""
    if "/" in paths:
        return ()
    return tuple(sorted(path.strip("/") or "." for path in paths))


def _lowered(name: str) -> str | None:
    """`dockerfile` does where `Dockerfile` is not there."""
    directory, slash, last = name.rpartition("/")
    return f"{directory}{slash}dockerfile" if last == "Dockerfile" else None


def _is_archive(head: bytes) -> bool:
    from daemon.build.files.actions import is_tar_header

    return head.startswith(_COMPRESSED) or is_tar_header(head[:_BLOCK])
