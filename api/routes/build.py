"""Builds through the classic door, and the build cache."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pydantic_core import from_json
from starlette.responses import Response

from api.models import answers
from api.operation import POST, Call, Resource, answer, empty
from api.query import FILTERS, Parameter, flag, integer, several, string
from api.streams import Stream, json_error, map_stream, primed, progress_line
from daemon.config import CacheRule
from daemon.images.model import AuthConfig
from storage.errors import InvalidArgument

RESOURCE = Resource("Image")
operation = RESOURCE.operation
_NUMBERS = ("memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "shmsize")
_TEXTS = ("cpusetcpus", "cpusetmems", "cgroupparent")
_CREDENTIALS = Parameter(
    "X-Registry-Config", "string", "base64url of JSON: registry to its credentials.", place="header"
)
_SECRETS = Parameter(
    "X-Build-Secrets",
    "string",
    "base64url of JSON: secret IDs to base64 values; only pyd knows it.",
    place="header",
)


@operation(
    POST,
    "/build",
    "ImageBuild",
    query=(
        string("dockerfile", "Path in the context; Dockerfile when left out."),
        several("t", "Names of the image."),
        several("extrahosts", "HOST:IP."),
        string("remote", "URL of a context, instead of the body."),
        flag("q", "Only the image's ID."),
        flag("nocache"),
        string("cachefrom", "JSON list of local images whose layers may be taken again."),
        string("pull", "Ask the registry for newer base images."),
        flag("rm", default=True),
        flag("forcerm"),
        *(integer(name) for name in _NUMBERS),
        *(string(name) for name in _TEXTS),
        string("buildargs", "JSON object."),
        flag("squash"),
        string("labels", "JSON object."),
        string("networkmode"),
        string("platform"),
        string("target", "Stage to build."),
        string("outputs"),
        string("version", "1: the classic builder; 2: BuildKit."),
        string("ulimits", "JSON list."),
        string("buildid"),
        string("session"),
        flag("check", "Only report build checks; pyd's own."),
        several("nocachefilter", "Stages to build anew; pyd's own."),
        _CREDENTIALS,
        _SECRETS,
    ),
    body="application/x-tar",
    returns=answers.Progress,
    errors=(400, 404, 500),
)
async def build(call: Call) -> Response:
    """Builds an image from a Dockerfile and its context."""
    _refuse_unknown(call)
    if call.query.string("version") == "2":
        outputs = [each for each in _json(call, "outputs", list) if isinstance(each, dict)]
        source = call.engine.builds.build_second(
            _request(call), call.query.string("session"), outputs, call.stream()
        )
    else:
        source = call.engine.builds.build(_request(call), call.stream())
    ready = await call.unless_gone(primed(source))
    return Stream(map_stream(ready, progress_line), media_type="application/json", on_error=json_error)


def _refuse_unknown(call: Call) -> None:
    query = call.query
    if query.string("version") == "2":
        return
    if query.string("remote") == "client-session":
        raise InvalidArgument("a context of the session is only supported with BuildKit (version=2)")
    if query.string("version") not in ("", "1"):
        raise InvalidArgument(f"invalid version {query.string('version')}")
    if query.flag("squash"):
        raise InvalidArgument("squash is only supported with experimental mode")
    if query.string("outputs"):
        raise InvalidArgument("outputs are only supported with BuildKit")


def _request(call: Call) -> Any:
    from daemon.build.request import BuildRequest, limits

    query = call.query
    numbers = {name: query.integer(name) for name in _NUMBERS}
    texts = {name: query.string(name) for name in _TEXTS}
    return BuildRequest(
        dockerfile=query.string("dockerfile"),
        tags=tuple(tag for tag in query.several("t") if tag),
        remote=query.string("remote"),
        quiet=query.flag("q"),
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        target=query.string("target"),
        platform=query.string("platform"),
        arguments=_texts(_json(call, "buildargs", dict), "buildargs", null=True),
        labels=_texts(_json(call, "labels", dict), "labels", null=False),
        network=query.string("networkmode"),
        host=limits(numbers, texts, _json(call, "ulimits", list)),
        extra_hosts=_hosts(call),
        build_id=query.string("buildid"),
        check=query.flag("check"),
        no_cache_stages=frozenset(query.several("nocachefilter")),
        cache_from=_names(call),
        credentials=_credentials(call),
        secrets=_secrets(call),
    )


def _json(call: Call, name: str, kind: type) -> Any:
    text = call.query.string(name)
    if not text:
        return kind()
    try:
        found = from_json(text)
    except ValueError as error:
        raise InvalidArgument(f"error reading {name}: {error}") from None
    if found is None:
        return kind()
    if not isinstance(found, kind):
        raise InvalidArgument(f"error reading {name}: not a JSON {'object' if kind is dict else 'list'}")
    return found


def _names(call: Call) -> tuple[str, ...]:
    names = _json(call, "cachefrom", list)
    if not all(isinstance(name, str) for name in names):
        raise InvalidArgument("error reading cachefrom: names must be texts")
    return tuple(names)


def _texts(found: dict[str, Any], name: str, *, null: bool) -> dict[str, Any]:
    for value in found.values():
        if not isinstance(value, str) and not (null and value is None):
            raise InvalidArgument(f"error reading {name}: values must be texts")
    return found


def _hosts(call: Call) -> tuple[str, ...]:
    """The parameter once for each host, as the clients send it, or a JSON list."""
    if call.query.string("extrahosts").startswith(("[", "null")):
        return tuple(str(host) for host in _json(call, "extrahosts", list))
    return tuple(host for host in call.query.several("extrahosts") if host)


def _header(call: Call, name: str) -> dict[str, Any]:
    text = call.header(name)
    if not text:
        return {}
    try:
        found = from_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        raise InvalidArgument(f"invalid {name} header: not base64 of a JSON object") from None
    return found if isinstance(found, dict) else {}


def _credentials(call: Call) -> dict[str, AuthConfig]:
    found = _header(call, "x-registry-config")
    return {name: AuthConfig.of(fields) for name, fields in found.items() if isinstance(fields, dict)}


def _secrets(call: Call) -> dict[str, bytes]:
    try:
        return {str(k): base64.b64decode(str(v)) for k, v in _header(call, "x-build-secrets").items()}
    except binascii.Error:
        raise InvalidArgument("invalid X-Build-Secrets header: values must be base64") from None


@operation(
    POST,
    "/build/prune",
    "BuildPrune",
    query=(
        integer("keep-storage", "Bytes of cache that may stay."),
        integer("reserved-space"),
        integer("max-used-space"),
        integer("min-free-space"),
        flag("all", "Also what images are made of."),
        FILTERS,
    ),
    returns=answers.BuildPruned,
    errors=(400, 409),
)
async def prune(call: Call) -> Response:
    """Removes build cache."""
    gone, freed = await call.engine.builds.prune(_rule(call))
    return answer({"CachesDeleted": [each.id for each in gone] or None, "SpaceReclaimed": freed})


def _rule(call: Call) -> CacheRule:
    from daemon.build.upkeep.cache import duration
    from daemon.build.upkeep.inventory import from_api

    query = call.query
    filters = dict(query.filters())
    ages = [*filters.pop("until", ()), *filters.pop("unused-for", ())]
    if len(ages) > 1:
        raise InvalidArgument("filters expect only one value: until, unused-for")
    return CacheRule(
        all=query.flag("all"),
        filters=from_api(filters),
        unused_for=duration(ages[0]) if ages else 0,
        reserved=query.integer("reserved-space") or query.integer("keep-storage") or 0,
        most=query.integer("max-used-space") or 0,
        free=query.integer("min-free-space") or 0,
    )


@operation(POST, "/build/cancel", "BuildCancel", query=(string("id", required=True),), errors=(400,))
async def cancel(call: Call) -> Response:
    """Stops a build."""
    if not call.query.string("id"):
        raise InvalidArgument("build ID not provided")
    call.engine.builds.cancel(call.query.string("id"))
    return empty()
