"""All operations, in matching order: within a resource literal paths stand before patterns."""

from api.operation import Operation
from api.routes import (
    absent,
    build,
    buildkit,
    container_streams,
    containers,
    exec,
    images,
    networks,
    system,
    volumes,
)

OPERATIONS: tuple[Operation, ...] = tuple(
    operation
    for module in (
        system,
        containers,
        container_streams,
        exec,
        images,
        networks,
        volumes,
        build,
        buildkit,
        absent,
    )
    for operation in module.RESOURCE
)
