"""What builds keep, from all of its keepers: shown, pruned when asked, collected by age and size when nobody asks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from daemon.build.bench import Bench
from daemon.build.session.contexts import Kept
from daemon.build.upkeep.cache import Entry, identifier
from daemon.build.upkeep.inventory import LOCAL, REGULAR, Record, chosen, matcher, rules
from daemon.clock import rfc3339
from daemon.config import CacheRule
from storage.errors import Conflict
from storage.gc import Layer


class Housekeeping:
    """One instance a daemon. `prune` is refused (Conflict) while another one runs."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._pruning = False

    async def records(self, filters: Sequence[str] = ()) -> list[Record]:
        """The oldest first. InvalidArgument for a filter of no sense."""
        matches = matcher(filters)
        found = [*self._layers(), *await self._bench.cache_mounts.records(), *self._contexts()]
        return sorted((each for each in found if matches(each)), key=lambda each: each.created)

    def _layers(self) -> list[Record]:
        """One for each tree that a step made, whatever keys it is known by."""
        bench = self._bench
        held = {chain for image in bench.store for chain in image.chain_ids}
        by_chain: dict[str, list[Entry]] = {}
        for entry in bench.cache.entries.values():
            by_chain.setdefault(entry.chain or entry.key, []).append(entry)
        found = []
        for name, entries in by_chain.items():
            last = max(entries, key=lambda each: each.used)
            users = bench.store.collector.leases(Layer(name))
            found.append(
                Record(
                    id=identifier(name),
                    type=REGULAR,
                    description=last.text,
                    size=last.size,
                    created=min(each.created for each in entries),
                    used=last.used,
                    uses=sum(each.uses for each in entries),
                    name=name,
                    parents=(identifier(last.parent),) if last.parent in by_chain else (),
                    in_use=users > len(entries) or any(each.key in bench.running for each in entries),
                    shared=name in held,
                )
            )
        return found

    def _contexts(self) -> list[Record]:
        contexts = self._bench.sessions.contexts
        return [_of_context(kept, busy=contexts.busy(kept)) for kept in contexts.all()]

    # -- removing

    async def prune(self, rule: CacheRule) -> tuple[list[Record], int]:
        """What went, and the bytes that came free with it."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            records = await self.records()
            gone = chosen(records, rule, time.time_ns(), self._free())
            await self._remove(gone)
        finally:
            self._pruning = False
        return gone, sum(record.size for record in gone if not record.shared)

    async def _remove(self, gone: Sequence[Record]) -> None:
        bench = self._bench
        layers = {record.name for record in gone if record.type == REGULAR}
        if layers:
            keys = [key for key, entry in bench.cache.entries.items() if (entry.chain or key) in layers]
            await bench.cache.forget(keys)
            await bench.store.collect()
        mounts = [r.name for r in gone if r.mutable and r.type != LOCAL]
        await bench.cache_mounts.remove(mounts)
        contexts = bench.sessions.contexts
        wanted = {record.name for record in gone if record.type == LOCAL}
        if wanted:
            await contexts.remove([kept for kept in contexts.all() if kept.key in wanted])

    def _free(self) -> int:
        found = os.statvfs(self._bench.ctx.config.data_root)
        return found.f_bavail * found.f_frsize

    async def collect(self) -> int:
        """Garbage collection, one rule after the other; the bytes that came free."""
        config = self._bench.ctx.config
        found = os.statvfs(config.data_root)
        freed = 0
        for rule in rules(config.builder, found.f_blocks * found.f_frsize):
            with contextlib.suppress(Conflict):
                freed += (await self.prune(rule))[1]
        return freed


def _of_context(kept: Kept, *, busy: bool) -> Record:
    return Record(
        id=kept.id,
        type=LOCAL,
        description=kept.description,
        size=kept.size,
        created=kept.created,
        used=kept.used,
        uses=kept.uses,
        name=kept.key,
        in_use=busy,
        mutable=True,
    )


def row(record: Record) -> dict[str, Any]:
    """As the Engine API's BuildCache has it."""
    return {
        "ID": record.id,
        "Parents": list(record.parents) or None,
        "Type": record.type,
        "Description": record.description,
        "InUse": record.in_use,
        "Shared": record.shared,
        "Size": record.size,
        "CreatedAt": rfc3339(record.created),
        "LastUsedAt": rfc3339(record.used),
        "UsageCount": record.uses,
    }
