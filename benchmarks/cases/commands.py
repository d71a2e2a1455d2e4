"""What a user waits for: docker's commands, the client's own time included (on both sides alike)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import Setting
from benchmarks.engines import IMAGE, LABEL, pyd_command
from benchmarks.measure import Row, alternate


def run(setting: Setting) -> Iterator[Row]:
    ours, theirs = setting.compare(lambda side: side.timed("run", "--rm", IMAGE, "true"))
    yield Row("docker run --rm IMAGE true, default bridge", "ms", ours, theirs, limit=50)
    none = ("--network", "none")
    ours, theirs = setting.compare(lambda side: side.timed("run", "--rm", *none, IMAGE, "true"))
    yield Row("docker run --rm --network none IMAGE true", "ms", ours, theirs, limit=30)


def ps(setting: Setting) -> Iterator[Row]:
    ours, theirs = setting.compare(lambda side: side.timed("ps"))
    yield Row("docker ps", "ms", ours, theirs, ratio_limit=1)
    (ours,) = alternate([pyd_command(setting.pyd, "ps")], setting.rounds)
    yield Row("pyd ps", "ms", ours, limit=150)


def exec_(setting: Setting) -> Iterator[Row]:
    for side in setting.sides:
        side.docker("run", "-d", "--name", "pyd-bench-exec", "--label", LABEL, IMAGE, "sleep", "100000")
    try:
        ours, theirs = setting.compare(lambda side: side.timed("exec", "pyd-bench-exec", "true"))
        yield Row("docker exec C true", "ms", ours, theirs, limit=25)
    finally:
        for side in setting.sides:
            side.clean()


def listing(setting: Setting) -> Iterator[Row]:
    """A tenth of the containers run."""
    try:
        for side in setting.sides:
            side.run_many(setting.listed // 10, 10)
            for _ in range(setting.listed - setting.listed // 10):
                side.create("true")
        ours, theirs = setting.compare(
            lambda side: lambda: side.http.get("/containers/json?all=1").raise_for_status().content
        )
        name = f"GET /containers/json, {setting.listed:,} containers, {setting.listed // 10} running"
        yield Row(name, "ms", ours, theirs, ratio_limit=1)
    finally:
        for side in setting.sides:
            side.clean()
