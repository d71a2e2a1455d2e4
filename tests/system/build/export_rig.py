"""Exporters without a door: an image service, layers made by hand, a client that takes what is sent to it.

python -m tests.system.build.export_rig ROOT       exports an index under the name x, to be killed meanwhile
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.build.bench import Bench, Job, Result
from daemon.build.export import export
from daemon.build.files import layers
from daemon.build.outcome import Attestation, BuildRecord, ExporterRequest, Made, Outcome
from daemon.config import DaemonConfig
from daemon.images.made import Unpacked
from daemon.images.model import AuthConfig
from daemon.images.platforms import Platform
from daemon.images.service import ImageService
from daemon.images.sessions import Patience
from storage.content import ContentStore
from storage.records import Records
from storage.snapshots import OverlaySnapshotter

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
PROVENANCE = "https://slsa.dev/provenance/v0.2"
MADE_AT = 1_700_000_000 * 10**9 + 123_000_000


class Client:
    """The session's other end: archives and trees land in a directory."""

    def __init__(self, directory: Path, auth: AuthConfig | None = None) -> None:
        self.directory, self.auth = directory, auth
        self.metadata: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        directory.mkdir(parents=True, exist_ok=True)

    async def credentials(self, host: str) -> AuthConfig | None:
        return self.auth

    async def send_file(self, exporter_id: int | str, source: Any, metadata: Mapping[str, str]) -> None:
        self.metadata = dict(metadata)
        reading, writing = os.pipe()
        taking = asyncio.create_task(asyncio.to_thread(self._take, reading))
        try:
            await source(writing)
        finally:
            os.close(writing)
            await taking

    def _take(self, reading: int) -> None:
        with open(reading, "rb") as pipe, (self.directory / "out.tar").open("wb") as file:
            shutil.copyfileobj(pipe, file)

    async def send_tree(
        self, exporter_id: int | str, tree: Any, *, prefix: str = "", status: Any = None, time: Any = None
    ) -> None:
        for directory in reversed(tree["lower"]):
            shutil.copytree(directory, self.directory / prefix, dirs_exist_ok=True, symlinks=True)

    def content(self, store: str) -> Any:
        async def write(descriptor: Mapping[str, Any], path: Path) -> None:
            self.blobs[descriptor["digest"]] = await asyncio.to_thread(path.read_bytes)

        return SimpleNamespace(write=write)

    @property
    def archive(self) -> Path:
        return self.directory / "out.tar"


