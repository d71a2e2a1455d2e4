"""Builds as people start them: docker's client with buildx, beside dockerd's BuildKit.

Caches are emptied by a number in the Dockerfile, not by pruning: the peer's cache is not ours to prune.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.cases import Cannot, Setting
from benchmarks.engines import IMAGE, Engine
from benchmarks.measure import Action, Row, alternate, family, proportional, seconds
from tests.system import images
from tests.system.build.plugins import plugins
from tests.system.build.real import building, machine
from tests.system.build.real.kinds import KINDS
from tests.system.host import ENVIRONMENT

TAG = "pyd-benchmark-built:latest"
ROUNDS = 5
FILES = 50_000
CONTEXT_MB = 1024
PARALLEL, SLEEP = 4, 5
_numbers = itertools.count(int(time.time()))


class Bench:
    """A directory for contexts, and buildx on each side."""

    def __init__(self, setting: Setting, directory: Path) -> None:
        self.setting = setting
        self.directory = directory
        self.config = directory / "config"
        self.config.mkdir()
        (self.config / "cli-plugins").symlink_to(plugins())

    def context(self, name: str, dockerfile: str) -> Path:
        context = self.directory / name
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        return context

    def build(self, side: Engine, context: Path, *flags: str) -> None:
        command = ["docker", "-H", side.url, "buildx", "build", "--progress=plain", "--provenance=false"]
        environment = {**ENVIRONMENT, "DOCKER_CONFIG": str(self.config)}
        done = subprocess.run(
            [*command, "-t", TAG, *flags, str(context)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{side.name}: {done.stderr[-2000:]}")

    def each(
        self, change: Callable[[], Path], rounds: int = ROUNDS, *flags: str, warm: int = 1
    ) -> list[float]:
        """Medians in milliseconds; `change` gives the context, before each build."""

        def action(side: Engine) -> Action:
            return lambda: self.build(side, change(), *flags)

        return alternate([action(side) for side in self.sides], rounds, warm=warm)

    def timed(self, side: Engine, context: Path) -> float:
        """Seconds of one build."""
        return seconds(lambda: self.build(side, context))

    @property
    def sides(self) -> list[Engine]:
        return self.setting.sides


@contextlib.contextmanager
def _bench(setting: Setting) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(dir=setting.directory) as name:
        try:
            yield Bench(setting, Path(name))
        finally:
            for side in setting.sides:
                with contextlib.suppress(RuntimeError):
                    side.docker("rmi", "-f", TAG)


def steps(setting: Setting) -> Iterator[Row]:
    """Ten steps found in the cache, and ten that run."""
    with _bench(setting) as bench:
        lines = "\n".join(f"RUN echo {number} > /{number}" for number in range(8))
        context = bench.context("cached", f"FROM {IMAGE}\nCOPY Dockerfile /\n{lines}\nWORKDIR /w\nCMD sh\n")
        medians = bench.each(lambda: context, setting.rounds)
        yield Row.of("docker build, ten steps, all cached", "ms", medians, ratio_limit=0.75)
        runs = "\n".join("RUN true" for _ in range(10))

        def fresh() -> Path:
            return bench.context("runs", f"FROM {IMAGE}\nENV N={next(_numbers)}\n{runs}\n")

        yield Row.of("docker build, ten RUN true", "ms", bench.each(fresh), ratio_limit=0.25)


def stages(setting: Setting) -> Iterator[Row]:
    """Four stages that each sleep five seconds: they must run at once."""
    with _bench(setting) as bench:

        def fresh() -> Path:
            number = next(_numbers)
            parts = [
                f"FROM {IMAGE} AS s{n}\nRUN sleep {SLEEP}; echo {number} > /made{n}" for n in range(PARALLEL)
            ]
            copies = "\n".join(f"COPY --from=s{n} /made{n} /" for n in range(PARALLEL))
            return bench.context("stages", "\n".join([*parts, f"FROM {IMAGE}\n{copies}\n"]))

        medians = [bench.timed(side, fresh()) for side in bench.sides]
        yield Row.of(f"docker build, {PARALLEL} stages that sleep {SLEEP} s", "s", medians, limit=6)


def copying(setting: Setting) -> Iterator[Row]:
    """A context of many small files, sent and copied; then again with one of them changed."""
    with _bench(setting) as bench:
        context = bench.context("many", f"FROM {IMAGE}\nCOPY tree /tree\n")
        _tree(context / "tree", FILES)
        first, second = [], []
        for side in bench.sides:
            (context / "tree/0/0").write_text(str(next(_numbers)))
            first.append(bench.timed(side, context))
            (context / "tree/0/0").write_text(str(next(_numbers)))
            second.append(bench.timed(side, context))
        yield Row.of(f"docker build, COPY of {FILES:,} files", "s", first, ratio_limit=1)
        yield Row(
            "the same with one file changed, of the first",
            "x",
            second[0] / first[0],
            _second(second, first),
            limit=1 / 3,
        )


def _second(second: Sequence[float], first: Sequence[float]) -> float | None:
    return second[1] / first[1] if len(first) > 1 else None


def _tree(root: Path, files: int) -> None:
    for number in range(files):
        path = root / str(number // 500) / str(number % 500)
        if number % 500 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"file {number}\n" * (number % 40))


def cold(setting: Setting) -> Iterator[Row]:
    """Debian's packages, PyPI's and npm's, nothing cached but by the network."""
    missing = [
        name for name in ("docker-registry", "skopeo", "umoci", "debootstrap") if not shutil.which(name)
    ]
    if missing:
        raise Cannot(f"not installed: {', '.join(missing)}")
    store = setting.directory / "build-registry"
    store.mkdir()
    with images.registry(store) as address, _bench(setting) as bench:
        name = images.push_debian(address)
        secrets = machine.secrets(bench.directory)
        flags = [word for key, path in secrets.items() for word in ("--secret", f"id={key},src={path}")]
        for side in bench.sides:
            side.docker("pull", "-q", name)
        for chosen in ("python-web", "node-app"):
            kind = next(kind for kind in KINDS if kind.name == chosen)
            tree = building.checkout(kind, bench.directory)
            building.without_syntax(tree)
            dockerfile = (tree / "Dockerfile").read_text().replace("pyd-tests-debian", name)

            def fresh(tree: Path = tree, text: str = dockerfile) -> Path:
                new = rf"type=cache,id=n{next(_numbers)}\1,target=\1"
                text = re.sub(r"type=cache,target=([^ ,]+)", new, text)
                text = re.sub(r"(?m)^(FROM .*)$", rf"\1\nENV COLD={next(_numbers)}", text)
                (tree / "Dockerfile").write_text(text)
                return tree

            medians = [value / 1000 for value in bench.each(fresh, 3, *flags, warm=0)]
            yield Row.of(f"docker build of {chosen}, cold", "s", medians, ratio_limit=1.1)
        for side in bench.sides:
            side.docker("rmi", name)


def memory(setting: Setting) -> Iterator[Row]:
    """The most that the engine's processes have together while a large context is sent and copied."""
    with _bench(setting) as bench:
        context = bench.context("large", f"FROM {IMAGE}\nCOPY data /data\n")
        (context / "data").mkdir()
        for number in range(CONTEXT_MB // 64):
            with open(context / f"data/{number}", "wb") as file:
                for _ in range(64):
                    file.write(os.urandom(1 << 20))
        peaks, times = [], []
        for side in bench.sides:
            with _watched(side) as peak:
                times.append(bench.timed(side, context))
            peaks.append(peak[0])
        yield Row.of("memory while a 1 GB context is built (PSS, peak)", "MB", peaks, limit=120)
        yield Row.of("docker build, COPY of a 1 GB context", "s", times, ratio_limit=1)


@contextlib.contextmanager
def _watched(side: Engine) -> Iterator[list[float]]:
    """The highest sum of PSS seen, sampled each 200 ms; its processes' children count, steps' programs do not."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak[0] = max(peak[0], proportional(family(side.processes())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
