"""A plan's trees apart from the rest: what goes into them, and that nothing is lost on the way."""

from __future__ import annotations

import _pickle
from typing import Any

from daemon.runtime import defaults, launch, rehearsal
from daemon.runtime.launch import Plan


def plan(*mounts: dict[str, Any]) -> Plan:
    spec = defaults.default_spec("/nowhere", ["true"], hostname="h")
    spec["mounts"] += mounts
    return launch.prepare(spec, "/bundle")


def sent(original: Plan, ready: rehearsal.Ready | None = None) -> Plan:
    received, trees, _ = _pickle.loads(rehearsal.write(original, network=False))
    rehearsal.restore(received.root, trees, ready)
    assert isinstance(received, Plan)
    return received


def trees_of(original: Plan) -> dict[str, bytes]:
    trees: dict[str, bytes] = _pickle.loads(rehearsal.write(original, network=False))[1]
    return trees


def test_without_a_ready_tree_all_operations_arrive() -> None:
    original = plan()
    before = original.describe()
    assert sorted(sent(original).describe()) == sorted(before)
    assert original.describe() == before  # untouched by the writing


def test_a_ready_tree_replaces_its_operations() -> None:
    original = plan()
    ready = rehearsal.Ready()
    ready.trees = {path: (pickled, 7) for path, pickled in trees_of(plan()).items()}
    ready.proc = 8
    texts = sent(original, ready).describe()
    assert "attach the ready /dev" in texts
    assert "attach the ready /proc" in texts
    assert "use the ready private procfs" in texts
    assert not [text for text in texts if "/dev/null" in text or "/proc/kcore" in text]
    assert [text for text in texts if "/sys/firmware" in text]


def test_a_tree_that_differs_is_not_used() -> None:
    bigger = {"destination": "/dev/shm2", "type": "tmpfs", "source": "shm", "options": ["size=1m"]}
    ready = rehearsal.Ready()
    ready.trees = {path: (pickled, 7) for path, pickled in trees_of(plan()).items()}
    texts = sent(plan(bigger), ready).describe()
    assert "attach the ready /dev" not in texts
    assert "attach the ready /proc" in texts


def test_a_bind_mount_below_a_tree_keeps_it_whole() -> None:
    bind = {"destination": "/dev/host", "type": "bind", "source": "/tmp", "options": ["rbind"]}
    assert set(trees_of(plan(bind))) == {"/proc"}


def test_a_file_system_that_concerns_others_is_never_rehearsed() -> None:
    remote = {"destination": "/dev/far", "type": "nfs", "source": "host:/x"}
    assert set(trees_of(plan(remote))) == {"/proc"}


def test_a_rehearsal_knows_no_secrets() -> None:
    spec: dict[str, Any] = {"process": {"args": ["x"], "env": ["PATH=/bin", "TOKEN=secret"]}, "root": {}}
    assert "secret" not in str(rehearsal.typical(spec))
    assert spec["process"]["env"] == ["PATH=/bin", "TOKEN=secret"]
