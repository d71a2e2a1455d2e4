"""Containers: create, list, inspect, lifecycle, limits. Their streams are in container_streams.py."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from api.createversion import adapt
from api.models import answers, bodies
from api.operation import DELETE, GET, POST, Call, Resource, answer, empty, no_content
from api.query import FILTERS, flag, integer, several, string
from daemon.containers.wire import Config, CreateRequest
from storage.errors import InvalidArgument, PydError

RESOURCE = Resource("Container")
operation = RESOURCE.operation

NOT_USER_DEFINED = ("bridge", "host", "none")
STOP_QUERY = (string("signal"), integer("t", "Seconds before it is killed; -1 waits for ever."))


@operation(
    GET,
    "/containers/json",
    "ContainerList",
    query=(flag("all"), integer("limit"), flag("size"), FILTERS),
    returns=list[answers.ContainerSummary],
    errors=(400,),
)
async def list_containers(call: Call) -> Response:
    """Containers, newest first."""
    query = call.query
    listed = await call.engine.containers.list(
        all=query.flag("all"),
        limit=query.integer("limit") or 0,
        size=query.flag("size"),
        filters=query.filters(),
    )
    if call.version < (1, 46):
        for row in listed:
            row["HostConfig"].pop("Annotations", None)
    return answer(listed)


@operation(
    POST,
    "/containers/create",
    "ContainerCreate",
    query=(string("name"), string("platform")),
    body=CreateRequest,
    required=True,
    returns=answers.ContainerCreated,
    status=201,
    errors=(400, 404, 409),
)
async def create(call: Call) -> Response:
    """Makes a container; it does not run yet."""
    request = await call.json(CreateRequest, "CreateRequest", required=True)
    if not request.keys() - {"HostConfig", "NetworkingConfig"}:
        raise InvalidArgument("config cannot be empty in order to create a container")
    name = call.query.string("name") or None
    platform = call.query.string("platform") or None if call.version >= (1, 41) else None
    warnings = adapt(request, call.version, cgroups_v2=call.engine.system.cgroups_v2)
    created = await call.engine.containers.create(name, request, platform, call.version)
    created["Warnings"] = [*created["Warnings"], *warnings]
    return answer(created, 201)


@operation(
    GET,
    "/containers/{id}/json",
    "ContainerInspect",
    query=(flag("size"),),
    returns=answers.ContainerInspect,
    errors=(404,),
)
async def inspect(call: Call) -> Response:
    """All there is to know of a container."""
    found = await call.engine.containers.inspect(call.path("id"), size=call.query.flag("size"))
    if call.version < (1, 45):
        found = _with_dns_names(found)
    return answer(found)


def _with_dns_names(found: dict[str, Any]) -> dict[str, Any]:
    """Before DNSNames there was (1.45), an endpoint's aliases held the short ID and the host name too."""
    settings = found["NetworkSettings"]
    networks = dict(settings["Networks"])
    for name, endpoint in networks.items():
        if name not in NOT_USER_DEFINED:
            names = [*(endpoint.get("Aliases") or ()), found["Id"][:12], found["Config"]["Hostname"]]
            networks[name] = {**endpoint, "Aliases": list(dict.fromkeys(names))}
    return found | {"NetworkSettings": {**settings, "Networks": networks}}


@operation(
    GET,
    "/containers/{id}/top",
    "ContainerTop",
    query=(string("ps_args", "Arguments of ps."),),
    returns=answers.ContainerTop,
    errors=(400, 404, 409),
)
async def top(call: Call) -> Response:
    """The processes of a container."""
    return answer(await call.engine.containers.top(call.path("id"), call.query.string("ps_args")))


@operation(
    GET,
    "/containers/{id}/changes",
    "ContainerChanges",
    returns=list[answers.FilesystemChange] | None,
    errors=(404,),
)
async def changes(call: Call) -> Response:
    """Paths that differ from the image."""
    return answer(await call.engine.containers.changes(call.path("id")))


@operation(
    POST,
    "/containers/{id}/start",
    "ContainerStart",
    query=(string("detachKeys"),),
    status=204,
    errors=(304, 400, 404),
)
async def start(call: Call) -> Response:
    """Starts a container."""
    length = call.header("content-length") or "0"
    if call.header("transfer-encoding") or (length.isdigit() and int(length) > 7):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    keys = call.query.string("detachKeys") or None
    await call.engine.containers.start(call.path("id"), detach_keys=keys)
    return no_content()


@operation(
    POST, "/containers/{id}/stop", "ContainerStop", query=STOP_QUERY, status=204, errors=(304, 400, 404)
)
async def stop(call: Call) -> Response:
    """Stops a container: its stop signal first, SIGKILL after the time-out."""
    ref, options = call.path("id"), _stop_options(call)
    try:
        await call.engine.containers.stop(ref, **options)
    except InvalidArgument as error:
        raise InvalidArgument(f"cannot stop container: {ref}: {error}") from error
    return no_content()


