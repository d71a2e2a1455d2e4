"""The service LLBBridge: a front end's calls, led to the build that they are about."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from api.buildkit import caps
from api.buildkit.answering import answering, refusal, unimplemented
from api.buildkit.workers import worker
from daemon.build.dockerfile.source import Span
from daemon.build.doors.bridge import Bridge
from daemon.build.doors.fronts import Front, FrontResult, Ref
from daemon.build.proto import fsutil_pb2, gateway_pb2, ops_pb2
from daemon.build.steps import Remark
from daemon.images.platforms import Platform
from daemon.rpc.serving import Call, Service
from daemon.rpc.status import Refusal, Status
from storage.errors import PydError

if TYPE_CHECKING:
    from daemon.engine import Engine

BUILD = "buildkit-controlapi-buildid"
"""The metadata that names the build."""


class Bridges(Service):
    descriptor = gateway_pb2.DESCRIPTOR.services_by_name["LLBBridge"]

    def __init__(self, engine: Engine, front: Front | None = None) -> None:
        """`front`: the one on this connection; else the clients of builds that the calls name."""
        self._engine, self._front = engine, front

    async def _asking(self, stream: Call) -> Front:
        if self._front is not None:
            return self._front
        ref = stream.metadata.get(BUILD)
        if not ref:
            raise Refusal(Status.UNKNOWN, "no buildid found in context")
        return (await self._engine.builds.gateway().find(ref)).client

    async def _answer(self, stream: Call, work: Callable[[Front, Any], Coroutine[Any, Any, Any]]) -> None:
        async with answering(stream) as request:
            front = await self._asking(stream)
            await stream.send_message(await front.bridge.attend(work(front, request)))

    async def Ping(self, stream: Call) -> None:
        async with answering(stream):
            answer = gateway_pb2.PongResponse(
                frontend_api_caps=caps.listed(caps.FRONTEND),
                llb_caps=caps.listed(caps.LLB),
                workers=[worker(self._engine)],
            )
            await stream.send_message(answer)

    async def Solve(self, stream: Call) -> None:
        await self._answer(stream, _solve)

    async def Return(self, stream: Call) -> None:
        await self._answer(stream, _return)

    async def Inputs(self, stream: Call) -> None:
        await self._answer(stream, _inputs)

    async def Evaluate(self, stream: Call) -> None:
        await self._answer(stream, _evaluate)

    async def ReadFile(self, stream: Call) -> None:
        await self._answer(stream, _read_file)

    async def ReadDir(self, stream: Call) -> None:
        await self._answer(stream, _read_dir)

    async def StatFile(self, stream: Call) -> None:
        await self._answer(stream, _stat_file)

    async def ResolveImageConfig(self, stream: Call) -> None:
        await self._answer(stream, _resolve_image)

    async def ResolveSourceMeta(self, stream: Call) -> None:
        await self._answer(stream, _resolve_source)

    async def Warn(self, stream: Call) -> None:
        await self._answer(stream, _warn)

    async def NewContainer(self, stream: Call) -> None:
        await self._answer(stream, _new_container)

    async def ReleaseContainer(self, stream: Call) -> None:
        await self._answer(stream, _release_container)

    async def ExecProcess(self, stream: Call) -> None:
        from daemon.build.doors.containers import Talk

        front = await self._asking(stream)
        await stream.send_initial_metadata()
        try:
            talk = Talk(front.containers, stream.recv_message, stream.send_message)
            await front.bridge.attend(talk.run())
        except PydError as error:
            raise refusal(error) from error

    async def ReadFileContainer(self, stream: Call) -> None:
        unimplemented("looking into containers of front ends")

    async def ReadDirContainer(self, stream: Call) -> None:
        unimplemented("looking into containers of front ends")

    async def StatFileContainer(self, stream: Call) -> None:
        unimplemented("looking into containers of front ends")


# -- results


async def _solve(front: Front, request: gateway_pb2.SolveRequest) -> gateway_pb2.SolveResponse:
    definition = request.definition if request.HasField("definition") else None
    found = await front.bridge.solve(
        request.frontend,
        dict(request.frontend_opt),
        definition,
        dict(request.frontend_inputs),
        evaluate=request.evaluate,
        policies=request.source_policies,
    )
    answer = gateway_pb2.SolveResponse(
        result=_result(front.bridge, found, arrays=request.allow_result_array_ref)
    )
    if not request.allow_result_return:
        answer.ref = found.ref.id if found.ref else ""
    return answer


def _result(bridge: Bridge, found: FrontResult, *, arrays: bool) -> gateway_pb2.Result:
    result = gateway_pb2.Result(metadata=found.metadata)
    if found.refs is not None:
        for name, ref in found.refs.items():
            if arrays:
                result.refs.refs[name].CopyFrom(_shown(bridge, ref))
            else:
                result.refs_deprecated.refs[name] = ref.id
    elif arrays:
        result.ref.CopyFrom(_shown(bridge, found.ref))
    else:
        result.ref_deprecated = found.ref.id if found.ref else ""
    return result


def _shown(bridge: Bridge, ref: Ref | None) -> gateway_pb2.Ref:
    if ref is None or not ref.id:
        return gateway_pb2.Ref()
    return gateway_pb2.Ref(id=ref.id, definition=bridge.definition(ref))


async def _return(front: Front, request: gateway_pb2.ReturnRequest) -> gateway_pb2.ReturnResponse:
    if request.HasField("error"):
        front.fail(request.error.message, request.error)
        return gateway_pb2.ReturnResponse()
    result = request.result
    metadata = dict(result.metadata)
    kind = result.WhichOneof("result")
    if kind == "refs":
        refs = {name: front.bridge.ref(ref.id) for name, ref in result.refs.refs.items()}
        front.give(FrontResult(refs=refs, metadata=metadata))
    elif kind == "refs_deprecated":
        refs = {name: front.bridge.ref(id) for name, id in result.refs_deprecated.refs.items()}
        front.give(FrontResult(refs=refs, metadata=metadata))
    else:
        id = result.ref.id if kind == "ref" else result.ref_deprecated
        front.give(FrontResult(ref=front.bridge.ref(id), metadata=metadata))
    return gateway_pb2.ReturnResponse()


async def _inputs(front: Front, request: gateway_pb2.InputsRequest) -> gateway_pb2.InputsResponse:
    return gateway_pb2.InputsResponse(definitions=front.inputs)


async def _evaluate(front: Front, request: gateway_pb2.EvaluateRequest) -> gateway_pb2.EvaluateResponse:
    await front.bridge.evaluate(request.ref)
    return gateway_pb2.EvaluateResponse()


async def _new_container(
    front: Front, request: gateway_pb2.NewContainerRequest
) -> gateway_pb2.NewContainerResponse:
    await front.containers.create(request)
    return gateway_pb2.NewContainerResponse()


async def _release_container(
    front: Front, request: gateway_pb2.ReleaseContainerRequest
) -> gateway_pb2.ReleaseContainerResponse:
    await front.containers.release(request.container_id)
    return gateway_pb2.ReleaseContainerResponse()


# -- files


async def _read_file(front: Front, request: gateway_pb2.ReadFileRequest) -> gateway_pb2.ReadFileResponse:
    data = await front.bridge.read_file(
        request.ref, request.file_path, request.range.offset, request.range.length
    )
    return gateway_pb2.ReadFileResponse(data=data)


async def _read_dir(front: Front, request: gateway_pb2.ReadDirRequest) -> gateway_pb2.ReadDirResponse:
    entries = await front.bridge.read_directory(request.ref, request.dir_path, request.include_pattern)
    return gateway_pb2.ReadDirResponse(entries=[fsutil_pb2.Stat(**each) for each in entries])


async def _stat_file(front: Front, request: gateway_pb2.StatFileRequest) -> gateway_pb2.StatFileResponse:
    found = await front.bridge.stat_file(request.ref, request.path)
    return gateway_pb2.StatFileResponse(stat=fsutil_pb2.Stat(**found))


# -- sources


def _platform(request: Any) -> Platform | None:
    if not request.HasField("platform"):
        return None
    named = request.platform
    return Platform(named.os, named.architecture, named.variant)


async def _resolve_image(
    front: Front, request: gateway_pb2.ResolveImageConfigRequest
) -> gateway_pb2.ResolveImageConfigResponse:
    if request.resolver_type:
        unimplemented("resolving configurations of OCI layouts")
    found = await front.bridge.image(
        request.ref, _platform(request), request.resolve_mode, request.source_policies, request.log_name
    )
    return gateway_pb2.ResolveImageConfigResponse(digest=found.digest, config=found.config, ref=found.name)


async def _resolve_source(
    front: Front, request: gateway_pb2.ResolveSourceMetaRequest
) -> gateway_pb2.ResolveSourceMetaResponse:
    source, policies = request.source, request.source_policies
    identifier, attributes = front.bridge.source(source.identifier, dict(source.attrs), policies)
    answer = gateway_pb2.ResolveSourceMetaResponse(
        source=ops_pb2.SourceOp(identifier=identifier, attrs=attributes)
    )
    scheme, _, name = identifier.partition("://")
    if scheme == "docker-image":
        found = await front.bridge.image(
            name, _platform(request), request.resolve_mode, policies, request.log_name
        )
        answer.image.digest = found.digest
        if not request.image.no_config:
            answer.image.config = found.config
    return answer


async def _warn(front: Front, request: gateway_pb2.WarnRequest) -> gateway_pb2.WarnResponse:
    front.bridge.warn(
        request.digest,
        Remark(
            request.short.decode("utf-8", "replace"),
            tuple(each.decode("utf-8", "replace") for each in request.detail),
            request.url,
            request.level,
            request.info.filename,
            request.info.data,
            tuple(Span(each.start.line, max(each.end.line, each.start.line)) for each in request.ranges),
        ),
    )
    return gateway_pb2.WarnResponse()
