"""grpc.health.v1: there is somebody."""

from __future__ import annotations

from api.buildkit.answering import answering, unimplemented
from daemon.build.proto import health_pb2
from daemon.rpc.serving import Call, Service


class Health(Service):
    descriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]

    async def Check(self, stream: Call) -> None:
        async with answering(stream):
            serving = health_pb2.HealthCheckResponse.ServingStatus.SERVING
            await stream.send_message(health_pb2.HealthCheckResponse(status=serving))

    async def Watch(self, stream: Call) -> None:
        unimplemented("watching the health")
