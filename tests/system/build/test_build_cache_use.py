"""The cache of one machine: what is shown and pruned, what builds and both doors share, what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.build.conftest import Builder
from tests.system.build.plugins import Buildx
from tests.system.host import Host

UUID = "cat /proc/sys/kernel/random/uuid"


def name() -> str:
    return os.urandom(4).hex()


def usage(buildx: Buildx, *flags: str) -> dict[str, dict[str, Any]]:
    """Records by description."""
    said = buildx.docker("buildx", "du", "--format", "json", *flags)
    return {each["Description"]: each for each in map(json.loads, said.splitlines())}


def test_what_is_kept_and_what_goes(buildx: Buildx) -> None:
    own = name()
    files = {
        "Dockerfile": f"FROM busybox\nCOPY f /f\nRUN --mount=type=cache,id={own},target=/c "
        f"dd if=/dev/zero of=/c/{own} bs=1k count=64\n"
        f"RUN echo {own} > /x\n",
        "f": own,
    }
    buildx.build(files, "-t", "kept:1")
    records = usage(buildx)
    mount = next(each for text, each in records.items() if f'with id "{own}"' in text)
    assert mount["Type"] == "exec.cachemount" and mount["Mutable"] is True and mount["Reclaimable"] is True
    assert "cached mount /c from exec /bin/sh -c dd" in mount["Description"]
    layer = next(each for text, each in records.items() if f"RUN echo {own}" in text)
    assert layer["Type"] == "regular" and layer["Shared"] is True and layer["Parents"]
    assert any(each["Type"] == "source.local" for each in records.values())
    assert {each["Type"] for each in usage(buildx, "--filter", "type=exec.cachemount").values()} == {
        "exec.cachemount"
    }
    df = json.loads(buildx.docker("system", "df", "-v", "--format", "json"))
    assert any(own in each["Description"] for each in df["BuildCache"])

    buildx.docker("buildx", "prune", "-f", "--filter", f"id={mount['ID'].rstrip('*')}")
    gone = usage(buildx)
    assert mount["Description"] not in gone and layer["Description"] in gone
    buildx.docker("builder", "prune", "-f")
    assert layer["Description"] in usage(buildx), "an image is made of it"
    buildx.docker("buildx", "prune", "-af", "--max-used-space", "1tb")
    assert layer["Description"] in usage(buildx), "there is room"
    said = buildx.docker("buildx", "prune", "-af")
    assert layer["ID"] in said and re.search(r"^Total:\s", said, re.MULTILINE)
    assert usage(buildx) == {}
    assert buildx.run("kept:1", "cat", "/x").strip() == own
    assert buildx.attempt(files, "-t", "kept:2").returncode == 0


def test_two_clients_share_what_runs(buildx: Buildx) -> None:
    """Equal steps of two builds run once."""
    files = {"Dockerfile": f"FROM busybox\nRUN echo {name()}; sleep 1; {UUID} > /u\n"}
    context = buildx.context(files)
    built = [threading.Thread(target=buildx.build, args=(context, "-t", f"twice:{n}")) for n in (1, 2)]
    for thread in built:
        thread.start()
    for thread in built:
        thread.join()
    assert buildx.run("twice:1", "cat", "/u") == buildx.run("twice:2", "cat", "/u")


def test_both_doors_and_what_does_not_count(buildx: Buildx, builder: Builder, tmp_path: Path) -> None:
    """Times and files that are ignored or not copied change nothing; whoever built is of no matter."""
    own = name()
    files = {
        "Dockerfile": f"FROM busybox AS one\nWORKDIR /w\nCOPY d /w/d\nRUN echo {own}; {UUID} > /w/u\n"
        "FROM busybox\nCOPY --from=one /w/u /u\nRUN --mount=type=bind,source=d,target=/d cat /d/f > /g\n",
        ".dockerignore": "d/no\n",
        "d/f": own,
        "d/no": "1",
    }
    buildx.build(files, "-t", "doors:1")
    first = buildx.run("doors:1", "cat", "/u")
    changed = buildx.context({**files, "d/no": "2", "other": "x"})
    os.utime(changed / "d/f", (1, 1))
    said = buildx.build(changed, "-t", "doors:2")
    assert said.count("CACHED") >= 5 and buildx.run("doors:2", "cat", "/u") == first
    said = builder.build(changed, "-t", "doors:3")
    assert "Running in" not in said and buildx.run("doors:3", "cat", "/u") == first
    own_files = {**files, "Dockerfile": files["Dockerfile"].replace(own, name())}
    builder.build(own_files, "-t", "doors:4")
    said = buildx.build(own_files, "-t", "doors:5")
    assert said.count("CACHED") >= 5
    assert buildx.run("doors:4", "cat", "/u") == buildx.run("doors:5", "cat", "/u") != first


def test_stages_without_cache(buildx: Buildx) -> None:
    files = {
        "Dockerfile": f"FROM busybox AS one\nRUN {UUID} > /u\nFROM busybox AS two\nRUN echo {name()}; {UUID} > /v\n"
        "FROM busybox\nCOPY --from=one /u /u\nCOPY --from=two /v /v\n"
    }
    buildx.build(files, "-t", "filter:1")
    buildx.build(files, "-t", "filter:2", "--no-cache-filter", "one")
    before, after = (buildx.run(f"filter:{n}", "cat", "/u", "/v").split() for n in (1, 2))
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize("sharing", ["locked", pytest.param("private", marks=pytest.mark.nightly)])
def test_cache_mounts_of_builds_at_once(buildx: Buildx, sharing: str) -> None:
    """locked: one waits for the other; private: each has its own."""
    own = name()
    run = f"RUN --mount=type=cache,id={own},target=/c,sharing={sharing} "
    work = (
        "test ! -e /c/busy; touch /c/busy; sleep 1; rm /c/busy; echo n >> /c/count; wc -l < /c/count > /out"
    )
    contexts = [buildx.context({"Dockerfile": f"FROM busybox\n{run}{work}; echo {n}\n"}) for n in (1, 2)]
    results: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: results.update(
                {n: buildx.attempt(contexts[n], "-t", f"mount:{n}", "--no-cache")}
            )
        )
        for n in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[n].returncode for n in (0, 1)] == [0, 0], results
    counts = sorted(buildx.run(f"mount:{n}", "cat", "/out").strip() for n in (0, 1))
    assert counts == (["1", "2"] if sharing == "locked" else ["1", "1"])


def test_a_killed_daemon_leaves_a_sound_cache(own_host: Host, tmp_path: Path) -> None:
    buildx = Buildx(own_host, tmp_path)
    own = name()
    files = {
        "Dockerfile": f"FROM busybox AS one\nRUN echo {own} > /one\n"
        f"FROM busybox AS two\nRUN --mount=type=cache,id=k,target=/c echo {own} > /c/f; echo {own} > /two; sleep 30\n"
        "FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\nCOPY f /f\n",
        "f": own,
    }
    context = buildx.context(files)
    client = subprocess.Popen(
        ["docker", "build", "--cache-to", f"type=local,dest={tmp_path}/cache", str(context)],
        stderr=subprocess.PIPE, env=buildx.environment, text=True,
    )  # fmt: skip
    assert client.stderr is not None
    for line in client.stderr:
        if "sleep 30" in line:
            break
    time.sleep(1)
    own_host.kill()
    client.stderr.read()
    assert client.wait(timeout=20) != 0
    own_host.start()
    (context / "Dockerfile").write_text(files["Dockerfile"].replace("; sleep 30", ""))
    said = buildx.build(context, "-t", "after")
    assert buildx.run("after", "cat", "/one", "/two", "/f").split() == [own] * 2 + [own]
    killed = re.search(r"^#(\d+) \[two 2/2\] RUN", said, re.MULTILINE)
    assert killed and f"#{killed[1]} CACHED" not in said
    left = [
        *(own_host.data_root / "tmp").glob("*build-*"),
        *(own_host.data_root / "build/cache").glob("removed-*"),
    ]
    assert left == []
    buildx.docker("buildx", "prune", "-af")
    assert usage(buildx) == {}
