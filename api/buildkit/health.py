"""grpc.health.v1: there is somebody."""

from __future__ import annotations

from typing import Any

from api.buildkit.answering import answering, unimplemented
from daemon.build.proto import health_grpc, health_pb2


class Health(health_grpc.HealthBase):
    async def Check(self, stream: Any) -> None:
        async with answering(stream):
            serving = health_pb2.HealthCheckResponse.ServingStatus.SERVING
            await stream.send_message(health_pb2.HealthCheckResponse(status=serving))

    async def Watch(self, stream: Any) -> None:
        unimplemented("watching the health")
