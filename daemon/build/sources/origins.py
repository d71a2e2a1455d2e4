"""Source vertices: where trees come from that no step made.

docker-image://, oci-layout://   layers, by the build's image source          layers
local://NAME                     the client's directory, or the unpacked context     directory
git://, http(s)://               fetched by the build worker, or uploaded by the client  directory
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.build.bench import Bench, Job, Result
from daemon.build.graph import Source
from daemon.build.sources import gitaccess, gitrefs, httpaccess
from daemon.build.steps import Progress
from storage.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from daemon.build.session.sessions import Session

UPLOADS = "http://buildkit-session/"
_LIMIT = 100_000
"""Patterns in one attribute."""


class Origins:
    def __init__(self, bench: Bench, job: Job) -> None:
        self._bench, self._job = bench, job

    async def get(self, source: Source, progress: Progress) -> tuple[Result, bool]:
        """The tree, and whether it was here already. Directories come once for each build."""
        kind = source.identifier.partition("://")[0]
        if kind in ("docker-image", "oci-layout"):
            return await self._image(source, progress)
        fetched, digest = self._job.fetched, progress.digest
        async with self._job.fetching.setdefault(digest, asyncio.Lock()):
            if digest not in fetched:
                fetched[digest] = await self._directory(kind, source, progress)
            return fetched[digest], False

    async def _directory(self, kind: str, source: Source, progress: Progress) -> Result:
        if kind == "local":
            return await self._local(source, progress)
        if kind not in ("git", "http", "https"):
            raise InvalidArgument(f"unknown source {source.identifier[:200]}")
        progress.start()
        directory = self._job.directory / f"source-{secrets.token_hex(8)}"
        directory.mkdir()
        return await (self._repository if kind == "git" else self._file)(source, directory)

    async def _image(self, source: Source, progress: Progress) -> tuple[Result, bool]:
        known = self._job.images.get((source.identifier, source.platform))
        if known is not None:
            return Result(known), True
        if self._job.resolver is None:
            raise NotFound(f"nobody resolved the image {source.identifier}")
        progress.start()
        return Result(await self._job.resolver.layers(source, progress)), False

    async def _local(self, source: Source, progress: Progress) -> Result:
        name = source.identifier.removeprefix("local://")
        unpacked = self._job.contexts.get(name)
        if unpacked is not None:
            return Result(directory=unpacked)
        progress.start()
        patterns = {
            key: _patterns(source.attribute(f"local.{attribute}"))
            for key, attribute in (
                ("include", "includepattern"), ("exclude", "excludepatterns"), ("follow", "followpaths"),
            )
        }  # fmt: skip
        hint = source.attribute("local.sharedkeyhint")
        last: NotFound | None = None
        for session in await self._sessions(source.attribute("local.session")):
            with progress.status(f"transferring {name}:", at_once=False) as status:
                try:
                    path = await session.sync(self._job, name, hint=hint, progress=status, **patterns)
                    return Result(directory=path)
                except NotFound as error:
                    last = error
        raise last or NotFound(f"no build context {name!r} was sent")

    async def _sessions(self, wanted: str) -> list[Session]:
        """The one that is named first, then the build's own."""
        own = list(self._job.sessions)
        if wanted and not any(each.id == wanted for each in own):
            own.insert(0, await self._bench.sessions.get(wanted))
        return sorted(own, key=lambda each: each.id != wanted)

    async def _repository(self, source: Source, directory: Path) -> Result:
        git = gitrefs.of_source(source.identifier, dict(source.attributes))
        async with gitaccess.access(self._job.sessions, git.remote, dict(source.attributes)) as access:
            got = await self._bench.workshop.call(
                "clone",
                url=git.url,
                directory=str(directory),
                keep_git=bool(git.keep),
                checksum=git.checksum,
                access=access.fields(),
                submodules=git.submodules,
            )
        self._job.resolved[git.url] = got["commit"]
        return Result(directory=directory / git.directory if git.directory else directory)

    async def _file(self, source: Source, directory: Path) -> Result:
        url, checksum = source.identifier, source.attribute("http.checksum")
        if url.startswith(UPLOADS):
            await self._uploaded(url, directory / (source.attribute("http.filename") or "upload"))
            return Result(directory=directory)
        headers = await httpaccess.headers(self._job.sessions, url, dict(source.attributes))
        got = await self._bench.workshop.call(
            "download", url=url, directory=str(directory), checksum=checksum, headers=headers
        )
        self._job.resolved[url] = got["digest"]
        path = directory / got["name"]
        name = source.attribute("http.filename")
        if name and name not in (".", "..") and "/" not in name:
            path = path.rename(directory / name)
        uid, gid = (_number(source.attribute(f"http.{each}"), 10) for each in ("uid", "gid"))
        if uid or gid:
            os.chown(path, uid or 0, gid or 0, follow_symlinks=False)
        mode = _number(source.attribute("http.perm"), 8)
        if mode is not None:
            os.chmod(path, mode & 0o7777)
        return Result(directory=directory)

    async def _uploaded(self, url: str, path: Path) -> None:
        if not self._job.sessions:
            raise NotFound(f"{url}: no session to take it from")
        await self._job.sessions[0].fetch_upload(url, path)


def _patterns(text: str) -> tuple[str, ...]:
    """A JSON list of strings, as clients write them."""
    if not text:
        return ()
    try:
        found = json.loads(text)
    except ValueError:
        raise InvalidArgument(f"invalid patterns of a local source: {text[:200]}") from None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found) or len(found) > _LIMIT:
        raise InvalidArgument("invalid patterns of a local source: no list of strings")
    return tuple(found)


def _number(text: str, base: int) -> int | None:
    """`http.perm` is octal, with or without a leading 0 (or Go's 0o)."""
    if not text:
        return None
    try:
        return int(text.removeprefix("0o"), base)
    except ValueError:
        raise InvalidArgument(f"invalid number {text[:50]!r} in a source's attributes") from None
