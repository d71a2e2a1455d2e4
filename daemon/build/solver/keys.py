"""Cache keys of steps: digests of what is done, of the tree it is done upon and of the contents that are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.graph import CopyFiles, Exec, File, describe, digest_of
from storage.errors import NotFound

_MAX_DIGESTS = 20_000


def file_key(file: File, chain: str, read: Sequence[str]) -> str:
    """`chain`: chain ID of the tree; `read`: content digests, in the order of the actions."""
    return digest_of(["file", describe(file), chain, list(read)])


def exec_key(process: Exec, chain: str, read: Sequence[str]) -> str:
    """`read`: of the mounts that have an input, in their order. Proxies and the epoch are nobody's content."""
    described = describe(process)
    described.pop("proxy")
    described["env"] = [each for each in process.env if not each.startswith("SOURCE_DATE_EPOCH=")]
    return digest_of(["exec", described, chain, list(read)])


def numbered(key: str, count: int) -> list[str]:
    """The keys of a step's outputs."""
    return [key, *(digest_of([key, number]) for number in range(1, count))]


def outputs(process: Exec) -> int:
    return max(1 + max((mount.output for mount in process.mounts), default=0), 1)


class Keys:
    """Makes the keys of one job's steps."""

    def __init__(self, bench: Bench, job: Job, bring: Callable[[Result], Awaitable[None]]) -> None:
        """`bring` is called before a tree of layers is read: they must be here."""
        self._bench, self._job, self._bring = bench, job, bring
        self._directories: dict[tuple[Any, ...], str] = {}
        """Contents of the job's own directories, which don't change while it runs."""

    async def contents(
        self,
        tree: Result,
        paths: tuple[str, ...],
        wildcard: bool,
        excludes: tuple[str, ...],
        claims: bool = False,
    ) -> str:
        """Digest of what is read of a tree; remembered for layers. `claims`: an imported cache may tell."""
        memo = (tree.chain, paths, wildcard, excludes)
        if tree.directory is None:
            known = self._bench.digests.get(memo)
            if known is None and claims and self._job.imported is not None:
                known = self._job.imported.read(memo)
            if known is not None:
                self._job.reads[memo] = known
                return known
            await self._bring(tree)
        else:
            place = (tree.directory, *memo)
            known = self._directories.get(place) or self._bench.digests.get(place)
            if known is not None:
                return known
        found = await self._digest(tree, paths, wildcard, excludes)
        self._remember(tree.directory, memo, found)
        return found

    async def _digest(
        self, tree: Result, paths: tuple[str, ...], wildcard: bool, excludes: tuple[str, ...]
    ) -> str:
        try:
            found: str = await self._bench.workshop.call(
                "digest",
                tree=self._bench.overlay(tree),
                paths=[path.replace("/./", "/") for path in paths],
                wildcard=wildcard,
                excludes=list(excludes),
            )
        except NotFound as error:  # in the words that people look for
            ref = f"{self._job.id}::{digest_of(paths)[7:32]}"
            raise NotFound(
                f"failed to compute cache key: failed to calculate checksum of ref {ref}: {error}"
            ) from None
        return found

    def _remember(self, directory: Path | None, memo: Any, found: str) -> None:
        if directory is not None:
            self._directories[directory, *memo] = found
            if not self._bench.sessions.contexts.keeps(directory):
                return
            memo = (directory, *memo)  # a kept context's name is that of one state of it
        else:
            self._job.reads[memo] = found
        if len(self._bench.digests) > _MAX_DIGESTS:
            self._bench.digests.clear()
        self._bench.digests[memo] = found

    async def file(self, file: File, inputs: Sequence[Result], claims: bool) -> str:
        read = []
        for action in file.actions:
            if isinstance(action, CopyFiles):
                tree = inputs[action.input]
                read.append(
                    await self.contents(tree, action.sources, action.wildcard, action.excludes, claims)
                )
        return file_key(file, inputs[0].chain, read)

    async def exec(self, process: Exec, inputs: Sequence[Result], claims: bool) -> str:
        read = []
        for mount in process.mounts:
            if mount.input >= 0:
                tree = inputs[mount.input]
                whole = mount.output > 0 or tree is SCRATCH
                read.append(
                    tree.chain if whole else await self.contents(tree, (mount.source,), False, (), claims)
                )
        return exec_key(process, inputs[0].chain, read)
