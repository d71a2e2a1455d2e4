"""What a container says and takes over time: wait, logs, stats, attach, archives."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from api import websocket
from api.attach import Hijacked, attach_head, refuse_raw, serve_hijacked
from api.compress import negotiated, packed
from api.errors import message_of
from api.models import answers
from api.operation import GET, HEAD, POST, PUT, Call, Resource, answer, empty
from api.query import flag, string
from api.streams import (
    MULTIPLEXED,
    RAW,
    Stream,
    frame,
    frame_error,
    json_line,
    map_stream,
    no_error,
    primed,
    raw_error,
)
from storage.errors import InvalidArgument, PydError

RESOURCE = Resource("Container")
operation = RESOURCE.operation

CONDITIONS = ("not-running", "next-exit", "removed")
ATTACH_QUERY = (
    string("detachKeys"),
    flag("logs", "Replay what was logged."),
    flag("stream"),
    flag("stdin"),
    flag("stdout"),
    flag("stderr"),
)
PATH_STAT = "X-Docker-Container-Path-Stat"


@operation(
    POST,
    "/containers/{id}/wait",
    "ContainerWait",
    query=(string("condition", "not-running, next-exit or removed."),),
    returns=answers.ContainerWait,
    errors=(400, 404),
)
async def wait(call: Call) -> Response:
    """Answers with the exit code when the condition holds; headers come at once."""
    condition = call.query.string("condition") or "not-running" if call.version >= (1, 30) else "not-running"
    if condition not in CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    result = call.engine.containers.waiter(call.path("id"), condition)
    if call.version < (1, 30):
        return answer(await call.unless_gone(result))
    return Stream(_wait_lines(result), media_type="application/json")


async def _wait_lines(result: Awaitable[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        yield json_line(await result)
    except PydError as error:
        yield json_line({"StatusCode": -1, "Error": {"Message": message_of(error)}})


@operation(
    GET,
    "/containers/{id}/logs",
    "ContainerLogs",
    query=(
        flag("follow"),
        flag("stdout"),
        flag("stderr"),
        string("since", "Unix time, with a fraction."),
        string("until", "Unix time, with a fraction."),
        flag("timestamps"),
        string("tail", "Number of lines, or all."),
        flag("details"),
    ),
    produces=MULTIPLEXED,
    errors=(400, 404),
)
async def logs(call: Call) -> Response:
    """What a container has written, framed unless it has a tty."""
    query = call.query
    stdout, stderr = query.flag("stdout"), query.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tty, source = call.engine.containers.logs(
        call.path("id"),
        follow=query.flag("follow"),
        stdout=stdout,
        stderr=stderr,
        since=query.string("since"),
        until=query.string("until"),
        timestamps=query.flag("timestamps"),
        tail=query.string("tail"),
        details=query.flag("details"),
    )
    if tty:
        return Stream(map_stream(source, lambda item: item[1]), media_type=RAW, on_error=raw_error)
    kind = MULTIPLEXED if call.version >= (1, 42) else RAW
    return Stream(map_stream(source, lambda item: frame(*item)), media_type=kind, on_error=frame_error)


@operation(
    GET,
    "/containers/{id}/stats",
    "ContainerStats",
    query=(flag("stream", default=True), flag("one-shot")),
    returns=answers.ContainerStats,
    errors=(404,),
)
async def stats(call: Call) -> Response:
    """Use of processor, memory, disks and networks; one line a second, or one answer."""
    stream = call.query.flag("stream", default=True)
    one_shot = call.query.flag("one-shot") if call.version >= (1, 41) else False
    source = call.engine.containers.stats(call.path("id"), stream=stream, one_shot=one_shot)
    ready = await call.unless_gone(primed(source))
    if stream:
        return Stream(map_stream(ready, json_line), media_type="application/json")
    return answer(await anext(ready))


@operation(
    POST,
    "/containers/{id}/attach",
    "ContainerAttach",
    query=ATTACH_QUERY,
    produces=MULTIPLEXED,
    status=101,
    errors=(200, 400, 404, 409),
)
async def attach(call: Call) -> Response:
    """Joins a container's stdio; the connection becomes the stream."""
    await call.body()
    try:
        tty = _attachable(call)
    except PydError as error:
        return refuse_raw(error)
    raw = await call.connection.take(attach_head(call, framed=not tty))
    await serve_hijacked(
        raw,
        _attach(call, raw.socket, raw.early, framed=not tty, default=False),
        framed=not tty,
        complaint="Error attaching: {}\n",
    )
    return Hijacked()


