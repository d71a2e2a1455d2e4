"""`docker events`: live, from the journal over restarts, filtered by every key that Docker has."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.host import ENVIRONMENT, Host

Rows = list[dict[str, Any]]


def events(host: Host, since: float, *filters: str, until: float | None = None) -> Rows:
    flags = [word for text in filters for word in ("--filter", text)]
    end = f"{until or time.time():.9f}"
    text = host.docker("events", "--since", f"{since:.9f}", "--until", end, "--format", "{{json .}}", *flags)
    return [json.loads(line) for line in text.splitlines()]


def actions(rows: Rows) -> list[str]:
    return [f"{row['Type']} {row['Action']}" for row in rows]


@pytest.fixture(scope="module")
def history(host: Host) -> Iterator[tuple[float, dict[str, str]]]:
    """When a life of everything began, and its IDs."""
    began = time.time()
    host.docker("network", "create", "events-net")
    host.docker("volume", "create", "events-volume")
    flags = ["--name", "eventful", "--label", "a=1", "--label", "b=2", "-v", "events-volume:/v"]
    container = host.docker(
        "run", "-d", *flags, "--network", "events-net", "busybox", "sleep", "1000"
    ).strip()
    host.docker("exec", "eventful", "true")
    host.docker("pause", "eventful")
    host.docker("unpause", "eventful")
    host.docker("rename", "eventful", "renamed")
    host.docker("update", "--cpu-shares", "512", "renamed")
    host.docker("kill", "-s", "WINCH", "renamed")
    host.docker("stop", "-t", "0", "renamed")
    host.docker("rm", "renamed")
    host.docker("network", "rm", "events-net")
    host.docker("volume", "rm", "events-volume")
    host.docker("tag", "busybox", "tagged:x")
    host.docker("rmi", "tagged:x")
    time.sleep(0.1)
    yield began, {"container": container}


History = tuple[float, dict[str, str]]


def test_a_container_s_life(host: Host, history: History) -> None:
    began, ids = history
    rows = events(host, began, f"container={ids['container']}")
    names = [row["Action"].partition(":")[0] for row in rows]
    assert names[:2] == ["create", "start"]
    expected = ["exec_create", "exec_start", "exec_die", "pause", "unpause", "rename", "update", "kill"]
    assert [name for name in names if name in expected][: len(expected)] == expected
    assert names[-3:] == ["die", "stop", "destroy"]
    for row in rows:
        assert row["Actor"]["ID"] == row["id"] == ids["container"]
        assert row["Actor"]["Attributes"]["a"] == "1" and row["from"] == "busybox"
    attributes = {row["Action"]: row["Actor"]["Attributes"] for row in rows}
    assert attributes["rename"]["oldName"] == "/eventful"
    assert attributes["die"]["exitCode"] == "137" and "execDuration" in attributes["die"]
    stamps = [row["timeNano"] for row in rows]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)


def test_types(host: Host, history: History) -> None:
    began, _ = history
    assert {"network create", "network connect", "network disconnect", "network destroy"} <= set(
        actions(events(host, began, "type=network", "network=events-net"))
    )
    assert actions(events(host, began, "type=volume", "volume=events-volume"))[0] == "volume create"
    assert "volume mount" in actions(events(host, began, "volume=events-volume"))
    assert actions(events(host, began, "type=image")) == ["image tag", "image untag"]
    kinds = {row["Type"] for row in events(host, began)}
    assert kinds == {"container", "network", "volume", "image"}


def test_filters(host: Host, history: History) -> None:
    began, ids = history
    everything = events(host, began)

    def found(*filters: str) -> Rows:
        return events(host, began, *filters)

    assert actions(found("event=start", "event=die")) == ["container start", "container die"]
    assert actions(found("event=exec_create")) == ["container exec_create: true"]
    assert len(found("label=a")) == len(found("label=a=1", "label=b=2")) > 10
    assert found("label=a=2") == found("label=a", "label=c") == []
    assert len(found("image=busybox", "type=container")) == len(found("type=container"))
    assert found("container=renamed", "event=destroy") and not found("container=renamed", "event=create")
    assert len(found(f"container={ids['container'][:12]}")) == len(found("type=container"))
    assert found("scope=local") == everything and found("scope=swarm") == []
    assert found("type=container", "event=connect") == []
    assert host.curl("GET", "/events?filters=x&until=1")[0] == 400


def test_since_and_until_cut_exactly(host: Host, history: History) -> None:
    began, _ = history
    everything = events(host, began)
    middle = everything[len(everything) // 2]["timeNano"]
    first = host.curl("GET", f"/events?since={began:.9f}&until={middle // 10**9}.{middle % 10**9:09d}")[1]
    rows = [json.loads(line) for line in first.splitlines()]
    assert [r["timeNano"] for r in rows] == [r["timeNano"] for r in everything if r["timeNano"] <= middle]


def test_live_events_come_at_once_and_after_the_past_ones(host: Host) -> None:
    began = time.time()
    host.docker("create", "--name", "c1", "busybox", "true")
    command = ["docker", "-H", host.url, "events", "--since", f"{began:.9f}", "--format", "{{.Action}}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as watcher:
        assert watcher.stdout
        assert watcher.stdout.readline() == b"create\n"
        host.docker("start", "-a", "c1")
        seen = [watcher.stdout.readline().strip().decode() for _ in range(5)]
        watcher.kill()
    assert "start" in seen and "die" in seen


def test_the_journal_survives_a_killed_daemon(own_host: Host) -> None:
    began = time.time()
    for number in range(120):  # more than a page of the journal
        own_host.curl("POST", f"/volumes/create?n={number}", {"Name": f"v{number}"})
    own_host.docker("run", "--rm", "busybox", "true")
    before = events(own_host, began)
    assert len(before) > 125
    own_host.kill()
    own_host.start()
    after = events(own_host, began)
    assert after[: len(before)] == before
    assert actions(events(own_host, began, "volume=v119")) == ["volume create"]
