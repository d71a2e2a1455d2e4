"""Plays the scenario against a daemon: `python -m tests.system.parity.record SOCKET` writes recorded.json.

For a new recording give it a real dockerd that has the tests' busybox image and no containers of the
scenario's names.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from tests.system.parity import scenario
from tests.system.parity.client import Answer, ask, frames, same, shape
from tests.system.parity.fields import FIELDS
from tests.system.parity.steps import EXACT, FRAMES, NAMES, SHAPE, Step

RECORDED = Path(__file__).with_name("recorded.json")


def play(socket: str) -> dict[str, Any]:
    """Each step's answer, made comparable; containers that FIELDS made are removed at once."""
    found: dict[str, Any] = {}
    for name, step in named().items():
        answer = ask(socket, step.method, step.path, step.body, step.headers)
        found[name] = comparable(step, answer)
        if step in FIELDS and answer.status == 201:
            ask(socket, "DELETE", f"/containers/{json.loads(answer.body)['Id']}?v=1")
    return found


def named() -> dict[str, Step]:
    """The steps by name; one that is made twice is numbered."""
    found: dict[str, Step] = {}
    for step in scenario.STEPS:
        count = sum(other.name == step.name for other in found.values())
        found[f"{step.name} ({count + 1})" if count else step.name] = step
    return found


def comparable(step: Step, answer: Answer) -> dict[str, Any]:
    result: dict[str, Any] = {"status": answer.status, "type": answer.kind}
    stat = answer.headers.get("x-docker-container-path-stat")
    if stat and step.method == "HEAD":
        found = _path_stat(stat)
        result["stat"] = {key: found[key] for key in ("name", "mode", "linkTarget")}
    if not answer.body.strip():
        return result
    if answer.status >= 400 and answer.kind == "application/json":
        if step.how != "status":
            result["body"] = same(json.loads(answer.body))
    elif step.how == FRAMES:
        result["body"] = sorted(frames(answer.body))
    elif step.how == NAMES:
        found = {row["Names"][0].removeprefix("/") for row in json.loads(answer.body)}
        result["body"] = sorted(found & scenario.CONTAINERS)
    elif step.how in (EXACT, SHAPE):
        value = json.loads(answer.body) if answer.kind == "application/json" else answer.body.decode()
        result["body"] = shape(same(value)) if step.how == SHAPE else same(value)
    return result


def _path_stat(header: str) -> Any:
    """The X-Docker-Container-Path-Stat header, decoded."""
    return json.loads(base64.b64decode(header))


def main(socket: str) -> None:
    RECORDED.write_text(json.dumps(play(socket), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
