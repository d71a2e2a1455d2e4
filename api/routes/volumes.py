"""Volumes."""

from __future__ import annotations

from starlette.responses import Response

from api.models import answers, bodies
from api.operation import DELETE, GET, POST, Call, Resource, answer, no_content
from api.query import FILTERS, flag
from storage.errors import NotFound

RESOURCE = Resource("Volume")
operation = RESOURCE.operation


@operation(GET, "/volumes", "VolumeList", query=(FILTERS,), returns=answers.VolumeList, errors=(400,))
async def list_volumes(call: Call) -> Response:
    """All volumes."""
    return answer(call.engine.volumes.list(call.query.filters()))


@operation(
    POST,
    "/volumes/create",
    "VolumeCreate",
    body=bodies.VolumeCreateRequest,
    returns=answers.Volume,
    status=201,
    errors=(400, 404, 409),
)
async def create(call: Call) -> Response:
    """Makes a volume; one that exists by that name is returned as it is."""
    body = await call.json(bodies.VolumeCreateRequest, "CreateOptions")
    volume = await call.engine.volumes.create(
        body.get("Name", ""),
        driver=body.get("Driver", ""),
        options=body.get("DriverOpts"),
        labels=body.get("Labels"),
    )
    return answer(volume.as_docker(), 201)


@operation(GET, "/volumes/{name:path}", "VolumeInspect", returns=answers.Volume, errors=(404,))
async def inspect(call: Call) -> Response:
    """One volume."""
    return answer(call.engine.volumes.get(call.path("name")).as_docker())


@operation(
    DELETE,
    "/volumes/{name:path}",
    "VolumeDelete",
    query=(flag("force", "Say nothing when there is none."),),
    status=204,
    errors=(404, 409),
)
async def remove(call: Call) -> Response:
    """Removes a volume that no container uses."""
    force = call.query.flag("force")
    try:
        await call.engine.volumes.remove(call.path("name"), force=force)
    except NotFound:
        if not force:
            raise
    return no_content()


@operation(
    POST, "/volumes/prune", "VolumePrune", query=(FILTERS,), returns=answers.VolumesPruned, errors=(400,)
)
async def prune(call: Call) -> Response:
    """Removes volumes that no container uses; before API 1.42 named ones too."""
    filters = call.query.filters()
    if call.version < (1, 42):
        filters["all"] = ["true"]
    return answer(await call.engine.volumes.prune(filters))
