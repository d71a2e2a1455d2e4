"""Networks, and containers joining and leaving them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from api.models import answers, bodies
from api.operation import DELETE, GET, POST, Call, Resource, answer, empty, no_content
from api.query import FILTERS, flag, string
from daemon import parsebool
from storage.errors import InvalidArgument, NotImplementedYet

RESOURCE = Resource("Network")
operation = RESOURCE.operation


@operation(GET, "/networks", "NetworkList", query=(FILTERS,), returns=list[answers.Network], errors=(400,))
async def list_networks(call: Call) -> Response:
    """All networks."""
    return answer(call.engine.networks.list(call.query.filters()))


@operation(
    GET,
    "/networks/{id}",
    "NetworkInspect",
    query=(flag("verbose"), string("scope")),
    returns=answers.Network,
    errors=(400, 404),
)
async def inspect(call: Call) -> Response:
    """A network and the containers in it."""
    verbose, scope = call.query.string("verbose"), call.query.string("scope")
    if verbose and verbose not in parsebool.TRUE | parsebool.FALSE:
        raise InvalidArgument(f"invalid value for verbose: {verbose}: {parsebool.invalid(verbose)}")
    return answer(
        call.engine.networks.inspect(call.path("id"), verbose=verbose in parsebool.TRUE, scope=scope)
    )


@operation(
    POST,
    "/networks/create",
    "NetworkCreate",
    body=bodies.NetworkCreateRequest,
    returns=answers.NetworkCreated,
    status=201,
    errors=(400, 403, 404, 409),
)
async def create(call: Call) -> Response:
    """Makes a network."""
    body = await call.json(bodies.NetworkCreateRequest, "CreateRequest")
    if call.version < (1, 48):
        body.pop("EnableIPv4", None)
    return answer(await call.engine.networks.create(body), 201)


def _membership(call: Call, verb: str) -> Callable[..., Awaitable[None]]:
    """The engine's verb for a container joining or leaving a network, where it has one."""
    found: Callable[..., Awaitable[None]] | None = getattr(call.engine.containers, verb, None)
    if found is None:
        raise NotImplementedYet("containers cannot change their networks yet: choose them at create")
    return found


@operation(
    POST,
    "/networks/{id}/connect",
    "NetworkConnect",
    body=bodies.NetworkConnectRequest,
    errors=(400, 403, 404, 409),
)
async def connect(call: Call) -> Response:
    """Makes a container join a network."""
    body = await call.json(bodies.NetworkConnectRequest, "ConnectOptions")
    await _membership(call, "connect_network")(
        body.get("Container", ""), call.path("id"), body.get("EndpointConfig") or {}
    )
    return empty()


@operation(
    POST,
    "/networks/{id}/disconnect",
    "NetworkDisconnect",
    body=bodies.NetworkDisconnectRequest,
    errors=(400, 403, 404, 409),
)
async def disconnect(call: Call) -> Response:
    """Makes a container leave a network."""
    body = await call.json(bodies.NetworkDisconnectRequest, "DisconnectOptions")
    await _membership(call, "disconnect_network")(
        body.get("Container", ""), call.path("id"), force=body.get("Force", False)
    )
    return empty()


@operation(DELETE, "/networks/{id}", "NetworkDelete", status=204, errors=(400, 403, 404, 409))
async def remove(call: Call) -> Response:
    """Removes a network that no container is in."""
    await call.engine.networks.remove(call.path("id"))
    return no_content()


@operation(
    POST, "/networks/prune", "NetworkPrune", query=(FILTERS,), returns=answers.NetworksPruned, errors=(400,)
)
async def prune(call: Call) -> Response:
    """Removes all networks that no container is in."""
    return answer(await call.engine.networks.prune(call.query.filters()))
