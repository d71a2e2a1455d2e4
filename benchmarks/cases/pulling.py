"""A real image out of a local registry, unpacking included."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from benchmarks.cases import Cannot, Setting
from benchmarks.measure import Row, seconds
from tests.system import images

ROUNDS = 5


def pull(setting: Setting) -> Iterator[Row]:
    missing = [
        name for name in ("docker-registry", "skopeo", "umoci", "debootstrap") if not shutil.which(name)
    ]
    if missing:
        raise Cannot(f"not installed: {', '.join(missing)}")
    store = setting.directory / "registry"
    store.mkdir()
    with images.registry(store) as address:
        name = images.push_debian(address)
        times: list[list[float]] = [[] for _ in setting.sides]
        for _ in range(ROUNDS):
            for side, taken in zip(setting.sides, times, strict=True):
                taken.append(seconds(side.timed("pull", "-q", name)) * 1000)
                side.docker("rmi", name)
        medians = [sorted(taken)[ROUNDS // 2] for taken in times]
    yield Row.of("docker pull of Debian (minbase) from a local registry", "ms", medians, ratio_limit=1)