class Rig:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple[Any, ...]] = []
        config = DaemonConfig(data_root=root, exec_root=root / "run")
        root.mkdir(parents=True, exist_ok=True)
        self.images = ImageService(
            ContentStore(root / "content"),
            OverlaySnapshotter(root / "snapshots"),
            Records(root / "pyd.db"),
            lambda *event: self.events.append(event),
            config,
            patience=Patience(),
        )
        events = SimpleNamespace(publish=lambda *event: self.events.append(event))
        self.ctx: Any = SimpleNamespace(images=self.images, events=events, config=config)
        self.store = self.images.store
        cache: Any = SimpleNamespace(entries={})
        needed = inspect.signature(Bench).parameters
        known = {"ctx": self.ctx, "store": self.store, "cache": cache, "spool": root / "tmp"}
        required = [name for name, each in needed.items() if each.default is inspect.Parameter.empty]
        self.bench = Bench(**{name: known.get(name) for name in required})  # type: ignore[arg-type]
        self.lease = self.store.lease()
        """On layers, as long as they are in the cache."""
        self.count = 0

    async def layer(self, files: Mapping[str, bytes], below: Result | None = None) -> Result:
        """A layer on top of another, as a step of a build leaves it: in the cache, with a time."""
        below = below or Result()
        key = f"build-{secrets.token_hex(8)}"
        self.store.snapshots.prepare(key, below.chain or None)
        upper = self.store.snapshots.layer_dir(key)
        for name, data in files.items():
            (upper / name).write_bytes(data)
            os.utime(upper / name, ns=(MADE_AT, MADE_AT))
        with self.store.ingesting():
            made = Unpacked(self.store, key, layers.make(upper, self.store.content).fields())
            chain = await made.commit(self.lease, below.diff_ids)
        self.bench.cache.entries[chain] = SimpleNamespace(chain=chain, created=MADE_AT, text="COPY")  # type: ignore[assignment]
        return Result((*below.diff_ids, made.diff_id))

    async def forget_cache(self) -> None:
        self.bench.cache.entries.clear()
        self.lease.release()
        await self.store.collect()

    @contextlib.asynccontextmanager
    async def job(self) -> AsyncIterator[Job]:
        self.count += 1
        directory = self.root / "tmp" / f"build-{secrets.token_hex(4)}"
        directory.mkdir(parents=True)
        with self.store.lease() as lease:
            yield Job(f"job{self.count}", directory, lease)
        shutil.rmtree(directory)

    async def export(
        self,
        outcome: Outcome,
        kind: str,
        attrs: Mapping[str, str],
        *,
        client: Client | None = None,
        said: Sequence[Attestation] = (),
        frontend: Mapping[str, str] | None = None,
        inline_cache: Sequence[bytes | None] | None = None,
    ) -> tuple[dict[str, str], list[str]]:
        """(the exporter's answer, its digest that of the manifest or index; the names of the statuses shown)"""
        async with self.job() as job:
            record = BuildRecord("ref", attrs=dict(frontend or {}))
            request = ExporterRequest(0, kind, attrs)
            session: Any = client
            job.sessions = (session,) if session else ()
            answer = await export(
                self.bench, job, self.ctx, outcome, request, record, session, said, inline_cache
            )
            if "containerimage.descriptor" in answer:  # tests ask for what was written, not for the image
                written = json.loads(base64.b64decode(answer["containerimage.descriptor"]))
                known = (written["digest"], answer.get("containerimage.config.digest"))
                assert answer["containerimage.digest"] in known
                answer["containerimage.digest"] = written["digest"]
            shown = [each.name for progress in job.progress.values() for each in progress.statuses.values()]
        return answer, shown

    async def save(self, path: Path, *names: str, platform: str = "") -> Path:
        data = [piece async for piece in self.images.save(names, platform)]
        await asyncio.to_thread(path.write_bytes, b"".join(data))
        return path

    async def load(self, path: Path, platform: str = "") -> list[dict[str, Any]]:
        """What was said."""
        data = await asyncio.to_thread(path.read_bytes)

        async def stream() -> AsyncIterator[bytes]:
            yield data

        lines = [line async for line in self.images.load(stream(), platform=platform)]
        assert not [line for line in lines if "error" in line], lines
        return lines

    def target(self, name: str) -> str:
        """The digest of what a name is bound to."""
        bound = self.store.bound(name)
        assert bound is not None
        return bound.target.digest

    def blob(self, digest: str) -> dict[str, Any]:
        return json.loads(self.store.content.read(digest))  # type: ignore[no-any-return]


def document(platform: Platform = AMD64, **config: Any) -> dict[str, Any]:
    return {
        "architecture": platform.architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "WorkingDir": "/", **config},
        "history": [
            {"created_by": "COPY a /a # buildkit", "comment": "buildkit.dockerfile.v0"},
            {"created_by": "CMD x", "comment": "buildkit.dockerfile.v0", "empty_layer": True},
        ],
        "rootfs": {},
    }


def one(result: Result, platform: Platform = AMD64, **config: Any) -> Made:
    return Made(platform, result, document(platform, **config))


def provenance(place: int = 0, **more: Any) -> Attestation:
    return Attestation(place, PROVENANCE, b'{"builder":{"id":""}}', **more)


async def several(rig: Rig) -> Outcome:
    """Two platforms that share a layer."""
    base = await rig.layer({"a": b"both"})
    return Outcome(
        (one(await rig.layer({"b": b"amd"}, base)), one(await rig.layer({"b": b"arm"}, base), ARM64)), True
    )


@contextlib.asynccontextmanager
async def started(root: Path) -> AsyncIterator[Rig]:
    rig = Rig(root)
    await rig.images.start()
    try:
        yield rig
    finally:
        await rig.images.stop()
        rig.store.records.close()


async def _main(root: Path) -> None:
    async with started(root) as rig:
        attrs = {"name": "x", "compression": "zstd", "oci-mediatypes": "true"}
        await rig.export(await several(rig), "moby", attrs, said=[provenance()])


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
