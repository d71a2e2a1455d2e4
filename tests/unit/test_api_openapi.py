"""openapi.yaml is what the app serves, and the app serves what Docker's API has."""

from __future__ import annotations

from pathlib import Path

import yaml
from starlette.routing import Route

from api.app import create_api
from api.openapi import document, render, served
from api.routes import OPERATIONS
from api.routes.absent import NO_SUCH_PLUGIN, NOT_YET, SWARM

ROOT = Path(__file__).parents[2]
OURS = {"Grpc", "BuildCancel"}
"""Served by dockerd as well, but not in its swagger."""
DOCKER_OPERATIONS = 107
"""In Docker's swagger for API 1.51."""


def test_the_committed_document_is_current() -> None:
    """Regenerate it with: python -m api.openapi > openapi.yaml"""
    assert (ROOT / "openapi.yaml").read_text() == render(create_api(None))


def test_every_operation_is_routed_and_every_route_declared() -> None:
    app = create_api(None)
    assert [operation.id for operation in served(app)] == [operation.id for operation in OPERATIONS]
    names = {operation.id for operation in OPERATIONS} | {"endpoint", "_options"}
    assert all(route.name in names for route in app.routes if isinstance(route, Route))


def test_operations_are_unique() -> None:
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


def test_all_of_dockers_operations_are_answered() -> None:
    assert len([operation for operation in OPERATIONS if operation.id not in OURS]) == DOCKER_OPERATIONS


def test_references_resolve_and_answers_are_described() -> None:
    described = document(create_api(None))
    schemas = described["components"]["schemas"]
    text = yaml.safe_dump(described)
    named = {line.split("/")[-1].strip("'") for line in text.splitlines() if "$ref" in line}
    assert named <= schemas.keys()
    assert {"CreateRequest", "HostConfig", "ErrorResponse", "ContainerSummary"} <= named
    for item in described["paths"].values():
        for operation in item.values():
            assert operation["responses"], operation["operationId"]


def test_what_is_refused_declares_no_success() -> None:
    refused = {row[2] for row in (*SWARM, *NO_SUCH_PLUGIN, *NOT_YET)}
    described = document(create_api(None))
    for item in described["paths"].values():
        for operation in item.values():
            if operation["operationId"] in refused:
                assert all(int(status) >= 400 for status in operation["responses"])