@operation(
    GET,
    "/containers/{id}/attach/ws",
    "ContainerAttachWebsocket",
    query=ATTACH_QUERY,
    status=101,
    errors=(400, 404, 409),
)
async def attach_websocket(call: Call) -> Response:
    """The same over a websocket, never framed."""
    _attachable(call)
    key = websocket.handshake_key(call.request.headers)
    raw = await call.connection.take(websocket.accept_head(key))
    pair = websocket.bridge(raw, text=call.version < (1, 28))
    await serve_hijacked(
        pair,
        _attach(call, pair.socket, pair.early, framed=False, default=call.version < (1, 42)),
        framed=False,
        complaint="Error attaching: {}\n",
    )
    return Hijacked()


def _attachable(call: Call) -> bool:
    """Whether the container has a tty; raises what forbids attaching before the connection is taken."""
    containers, ref = call.engine.containers, call.path("id")
    containers.check_attach(ref, call.query.string("detachKeys") or None)
    return bool(containers.is_tty(ref))


async def _attach(call: Call, client: Any, early: bytes, *, framed: bool, default: bool) -> None:
    """`default` is what the stream flags are without being given (websockets before 1.42: all)."""
    query = call.query
    await call.engine.containers.attach(
        call.path("id"),
        client,
        stream=query.flag("stream"),
        logs=query.flag("logs"),
        stdin=default or query.flag("stdin"),
        stdout=default or query.flag("stdout"),
        stderr=default or query.flag("stderr"),
        detach_keys=query.string("detachKeys") or None,
        early=early,
        framed=framed,
    )


@operation(
    GET,
    "/containers/{id}/export",
    "ContainerExport",
    produces="application/octet-stream",
    errors=(404,),
)
async def export(call: Call) -> Response:
    """The container's files as a tar."""
    source = await call.unless_gone(primed(call.engine.containers.export(call.path("id"))))
    return Stream(source, media_type="application/octet-stream")


def _archive_path(call: Call) -> str:
    path = call.query.string("path")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    return path


def _stat_header(stat: dict[str, Any]) -> dict[str, str]:
    return {PATH_STAT: base64.b64encode(to_json(stat)).decode()}


@operation(
    HEAD,
    "/containers/{id}/archive",
    "ContainerArchiveInfo",
    query=(string("path", required=True),),
    errors=(400, 404),
)
async def archive_stat(call: Call) -> Response:
    """A header that describes one path in a container."""
    stat = await call.engine.containers.archive_stat(call.path("id"), _archive_path(call))
    return Response(b"", 200, _stat_header(stat))


@operation(
    GET,
    "/containers/{id}/archive",
    "ContainerArchive",
    query=(string("path", required=True),),
    produces="application/x-tar",
    errors=(400, 404),
)
async def archive_get(call: Call) -> Response:
    """One path of a container as a tar."""
    found = call.engine.containers.archive_get(call.path("id"), _archive_path(call))
    stat, source = await call.unless_gone(found)
    headers = _stat_header(stat)
    if coding := negotiated(call.header("accept-encoding")):
        headers["Content-Encoding"] = coding
        source = packed(source, coding)
    return Stream(source, media_type="application/x-tar", headers=headers, on_error=no_error)


@operation(
    PUT,
    "/containers/{id}/archive",
    "PutContainerArchive",
    query=(
        string("path", required=True),
        flag("noOverwriteDirNonDir", "Refuse to replace a directory by a file or the reverse."),
        flag("copyUIDGID", "Keep the archive's owners."),
    ),
    body="application/x-tar",
    errors=(400, 403, 404),
)
async def archive_put(call: Call) -> Response:
    """Unpacks a tar into a directory of a container."""
    query = call.query
    await call.engine.containers.archive_put(
        call.path("id"),
        _archive_path(call),
        call.stream(),
        no_overwrite_dir_non_dir=query.flag("noOverwriteDirNonDir"),
        copy_uidgid=query.flag("copyUIDGID"),
    )
    return empty()
