"""Operations of Docker's API that this engine does not have, each with the answer that is true of it.

Swarm's answer as an engine outside a swarm does (moby daemon/cluster); plugins as an engine that has
none installed; the rest 501, which names the operation.
"""

from __future__ import annotations

from starlette.responses import Response

from api.models import answers
from api.operation import DELETE, GET, POST, PUT, Call, Handler, Resource, answer
from api.query import FILTERS
from storage.errors import NotFound, NotImplementedYet, Unavailable

RESOURCE = Resource("Absent")
operation = RESOURCE.operation

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this '
    "node to swarm and try again."
)

SWARM = (
    (GET, "/swarm", "SwarmInspect"),
    (POST, "/swarm/update", "SwarmUpdate"),
    (GET, "/swarm/unlockkey", "SwarmUnlockkey"),
    (POST, "/swarm/unlock", "SwarmUnlock"),
    (GET, "/nodes", "NodeList"),
    (GET, "/nodes/{id}", "NodeInspect"),
    (DELETE, "/nodes/{id}", "NodeDelete"),
    (POST, "/nodes/{id}/update", "NodeUpdate"),
    (GET, "/services", "ServiceList"),
    (POST, "/services/create", "ServiceCreate"),
    (GET, "/services/{id}", "ServiceInspect"),
    (DELETE, "/services/{id}", "ServiceDelete"),
    (POST, "/services/{id}/update", "ServiceUpdate"),
    (GET, "/services/{id}/logs", "ServiceLogs"),
    (GET, "/tasks", "TaskList"),
    (GET, "/tasks/{id}", "TaskInspect"),
    (GET, "/tasks/{id}/logs", "TaskLogs"),
    (GET, "/secrets", "SecretList"),
    (POST, "/secrets/create", "SecretCreate"),
    (GET, "/secrets/{id}", "SecretInspect"),
    (DELETE, "/secrets/{id}", "SecretDelete"),
    (POST, "/secrets/{id}/update", "SecretUpdate"),
    (GET, "/configs", "ConfigList"),
    (POST, "/configs/create", "ConfigCreate"),
    (GET, "/configs/{id}", "ConfigInspect"),
    (DELETE, "/configs/{id}", "ConfigDelete"),
    (POST, "/configs/{id}/update", "ConfigUpdate"),
)

NO_SUCH_PLUGIN = (
    (GET, "/plugins/{name:path}/json", "PluginInspect"),
    (DELETE, "/plugins/{name:path}", "PluginDelete"),
    (POST, "/plugins/{name:path}/enable", "PluginEnable"),
    (POST, "/plugins/{name:path}/disable", "PluginDisable"),
    (POST, "/plugins/{name:path}/upgrade", "PluginUpgrade"),
    (POST, "/plugins/{name:path}/push", "PluginPush"),
    (POST, "/plugins/{name:path}/set", "PluginSet"),
)

NOT_YET = (
    (GET, "/plugins/privileges", "GetPluginPrivileges", "managed plugins are not supported"),
    (POST, "/plugins/pull", "PluginPull", "managed plugins are not supported"),
    (POST, "/plugins/create", "PluginCreate", "managed plugins are not supported"),
    (POST, "/swarm/init", "SwarmInit", "swarm mode is not supported"),
    (POST, "/swarm/join", "SwarmJoin", "swarm mode is not supported"),
)


def _refusing(error: type[Exception], message: str, name: str) -> Handler:
    async def refuse(call: Call) -> Response:
        raise error(message)

    refuse.__doc__ = f"{name}: answered with {error.__name__}."
    return refuse


for _method, _path, _id in SWARM:
    operation(_method, _path, _id, errors=(503,))(_refusing(Unavailable, NOT_A_MANAGER, _id))

for _method, _path, _id, _reason in NOT_YET:
    operation(_method, _path, _id, errors=(501,))(_refusing(NotImplementedYet, f"{_id}: {_reason}", _id))


@operation(POST, "/swarm/leave", "SwarmLeave", errors=(503,))
async def swarm_leave(call: Call) -> Response:
    """Leaves a swarm; there is none."""
    raise Unavailable("This node is not part of a swarm")


@operation(PUT, "/volumes/{name:path}", "VolumeUpdate", errors=(503,))
async def volume_update(call: Call) -> Response:
    """Changes a cluster volume; there are none."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


@operation(GET, "/plugins", "PluginList", query=(FILTERS,), returns=list[answers.Plugin])
async def plugins(call: Call) -> Response:
    """Installed plugins: none."""
    return answer([])


async def _no_such_plugin(call: Call) -> Response:
    """Works on an installed plugin; there are none."""
    raise NotFound(f'plugin "{call.path("name")}" not found')


for _method, _path, _id in NO_SUCH_PLUGIN:
    operation(_method, _path, _id, errors=(404,))(_no_such_plugin)
