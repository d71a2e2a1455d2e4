"""Whose word counts first, ours or that of the imported caches: whichever gets further in this build.

A key has the tree in it that a step is done upon. Of a step that both have done the trees differ (times of files,
say), and whoever is asked first decides by whom the following steps can be known. So the graph is gone through
twice without doing anything, and the order that finds more of it is taken; ours when it makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.build.bench import SCRATCH, Bench, Imported, Result
from daemon.build.graph import Diff, Exec, File, Merge, Output, Source, Vertex
from daemon.build.solver.keys import Keys, numbered, outputs
from daemon.build.solver.lookup import Results


class Unknown(Exception):
    """A tree whose layers are not here would have to be read."""


class Probe:
    def __init__(self, bench: Bench, keys: Keys, imported: Imported) -> None:
        """`keys` must raise Unknown where it would bring layers."""
        self._bench, self._keys, self._imported = bench, keys, imported

    async def imported_first(self, vertices: Sequence[Vertex], sources: Mapping[str, Results]) -> bool:
        """`vertices`: inputs before those that use them. `sources`: what has been got already, by digest."""
        ours = await self._count(vertices, sources, imported_first=False)
        return await self._count(vertices, sources, imported_first=True) > ours

    async def _count(
        self, vertices: Sequence[Vertex], sources: Mapping[str, Results], *, imported_first: bool
    ) -> int:
        """Steps that would be found."""
        known = dict(sources)
        for vertex in vertices:
            if vertex.digest in known:
                continue
            inputs = [_of(each, known) for each in vertex.inputs]
            trees = [each for each in inputs if each is not None]
            if len(trees) == len(inputs) and not (trees and trees[0].directory is not None):
                found = await self._found(vertex, trees, imported_first)
                if found is not None:
                    known[vertex.digest] = found
        return len(known)

    async def _found(self, vertex: Vertex, inputs: list[Result], imported_first: bool) -> Results | None:
        operation = vertex.operation
        try:
            match operation:
                case Merge():
                    return (Result(tuple(diff_id for each in inputs for diff_id in each.diff_ids)),)
                case File():
                    keys = [await self._keys.file(operation, inputs, True)]
                case Exec():
                    keys = numbered(await self._keys.exec(operation, inputs, True), outputs(operation))
                case Diff() | Source():
                    return None
        except Unknown:
            return None
        if vertex.about.no_cache:
            return None
        found = [self._look(key, imported_first) for key in keys]
        return tuple(each for each in found if each is not None) if None not in found else None

    def _look(self, key: str, imported_first: bool) -> Result | None:
        entry = self._bench.cache.entries.get(key)
        own = None if entry is None else Result(entry.diff_ids)
        other = self._imported.find(key)
        return (other or own) if imported_first else (own or other)


def _of(output: Output | None, known: Mapping[str, Results]) -> Result | None:
    if output is None:
        return SCRATCH
    results = known.get(output.vertex.digest, ())
    return results[output.index] if output.index < len(results) else None
