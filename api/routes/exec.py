"""Commands run in a running container."""

from __future__ import annotations

from starlette.responses import Response

from api.attach import Hijacked, attach_head, serve_hijacked
from api.models import answers, bodies
from api.operation import GET, POST, Call, Resource, answer, empty
from api.query import integer
from api.streams import MULTIPLEXED
from storage.errors import InvalidArgument

RESOURCE = Resource("Exec")
operation = RESOURCE.operation


@operation(
    POST,
    "/containers/{id}/exec",
    "ContainerExec",
    body=bodies.ExecConfig,
    returns=answers.IdResponse,
    status=201,
    errors=(400, 404, 409),
)
async def create(call: Call) -> Response:
    """Prepares a command to run in a container."""
    config = await call.json(bodies.ExecConfig, "ExecCreateRequest")
    if not config.get("Cmd"):
        raise InvalidArgument("No exec command specified")
    if call.version < (1, 42):
        config.pop("ConsoleSize", None)
    return answer(await call.engine.execs.create(call.path("id"), config), 201)


@operation(
    POST,
    "/exec/{id}/start",
    "ExecStart",
    body=bodies.ExecStartConfig,
    produces=MULTIPLEXED,
    errors=(101, 400, 404, 409),
)
async def start(call: Call) -> Response:
    """Runs the command; the connection becomes its stdio unless it is detached."""
    options = await call.json(bodies.ExecStartConfig, "ExecStartRequest")
    execs, exec_id = call.engine.execs, call.path("id")
    execs.check_start(exec_id)  # what cannot start is refused before anything is taken
    tty = options.get("Tty", False)
    console_size = _console_size(call, options)
    if options.get("Detach"):
        await execs.start(exec_id, client=None, early=b"", detach=True, tty=tty, console_size=None)
        return empty()
    raw = await call.connection.take(attach_head(call, framed=not tty))
    work = execs.start(
        exec_id,
        client=raw.socket,
        early=raw.early,
        detach=False,
        tty=tty,
        console_size=console_size,
    )
    await serve_hijacked(raw, work, framed=not tty, complaint="{}\r\n")
    return Hijacked()


def _console_size(call: Call, options: bodies.ExecStartConfig) -> tuple[int, int] | None:
    size = options.get("ConsoleSize")
    if not size or not options.get("Tty") or call.version < (1, 42):
        return None
    if len(size) != 2:
        raise InvalidArgument("ConsoleSize must be [height, width]")
    return size[0], size[1]


@operation(
    POST,
    "/exec/{id}/resize",
    "ExecResize",
    query=(integer("h", required=True), integer("w", required=True)),
    errors=(400, 404, 409),
)
async def resize(call: Call) -> Response:
    """Tells the tty of a running command its size."""
    height, width = call.query.dimension("h", "height"), call.query.dimension("w", "width")
    await call.engine.execs.resize(call.path("id"), height, width)
    return empty()


@operation(GET, "/exec/{id}/json", "ExecInspect", returns=answers.ExecInspect, errors=(404,))
async def inspect(call: Call) -> Response:
    """State and exit code of a command."""
    return answer(call.engine.execs.inspect(call.path("id")))
