"""Images: pull, import, push, list, inspect, tag, remove, load, save, search, prune."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from api.models import answers
from api.operation import DELETE, GET, POST, Call, Resource, answer, empty
from api.query import FILTERS, REGISTRY_AUTH, flag, integer, several, string
from api.streams import Stream, json_error, map_stream, primed, progress_line
from daemon.images.model import AuthConfig
from storage.errors import Forbidden, InvalidArgument, NotImplementedYet

RESOURCE = Resource("Image")
operation = RESOURCE.operation


_OF_CONTAINERS = {
    "Hostname": "",
    "Domainname": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Image": "",
}
"""Members of Config that say nothing of an image; its Config had them until API 1.49."""


@operation(
    GET,
    "/images/json",
    "ImageList",
    query=(flag("all"), FILTERS, flag("shared-size"), flag("digests"), flag("manifests")),
    returns=list[answers.ImageSummary],
    errors=(400,),
)
async def list_images(call: Call) -> Response:
    """Images that have a name, and dangling ones; with `all` those in between too."""
    query, filters = call.query, _filters(call)
    if call.version < (1, 41) and query.string("filter"):
        filters["reference"] = [*filters.get("reference", ()), query.string("filter")]
    listed = await call.engine.images.list(
        all=query.flag("all"),
        filters=filters,
        digests=query.flag("digests"),
        manifests=query.flag("manifests") and call.version >= (1, 47),
        shared_size=query.flag("shared-size") and call.version >= (1, 42),
    )
    return answer([_for_version(image, call.version) for image in listed])


def _filters(call: Call) -> dict[str, Sequence[str]]:
    return {**call.query.filters()}


def _for_version(image: dict[str, Any], version: tuple[int, ...]) -> dict[str, Any]:
    """Older clients' view of an image (moby image_routes.getImagesJSON)."""
    if version >= (1, 51):
        return image
    image = dict(image, Containers=-1)
    if version < (1, 48):
        image.pop("Descriptor", None)
    if version < (1, 44):
        image["VirtualSize"] = image.get("Size", 0)
    if version < (1, 43) and not image.get("RepoTags") and not image.get("RepoDigests"):
        image |= {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    return image


@operation(
    POST,
    "/images/create",
    "ImageCreate",
    query=(
        string("fromImage"),
        string("fromSrc", "Import a root file system: - for the body."),
        string("repo"),
        string("tag"),
        string("message"),
        several("changes"),
        string("platform"),
        REGISTRY_AUTH,
    ),
    body="application/octet-stream",
    returns=answers.Progress,
    errors=(400, 401, 403, 404),
)
async def create(call: Call) -> Response:
    """Pulls an image, or imports one."""
    source = _pull(call) if call.query.string("fromImage") else _import(call)
    return await _progress(call, source)


def _pull(call: Call) -> AsyncIterator[dict[str, Any]]:
    query = call.query
    # "pull --all-tags" of old clients sends a name with a trailing colon
    name = query.string("fromImage").removesuffix(":")
    if name == "scratch":
        raise Forbidden("'scratch' is a reserved name")
    source: AsyncIterator[dict[str, Any]] = call.engine.images.pull(
        name, query.string("tag"), _platform(call, (1, 32)), _auth(call)
    )
    return source


def _import(call: Call) -> AsyncIterator[dict[str, Any]]:
    query = call.query
    if query.string("fromSrc") != "-":
        raise NotImplementedYet("import from a URL is not supported yet: download it and send it as the body")
    source: AsyncIterator[dict[str, Any]] = call.engine.images.import_(
        call.stream(),
        query.string("repo"),
        query.string("tag"),
        query.string("message") or "Imported from -",
        query.several("changes"),
        _platform(call, (1, 32)),
    )
    return source


def _platform(call: Call, since: tuple[int, int]) -> str:
    return call.query.string("platform") if call.version >= since else ""


def _auth(call: Call) -> AuthConfig | None:
    fields = call.registry_auth()
    return AuthConfig.of(fields) if fields else None


async def _progress(call: Call, source: AsyncIterator[dict[str, Any]]) -> Response:
    """JSON lines; what fails before the first of them has a status of its own."""
    ready = await call.unless_gone(primed(source))
    return Stream(map_stream(ready, progress_line), media_type="application/json", on_error=json_error)


@operation(
    POST,
    "/images/{name:path}/push",
    "ImagePush",
    query=(string("tag"), string("platform"), REGISTRY_AUTH),
    returns=answers.Progress,
    errors=(400, 401, 404),
)
async def push(call: Call) -> Response:
    """Sends an image to its registry."""
    platform = _platform(call, (1, 46))
    source = call.engine.images.push(call.path("name"), call.query.string("tag"), _auth(call), platform)
    return await _progress(call, source)


@operation(
    POST,
    "/images/load",
    "ImageLoad",
    query=(flag("quiet", default=True), string("platform")),
    body="application/x-tar",
    returns=answers.Progress,
    errors=(400,),
)
async def load(call: Call) -> Response:
    """Takes in what save made; errors are in the stream."""
    source = call.engine.images.load(
        call.stream(), call.query.flag("quiet", default=True), _single_platform(call)
    )
    return Stream(map_stream(source, progress_line), media_type="application/json", on_error=json_error)


def _single_platform(call: Call) -> str:
    if call.version < (1, 48):
        return ""
    if len(call.query.several("platform")) > 1:
        raise InvalidArgument("multiple platform parameters not supported")
    return call.query.string("platform")


@operation(
    GET,
    "/images/get",
    "ImageGetAll",
    query=(several("names"), string("platform")),
    produces="application/x-tar",
    errors=(400, 404),
)
async def save_several(call: Call) -> Response:
    """Several images as one tar."""
    return await _save(call, call.query.several("names"))


@operation(
    GET,
    "/images/{name:path}/get",
    "ImageGet",
    query=(string("platform"),),
    produces="application/x-tar",
    errors=(400, 404),
)
async def save(call: Call) -> Response:
    """An image as a tar."""
    return await _save(call, [call.path("name")])


async def _save(call: Call, names: list[str]) -> Response:
    source = call.engine.images.save(names, _single_platform(call))
    return Stream(await call.unless_gone(primed(source)), media_type="application/x-tar")


@operation(
    GET,
    "/images/search",
    "ImageSearch",
    query=(string("term", required=True), integer("limit"), FILTERS),
    returns=list[answers.SearchResult],
    errors=(400, 501),
)
async def search(call: Call) -> Response:
    """Searches the public registry."""
    query = call.query
    limit = query.integer("limit")
    if limit is not None and limit < 0:
        raise InvalidArgument("invalid limit specified")
    found = call.engine.images.search(query.string("term"), limit or 25, _filters(call))
    return answer(await call.unless_gone(found))


@operation(
    GET,
    "/images/{name:path}/history",
    "ImageHistory",
    query=(string("platform"),),
    returns=list[answers.HistoryItem],
    errors=(400, 404),
)
async def history(call: Call) -> Response:
    """The steps that made an image."""
    platform = _platform(call, (1, 48))
    return answer(call.engine.images.history(call.path("name"), platform))


@operation(
    GET,
    "/images/{name:path}/json",
    "ImageInspect",
    query=(flag("manifests"), string("platform")),
    returns=answers.ImageInspect,
    errors=(400, 404),
)
async def inspect(call: Call) -> Response:
    """All there is to know of an image."""
    found = await call.engine.images.inspect(
        call.path("name"),
        manifests=call.query.flag("manifests") and call.version >= (1, 48),
        platform=_platform(call, (1, 49)),
    )
    if call.version < (1, 48) and "Descriptor" in found:
        found = {key: value for key, value in found.items() if key != "Descriptor"}
    if call.version < (1, 50) and found.get("Config"):
        found = found | {"Config": _OF_CONTAINERS | found["Config"]}
    if call.version < (1, 45):
        found = found | call.engine.images.resolve(call.path("name")).made_from
    if call.version < (1, 44):
        found = found | {"VirtualSize": found.get("Size", 0)}
    return answer(found)


@operation(
    POST,
    "/images/{name:path}/tag",
    "ImageTag",
    query=(string("repo"), string("tag")),
    status=201,
    errors=(400, 404, 409),
)
async def tag(call: Call) -> Response:
    """Gives an image another name."""
    repo = call.query.string("repo")
    if not repo:
        raise InvalidArgument("invalid reference format: repository name must not be empty")
    await call.engine.images.tag(call.path("name"), repo, call.query.string("tag"))
    return empty(201)


@operation(
    POST,
    "/images/prune",
    "ImagePrune",
    query=(FILTERS,),
    returns=answers.ImagesPruned,
    errors=(400,),
)
async def prune(call: Call) -> Response:
    """Removes images that nothing uses."""
    return answer(await call.engine.images.prune(_filters(call)))


@operation(
    DELETE,
    "/images/{name:path}",
    "ImageDelete",
    query=(flag("force"), flag("noprune", "Keep untagged parents."), several("platforms")),
    returns=list[answers.ImageDeleted],
    errors=(400, 404, 409),
)
async def remove(call: Call) -> Response:
    """Takes a name from an image, and the image away with the last one."""
    name = call.path("name")
    if not name.strip():
        raise InvalidArgument("image name cannot be blank")
    query = call.query
    removed = await call.engine.images.remove(name, query.flag("force"), not query.flag("noprune"))
    return answer(removed)


@operation(
    GET,
    "/distribution/{name:path}/json",
    "DistributionInspect",
    query=(REGISTRY_AUTH,),
    returns=answers.DistributionInspect,
    errors=(400, 401, 404),
)
async def distribution(call: Call) -> Response:
    """What a registry knows of an image."""
    found = call.engine.images.distribution(call.path("name"), _auth(call))
    return answer(await call.unless_gone(found))