@operation(
    POST, "/containers/{id}/restart", "ContainerRestart", query=STOP_QUERY, status=204, errors=(400, 404)
)
async def restart(call: Call) -> Response:
    """Stops and starts a container."""
    await call.engine.containers.restart(call.path("id"), **_stop_options(call))
    return no_content()


def _stop_options(call: Call) -> dict[str, Any]:
    signal = call.query.string("signal") if call.version >= (1, 42) else ""
    return {"timeout": call.query.integer("t"), "signal": signal or None}


@operation(
    POST,
    "/containers/{id}/kill",
    "ContainerKill",
    query=(string("signal", "Name or number; SIGKILL if absent."),),
    status=204,
    errors=(400, 404, 409),
)
async def kill(call: Call) -> Response:
    """Sends a signal to a container's first process."""
    ref = call.path("id")
    try:
        await call.engine.containers.kill(ref, call.query.string("signal") or None)
    except PydError as error:
        raise type(error)(f"cannot kill container: {ref}: {error}") from error
    return no_content()


@operation(POST, "/containers/{id}/pause", "ContainerPause", status=204, errors=(404, 409))
async def pause(call: Call) -> Response:
    """Freezes a container's processes."""
    await call.engine.containers.pause(call.path("id"))
    return no_content()


@operation(POST, "/containers/{id}/unpause", "ContainerUnpause", status=204, errors=(404, 409))
async def unpause(call: Call) -> Response:
    """Thaws a container's processes."""
    await call.engine.containers.unpause(call.path("id"))
    return no_content()


@operation(
    POST,
    "/containers/{id}/rename",
    "ContainerRename",
    query=(string("name", required=True),),
    status=204,
    errors=(400, 404, 409),
)
async def rename(call: Call) -> Response:
    """Gives a container another name."""
    name = call.query.string("name")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty")
    await call.engine.containers.rename(call.path("id"), name)
    return no_content()


@operation(
    POST,
    "/containers/{id}/update",
    "ContainerUpdate",
    body=bodies.UpdateRequest,
    returns=answers.ContainerUpdated,
    errors=(400, 404, 409),
)
async def update(call: Call) -> Response:
    """Changes limits and restart policy of a container, also of a running one."""
    body = await call.json(bodies.UpdateRequest, "UpdateConfig")
    if call.version < (1, 40):
        body.pop("PidsLimit", None)
    if call.version >= (1, 42):
        body.pop("KernelMemory", None)
    if body.get("PidsLimit", 1) <= 0:
        body["PidsLimit"] = 0
    return answer(await call.engine.containers.update(call.path("id"), body))


@operation(
    POST,
    "/containers/{id}/resize",
    "ContainerResize",
    query=(integer("h", required=True), integer("w", required=True)),
    errors=(400, 404, 409),
)
async def resize(call: Call) -> Response:
    """Tells a container's tty its size."""
    height, width = call.query.dimension("h", "height"), call.query.dimension("w", "width")
    await call.engine.containers.resize(call.path("id"), height, width)
    return empty()


@operation(
    DELETE,
    "/containers/{id}",
    "ContainerDelete",
    query=(flag("v", "Its anonymous volumes too."), flag("force", "Kill it first."), flag("link")),
    status=204,
    errors=(400, 404, 409),
)
async def remove(call: Call) -> Response:
    """Removes a container."""
    query = call.query
    await call.engine.containers.remove(
        call.path("id"), force=query.flag("force"), volumes=query.flag("v"), link=query.flag("link")
    )
    return no_content()


@operation(
    POST,
    "/containers/prune",
    "ContainerPrune",
    query=(FILTERS,),
    returns=answers.ContainersPruned,
    errors=(400,),
)
async def prune(call: Call) -> Response:
    """Removes all stopped containers."""
    return answer(await call.engine.containers.prune(call.query.filters()))


@operation(
    POST,
    "/commit",
    "ImageCommit",
    query=(
        string("container", required=True),
        string("repo"),
        string("tag"),
        string("comment"),
        string("author"),
        flag("pause", default=True),
        several("changes", "Dockerfile instructions to apply."),
    ),
    body=Config,
    returns=answers.IdResponse,
    status=201,
    errors=(400, 404, 409),
)
async def commit(call: Call) -> Response:
    """Makes an image of a container."""
    config = await call.json(Config, "Config")
    query = call.query
    committed = await call.engine.containers.commit(
        query.string("container"),
        repo=query.string("repo"),
        tag=query.string("tag"),
        comment=query.string("comment"),
        author=query.string("author"),
        pause=query.flag("pause", default=True),
        changes=tuple(query.several("changes")),
        config=config or None,
    )
    return answer(committed, 201)
