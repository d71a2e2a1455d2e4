"""The exporters local and tar: what was built as files, with the attestations beside.

Several platforms are directories of their own (linux_amd64) unless platform-split=false; then no two may have
the same file. Source: BuildKit exporter/local, exporter/tar.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.build.bench import Bench, Job
from daemon.build.export import documents, options, statements
from daemon.build.outcome import Attestation, ExporterRequest, Made, Outcome
from daemon.build.session.sessions import Session
from daemon.build.steps import Progress
from daemon.images.transfer.parent import Worker
from storage.errors import InvalidArgument
from storage.gc import Layer

Tree = dict[str, Any]


@dataclass(frozen=True)
class _Part:
    """One platform's files."""

    platform: str
    label: str
    """What its progress is called by."""
    prefix: str
    trees: tuple[Tree, ...]


class Files:
    def __init__(
        self,
        bench: Bench,
        job: Job,
        worker: Worker,
        exporter: ExporterRequest,
        epoch: str | None,
        progress: Progress,
        session: Session | None,
    ) -> None:
        self._bench, self._job, self._worker, self._progress = bench, job, worker, progress
        self._exporter, self._session = exporter, session
        self._options = options.parse_files(exporter.attrs, epoch)

    async def export(self, outcome: Outcome, attestations: Sequence[Attestation]) -> dict[str, str]:
        if self._session is None:
            raise InvalidArgument(f"the exporter {self._exporter.type} needs a session to send files over")
        if len(outcome.made) > 1 and not outcome.multi:
            raise InvalidArgument("unable to export multiple platforms without map")
        local = self._exporter.type == "local"
        split = outcome.multi if self._options.split is None or not local else self._options.split
        parts = [
            await self._part(made, place, attestations, split=split, several=outcome.multi)
            for place, made in enumerate(outcome.made)
        ]
        if not split and len(parts) > 1:
            await self._check_overlap(parts)
        await (self._send_local(parts) if local else self._send_archive(parts))
        return {}

    async def _part(
        self,
        made: Made,
        place: int,
        attestations: Sequence[Attestation],
        *,
        split: bool,
        several: bool,
    ) -> _Part:
        if made.result.chain:
            self._job.lease.add(Layer(made.result.chain))
        tree = self._bench.overlay(made.result) or {"lower": []}
        name = str(made.platform).replace("/", "_")
        said = [each for each in attestations if each.platform_index == place and not each.inline_only]
        beside = []
        if said:
            beside = [await self._statements(tree, said, name if several and not split else "")]
        label = f"copying files {made.platform}" if split else "copying files"
        return _Part(str(made.platform), label, name if split else "", (tree, *beside))

    async def _statements(self, tree: Tree, said: Sequence[Attestation], platform: str) -> Tree:
        """A directory with the attestations, each of which speaks of all files."""
        files = await self._worker.call("file_digests", tree=tree)
        subjects = [(path, {"sha256": digest}) for path, digest in files]
        directory = self._job.directory / f"attestations-{os.urandom(6).hex()}"

        def write() -> None:
            directory.mkdir()
            for each in said:
                name = _file_name(self._options.prefix, each.path, platform)
                path = directory / name
                if path.exists():
                    raise InvalidArgument(f"duplicate attestation path name {name}")
                path.write_bytes(documents.reindented(statements.statement(each, subjects)))
                path.chmod(0o600)

        await asyncio.to_thread(write)
        return {"lower": [str(directory)]}

    async def _check_overlap(self, parts: Sequence[_Part]) -> None:
        seen: dict[str, str] = {}
        for part in parts:
            for path, _ in await self._worker.call("file_digests", tree=part.trees[0]):
                other = seen.setdefault(path, part.platform)
                if other != part.platform:
                    raise InvalidArgument(
                        f"cannot overwrite {path} from {other} with {part.platform}"
                        " when split option is disabled"
                    )

    async def _send_local(self, parts: Sequence[_Part]) -> None:
        assert self._session is not None
        for part in parts:
            with self._progress.status(part.label) as status:
                for tree in part.trees:
                    await self._session.send_tree(
                        self._exporter.id, tree, prefix=part.prefix, status=status, time=self._options.epoch
                    )

    async def _send_archive(self, parts: Sequence[_Part]) -> None:
        assert self._session is not None
        trees = [{**tree, "prefix": part.prefix} for part in parts for tree in part.trees]
        root: Path = self._bench.store.content.root

        async def produce(fd: int) -> None:
            worker = Worker(root, os.dup(fd))
            try:
                await worker.call("save_trees", trees=trees, epoch=self._options.epoch)
            finally:
                await worker.close(kill=True)

        with self._progress.status("sending tarball"):
            await self._session.send_file(self._exporter.id, produce, {})


def _file_name(prefix: str, path: str, platform: str) -> str:
    name = prefix + os.path.basename(path)
    if not platform:
        return name
    stem, extension = os.path.splitext(name)
    return f"{stem}.{platform}{extension}"
