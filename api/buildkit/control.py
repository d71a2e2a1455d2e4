"""The service Control: builds, their status, the cache and the history."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from api.buildkit.answering import answering, refusal
from api.buildkit.tunnel import carry
from api.buildkit.workers import VERSION, worker
from daemon.build.doors.bridge import Bridge
from daemon.build.doors.gateway import CacheSpec, Order
from daemon.build.doors.history import COMPLETE, DELETED, STARTED, Past
from daemon.build.doors.telling import Teller, moment
from daemon.build.outcome import ExporterRequest
from daemon.build.proto import control_pb2, rpc_pb2
from daemon.build.upkeep.inventory import Record
from daemon.config import CacheRule
from daemon.images import times
from daemon.images.model import digest_of
from daemon.rpc.serving import Call, Service
from storage.errors import PydError

if TYPE_CHECKING:
    from daemon.engine import Engine

PAUSE = 0.03
"""Seconds between status messages of a busy build."""
STATEMENT = "application/vnd.in-toto+json"
LOGS = "application/vnd.buildkit.status.v0"
FAILURE = "application/vnd.googeapis.google.rpc.status+proto"
"""So it is spelled there."""
_NOW = "buildkit-current-timestamp"
"""The header that tells the clock here: clients show how long ago a build was."""
_EVENTS = {
    STARTED: control_pb2.BuildHistoryEventType.STARTED,
    COMPLETE: control_pb2.BuildHistoryEventType.COMPLETE,
    DELETED: control_pb2.BuildHistoryEventType.DELETED,
}


class Control(Service):
    descriptor = control_pb2.DESCRIPTOR.services_by_name["Control"]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- builds

    async def Solve(self, stream: Call) -> None:
        async with answering(stream) as request:
            answer = await self._engine.builds.gateway().solve(order_of(request))
            await stream.send_message(control_pb2.SolveResponse(exporter_response=answer))

    async def Status(self, stream: Call) -> None:
        async with answering(stream) as request:
            found = await self._engine.builds.gateway().follow(request.ref)
            await stream.send_initial_metadata()
            if isinstance(found, Bridge):
                await _follow(stream, found)
                return
            for message in await self._engine.builds.gateway().history.log(found):
                await stream.send_message(control_pb2.StatusResponse.FromString(message))

    async def Session(self, stream: Call) -> None:
        try:
            await carry(stream, self._engine.builds.sessions)
        except (PydError, OSError) as error:
            raise refusal(error) from error

    # -- the engine

    async def ListWorkers(self, stream: Call) -> None:
        async with answering(stream):
            await stream.send_message(control_pb2.ListWorkersResponse(record=[worker(self._engine)]))

    async def Info(self, stream: Call) -> None:
        async with answering(stream):
            await stream.send_message(control_pb2.InfoResponse(buildkit_version=VERSION))

    async def DiskUsage(self, stream: Call) -> None:
        async with answering(stream) as request:
            records = await self._engine.builds.records(list(request.filter))
            shown = [_usage(each) for each in records]
            await stream.send_message(control_pb2.DiskUsageResponse(record=shown))

    async def Prune(self, stream: Call) -> None:
        async with answering(stream) as request:
            gone, _ = await self._engine.builds.prune(
                CacheRule(
                    all=request.all,
                    filters=tuple(request.filter),
                    unused_for=request.keep_duration,
                    reserved=request.reserved_space,
                    most=request.max_used_space,
                    free=request.min_free_space,
                )
            )
            await stream.send_initial_metadata()
            for each in gone:
                await stream.send_message(_usage(each))

    # -- the history

    async def ListenBuildHistory(self, stream: Call) -> None:
        async with answering(stream) as request:
            history = self._engine.builds.gateway().history
            await stream.send_initial_metadata([(_NOW, times.rfc3339(time.time_ns()))])
            events = history.listen(
                ref=request.ref,
                active_only=request.active_only,
                early_exit=request.early_exit,
                filters=list(request.filter),
                limit=request.limit,
            )
            async with contextlib.aclosing(events):
                async for event, past in events:
                    await stream.send_message(
                        control_pb2.BuildHistoryEvent(type=_EVENTS[event], record=_record(past))
                    )

    async def UpdateBuildHistory(self, stream: Call) -> None:
        async with answering(stream) as request:
            history = self._engine.builds.gateway().history
            if request.delete:
                history.delete(request.ref)
            elif request.finalize:
                await history.finalize(request.ref)
            else:
                history.pin(request.ref, request.pinned)
            await stream.send_message(control_pb2.UpdateBuildHistoryResponse())


async def _follow(stream: Call, bridge: Bridge) -> None:
    """Until the build ends; a client that stops listening ends only this."""
    teller = Teller()
    async with contextlib.aclosing(bridge.job.feed.read(PAUSE)) as changes:
        async for changed in changes:
            for message in teller.tell(changed):
                await stream.send_message(message)


def order_of(request: control_pb2.SolveRequest) -> Order:
    """The request, with what old clients say otherwise (control.go, translateLegacySolveRequest)."""
    exporters = [(each.type, dict(each.attrs)) for each in request.exporters]
    if not exporters and request.exporter_deprecated:
        exporters = [(request.exporter_deprecated, dict(request.exporter_attrs_deprecated))]
    epoch = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH")
    if epoch is not None:
        for _, attrs in exporters:
            attrs.setdefault("source-date-epoch", epoch)
    cache = request.cache
    imports: list[CacheSpec] = [(each.type, dict(each.attrs)) for each in cache.imports]
    imports += [("registry", {"ref": ref}) for ref in cache.import_refs_deprecated]
    exports: list[CacheSpec] = [(each.type, dict(each.attrs)) for each in cache.exports]
    if cache.export_ref_deprecated:
        exports.append(("registry", {**cache.export_attrs_deprecated, "ref": cache.export_ref_deprecated}))
    return Order(
        ref=request.ref,
        session=request.session,
        frontend=request.frontend,
        attrs=dict(request.frontend_attrs),
        definition=request.definition if request.HasField("definition") else None,
        inputs=dict(request.frontend_inputs),
        exporters=tuple(ExporterRequest(n, *each) for n, each in enumerate(exporters)),
        cache_imports=tuple(imports),
        cache_exports=tuple(exports),
        entitlements=frozenset(request.entitlements),
        policy=request.source_policy if request.HasField("source_policy") else None,
        internal=request.internal,
    )


def _usage(record: Record) -> control_pb2.UsageRecord:
    shown = control_pb2.UsageRecord(
        id=record.id,
        mutable=record.mutable,
        in_use=record.in_use,
        size=record.size,
        parents=record.parents,
        usage_count=record.uses,
        description=record.description,
        record_type=record.type,
        shared=record.shared,
    )
    shown.created_at.CopyFrom(moment(record.created))
    shown.last_used_at.CopyFrom(moment(record.used))
    return shown


def _record(past: Past) -> control_pb2.BuildHistoryRecord:
    record = control_pb2.BuildHistoryRecord(
        ref=past.ref,
        frontend=past.frontend,
        frontend_attrs=past.attrs,
        exporters=[control_pb2.Exporter(type=kind, attrs=attrs) for kind, attrs in past.exporters],
        created_at=moment(past.created),
        exporter_response=past.answer,
        generation=past.generation,
        pinned=past.pinned,
        num_cached_steps=past.cached,
        num_total_steps=past.steps,
        num_completed_steps=past.finished,
        num_warnings=past.warnings,
    )
    if past.completed:
        record.completed_at.CopyFrom(moment(past.completed))
        record.logs.CopyFrom(control_pb2.Descriptor(media_type=LOGS, digest=past.log, size=past.size))
    for proof in past.proofs:
        place = record.results[proof.platform] if past.several else record.result
        place.attestations.add(
            media_type=STATEMENT,
            digest=proof.digest,
            size=proof.size,
            annotations={"in-toto.io/predicate-type": proof.kind},
        )
    if past.result is not None:
        maker, descriptor = past.result
        made = control_pb2.Descriptor(
            media_type=descriptor["mediaType"],
            digest=descriptor["digest"],
            size=descriptor["size"],
            annotations=descriptor.get("annotations") or {},
        )
        record.result.result_deprecated.CopyFrom(made)
        record.result.results[maker].CopyFrom(made)
    if past.error:
        record.error.CopyFrom(rpc_pb2.Status.FromString(past.failure))
        record.error.ClearField("details")
        size, digest = len(past.failure), digest_of(past.failure)
        record.external_error.CopyFrom(control_pb2.Descriptor(media_type=FAILURE, digest=digest, size=size))
    return record
