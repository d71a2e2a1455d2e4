"""openapi.yaml beside Docker's own swagger of API 1.51: equal but for the differences named here.

data/docker-api-1.51.json holds the swagger's facts, one operation a line: method, path, parameters (name,
place, required), statuses, and of the successful answer the fields there are and those that are required
(of the members, where the answer is a list). Derived from moby's docs for API 1.51 (api/docs/v1.51.yaml).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from api.app import create_api
from api.openapi import document
from tests.unit.test_api_openapi import OURS

FACTS = Path(__file__).parent / "data" / "docker-api-1.51.json"
Difference = tuple[set[Any], set[Any]]
"""(what only Docker's swagger has, what only ours has)."""

NONE: Difference = (set(), set())

PARAMETERS: dict[str, Difference] = {
    # dockerd reads it and its client sends it; the swagger forgot it
    "ContainerLogs": (set(), {("details", "query", False)}),
    # dockerd answers 400 without it
    "ImageCommit": ({("container", "query", False)}, {("container", "query", True)}),
    # dockerd's client sends it, and private repositories need it
    "DistributionInspect": (set(), {("X-Registry-Auth", "header", False)}),
    # its client sends these, which the swagger forgot; what only pyd has says so in its description
    "ImageBuild": (
        {("Content-type", "header", False)},
        {
            (name, "query", False)
            for name in (
                "buildid",
                "cgroupparent",
                "check",
                "cpusetmems",
                "nocachefilter",
                "session",
                "ulimits",
            )
        }
        | {("X-Build-Secrets", "header", False)},
    ),
    # dockerd takes its absence for no credentials
    "ImagePush": ({("X-Registry-Auth", "header", True)}, {("X-Registry-Auth", "header", False)}),
}

PROMISED = {
    # never left out, here as with dockerd, whose swagger only does not say so
    "ContainerPrune": {"ContainersDeleted", "SpaceReclaimed"},
    "ContainerTop": {"Processes", "Titles"},
    "ContainerUpdate": {"Warnings"},
    "ImagePrune": {"ImagesDeleted", "SpaceReclaimed"},
    "NetworkPrune": {"NetworksDeleted"},
    "SystemAuth": {"IdentityToken"},
    "SystemEvents": {"Action", "Actor", "Type", "scope", "time", "timeNano"},
    "VolumeList": {"Volumes", "Warnings"},
    "VolumePrune": {"SpaceReclaimed", "VolumesDeleted"},
}

PROGRESS = {"aux", "error", "errorDetail", "id", "progress", "progressDetail", "status", "stream"}
FIELDS: dict[str, Difference] = {
    # the lines of a progress stream, which the swagger does not describe
    "ImageBuild": (set(), PROGRESS),
    "ImageCreate": (set(), PROGRESS),
    "ImageLoad": (set(), PROGRESS),
    "ImagePush": (set(), PROGRESS),
    # dockerd still sends it
    "SystemDataUsage": (set(), {"BuilderSize"}),
}

STATUSES_LEFT_OUT = {
    # a websocket answers 101; 200 was a hijack without upgrade, and there is none
    "ContainerAttachWebsocket": {200},
    # credentials without a token are answered with 200 and an empty token, as dockerd does
    "SystemAuth": {204},
}
MORE_STATUSES = {101, 200, 400, 401, 403, 404, 409, 500, 501}
"""What an operation may document beyond the swagger, which often leaves out what dockerd answers."""


@cache
def theirs() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(FACTS.read_text())}


@cache
def ours() -> dict[str, dict[str, Any]]:
    described = document(create_api(None))
    found = {}
    for path, item in described["paths"].items():
        for method, operation in item.items():
            row = _row(operation, described["components"]["schemas"])
            found[operation["operationId"]] = {"method": method.upper(), "path": path, **row}
    return found


def _row(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    answers = [answer for status, answer in sorted(operation["responses"].items()) if status[0] == "2"]
    content = list((answers[0] if answers else {}).get("content", {}).values())
    shape = _resolved(content[0]["schema"] if content else {}, schemas)
    return {
        "parameters": [[p["name"], p["in"], p["required"]] for p in operation.get("parameters", ())],
        "statuses": [int(status) for status in operation["responses"]],
        "required": shape.get("required", []),
        "fields": list(shape.get("properties", ())),
    }


def _resolved(shape: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Through references, lists and what may be null, to the object itself."""
    while shape.keys() & {"$ref", "items", "anyOf"}:
        if "$ref" in shape:
            shape = schemas[shape["$ref"].split("/")[-1]]
        else:
            shape = shape["anyOf"][0] if "anyOf" in shape else shape["items"]
    return shape


def refused(row: dict[str, Any]) -> bool:
    """Swarm's and the like: answered, with no success to describe."""
    return min(row["statuses"]) >= 400


def served() -> list[str]:
    return [name for name, row in ours().items() if name not in OURS and not refused(row)]


def difference(name: str, aspect: str) -> Difference:
    def entries(row: dict[str, Any]) -> set[Any]:
        return {tuple(entry) if isinstance(entry, list) else entry for entry in row[aspect]}

    docker, pyd = entries(theirs()[name]), entries(ours()[name])
    return docker - pyd, pyd - docker


def test_the_same_operations_at_the_same_places() -> None:
    assert {name: (row["method"], row["path"]) for name, row in ours().items() if name not in OURS} == {
        name: (row["method"], row["path"]) for name, row in theirs().items()
    }


@pytest.mark.parametrize("name", served())
def test_parameters(name: str) -> None:
    assert difference(name, "parameters") == PARAMETERS.get(name, NONE)


@pytest.mark.parametrize("name", served())
def test_required_fields(name: str) -> None:
    assert difference(name, "required") == (set(), PROMISED.get(name, set()))


@pytest.mark.parametrize("name", served())
def test_fields(name: str) -> None:
    assert difference(name, "fields") == FIELDS.get(name, NONE)


@pytest.mark.parametrize("name", served())
def test_statuses(name: str) -> None:
    left_out, more = difference(name, "statuses")
    assert left_out == STATUSES_LEFT_OUT.get(name, set())
    assert more <= MORE_STATUSES
