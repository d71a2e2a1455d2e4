"""Who works here, as `docker buildx inspect` shows it: one worker."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from daemon.build.proto import ops_pb2, worker_pb2
from daemon.build.upkeep import inventory
from daemon.images import machine, platforms
from storage.errors import NotFound

if TYPE_CHECKING:
    from daemon.engine import Engine

VERSION = worker_pb2.BuildkitVersion(package="pyd", version="v0.23.0", dockerfile_version="1.20.0")
"""The BuildKit whose protocol this is (clients look at it before they use what is newer)."""
_LABEL = "org.mobyproject.buildkit.worker."


def _gateway(engine: Engine) -> str:
    """The default bridge's address; empty when there is none."""
    try:
        settings = engine.networks.inspect("bridge")["IPAM"]["Config"]
    except NotFound:
        return ""
    return next((str(each["Gateway"]) for each in settings or () if each.get("Gateway")), "")


def worker(engine: Engine) -> worker_pb2.WorkerRecord:
    config = engine.config
    labels = {
        f"{_LABEL}executor": "pyd",
        f"{_LABEL}snapshotter": "overlayfs",  # clients offer OCI archives and several platforms for its sake
        f"{_LABEL}hostname": platforms.local().os,
    }
    if gateway := _gateway(engine):
        labels[f"{_LABEL}moby.host-gateway-ip"] = gateway  # what clients make of --add-host NAME:host-gateway
    disk = os.statvfs(config.data_root)
    policies = [
        worker_pb2.GCPolicy(
            all=rule.all,
            filters=rule.filters,
            keep_duration=rule.unused_for,
            reserved_space=rule.reserved,
            max_used_space=rule.most,
            min_free_space=rule.free,
        )
        for rule in inventory.rules(config.builder, disk.f_blocks * disk.f_frsize)
    ]
    return worker_pb2.WorkerRecord(
        id=hashlib.sha256(str(config.data_root).encode()).hexdigest()[:25],
        labels=labels,
        platforms=[
            ops_pb2.Platform(os=each.os, architecture=each.architecture, variant=each.variant)
            for each in machine.supported()
        ],
        gc_policy=policies,
        buildkit_version=VERSION,
    )


def described(engine: Engine) -> str:
    """JSON, as front ends that run as images get it in BUILDKIT_WORKERS (BuildKit client.WorkerInfo)."""
    known = worker(engine)
    version = known.buildkit_version
    found = {
        "id": known.id,
        "labels": dict(known.labels),
        "platforms": [
            {"architecture": each.architecture, "os": each.os, **({"variant": each.variant} if each.variant else {})}
            for each in known.platforms
        ],
        "gcPolicy": None,
        "buildkitVersion": {
            "package": version.package, "version": version.version, "revision": version.revision,
        },
        "cdiDevices": None,
    }  # fmt: skip
    return json.dumps([found], separators=(",", ":"))
